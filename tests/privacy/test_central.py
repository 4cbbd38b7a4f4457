"""Worker-level privacy at the server, in whole fits: numbers by hand, every engine, optimizer and algorithm."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, assert_equal, fit
from private import Net, Points, Seen, people, weights
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import Algorithm, Ditto, FedAvg, FedDyn, FedPer, FedProx, Scaffold
from lightning_fed.optim import FedAdagrad, FedAdam, Yogi
from lightning_fed.privacy import AdaptiveClip, CentralDP, FixedSizeGaussian, Gaussian, SubsampledGaussian
from lightning_fed.selection import CohortSampler, Drawn, Poisson, RoundRobin, Uniform, WeightedBySize

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*NOT private", "ignore:.*remembers about each worker", "ignore:.*does not have many workers"
)
ENGINES = ["sequential", "vectorized"]
# Nothing is clipped, and so little noise that the grid, a millionth of it, is finer than what is compared.
WIDE = CentralDP(clip=100.0, noise_multiplier=1e-7, accountant="rdp")


def x_after(engine: str, privacy: CentralDP, rounds: int = 1, **data: Any) -> float:
    module = Scalar()
    workers = {"a": Rows([2.0]), "b": Rows([4.0, 4.0])}
    fit(FederatedModule(module, privacy=privacy, engine=engine), FederatedDataModule(workers, **data), max_steps=rounds)
    return module.x.item()


# ---- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_by_hand(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0 the workers go to 2 and 4. A bound of 3 makes that 2 and 3, whose mean is 2.5, without weights."""
    Seen(monkeypatch, factor=0.0)
    assert x_after(engine, CentralDP(clip=3.0, noise_multiplier=1.0)) == pytest.approx(2.5, rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_noise_of_a_round_by_hand(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """zC = 6 on the pseudo-gradient's sum over 2 workers: 3 less."""
    Seen(monkeypatch)
    assert x_after(engine, CentralDP(clip=3.0, noise_multiplier=2.0)) == pytest.approx(2.5 - 3.0, rel=1e-5)


def test_weights_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One example of two counts a half: (½ · 2 + 3) / 2."""
    Seen(monkeypatch, factor=0.0)
    promise = CentralDP(clip=3.0, noise_multiplier=1.0, weight_cap=2)
    assert x_after("sequential", promise) == pytest.approx(2.0, rel=1e-5)


def test_the_update_is_clipped_and_not_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 100 to 102 is an update of 2, within the bound, though the weight is far beyond it."""
    Seen(monkeypatch, factor=0.0)
    module = Scalar(x=100.0)
    data = FederatedDataModule({"a": Rows([102.0]), "b": Rows([102.0])})
    fit(FederatedModule(module, privacy=CentralDP(clip=3.0, noise_multiplier=1.0)), data)
    assert module.x.item() == pytest.approx(102.0)


def test_the_bound_moves_over_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both norms beyond the bound: it grows by exp(η γ) in every round, until it holds the quantile."""
    Seen(monkeypatch, factor=0.0)
    fed = FederatedModule(
        Scalar(),
        privacy=CentralDP(clip=AdaptiveClip(initial=1e-3, quantile=0.5, lr=1.0, count_std=1.0), noise_multiplier=1.0),
    )
    fit(fed, FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0])}), max_steps=3)
    assert fed.private_run is not None
    assert fed.private_run.bound == pytest.approx(1e-3 * 2.718281828 ** (3 * 0.5))


# ---- without noise and with a wide bound it is the plain mean --------------------------------------------------------


def trained(privacy: CentralDP | None, rounds: int = 3, engine: str = "sequential", **options: Any) -> Tensor:
    """The weights after some rounds of everybody."""
    module = Net()
    aggregator = UniformMean() if privacy is None else None
    fed = FederatedModule(module, privacy=privacy, aggregator=aggregator, engine=engine, **options)
    fit(fed, FederatedDataModule(people(4)), max_steps=rounds)
    return weights(module)


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "fedadagrad": lambda p: FedAdagrad(p, lr=0.05),
    "fedadam": lambda p: FedAdam(p, lr=0.05),
    "yogi": lambda p: Yogi(p, lr=0.05),
}
ALGORITHMS = [FedAvg(), FedProx(mu=0.1), Scaffold(), FedDyn(alpha=0.1), Ditto(lam=0.1), FedPer(["head.*"])]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_server_optimizer(optimizer: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"server_optimizer": OPTIMIZERS[optimizer], "engine": engine}
    plain = trained(None, **options)
    noisy = trained(WIDE, **options)
    assert (noisy != plain).all(), "noise reaches every parameter"
    Seen(monkeypatch, factor=0.0)
    assert_equal(trained(WIDE, **options), plain)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_algorithm_whose_release_is_a_mean(
    algorithm: Algorithm, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = trained(CentralDP(clip=0.1, noise_multiplier=1.0), algorithm=algorithm, engine=engine)
    assert noisy.isfinite().all()
    Seen(monkeypatch, factor=0.0)
    plain = trained(None, algorithm=algorithm, engine=engine)
    assert_equal(trained(WIDE, algorithm=algorithm, engine=engine), plain)


def test_no_noise_lands_on_layers_that_stay_with_the_workers() -> None:
    module = Net()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    fed = FederatedModule(module, privacy=CentralDP(clip=0.1, noise_multiplier=1.0), algorithm=FedPer(["head.*"]))
    fit(fed, FederatedDataModule(people(4)), max_steps=2)
    moved = {name: not torch.equal(p, before[name]) for name, p in module.named_parameters()}
    assert moved == {name: not name.startswith("head.") for name in moved}
    assert set(moved.values()) == {True, False}


def test_control_variates_are_clipped_with_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """SCAFFOLD by hand: lr 1 and one step make gradient and update equal, −4 each; together √32, clipped to √8."""
    Seen(monkeypatch, factor=0.0)
    module = Scalar()
    fed = FederatedModule(module, algorithm=Scaffold(), privacy=CentralDP(clip=8**0.5, noise_multiplier=1.0))
    fit(fed, FederatedDataModule({"a": Rows([4.0]), "b": Rows([4.0])}))
    assert module.x.item() == pytest.approx(2.0, rel=1e-5)
    assert fed.server_state["control"].item() == pytest.approx(-2.0, rel=1e-5)


def test_noise_over_accumulated_cohorts_is_that_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cohorts to a step: each is charged and has its noise; Lightning takes the mean."""
    seen = Seen(monkeypatch)
    module = Scalar()
    fed = FederatedModule(module, privacy=CentralDP(clip=3.0, noise_multiplier=2.0))
    data = FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0])}, rounds_per_epoch=2)
    run = fit(fed, data, accumulate_grad_batches=2)
    assert run.global_step == 1
    assert module.x.item() == pytest.approx(2.5 - 3.0, rel=1e-5)
    assert [keys[0] for _, _, keys in seen.draws] == [0, 1]
    assert fed.private_run.accountant.history == ((Gaussian(2.0), 2),)  # type: ignore[union-attr]


# ---- sampling --------------------------------------------------------------------------------------------------------


class Cohorts(pl.Callback):
    """Notes every cohort, and the weights after its round."""

    def __init__(self) -> None:
        self.workers: list[tuple[str, ...]] = []
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.workers.append(batch.workers)
        self.weights.append(weights(module.module))


def test_a_cohort_of_nobody_releases_noise_and_is_charged() -> None:
    cohorts = Cohorts()
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, insecure_deterministic_noise=True)
    fed = FederatedModule(Net(), privacy=promise)
    fit(fed, FederatedDataModule(people(10), cohort_size=1, seed=1), max_steps=12, callbacks=[cohorts])
    empty = [number for number, workers in enumerate(cohorts.workers) if not workers]
    assert any(number > 0 for number in empty), "of twelve Poisson cohorts of one, four are empty"
    for number in filter(None, empty):
        moved = cohorts.weights[number] - cohorts.weights[number - 1]
        assert 0.5 < float(moved.std()) < 2.0, "zC over the expected one worker"
    assert fed.private_run.accountant.history == ((SubsampledGaussian(1.0, 0.1), 12),)  # type: ignore[union-attr]


def test_poisson_cohorts_are_drawn_worker_by_worker() -> None:
    """Sizes are binomial; each worker's participation is independent of every other's."""
    drawn = torch.zeros(4000, 8)
    for number in range(len(drawn)):
        drawn[number, Poisson().sample(8, 2, number, seed=1)] = 1.0
    assert abs(float(drawn.sum(dim=1).var()) - 8 * 0.25 * 0.75) < 0.15  # with a fixed size it would be 0
    correlation = torch.corrcoef(drawn.T) - torch.eye(8)
    assert float(correlation.abs().max()) < 4.5 / 4000**0.5


class Favourites(Poisson):  # type: ignore[misc]
    """Draws otherwise than the class that it is derived from, and says nothing about it."""

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return [0, 1]


class Coins(CohortSampler):
    """A sampler of one's own that guarantees what Poisson's does."""

    drawn: ClassVar[Drawn | None] = "by coins"

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return Poisson().sample(population, cohort_size, number, seed)


@pytest.mark.parametrize(
    ("sampler", "mechanism"),
    [
        (None, SubsampledGaussian(1.0, 0.2)),
        (Poisson(), SubsampledGaussian(1.0, 0.2)),
        (Uniform(), FixedSizeGaussian(1.0, 2, 10)),
        (RoundRobin(), Gaussian(1.0)),
        (WeightedBySize(), Gaussian(1.0)),
        (Favourites(), Gaussian(1.0)),
        (Coins(), SubsampledGaussian(1.0, 0.2)),
    ],
    ids=["default", "Poisson", "Uniform", "RoundRobin", "WeightedBySize", "Favourites", "Coins"],
)
def test_no_more_amplification_is_claimed_than_the_sampling_gives(sampler: Any, mechanism: Any) -> None:
    fed = FederatedModule(Net(), privacy=CentralDP(clip=1.0, noise_multiplier=1.0))
    fit(fed, FederatedDataModule(people(10), cohort_size=2, sampler=sampler), max_steps=1)
    assert fed.private_run.accountant.history == ((mechanism, 1),)  # type: ignore[union-attr]


def test_a_fixed_size_is_accounted_as_replace_one() -> None:
    """The reference's 20.99, where a naive account of 10 in 1000 says 3.58 and Poisson's 2.10."""
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, accountant="rdp")
    workers = {f"w{i}": Points(0) for i in range(1000)}
    fed = FederatedModule(Net(), privacy=promise)
    fit(fed, FederatedDataModule(workers, cohort_size=10, sampler=Uniform()), max_steps=1)
    run = fed.private_run  # type: ignore[union-attr]
    assert run is not None
    run.accountant.charge(run.mechanism, 999)
    assert run.spent == pytest.approx(20.99, abs=0.01)


def test_everybody_in_every_round_is_no_sample() -> None:
    for data in (FederatedDataModule(people(3)), FederatedDataModule(people(3), cohort_size=3)):
        fed = FederatedModule(Net(), privacy=CentralDP(clip=1.0, noise_multiplier=1.0))
        fit(fed, data, max_steps=1)
        assert fed.private_run.mechanism == Gaussian(1.0)  # type: ignore[union-attr]


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 1.0}, r"needs noise_multiplier= \(how much noise\) or epsilon="),
        ({"clip": 0.0, "noise_multiplier": 1.0}, r"clip=0.0\) must be positive"),
        ({"clip": float("inf"), "noise_multiplier": 1.0}, r"clip=inf\)"),
        ({"clip": 1.0, "noise_multiplier": 0.0}, "no noise, no privacy"),
        ({"clip": 1.0, "epsilon": -1.0}, r"epsilon=-1.0\)"),
        ({"clip": 1.0, "noise_multiplier": 1.0, "delta": 1.0}, r"delta=1.0\) must lie between"),
        ({"clip": 1.0, "noise_multiplier": 1.0, "weight_cap": 0}, "at least one example"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CentralDP(**options)


def test_one_worker_has_no_default_for_delta() -> None:
    """``population ** -1.1`` is 1, which promises nothing."""
    with pytest.raises(ValueError, match="for 1 worker say delta="):
        fit(FederatedModule(Net(), privacy=CentralDP(clip=1.0, noise_multiplier=1.0)), FederatedDataModule(people(1)))


@pytest.mark.parametrize(("delta", "is_warned"), [(0.5, True), (0.1, False), (None, False)])
def test_a_delta_that_would_permit_publishing_a_worker_is_warned_of(delta: float | None, is_warned: bool) -> None:
    workers = {name: Rows([1.0]) for name in "abcd"}
    module = FederatedModule(Scalar(), privacy=CentralDP(clip=1.0, noise_multiplier=1.0, delta=delta))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, FederatedDataModule(workers), max_steps=1)
    said = [str(warning.message) for warning in caught if "delta=0.5 is not below 1/4" in str(warning.message)]
    assert len(said) == is_warned
