from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, assert_equal, fit
from spy import Spy, length
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_fed import FederatedDataModule, FederatedModule, RoundError
from lightning_fed._lightning import pl
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import Algorithm, FedAvg, FedNova, FedProx
from lightning_fed.selection import Availability, RandomAvailability, Response
from lightning_fed.server.round import work
from lightning_fed.testing import check_availability
from lightning_fed.wire import GlobalModel, Job, LocalTraining

pytestmark = pytest.mark.usefixtures("double")

engines = pytest.mark.parametrize("engine", ["sequential", "vectorized"])


class Fixed(Availability):
    """What each worker does, from a table by worker or by cohort number; others reply."""

    def __init__(self, table: Mapping[str | int, Response]) -> None:
        self.table = table

    def respond(self, worker: str, number: int, seed: int) -> Response:
        return self.table.get(worker, self.table.get(number, Response()))


ABSENT, LOST = Response("absent"), Response("lost")


def part(fraction: float) -> Response:
    return Response(work=fraction)


def run(
    workers: Mapping[str, pl.LightningDataModule],
    availability: Availability | None,
    rounds: int = 1,
    lr: float = 0.1,
    **options: Any,
) -> tuple[float, FederatedModule]:
    module = Scalar(lr=lr)
    federated = FederatedModule(module, **options)
    fit(federated, FederatedDataModule(workers, availability=availability), max_steps=rounds)
    return module.x.item(), federated


def after(steps: int, target: float = 1.0, lr: float = 0.1) -> float:
    """Where x is that went from 0 towards a target for some steps."""
    return target * (1 - (1 - lr) ** steps)


# ---- by hand --------------------------------------------------------------------------------------------------------


@engines
def test_a_straggler_does_a_part_of_its_steps(engine: Any) -> None:
    workers = {"slow": Rows([1.0] * 10, batch_size=1), "fast": Rows([1.0] * 10, batch_size=1)}
    x, federated = run(workers, Fixed({"slow": part(0.3)}), engine=engine)
    assert x == pytest.approx((after(3) + after(10)) / 2)
    assert federated.last_report.stragglers == ("slow",)
    assert set(federated.last_report.workers) == {"slow", "fast"}


@engines
@pytest.mark.parametrize(
    ("local", "fraction", "steps"),
    [
        ({"local_epochs": 2}, 0.25, 5),  # of 20
        ({"local_steps": 8}, 0.5, 4),
        ({"local_steps": 8}, 0.001, 1),  # one at least
        ({"local_steps": 8}, 0.999, 8),
        ({}, 1.0, 10),
    ],
)
def test_which_part(engine: Any, local: dict[str, int], fraction: float, steps: int) -> None:
    workers = {"only": Rows([1.0] * 10, batch_size=1)}
    assert run(workers, Fixed({"only": part(fraction)}), engine=engine, **local)[0] == pytest.approx(after(steps))


class Stream(pl.LightningDataModule):
    """Batches of which nobody knows the number beforehand."""

    def train_dataloader(self) -> Any:
        class Three(IterableDataset[Any]):
            def __iter__(self) -> Any:
                return iter([torch.ones(1)] * 3)

        return DataLoader(Three(), batch_size=None)


class OfStreams(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch,), batch_idx)


def test_where_the_number_of_batches_is_unknown_a_straggler_does_whole_passes() -> None:
    module = OfStreams(lr=0.1)
    data = FederatedDataModule({"only": Stream()}, availability=Fixed({"only": part(0.45)}))
    fit(FederatedModule(module, engine="sequential", local_epochs=4), data)
    assert module.x.item() == pytest.approx(after(6))  # 0.45 of 4 passes are 2, of 3 batches each


@engines
def test_absent_and_lost_workers_do_not_count(engine: Any) -> None:
    workers, spy = {"here": Rows([1.0]), "away": Rows([100.0]), "gone": Rows([-50.0])}, Spy()
    x, federated = run(workers, Fixed({"away": ABSENT, "gone": LOST}), engine=engine, lr=1.0, aggregator=spy)
    assert x == 1.0
    report = federated.last_report
    assert (set(report.workers), report.dropped, report.failures) == ({"here"}, ("away", "gone"), [])
    assert report.bytes_down == 2 * length(spy.jobs())  # it went to the one that is here and to the one that was lost
    assert report.bytes_up == length(spy.updates())


def test_an_absent_worker_is_not_even_built() -> None:
    class Untouchable(Rows):
        def train_dataloader(self) -> Any:
            raise AssertionError("its data was touched")

    workers = {"here": Rows([1.0]), "away": Untouchable([1.0])}
    assert run(workers, Fixed({"away": ABSENT}), lr=1.0)[0] == 1.0


def test_fednova_knows_of_the_steps_that_were_done() -> None:
    workers = {"slow": Rows([1.0] * 10, batch_size=1), "fast": Rows([1.0] * 10, batch_size=1)}
    x, _ = run(workers, Fixed({"slow": part(0.2)}), algorithm=FedNova())
    assert x == pytest.approx((after(2) / 2 + after(10) / 10) / 2 * (2 + 10) / 2)


def test_stragglers_of_a_cyclic_tour(tmp_path: Path) -> None:
    from lightning_fed.algorithms import Cyclic

    workers = {"a": Rows([1.0] * 10, batch_size=1), "b": Rows([1.0] * 10, batch_size=1)}
    assert run(workers, Fixed({"a": part(0.1)}), algorithm=Cyclic())[0] == pytest.approx(after(11))


def test_the_cost_of_a_straggler_counts_where_a_cohort_is_divided() -> None:
    job = Job(0, 0, 0, GlobalModel({"x": torch.zeros(1)}), LocalTraining(epochs=2), work={"slow": 0.25})
    assert [work(job, name, 10) for name in ("slow", "fast")] == [5, 20]
    job = Job(0, 0, 0, GlobalModel({"x": torch.zeros(1)}), LocalTraining(steps=8), work={"slow": 0.25})
    assert [work(job, name, 10) for name in ("slow", "fast")] == [2, 8]


# ---- rounds that nobody, or too few, answer -------------------------------------------------------------------------


class Normed(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0].unsqueeze(1)).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


SERVERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_round_that_nobody_answers_changes_nothing_and_the_run_goes_on(server: str, accumulate: int) -> None:
    """Not even by the momentum of the server's optimizer; and the rounds after it are as if it had not been."""

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step > len(seen):
                seen.append(copy.deepcopy(pl_module.module.state_dict()))

    class Same(Rows):
        """The same order in every round."""

    seen: list[dict[str, Any]] = []
    torch.manual_seed(0)
    federated = FederatedModule(Normed(), server_optimizer=SERVERS[server])
    nobody = dict.fromkeys(range(2 * accumulate, 4 * accumulate), ABSENT)  # in server steps 2 and 3
    data = FederatedDataModule(
        {"a": Same([1.0, 2.0]), "b": Same([0.5, 3.0])}, availability=Fixed(nobody), rounds_per_epoch=6 * accumulate
    )
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0}
    trainer = fit(federated, data, max_steps=6, callbacks=[Watch()], **options)
    assert trainer.global_step == 6
    for silent in (2, 3):
        torch.testing.assert_close(seen[silent], seen[1], rtol=0, atol=0)
    assert not torch.equal(seen[4]["net.0.weight"], seen[3]["net.0.weight"])

    torch.manual_seed(0)
    without = FederatedModule(Normed(), server_optimizer=SERVERS[server])
    data = FederatedDataModule({"a": Same([1.0, 2.0]), "b": Same([0.5, 3.0])}, rounds_per_epoch=4 * accumulate)
    fit(without, data, max_steps=4, **options)
    torch.testing.assert_close(without.module.state_dict(), seen[5], rtol=0, atol=0)


def test_half_of_the_accumulated_cohorts_may_be_silent() -> None:
    """The gradient is the mean over cohorts, and a silent one's is zero; buffers are those of the others."""
    module = Scalar(lr=1.0)
    data = FederatedDataModule({"a": Rows([4.0])}, availability=Fixed({0: ABSENT}), rounds_per_epoch=2)
    fit(FederatedModule(module), data, max_steps=1, accumulate_grad_batches=2)
    assert module.x.item() == 2.0


@pytest.mark.parametrize("on_worker_error", ["raise", "drop"])
def test_too_few_that_answer_are_a_round_given_up(on_worker_error: Any) -> None:
    workers = {"a": Rows([1.0]), "b": Rows([1.0]), "c": Rows([1.0])}
    options = {"min_workers": 2, "on_worker_error": on_worker_error, "lr": 1.0}
    x, federated = run(workers, Fixed({"a": ABSENT, "b": LOST}), **options)
    assert x == 0.0
    assert federated.last_report.dropped == ("a", "b")
    assert run(workers, Fixed({"a": ABSENT}), **options)[0] == 1.0


def test_too_many_failures_are_an_error_even_if_others_are_away() -> None:
    workers = {"a": Rows([1.0]), "bad": Rows([float("nan")]), "away": Rows([1.0])}
    with pytest.raises(RoundError, match="1 workers are left, but min_workers=2"):
        run(workers, Fixed({"away": ABSENT}), min_workers=2, on_worker_error="drop")


def test_a_failure_that_is_not_to_blame_is_none() -> None:
    """With one of three away and one failed, three could never have answered."""
    workers = {"a": Rows([1.0]), "bad": Rows([float("nan")]), "away": Rows([1.0])}
    x, _ = run(workers, Fixed({"away": ABSENT}), min_workers=3, on_worker_error="drop")
    assert x == 0.0


# ---- curves ---------------------------------------------------------------------------------------------------------


class Curves(pl.loggers.logger.Logger):
    """Keeps what is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[dict[str, float]] = []

    name, version = "curves", 0

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.drawn.append(dict(metrics))


def test_dropped_workers_and_stragglers_are_drawn() -> None:
    curves = Curves()
    workers = {name: Rows([1.0] * 4, batch_size=1) for name in "abcde"}
    availability = Fixed({"a": ABSENT, "b": LOST, "c": part(0.5)})
    fit(FederatedModule(Scalar()), FederatedDataModule(workers, availability=availability), max_steps=1, logger=curves)
    (drawn,) = (d for d in curves.drawn if "round/dropped" in d)
    assert (drawn["round/cohort_size"], drawn["round/dropped"], drawn["round/stragglers"]) == (3, 2, 1)


def test_a_silent_round_is_drawn_as_one() -> None:
    curves = Curves()
    data = FederatedDataModule({"a": Rows([1.0])}, availability=Fixed({"a": ABSENT}))
    fit(FederatedModule(Scalar()), data, max_steps=1, logger=curves)
    (drawn,) = (d for d in curves.drawn if "round/dropped" in d)
    assert (drawn["round/cohort_size"], drawn["round/dropped"], drawn["update/norm"]) == (0, 1, 0)


# ---- RandomAvailability ---------------------------------------------------------------------------------------------


def outcomes(availability: Availability, n: int = 4000) -> Counter[str]:
    return Counter(availability.respond(f"w{i}", i % 7, seed=1).outcome for i in range(n))


def test_frequencies() -> None:
    # 4000 draws: standard deviations of at most 0.8 %
    counts = outcomes(RandomAvailability(absent=0.3, lost=0.5))
    assert counts["absent"] / 4000 == pytest.approx(0.3, abs=0.03)
    assert counts["lost"] / 4000 == pytest.approx(0.7 * 0.5, abs=0.03)
    works = [RandomAvailability(stragglers=0.9).respond(f"w{i}", 0, 0).work for i in range(4000)]
    slow = [fraction for fraction in works if fraction < 1]
    assert len(slow) / 4000 == pytest.approx(0.9, abs=0.02)
    assert sum(slow) / len(slow) == pytest.approx(0.5, abs=0.02)
    assert min(slow) < 0.02 < 0.98 < max(slow)


def test_the_extremes() -> None:
    assert outcomes(RandomAvailability(), 100) == {"replies": 100}
    assert outcomes(RandomAvailability(absent=1), 100) == {"absent": 100}
    assert outcomes(RandomAvailability(lost=1), 100) == {"lost": 100}


def test_dropped_stragglers_are_the_same_workers_that_would_have_been_slow() -> None:
    slow, dropped = (RandomAvailability(stragglers=0.5, drop_stragglers=drop) for drop in (False, True))
    for i in range(200):
        response = slow.respond(f"w{i}", 3, 0)
        assert (response.work < 1) == (dropped.respond(f"w{i}", 3, 0).outcome == "lost")


def test_a_workers_fate_differs_from_round_to_round_and_from_worker_to_worker() -> None:
    availability = RandomAvailability(absent=0.5)
    by_round = {availability.respond("a", number, 0).outcome for number in range(30)}
    by_worker = {availability.respond(f"w{i}", 0, 0).outcome for i in range(30)}
    assert by_round == by_worker == {"absent", "replies"}


@pytest.mark.parametrize("name", ["absent", "lost", "stragglers"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_probability_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} is a probability"):
        RandomAvailability(**{name: value})


def test_contract() -> None:
    check_availability(lambda: RandomAvailability(0.2, 0.2, 0.5))
    check_availability(lambda: RandomAvailability(0.2, 0.2, 0.5, drop_stragglers=True))


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"availability must be an Availability, such as RandomAvailability"):
        FederatedDataModule({"a": Rows([1.0])}, availability=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(1.0)], ids=lambda a: type(a).__name__)
def test_the_setting_of_fedprox_is_the_same_on_both_engines(algorithm: Algorithm) -> None:
    workers = {f"w{i}": Rows([float(i)] * 10, batch_size=1) for i in range(6)}
    ends = [
        run(
            workers,
            RandomAvailability(stragglers=0.9),
            rounds=5,
            algorithm=algorithm,
            engine=engine,
            aggregator=UniformMean(),
        )[0]
        for engine in ("sequential", "vectorized")
    ]
    assert_equal(ends[0], ends[1])
