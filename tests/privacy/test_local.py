"""Noise that workers add: each by itself, or together as much as a server would."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit
from private import Net, Seen, began, people, sent, updates, weights
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import Median, TrimmedMean, WeightedMean
from lightning_fed.algorithms import FedBN, Scaffold
from lightning_fed.privacy import DistributedDP, LocalDP, LocalGaussian, Privacy

ENGINES = ["sequential", "vectorized"]
pytestmark = pytest.mark.filterwarnings("ignore:.*remembers about each worker")


# ---- at the worker ---------------------------------------------------------------------------------------------------


def test_every_worker_clips_and_adds_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    promise = LocalDP(clip=5.0, noise_multiplier=0.2)
    left = sent(
        promise,
        began(promise),
        updates([[6.0, 8.0], [3.0, 4.0]], examples=torch.tensor([1e9, 3.0]), weight=torch.tensor([1e9, 3.0])),
    )
    torch.testing.assert_close(left.delta, torch.tensor([[4.0, 5.0], [4.0, 5.0]]), rtol=2e-6, atol=0)
    assert left.weight.tolist() == [1.0, 1.0]
    assert [(std, keys[-1]) for _, std, keys in seen.draws] == [(1.0, "w0"), (1.0, "w1")]


def test_all_that_a_worker_sends_has_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    Seen(monkeypatch)
    promise = LocalDP(clip=5.0, noise_multiplier=0.2)
    left = sent(promise, began(promise), updates([[6.0, 0.0]], extra={"control": torch.tensor([[0.0, 8.0]])}))
    torch.testing.assert_close(left.delta, torch.tensor([[4.0, 1.0]]), rtol=2e-6, atol=0)
    torch.testing.assert_close(left.extra["control"], torch.tensor([[1.0, 5.0]]), rtol=2e-6, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("promise", [LocalDP(clip=1.0, noise_multiplier=1.0), DistributedDP(1.0, 2, 1.0)])
def test_a_worker_whose_update_cannot_be_clipped_sends_noise(promise: Privacy, bad: float) -> None:
    left = sent(promise, began(promise), updates([[bad, 1.0]]))
    assert left.delta.isfinite().all()
    assert (left.delta != 0).all()


def test_the_original_updates_are_not_written_to() -> None:
    """An algorithm may still hold them, to remember what it has learned."""
    promise = LocalDP(clip=1.0, noise_multiplier=1.0)
    own = updates([[0.1, 0.2]])
    sent(promise, began(promise), own)
    torch.testing.assert_close(own.delta, torch.tensor([[0.1, 0.2]]), rtol=0, atol=0)


# ---- LocalDP in whole fits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("aggregator", "x"), [(None, -3.0), (Median(), -3.0), (TrimmedMean(1), -3.0)])
def test_any_aggregator_in_which_workers_count_equally(
    engine: str, aggregator: Any, x: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers go from 0 to 3; noise of zC = 6 on each is left by mean and median alike."""
    seen = Seen(monkeypatch)
    module = Scalar()
    workers = {f"w{i}": Rows([3.0] * (i + 1)) for i in range(3)}
    fed = FederatedModule(module, privacy=LocalDP(clip=3.0, noise_multiplier=2.0), aggregator=aggregator, engine=engine)
    fit(fed, FederatedDataModule(workers))
    assert module.x.item() == pytest.approx(x, rel=1e-5)
    assert sorted(str(keys[-1]) for _, _, keys in seen.draws) == ["w0", "w1", "w2"]
    assert fed.private_run.accountant.history == ((LocalGaussian(2.0), 1),)  # type: ignore[union-attr]


def test_real_noise_under_the_median_is_that_of_the_median() -> None:
    """Of three Gaussians the median has 0.449 of the variance."""
    module = Wide()
    fed = FederatedModule(module, privacy=LocalDP(clip=1.0, noise_multiplier=3.0), aggregator=Median())
    before = weights(module)
    fit(fed, FederatedDataModule({f"w{i}": Rows([0.0]) for i in range(3)}))
    variance = float((weights(module) - before).var())
    assert variance == pytest.approx(9 * 0.449, rel=0.1)


class Wide(Scalar):
    """10,000 parameters that do not move by themselves."""

    def __init__(self) -> None:
        super().__init__(lr=0.0)
        self.x = nn.Parameter(torch.zeros(10_000))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.x * batch[0].sum()).sum()


def test_a_weighted_mean_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"a number of examples is private too; use UniformMean\(\) or a robust"):
        FederatedModule(Net(), privacy=LocalDP(clip=1.0, noise_multiplier=1.0), aggregator=WeightedMean())


def test_control_variates_leave_with_noise() -> None:
    fed = FederatedModule(Net(), algorithm=Scaffold(), privacy=LocalDP(clip=1.0, noise_multiplier=1.0))
    fit(fed, FederatedDataModule(people(4)), max_steps=2)
    assert float(fed.server_state["control"].std()) > 0.2


class Counting(Net):
    """Buffers that tell how much it has trained, and on what."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen = self.seen + batch[0].sum()
        self.count = self.count + len(batch[0])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("aggregator", [None, Median()], ids=["mean", "median"])
def test_buffers_do_not_leave_beside_the_noise(aggregator: Any) -> None:
    module = Counting()
    fed = FederatedModule(module, privacy=LocalDP(clip=1.0, noise_multiplier=1.0), aggregator=aggregator)
    fit(fed, FederatedDataModule(people(3)), max_steps=2)
    assert (module.seen.item(), module.count.item()) == (0.0, 0)


def test_batch_norm_that_stays_with_the_workers_is_taken() -> None:
    module = Net(norm=True)
    fed = FederatedModule(module, algorithm=FedBN(), privacy=LocalDP(clip=1.0, noise_multiplier=1.0))
    fit(fed, FederatedDataModule(people(4)), max_steps=2)
    assert isinstance(module.norm, nn.BatchNorm1d)
    assert module.norm.running_mean is not None
    assert not module.norm.running_mean.any()


def test_workers_take_what_the_run_says_and_not_what_a_colleague_sent() -> None:
    """Row i of what leaves depends on row i alone."""
    promise = replace(LocalDP(clip=1.0, noise_multiplier=1.0), insecure_deterministic_noise=True)

    def first_row(second: list[float]) -> Tensor:
        return sent(promise, began(promise), updates([[1.0, 2.0], second])).delta[0]

    torch.testing.assert_close(first_row([0.0, 0.0]), first_row([1e20, -3.0]), rtol=0, atol=0)
