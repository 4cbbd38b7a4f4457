"""Steps whose control flow goes by data: workers that go one way go it together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_equal, trainer
from parity import assert_same, by_worker, job_for, needs_compiler
from torch import Tensor, nn
from zoo import CLASSES, OPTIMIZERS, Points, Zoo

from lightning_fed.core.tree import Tensors
from lightning_fed.engines import Auto, Sequential, Vectorized
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.vectorized.branches import Branches, WaysPartError
from lightning_fed.engines.vectorized.vmap import differentiated
from lightning_fed.population import WorkerPool
from lightning_fed.wire import LocalTraining, Updates, WorkerError

pytestmark = pytest.mark.usefixtures("double")

WORKERS = {name: Points(i, examples) for i, (name, examples) in enumerate({"a": 8, "b": 6, "c": 6, "d": 3}.items())}
N = 3


def stepped(way: Callable[[Tensor], Tensor], *rows: float) -> Any:
    """One parameter of 2 for each worker, times what a function makes of the worker's number."""

    def step(own: Tensors, given: Any) -> tuple[Tensor, list[Tensor], Tensors]:
        return own["w"] * way(given[0]), [], {}

    with Branches():
        loss, _, _, (gradient,) = differentiated(
            step, len(rows), {"w": torch.full((len(rows),), 2.0)}, {}, [torch.tensor(rows)]
        )
    assert gradient is not None
    return loss.tolist(), gradient.tolist()


@pytest.mark.parametrize(
    "way",
    [
        lambda x: 10 * x if x > 0 else x,
        lambda x: x if x.isnan() else 10 * x,
        lambda x: x if torch.is_nonzero(x.le(0)) else 10 * x,
        lambda x: 10 * x if bool((x > 0).all()) and not x.isnan().any().item() else x,
        lambda x: x * (10 if (x > 0).tolist() else 1),
    ],
)
def test_what_is_so_for_all_workers_is_so(way: Callable[[Tensor], Tensor]) -> None:
    assert stepped(way, 1.0, 2.0, 3.0) == ([20.0, 40.0, 60.0], [10.0, 20.0, 30.0])


@pytest.mark.parametrize(
    "number", [float, int, lambda x: x.item(), lambda x: float(x.tolist()), lambda x: range(9)[x.long()]]
)
def test_a_number_that_is_all_workers_own_is_one(number: Callable[[Tensor], float]) -> None:
    assert stepped(lambda x: x * number(x), 4.0, 4.0) == ([32.0, 32.0], [16.0, 16.0])


def test_a_number_that_is_none_is_the_same_for_all() -> None:
    assert stepped(lambda x: torch.tensor(1.0 if x.item() > 0 else 5.0), *[float("nan")] * 2) == ([10.0] * 2, [5.0] * 2)


def test_workers_that_go_different_ways_are_named_by_their_rows() -> None:
    with pytest.raises(WaysPartError) as found:
        stepped(lambda x: x if x > 0 else 2 * x, 1.0, -1.0, 2.0, 0.0)
    assert found.value.rows == [[0, 2], [1, 3]]


def test_different_numbers_are_refused() -> None:
    with pytest.raises(UnvectorizableError, match=r"by item\(\), that is not the same for all workers"):
        stepped(lambda x: x * x.item(), 1.0, 2.0)


def test_what_is_of_no_worker_stays_torchs_own() -> None:
    """A tensor of several numbers has no truth, and one that user code has stacked itself has no value."""
    with pytest.raises(RuntimeError, match="ambiguous"):
        stepped(lambda x: x if torch.stack([x, x]) > 0 else 2 * x, 1.0, 2.0)
    with pytest.raises(RuntimeError, match="vmap"):
        stepped(lambda x: x * torch.vmap(lambda y: y if y > 0 else 2 * y)(torch.ones(5)).sum(), 1.0, 2.0)
    assert stepped(lambda x: x if torch.tensor(1.0) > 0 else 2 * x, 1.0) == ([2.0], [1.0])


def test_a_gradient_inside_has_a_value() -> None:
    assert stepped(lambda x: x * torch.func.grad(lambda y: y**2 if y > 0 else y)(x), 3.0) == ([36.0], [18.0])


# ---- whole steps -----------------------------------------------------------------------------------------------------


class Deciding(Zoo):
    """Does something else with a batch, by what is in it; says how many ways it has gone."""

    def __init__(self, *decisions: Callable[[Tensor], Any], net: nn.Module | None = None, **options: Any) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(8, CLASSES) if net is None else net, **options)
        self.decisions = decisions

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        for i, decision in enumerate(self.decisions):
            if decision(x):
                x = x * (2 + i)
                self.log(f"way {i}", x.mean())
        return super().training_step([x, y], batch_idx)


NETS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, CLASSES),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.3), nn.Linear(8, CLASSES)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, CLASSES)),
}


def by_mean(x: Tensor) -> Any:
    return x.mean() > 0


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("workers", [WORKERS, {name: Points(i, 8) for i, name in enumerate("abcdef")}])
def test_every_worker_goes_its_way(net: str, workers: dict[str, Points]) -> None:
    torch.manual_seed(0)
    module = Deciding(by_mean, net=NETS[net](), metrics=True)
    ways = [result["metrics"].keys() for result in assert_same(module, workers, LocalTraining(epochs=2)).values()]
    assert any("way 0" in names for names in ways)
    auto = Auto()
    assert_same(module, workers, engine=auto)
    assert auto.choice == "vectorized"


def test_two_decisions_are_four_ways() -> None:
    module = Deciding(by_mean, lambda x: x[:, 0].sum() > 0, optimizer=OPTIMIZERS["adam"])
    assert_same(module, {str(i): Points(i, 8) for i in range(12)}, LocalTraining(epochs=2))


def test_more_ways_than_four_are_refused() -> None:
    module = Deciding(*[lambda x, i=i: x[:, i].sum() > 0 for i in range(8)])
    many = {str(i): Points(i, 4) for i in range(12)}
    with pytest.raises(WorkerError, match="more than 4 ways through training_step"):
        by_worker(Vectorized(), module, many, LocalTraining())
    auto = Auto()
    assert_same(module, many, engine=auto)
    assert auto.choice == "sequential"


def test_a_random_decision_is_the_workers_own() -> None:
    """As layers are skipped at random; what follows draws as it does alone."""
    torch.manual_seed(0)
    assert_same(Deciding(lambda x: torch.rand([]) < 0.5, net=NETS["dropout"]()), WORKERS, LocalTraining(epochs=2))


@pytest.mark.parametrize("decision", [by_mean, lambda x: len(x) == 4], ids=["data", "size of the batch"])
def test_a_parameter_that_takes_part_in_one_way_only_is_refused(decision: Callable[[Tensor], Any]) -> None:
    """To an optimizer with momentum or decay a gradient of 0 is not the same as none."""

    class Partly(Zoo):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            loss = super().training_step([x, y], batch_idx)["loss"]
            return loss + self.net.extra.square() if decision(x) else loss

    torch.manual_seed(0)
    net = nn.Linear(8, CLASSES)
    net.extra = nn.Parameter(torch.tensor(1.0))
    module = Partly(net, OPTIMIZERS["weight decay"])
    with pytest.raises(WorkerError, match="a parameter takes part in a step of some workers only"):
        by_worker(Vectorized(), module, WORKERS, LocalTraining())
    assert_same(module, WORKERS, engine=Auto())


def test_a_check_that_one_worker_fails_leaves_the_others_together() -> None:
    """``a`` goes one way; ``b`` and ``c`` another, in which ``c`` fails at the second step; all have drawn by then."""

    class Checking(Zoo):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            x = nn.functional.dropout(x, 0.3)
            if x[:, 0].mean() > 1:
                x = x / 50
            if batch_idx == 1 and x[:, 1].mean() > 1:
                raise ValueError("a batch is out of range")
            return super().training_step([x, y], batch_idx)

    torch.manual_seed(0)
    module = Checking(nn.Linear(8, CLASSES))
    workers = {name: Points(i, 6) for i, name in enumerate("abc")}
    workers["a"].rows.tensors[0][:, 0] += 100
    workers["c"].rows.tensors[0][:, 1] += 100
    job = job_for(module, LocalTraining())
    found: dict[str, dict[str, Any]] = {}
    for engine in (Sequential(), Vectorized()):
        engine.setup(module, WorkerPool(workers, 100), trainer())
        results = list(engine.run(job, list(workers)))
        (failure,) = [result for result in results if isinstance(result, WorkerError)]
        assert "worker 'c' failed in round 3: ValueError: a batch is out of range" in str(failure)
        found[type(engine).__name__] = {
            worker: (result.delta[row], result.loss[row])
            for result in results
            if isinstance(result, Updates)
            for row, worker in enumerate(result.workers)
        }
    assert found["Vectorized"].keys() == {"a", "b"}
    assert_equal(found["Vectorized"], found["Sequential"])


def test_distributions_check_their_arguments() -> None:
    class Likely(Zoo):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            likely = torch.distributions.Normal(x, x.abs() + 0.1).log_prob(x + 1)
            return super().training_step([likely, y], batch_idx)

    torch.manual_seed(0)
    assert_same(Likely(nn.Linear(8, CLASSES)), WORKERS)


def test_parts_of_a_batch_keep_the_layout_that_a_loader_gives_it() -> None:
    def collate(rows: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        return [torch.stack([x for x, _ in rows]).t().contiguous().t(), torch.stack([y for _, y in rows])]

    torch.manual_seed(0)
    strange = {name: Points(i, 6, collate_fn=collate) for i, name in enumerate("abcd")}
    assert_same(Deciding(by_mean, net=NETS["dropout"]()), strange)


@needs_compiler
def test_compilation_is_given_up() -> None:
    with pytest.warns(UserWarning, match="compile"):
        assert_same(Deciding(by_mean), WORKERS, LocalTraining(epochs=2), Vectorized(compile=True))
