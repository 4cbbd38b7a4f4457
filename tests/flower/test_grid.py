"""The engine ``Flower`` over a Grid of this process: what crosses is what Flower stores; errors have words of ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, RecordDict

sys.path.insert(0, str(Path(__file__).parent.parent))

from grid_in_memory import InMemoryGrid
from helpers import Rows, Scalar, trainer
from menagerie import cohort, member
from oracle import ALGORITHMS, PROMISES, assert_bits
from over_nodes import left_by, nodes_of

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Sequential
from lightning_fed.flower import Flower, workers
from lightning_fed.flower.grid_link import GridLink
from lightning_fed.flower.records import of_records
from lightning_fed.secure import SecureAggregation
from lightning_fed.selection import Availability, Response
from lightning_fed.testing import check_link


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_and_promise_equals_the_simulation(algorithm: str, promise: str, tmp_path: Path) -> None:
    grid = InMemoryGrid(nodes_of(lambda: member("batch norm"), cohort(), tmp_path))
    there = left_by(Flower(grid), workers(grid, names=list(cohort())), algorithm, promise, "batch norm")
    here = left_by(Sequential(), cohort(), algorithm, promise, "batch norm")
    if "refused" in here:
        assert "refused" in there
    else:
        assert_bits(there, here)


@pytest.mark.parametrize("lost", ["", "share", "mask", "unmask"])
def test_secure_aggregation_equals_the_simulation(lost: str, tmp_path: Path) -> None:
    """Of five workers the last is gone from a step of each round on: before its numbers have come, or after that."""
    data = {f"w{i}": Rows([float(i), i + 1.0]) for i in range(5)}

    def fitted(engine: Any, them: Any, **options: Any) -> Any:
        secure = SecureAggregation(clip=50.0, weight_cap=2, threshold=0.6)
        module = Scalar()
        fed = FederatedModule(module, engine=engine, secure_aggregation=secure, on_worker_error="drop")
        trainer(max_steps=3, max_epochs=-1).fit(fed, FederatedDataModule(them, **options))
        return module.x.item(), len(fed.last_report)

    def spoil(node: int, answer: RecordDict) -> Any:
        fields, _ = of_records(grid.sent[-1].content)
        return None if lost and node == 4 and fields.get("step") == lost else answer

    grid = InMemoryGrid(nodes_of(Scalar, data, tmp_path), spoil)
    there = fitted(Flower(grid, timeout=0.3, poll=0.01), workers(grid, names=list(data)))
    assert there == fitted("sequential", data, availability=Lost("w4") if lost in ("share", "mask") else None)


class Lost(Availability):
    """One worker is lost in every round."""

    def __init__(self, worker: str) -> None:
        self.worker = worker

    def respond(self, worker: str, number: int, seed: int) -> Response:
        return Response("lost" if worker == self.worker else "replies")


def test_the_link_keeps_the_contract(tmp_path: Path) -> None:
    check_link(lambda nodes: GridLink(InMemoryGrid(nodes), poll=0.01))


NUMBERS = {"bob": Rows([1.0, 3.0]), "alice": Rows([5.0, 5.0])}
OTHER = RecordDict({"fields": ConfigRecord({"json": "{}"})})
PICKLED = RecordDict(
    {
        "fields": ConfigRecord({"json": "{}"}),
        "parts": ArrayRecord({"0": Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=b"1234")}),
    }
)
REPLIES: dict[str, tuple[Any, str]] = {
    "the node cannot load its app": (Error(1, "x"), "cannot load the ClientApp"),
    "an exception at the node": (Error(2, "<class 'ResidentError'>:<'the process ended'>"), "the process ended"),
    "its time is over": (Error(3, "x"), "no answer within 0.3 seconds"),
    "its reply is gone": (Error(4, "x"), "no answer within 0.3 seconds"),
    "it is offline": (Error(5, "x"), "its node is away"),
    "an error that nobody has heard of": (Error(99, "x"), "its node cannot be reached"),
    "no reply": (None, "no answer within 0.3 seconds"),
    "other records": (OTHER, "no message of lightning_fed"),
    "an array of another kind": (PICKLED, "no message of lightning_fed"),
}


@pytest.mark.parametrize("reply", REPLIES)
def test_every_error_of_flowers_is_its_workers_in_words_of_ours(reply: str, tmp_path: Path) -> None:
    answer, words = REPLIES[reply]
    grid = InMemoryGrid(nodes_of(Scalar, NUMBERS, tmp_path))
    population = workers(grid, names=list(NUMBERS))
    engine = Flower(grid, timeout=0.3, poll=0.01)

    def spoil(node: int, own: RecordDict) -> Any:
        is_training = grid.sent[-1].metadata.message_type == "train"
        return answer if is_training and node == 1 else own

    grid.spoil = spoil
    fed = FederatedModule(Scalar(), engine=engine, on_worker_error="drop")
    trainer(max_steps=1, max_epochs=-1).fit(fed, FederatedDataModule(population))
    (failure,) = fed.last_report.failures
    assert failure.worker == "alice"
    assert words in failure.reason
    assert "class '" not in failure.reason
    assert fed.module.x.item() == 2.0


def test_a_node_that_the_superlink_does_not_know_any_more(tmp_path: Path) -> None:
    grid = InMemoryGrid(nodes_of(Scalar, NUMBERS, tmp_path))
    population = workers(grid, names=list(NUMBERS))
    grid.unknown = {1}
    fed = FederatedModule(Scalar(), engine=Flower(grid, timeout=0.3, poll=0.01), on_worker_error="drop")
    with pytest.warns(UserWarning, match="not there as the run begins"):
        trainer(max_steps=1, max_epochs=-1).fit(fed, FederatedDataModule(population))
    (failure,) = fed.last_report.failures
    assert "not registered any more" in failure.reason


def test_a_message_is_not_delivered_after_its_time(tmp_path: Path) -> None:
    grid = InMemoryGrid(nodes_of(Scalar, NUMBERS, tmp_path))
    population = workers(grid, names=list(NUMBERS))
    fed = FederatedModule(Scalar(), engine=Flower(grid, timeout=17.0), worker_timeout=5.0)
    trainer(max_steps=1, max_epochs=-1).fit(fed, FederatedDataModule(population))
    assert {message.metadata.ttl for message in grid.sent if message.metadata.message_type == "train"} == {5.0}


def test_one_model_crosses_for_all_nodes(tmp_path: Path) -> None:
    """Flower stores an object once, by its hash: all nodes are sent the same part."""
    grid = InMemoryGrid(nodes_of(Scalar, NUMBERS, tmp_path))
    population = workers(grid, names=list(NUMBERS))
    trainer(max_steps=1, max_epochs=-1).fit(
        FederatedModule(Scalar(), engine=Flower(grid)), FederatedDataModule(population)
    )
    trained = [message for message in grid.sent if message.metadata.message_type == "train"]
    assert len({message.content["parts"].object_id for message in trained}) == 1
