"""Record-level privacy: DP-SGD by hand, what it costs, and settings that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import fit
from private import Net, Seen, people, weights
from pytorch_lightning.core.module import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Median
from lightning_fed.algorithms import FedPer, FedProx, FedRep, Scaffold
from lightning_fed.engines import Sequential
from lightning_fed.privacy import Noise, RecordDP, SubsampledGaussian
from lightning_fed.selection import RandomAvailability

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*NOT private", "ignore:.*remembers about each worker", "ignore:.*Secure RNG"
)


class Line(LightningModule):
    """``w · x`` from ``w = 0``, half the mean squared error; lr 1."""

    def __init__(self, lr: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.mse_loss(self.linear(batch[0]), batch[1]) / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Examples(pl.LightningDataModule):
    """Pairs of two numbers and one."""

    def __init__(self, x: list[list[float]], y: list[float]) -> None:
        super().__init__()
        self.set = TensorDataset(torch.tensor(x), torch.tensor(y).unsqueeze(1))

    def train_dataloader(self) -> Any:
        return DataLoader(self.set, batch_size=1)


TWO = ([[3.0, 4.0], [0.0, 0.5]], [1.0, 1.0])


def promise(**options: Any) -> RecordDP:
    return RecordDP(**{"clip": 1.0, "sampling_rate": 1.0, "delta": 1e-5, "noise_multiplier": 1.0, **options})


def slope(privacy: RecordDP | None, **options: Any) -> list[float]:
    module = Line()
    fed = FederatedModule(module, privacy=privacy, **options)
    fit(fed, FederatedDataModule({"a": Examples(*TWO)}))
    slopes: list[float] = module.linear.weight.detach().flatten().tolist()
    return slopes


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_examples_are_clipped_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients −(3, 4) and −(0, ½): the first has norm 5 and becomes −(0.6, 0.8). Their mean is −(0.3, 0.65)."""
    Seen(monkeypatch, factor=0.0)
    assert slope(promise()) == pytest.approx([0.3, 0.65], rel=1e-4)
    assert slope(promise(clip=100.0)) == pytest.approx([1.5, 2.25], rel=1e-4), "nothing clipped: the plain gradient"


def test_the_noise_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """zC = 2 on the sum of gradients, over two expected examples: 1 less."""
    Seen(monkeypatch)
    assert slope(promise(noise_multiplier=2.0)) == pytest.approx([0.3 - 1.0, 0.65 - 1.0], rel=1e-4)


def test_an_empty_batch_is_a_step_of_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is drawn in either of the two steps of a pass; one example is expected in each: −2 · zC."""
    Seen(monkeypatch)
    monkeypatch.setattr(Noise, "uniform", lambda _, size, *keys: torch.ones(size, dtype=torch.float64))
    assert slope(promise(sampling_rate=0.5)) == pytest.approx([-2.0, -2.0])


def test_a_step_that_the_users_code_skips_is_one_of_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it skips may depend on the examples."""
    monkeypatch.setattr(Line, "training_step", lambda *_: None)
    Seen(monkeypatch)
    assert slope(promise()) == pytest.approx([-0.5, -0.5])


SEEN: list[list[float]] = []  # outside of the module and its class, which training must not change


class Hooked(Line):
    """Notes the gradients that the optimizer will see."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        assert self.linear.weight.grad is not None
        SEEN.append(self.linear.weight.grad.flatten().tolist())


def test_modules_with_hooks_are_hidden_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    Seen(monkeypatch)
    SEEN.clear()
    fit(FederatedModule(Hooked(), privacy=promise(noise_multiplier=2.0)), FederatedDataModule({"a": Examples(*TWO)}))
    assert [pytest.approx([1.0 - 0.3, 1.0 - 0.65], rel=1e-4)] == SEEN


def test_penalties_of_algorithms_come_after_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """FedProx by hand: at the first step the model is the global one and there is no pull."""
    Seen(monkeypatch)
    algorithm = FedProx(mu=0.5)
    first = [0.3 - 0.5, 0.65 - 0.5]
    assert slope(promise(), algorithm=algorithm) == pytest.approx(first, rel=1e-4)


def test_everyone_is_drawn_with_the_same_probability() -> None:
    drawn = Noise(0).uniform(100_000) < 0.3
    assert abs(float(drawn.double().mean()) - 0.3) < 4 * (0.21 / 100_000) ** 0.5


def test_batches_differ_from_run_to_run_whatever_the_seed() -> None:
    """A probability of ½ for 40 examples with gradients of their own: no two samples are alike."""
    x = [[float(i), 1.0] for i in range(40)]
    results = []
    for seeded in (False, False, True, True):
        pl.seed_everything(0, verbose=False)
        module = Line(lr=1e-6)
        fed = FederatedModule(module, privacy=promise(sampling_rate=0.5, insecure_deterministic_noise=seeded))
        fit(fed, FederatedDataModule({"a": Examples(x, [1.0] * 40)}))
        results.append(weights(module))
    assert (results[0] != results[1]).any()
    torch.testing.assert_close(results[2], results[3], rtol=0, atol=0)


# ---- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("local", "steps"), [({"local_epochs": 2}, 20), ({"local_steps": 7}, 7)])
def test_every_local_step_is_charged(local: dict[str, int], steps: int) -> None:
    fed = FederatedModule(Net(), privacy=promise(sampling_rate=0.1), **local)
    fit(fed, FederatedDataModule(people(2)), max_steps=2)
    assert fed.private_run.accountant.history == ((SubsampledGaussian(1.0, 0.1), 2 * steps),)  # type: ignore[union-attr]
    assert fed.private_run.delta == 1e-5  # type: ignore[union-attr]


def test_as_many_steps_are_taken_as_are_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """int(1 / 0.15) = 6 in a pass; a part of the work is charged in full."""
    seen = Seen(monkeypatch)
    fed = FederatedModule(Line(), privacy=promise(sampling_rate=0.15), local_epochs=2)
    fit(fed, FederatedDataModule({"a": Examples(*TWO)}))
    assert len(seen.draws) == 12
    assert fed.private_run.releases == 12  # type: ignore[union-attr]
    data = FederatedDataModule({"a": Examples(*TWO)}, availability=RandomAvailability(stragglers=1.0))
    fed = FederatedModule(Line(), privacy=promise(sampling_rate=0.15), local_epochs=2)
    fit(fed, data)
    assert 12 < len(seen.draws) < 24
    assert fed.private_run.accountant.history[0][1] == 12  # type: ignore[union-attr]


def test_a_budget_is_kept_to_the_round() -> None:
    private = promise(sampling_rate=1.0, epsilon=8.0, noise_multiplier=None)
    fed = FederatedModule(Net(), privacy=private, local_steps=2)
    run = fit(fed, FederatedDataModule(people(2)), max_steps=5)
    assert run.global_step == 5
    assert 7.9 < fed.private_run.spent <= 8.0  # type: ignore[union-attr]
    assert not fed.private_run.affords_another()  # type: ignore[union-attr]


# ---- it is applied ---------------------------------------------------------------------------------------------------


def accuracy(noise_multiplier: float) -> float:
    """Of a classifier of points that a line separates, after three rounds of four workers."""
    generator = torch.Generator().manual_seed(0)
    workers = {}
    xs = []
    for i in range(4):
        x = torch.randn(60, 2, generator=generator)
        xs.append(x)
        workers[f"w{i}"] = Examples(x.tolist(), (x @ torch.tensor([1.0, -1.0])).sign().tolist())
    module = Line(lr=0.3)
    private = promise(sampling_rate=0.2, noise_multiplier=noise_multiplier, insecure_deterministic_noise=True)
    fit(FederatedModule(module, privacy=private), FederatedDataModule(workers), max_steps=3)
    x = torch.cat(xs)
    said = (x @ module.linear.weight.detach().flatten()).sign()
    return float((said == (x @ torch.tensor([1.0, -1.0])).sign()).double().mean())


def test_a_huge_noise_destroys_what_a_small_one_leaves() -> None:
    assert accuracy(0.5) > 0.9
    assert accuracy(1e4) < 0.8


@pytest.mark.parametrize("algorithm", [Scaffold(), FedPer(["head.*"])], ids=lambda a: type(a).__name__)
def test_algorithms_and_robust_aggregators(algorithm: Any) -> None:
    module = Net()
    fed = FederatedModule(module, privacy=promise(sampling_rate=0.5), algorithm=algorithm, aggregator=Median())
    fit(fed, FederatedDataModule(people(3)), max_steps=2)
    assert weights(module).isfinite().all()


# ---- what is refused -------------------------------------------------------------------------------------------------


def refusal(module: LightningModule, data: Any = None, **options: Any) -> str:
    private = options.pop("privacy", promise(sampling_rate=0.5))
    trainer_options = {"precision": options.pop("precision")} if "precision" in options else {}
    with pytest.raises((ValueError, WorkerError)) as refused:
        fit(
            FederatedModule(module, privacy=private, **options),
            FederatedDataModule(data or people(4)),
            **trainer_options,
        )
    return str(refused.value)


def test_training_together_is_refused_in_words() -> None:
    said = refusal(Net(), engine="vectorized")
    assert "record-level privacy takes the gradients of one worker's examples at a time" in said
    assert "use engine='auto' or 'sequential'" in said


def test_auto_trains_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    Seen(monkeypatch)
    ends = []
    for engine in ("auto", "sequential"):
        module = Net()
        fed = FederatedModule(module, privacy=promise(), engine=engine)
        fit(fed, FederatedDataModule(people(5)), max_steps=2)
        ends.append(weights(module))
        if engine == "auto":
            assert fed.engine.choice == "sequential"
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:self.trainer.should_stop = True on a worker")
def test_to_stop_by_what_examples_say_is_refused() -> None:
    class Stops(Line):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.trainer.should_stop = loss < 1.0
            return loss

    with pytest.raises(WorkerError, match=r"RecordDP goes with no self\.trainer\.should_stop"):
        fit(FederatedModule(Stops(), privacy=promise()), FederatedDataModule({"bob": Examples(*TWO)}))


def test_compiling_is_refused() -> None:
    assert "no compile=True" in refusal(Net(), engine=Sequential(compile=True))


def test_more_that_is_refused() -> None:
    class Stream(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return [[torch.zeros(2, 3), torch.zeros(2, 1)]]

    assert "must give a DataLoader over a dataset" in refusal(Net(), {"a": Stream()})
    assert "FedRep trains the head before the rest; use FedPer" in refusal(Net(), algorithm=FedRep(["head.*"]))
    with pytest.raises(ValueError, match=r"sampling_rate=0.0\) must be above 0"):
        promise(sampling_rate=0.0)
