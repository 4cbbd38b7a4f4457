"""Workers on nodes: equal to the simulation bit for bit, and every fault of a node is its workers' error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, trainer
from menagerie import Examples, cohort, member
from oracle import ALGORITHMS, COMPRESSED, PROMISES, assert_bits
from over_nodes import connected, left_by, nodes_of
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms import FedAvg, QFedAvg, Scaffold
from lightning_fed.engines import Engine, Sequential
from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.engines.remote.link import LinkError
from lightning_fed.node import Node
from lightning_fed.selection import RandomAvailability
from lightning_fed.testing import Loopback, OverLoopback
from lightning_fed.wire import GlobalModel, Job, Layout, LocalTraining, RoundError, Updates, WorkerError
from lightning_fed.wire.codec import decode_updates, encode_updates
from lightning_fed.wire.container import Packed, pack


def _pairs() -> Iterator[Any]:
    """Every algorithm with every promise; those that are not slow have each at least once."""
    for i, algorithm in enumerate(ALGORITHMS):
        for j, promise in enumerate(PROMISES):
            yield pytest.param(algorithm, promise, marks=[pytest.mark.slow] if (i + j) % 3 else [])


@pytest.mark.parametrize(("algorithm", "promise"), list(_pairs()))
def test_every_algorithm_and_promise_equals_the_simulation(algorithm: str, promise: str, tmp_path: Path) -> None:
    engine, workers = connected(lambda: member("tied"), cohort(), tmp_path)
    there = left_by(engine, workers, algorithm, promise, "tied")
    here = left_by(Sequential(), cohort(), algorithm, promise, "tied")
    if "refused" in here:
        assert there == here
    else:
        assert_bits(there, here)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["teacher", "late buffers", "attributes", "torchmetrics", "dropout", "batch norm"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_kind_of_module_equals_the_simulation(algorithm: str, name: str, tmp_path: Path) -> None:
    engine, workers = connected(lambda: member(name), cohort(), tmp_path)
    there = left_by(engine, workers, algorithm, "open", name)
    here = left_by(Sequential(), cohort(), algorithm, "open", name)
    if "refused" in here:  # such as FedBN without a BatchNorm
        assert there == here
    else:
        assert_bits(there, here)


@pytest.mark.parametrize("compressed", [None, "eden"])
def test_the_bytes_that_cross_are_those_that_are_reported(compressed: str | None, tmp_path: Path) -> None:
    engine, workers = connected(lambda: member("tied"), cohort(), tmp_path)
    there = left_by(engine, workers, "FedAvg", "open", "tied", rounds=1, compressed=compressed)
    assert there["bytes"] == (engine.link.bytes_down, engine.link.bytes_up)


@pytest.mark.parametrize(
    ("algorithm", "promise", "compressed"),
    [
        ("FedAvg", "open", "eden"),
        ("Scaffold", "open", "fed back"),
        ("FedPer", "open", "one bit, fed back"),
        ("FedAvg", "local", "rounded"),
        ("FedAvg", "central", "low rank"),
        ("FedAvg", "distributed", "eden"),
    ],
)
def test_compressed_updates_equal_the_simulations(
    algorithm: str, promise: str, compressed: str, tmp_path: Path
) -> None:
    engine, workers = connected(lambda: member("tied"), cohort(), tmp_path)
    there = left_by(engine, workers, algorithm, promise, "tied", compressed=compressed)
    here = left_by(Sequential(), cohort(), algorithm, promise, "tied", compressed=compressed)
    assert "refused" not in here, here
    assert_bits(there, here)


@pytest.mark.parametrize(
    ("compressed", "byte", "reason"),
    [
        ("eden", 0xFF, "its update has NaN or Inf in it"),
        ("fed back", 0xFF, r"its update cannot be used: the places of the \d+ numbers that were kept do not ascend"),
        ("fed back", 0x00, r"its update cannot be used: the places of the \d+ numbers that were kept do not ascend"),
        ("low rank", 0xFF, "its update has NaN or Inf in it"),
    ],
)
def test_codes_that_mean_no_good_are_their_workers_failure(
    compressed: str, byte: int, reason: str, tmp_path: Path
) -> None:
    def spoil(node: int, asked: Any, answer: Any) -> Any:
        if node != 1 or asked["ask"] != "train":
            return answer
        packed = Packed(bytes(answer[1][0]))
        codes, numbers = packed.take("codes/delta"), packed.take("numbers")
        return answer[0], [pack(packed.header, {"codes/delta": codes.fill_(byte), "numbers": numbers})]

    engine, workers = connected(lambda: member("tied"), cohort(), tmp_path, spoil)
    last = COMPRESSED[compressed]()
    fed = FederatedModule(member("tied"), transforms=[last], engine=engine, on_worker_error="drop", local_epochs=1)
    trainer(max_steps=1, max_epochs=-1, limit_val_batches=0).fit(fed, FederatedDataModule(workers))
    (failure,) = fed.last_report.failures
    assert failure.worker == "bob"
    assert re.match(reason, failure.reason)
    assert all(bool(torch.isfinite(p).all()) for p in fed.module.parameters())


def test_workers_that_share_a_node_equal_the_simulation(tmp_path: Path) -> None:
    data = list(cohort().items())
    nodes = {
        number: Node(member("tied"), dict(data[number::2]), home=tmp_path / str(number), accelerator="cpu")
        for number in range(2)
    }
    link = Loopback(nodes)
    workers = RemotePopulation(link, nodes=2)
    there = left_by(OverLoopback(link), workers, "Scaffold", "open", "tied")
    assert_bits(there, left_by(Sequential(), cohort(), "Scaffold", "open", "tied"))
    assert sum(asked["ask"] == "train" for asked in link.asked) == 3 * 2  # one message to each node in each round


# ---- two workers, by hand: x moves to the mean of a worker's numbers -------------------------------------------------

NUMBERS = {"bob": [1.0, 3.0], "alice": [5.0, 5.0]}


def fit(engine: Engine, workers: Any, rounds: int = 1, ckpt: Any = None, **options: Any) -> tuple[FederatedModule, Any]:
    fed = FederatedModule(Scalar(), engine=engine, **options)
    run = trainer(max_steps=rounds, max_epochs=-1)
    run.fit(fed, FederatedDataModule(workers), ckpt_path=ckpt)
    return fed, run


def rows() -> dict[str, Rows]:
    return {name: Rows(numbers) for name, numbers in NUMBERS.items()}


def test_the_mean_of_two_workers(tmp_path: Path) -> None:
    fed, _ = fit(*connected(Scalar, rows(), tmp_path))
    assert fed.module.x.item() == 3.5


def spoiled(how: Any) -> Any:
    """Spoil what node 1, alice's, answers in training."""

    def spoil(node: int, asked: Any, answer: Any) -> Any:
        return how(*answer) if node == 1 and asked["ask"] == "train" else answer

    return spoil


def altered(change: Any) -> Any:
    """Alter the numbers in alice's update, as a node might that means no good."""
    job = Job(0, 0, 0, GlobalModel({"x": torch.zeros(())}), LocalTraining())

    def alter(fields: Any, parts: Any) -> Any:
        updates = decode_updates(bytes(parts[0]), job)
        changed = change(updates)
        wrong = replace(job, cohort=changed.cohort)
        return fields, [encode_updates(changed, wrong)]

    return spoiled(alter)


def with_(**change: Any) -> Any:
    return altered(lambda updates: replace(updates, **{k: v(updates) for k, v in change.items()}))


def doubles(value: float) -> Any:
    return lambda updates: torch.tensor([value], dtype=torch.float64)


FAULTS: dict[str, tuple[Any, str]] = {
    "lost": (spoiled(lambda fields, parts: None), "no answer within 0.2 seconds"),
    "away": (spoiled(lambda fields, parts: LinkError("its node is away")), "its node is away"),
    "no message": (spoiled(lambda fields, parts: ({}, [])), "about other workers"),
    "another's name in the answer": (
        spoiled(lambda fields, parts: ({"results": [{"worker": "bob"}]}, parts)),
        "about other workers",
    ),
    "another's name in the update": (with_(workers=lambda u: ("bob",)), "'alice' were asked, and 'bob' answered"),
    "no update": (spoiled(lambda fields, parts: (fields, [])), "about other workers"),
    "two updates": (spoiled(lambda fields, parts: (fields, [*parts, *parts])), "about other workers"),
    "nothing that can be read": (spoiled(lambda fields, parts: (fields, [b"nothing"])), "cannot be used"),
    "an old cohort": (with_(cohort=lambda u: 7), "answer cohort 7"),
    "another shape": (spoiled(lambda fields, parts: (fields, [_of_two()])), "must have one module"),
    "NaN": (with_(delta=lambda u: u.delta * float("nan")), "NaN or Inf"),
    "1e30 examples": (with_(examples=doubles(1e30), weight=doubles(1e30)), "1e+30 examples, and it has announced 2"),
    "one example more": (with_(examples=doubles(3.0), weight=doubles(3.0)), "3 examples, and it has announced 2"),
    "NaN examples": (with_(examples=doubles(float("nan")), weight=doubles(float("nan"))), "nan examples"),
    "less than no examples": (with_(examples=doubles(-1.0), weight=doubles(-1.0)), "-1 examples"),
    "a weight of its own": (with_(weight=doubles(1e6)), "counts as 1e+06, and it counts as 2"),
    "no number of steps": (with_(steps=doubles(float("nan"))), "nan steps"),
    "an infinite number of steps": (with_(steps=doubles(float("inf"))), "inf steps"),
    "metrics without end": (
        with_(metrics=lambda u: {f"m{i}": u.loss for i in range(501)}),
        "it has logged 50",
    ),
    "states of an object that is not there": (
        with_(metric_states=lambda u: {"sum": {"accuracy.total": torch.ones(1)}}),
        "has a state 'accuracy.total'",
    ),
    "a buffer in place of a parameter": (with_(buffers=lambda u: {"x": torch.ones(1)}), "a buffer 'x', for which"),
    "a buffer of no part": (with_(buffers=lambda u: {"a.b": torch.ones(1)}), "a buffer 'a.b', for which"),
    "a buffer in place of a method": (with_(buffers=lambda u: {"forward": torch.ones(1)}), "a buffer 'forward', for"),
    "a buffer in place of a flag": (with_(buffers=lambda u: {"training": torch.ones(1)}), "a buffer 'training', for"),
    "a refusal": (spoiled(lambda fields, parts: ({"refused": "not today"}, [])), "its node refuses: not today"),
}


def _of_two() -> bytes:
    job = Job(0, 0, 0, GlobalModel({"x": torch.zeros(2)}), LocalTraining())
    one = torch.ones(1, dtype=torch.float64)
    return encode_updates(Updates(0, ("alice",), torch.zeros(1, 2), {}, one, one, one, one), job)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_node_is_its_workers_error(fault: str, tmp_path: Path) -> None:
    spoil, words = FAULTS[fault]
    fed, _ = fit(*connected(Scalar, rows(), tmp_path, spoil), on_worker_error="drop")
    (failure,) = fed.last_report.failures
    assert failure.worker == "alice"
    assert failure.round == 0
    assert words in failure.reason
    assert fed.module.x.item() == 2.0  # bob's mean alone


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_the_run_where_nothing_else_is_said(fault: str, tmp_path: Path) -> None:
    spoil, words = FAULTS[fault]
    with pytest.raises(WorkerError, match="worker 'alice' failed in round 0") as caught:
        fit(*connected(Scalar, rows(), tmp_path, spoil))
    assert words in str(caught.value)


def test_too_few_workers_end_the_run_and_leave_the_model(tmp_path: Path) -> None:
    engine, workers = connected(Scalar, rows(), tmp_path, FAULTS["away"][0])
    fed = FederatedModule(Scalar(x=9.0), engine=engine, on_worker_error="drop", min_workers=2)
    with pytest.raises(RoundError, match="min_workers=2"):
        trainer(max_steps=1, max_epochs=-1).fit(fed, FederatedDataModule(workers))
    assert fed.module.x.item() == 9.0


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_weight_that_an_algorithm_chooses_is_a_weight(weight: float, tmp_path: Path) -> None:
    spoil = with_(weight=doubles(weight))
    fed, _ = fit(*connected(Scalar, rows(), tmp_path, spoil), algorithm=QFedAvg(q=1.0, lr=1.0), on_worker_error="drop")
    (failure,) = fed.last_report.failures
    assert (failure.worker, failure.reason) == ("alice", f"it says that it counts as {weight:g}, which is no weight")


def test_refused_cohorts_are_told_until_an_update_counts_again(tmp_path: Path) -> None:
    def spoil(node: int, asked: Any, answer: Any) -> Any:
        asked_of[node] += asked["ask"] == "train"
        is_lost = node == 1 and asked["ask"] == "train" and asked_of[node] in (1, 2)
        return LinkError("its node is away") if is_lost else answer

    asked_of = {0: 0, 1: 0}
    engine, workers = connected(Scalar, rows(), tmp_path, spoil)
    fit(engine, workers, rounds=4, algorithm=Scaffold(), on_worker_error="drop")
    told = [asked["refused"] for asked in engine.link.asked if asked.get("workers") == ["alice"]]
    assert told == [{}, {"alice": [0]}, {"alice": [0, 1]}, {}]


class Norm(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))


def test_a_buffer_that_is_missing_is_its_workers_error(tmp_path: Path) -> None:
    lost = spoiled(lambda fields, parts: (fields, [without]))
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, 1)
    job = Job(0, 0, 0, GlobalModel({"x": torch.zeros(())}), LocalTraining())
    without = encode_updates(Updates(0, ("alice",), none, {}, 2 * one, 2 * one, one, one), job)
    engine, workers = connected(Norm, rows(), tmp_path, lost)
    fed = FederatedModule(Norm(), engine=engine, on_worker_error="drop")
    trainer(max_steps=1, max_epochs=-1).fit(fed, FederatedDataModule(workers))
    (failure,) = fed.last_report.failures
    assert failure.reason == "its update lacks the buffer 'seen'"


def test_a_node_that_was_away_takes_part_again(tmp_path: Path) -> None:
    engine, workers = connected(Scalar, rows(), tmp_path)

    seen: list[list[str]] = []

    class Leaves(pl.Callback):
        def on_train_batch_start(self, run: Any, fed: Any, *_: Any) -> None:
            engine.link.away = {1} if run.global_step == 1 else set()

        def on_train_batch_end(self, run: Any, fed: Any, *_: Any) -> None:
            seen.append([failure.worker for failure in fed.last_report.failures])

    fed = FederatedModule(Scalar(), engine=engine, on_worker_error="drop")
    trainer(max_steps=3, max_epochs=-1, callbacks=[Leaves()]).fit(fed, FederatedDataModule(workers))
    assert seen == [[], ["alice"], []]


# ---- before the first round ------------------------------------------------------------------------------------------


class Wider(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(2))


class Frozen(Scalar):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.held = torch.nn.Parameter(torch.tensor(value), requires_grad=False)


def test_a_node_with_another_module_is_refused_by_name(tmp_path: Path) -> None:
    nodes = nodes_of(Scalar, rows(), tmp_path)
    nodes[1] = nodes_of(Wider, {"alice": rows()["alice"]}, tmp_path)[0]
    link = Loopback(nodes)
    with pytest.raises(ValueError, match=r"node of 'alice': its module is another one: x is trained, float32, .. here"):
        fit(OverLoopback(link), RemotePopulation(link, nodes=2))


def test_frozen_parameters_must_have_the_same_values(tmp_path: Path) -> None:
    link = Loopback(nodes_of(lambda: Frozen(1.0), rows(), tmp_path))
    fed = FederatedModule(Frozen(2.0), engine=OverLoopback(link))
    with pytest.raises(ValueError, match="held is frozen and has other values there"):
        trainer(max_steps=1, max_epochs=-1).fit(fed, FederatedDataModule(RemotePopulation(link, nodes=2)))


def test_a_parameter_that_the_server_freezes_counts_as_frozen(tmp_path: Path) -> None:
    engine, workers = connected(lambda: Frozen(1.0), rows(), tmp_path)
    module = Frozen(1.0)
    run = trainer(max_steps=1, max_epochs=-1)
    run.fit(FederatedModule(module, engine=engine), FederatedDataModule(workers))
    assert module.x.item() == 3.5


def test_two_nodes_with_one_workers_name_are_refused(tmp_path: Path) -> None:
    nodes = {number: nodes_of(Scalar, {"bob": Rows([1.0])}, tmp_path)[0] for number in range(2)}
    with pytest.raises(ValueError, match="two nodes announce a worker 'bob'"):
        RemotePopulation(Loopback(nodes), nodes=2)


def test_a_missing_worker_is_named(tmp_path: Path) -> None:
    link = Loopback(nodes_of(Scalar, rows(), tmp_path))
    with pytest.raises(ValueError, match="the worker 'carol' is not there, and 'alice', 'bob' is"):
        RemotePopulation(link, names=["bob", "carol"], wait=0.05)


def test_a_node_without_workers_that_are_wanted_stops_no_run(tmp_path: Path) -> None:
    def spoil(node: int, asked: Any, answer: Any) -> Any:
        return ({"refused": "I am another job's"}, []) if node == 2 and asked["ask"] == "greet" else answer

    nodes = nodes_of(Scalar, {**rows(), "carol": Rows([9.0])}, tmp_path)
    link = Loopback(nodes, spoil=spoil)
    with pytest.raises(ValueError, match="node 2 refuses to take part: I am another job's"):
        RemotePopulation(link, nodes=3)
    with pytest.raises(ValueError, match=r"(?s)'carol' is not there, .*\n  node 2 refuses to take part: I am another"):
        RemotePopulation(link, names=["bob", "carol"], wait=0.05)
    fed, _ = fit(OverLoopback(link), RemotePopulation(link, names=["bob", "alice"]))
    assert fed.module.x.item() == 3.5


def test_missing_nodes_are_counted(tmp_path: Path) -> None:
    link = Loopback(nodes_of(Scalar, rows(), tmp_path))
    with pytest.raises(ValueError, match="2 of nodes=3 nodes are there, with the workers 'alice', 'bob'"):
        RemotePopulation(link, nodes=3, wait=0.05)


def test_a_worker_may_announce_no_more_examples_than_anyone_has(tmp_path: Path) -> None:
    link = Loopback(nodes_of(Scalar, rows(), tmp_path))
    with pytest.raises(ValueError, match="worker 'bob' announces 2 examples, and most_examples=1"):
        RemotePopulation(link, nodes=2, most_examples=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"versions": {"protocol": 99}}, "speaks version 99 of the protocol"),
        ({"workers": [{"name": "", "examples": 1, "loaders": {}}]}, "without a name"),
        ({"workers": [{"name": "x" * 501, "examples": 1, "loaders": {}}]}, "at most 500 characters"),
        ({"workers": [{"name": "x\x1b[2J", "examples": 1, "loaders": {}}]}, "can be printed"),
        ({"workers": [{"name": "x", "examples": 1.5, "loaders": {}}]}, "announces 1.5 examples"),
        ({"workers": [{"name": "x", "examples": True, "loaders": {}}]}, "announces True examples"),
        ({"workers": [{"name": "x", "examples": 1, "loaders": "val"}]}, "loaders of worker 'x' that cannot be read"),
        ({"workers": [3]}, "something else"),
        ({"workers": None}, "something else"),
        ({"refused": "no"}, "refuses to take part: no"),
    ],
)
def test_what_a_node_announces_is_checked(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    link = Loopback(nodes_of(Scalar, rows(), tmp_path), lambda node, asked, answer: ({**answer[0], **change}, []))
    with pytest.raises(ValueError, match=words):
        RemotePopulation(link, nodes=2)


def test_workers_here_and_nodes_do_not_mix(tmp_path: Path) -> None:
    engine, workers = connected(Scalar, rows(), tmp_path)
    with pytest.raises(ValueError, match="and those of dict are here"):
        fit(engine, rows())
    with pytest.raises(ValueError, match="which engine=Sequential does not reach"):
        fit(Sequential(), workers)


def test_a_simulated_absence_is_refused(tmp_path: Path) -> None:
    engine, workers = connected(Scalar, rows(), tmp_path)
    fed = FederatedModule(Scalar(), engine=engine)
    data = FederatedDataModule(workers, availability=RandomAvailability(absent=0.5))
    with pytest.raises(ValueError, match="is simulated, and real nodes are away by themselves"):
        trainer(max_steps=1, max_epochs=-1).fit(fed, data)


def test_a_part_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    class Own(FedAvg.__mro__[1]):  # type: ignore[name-defined]  # an algorithm of a user's own, at the server only
        def aggregator(self) -> Any:
            return WeightedMean()

    engine, workers = connected(Scalar, rows(), tmp_path)
    with pytest.raises(ValueError, match=r"there is no '.*Own' at this node; install it there"):
        fit(engine, workers, algorithm=Own())


# ---- own state, and resuming -----------------------------------------------------------------------------------------


def scaffold(engine: Engine, workers: Any, rounds: int, root: Path, ckpt: Any = None, **options: Any) -> Any:
    fed = FederatedModule(member("tied"), algorithm=Scaffold(), engine=engine, local_epochs=2, **options)
    saves = ModelCheckpoint(root, every_n_train_steps=1, save_last=True, save_top_k=-1, filename="{step}")
    run = trainer(max_steps=rounds, max_epochs=-1, callbacks=[saves], enable_checkpointing=True, limit_val_batches=0)
    run.fit(fed, FederatedDataModule(workers), ckpt_path=ckpt)
    return {"model": dict(fed.module.state_dict()), "server": dict(fed.server_state)}


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_another_process_resumes_bit_for_bit_with_what_workers_remember(tmp_path: Path) -> None:
    whole = scaffold(Sequential(), cohort(), 4, tmp_path / "simulation")
    scaffold(*connected(lambda: member("tied"), cohort(), tmp_path), 2, tmp_path / "server")
    again = connected(lambda: member("tied"), cohort(), tmp_path)  # all nodes have been restarted
    assert_bits(scaffold(*again, 4, tmp_path / "server", tmp_path / "server" / "last.ckpt"), whole)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_round_that_the_server_did_not_live_to_see_is_trained_again(tmp_path: Path) -> None:
    whole = scaffold(Sequential(), cohort(), 3, tmp_path / "simulation")
    count = iter(range(100))

    def spoil(node: int, asked: Any, answer: Any) -> Any:  # after round 0, the last node's answer of a round is lost
        return None if asked["ask"] == "train" and next(count) == 7 else answer

    engine, workers = connected(lambda: member("tied"), cohort(), tmp_path, spoil)
    with pytest.raises(WorkerError, match="'dee' failed in round 1"):
        scaffold(engine, workers, 3, tmp_path / "server")
    again = connected(lambda: member("tied"), cohort(), tmp_path)
    assert_bits(scaffold(*again, 3, tmp_path / "server", tmp_path / "server" / "last.ckpt"), whole)


def test_what_a_late_worker_remembers_of_the_round_is_dropped(tmp_path: Path) -> None:
    """The server has gone on without it, so its control variate must not count either."""

    count = iter(range(100))

    def late(node: int, asked: Any, answer: Any) -> Any:
        return None if asked["ask"] == "train" and next(count) == 7 else answer

    engine, workers = connected(lambda: member("tied"), cohort(), tmp_path, late)
    there = scaffold(engine, workers, 4, tmp_path / "there", on_worker_error="drop")

    class Refuses:
        """A node that does not train in round 1, and so remembers nothing of it."""

        def __init__(self, node: Any) -> None:
            self._node = node

        def answer(self, fields: Any, parts: Any) -> Any:
            if fields["ask"] == "train" and next(others) == 1:
                return {"refused": "no"}, []
            return self._node.answer(fields, parts)

    others = iter(range(100))
    nodes: dict[int, Any] = nodes_of(lambda: member("tied"), cohort(), tmp_path / "other")
    nodes[3] = Refuses(nodes[3])
    link = Loopback(nodes)
    never = scaffold(
        OverLoopback(link),
        RemotePopulation(link, names=list(cohort())),
        4,
        tmp_path / "never",
        on_worker_error="drop",
    )
    assert_bits(there, never)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_run_that_goes_back_further_than_its_workers_can_is_refused(tmp_path: Path) -> None:
    scaffold(*connected(lambda: member("tied"), cohort(), tmp_path), 3, tmp_path / "server")
    again = connected(lambda: member("tied"), cohort(), tmp_path)
    with pytest.raises(WorkerError, match="remembers the run up to cohort 1, and the run goes on after cohort 0"):
        scaffold(*again, 4, tmp_path / "server", tmp_path / "server" / "step=1.ckpt")


def test_another_fit_begins_without_a_past(tmp_path: Path) -> None:
    engine, workers = connected(lambda: member("tied"), cohort(), tmp_path)
    first = scaffold(engine, workers, 2, tmp_path / "one")
    assert_bits(scaffold(engine, workers, 2, tmp_path / "two"), first)


def test_nothing_of_what_workers_remember_lies_at_the_server(tmp_path: Path) -> None:
    engine, workers = connected(lambda: member("tied"), cohort(), tmp_path)
    fed = FederatedModule(member("tied"), algorithm=Scaffold(), engine=engine)
    run = trainer(max_steps=2, max_epochs=-1, limit_val_batches=0)
    run.fit(fed, FederatedDataModule(workers))
    assert fed.own_state == {}
    assert Layout(dict(fed.module.named_parameters())).size > 0
    assert len(list(tmp_path.rglob("own_state.safetensors"))) == 4


# ---- what of a module has changed since the beginning of its run -----------------------------------------------------


class EvaluatedExamples(Examples):
    def val_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=self.batch_size)

    test_dataloader = val_dataloader


def evaluated(name: str) -> Any:
    """A member of the menagerie that is evaluated by the loss of its training."""
    module = member(name)

    class Evaluated(type(module)):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            teacher = self.teacher(batch[0]).square().mean() if hasattr(self, "teacher") else 0.0
            centre = self.centre.sum() if hasattr(self, "centre") else 0.0
            self.log("measured", torch.nn.functional.cross_entropy(self(batch[0]), batch[1]) + teacher + centre)

        test_step = validation_step

    module.__class__ = Evaluated
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["teacher", "late buffers"])
def test_nodes_go_on_where_frozen_parameters_and_buffers_have_changed(name: str, tmp_path: Path) -> None:
    """They have their module as it was at first, and what has changed travels: in a test, and after a resume."""
    data = {worker: EvaluatedExamples(number, 6) for number, worker in enumerate(("ann", "bob"))}

    def left(engine: Engine, workers: Any, again: tuple[Engine, Any], root: Path) -> Any:
        saves = ModelCheckpoint(root, every_n_train_steps=1, save_last=True)
        fed = FederatedModule(evaluated(name), engine=engine)
        run = trainer(max_steps=2, max_epochs=-1, callbacks=[saves], enable_checkpointing=True)
        run.fit(fed, FederatedDataModule(workers))
        (tested,) = trainer().test(fed, FederatedDataModule(workers), verbose=False)
        if name == "late buffers":  # a checkpoint with more buffers than the user's module does not open in it
            return tested, dict(fed.module.state_dict()), None
        resumed = FederatedModule(evaluated(name), engine=again[0])
        run = trainer(max_steps=3, max_epochs=-1, limit_val_batches=0)
        run.fit(resumed, FederatedDataModule(again[1]), ckpt_path=str(root / "last.ckpt"))
        (validated,) = trainer().validate(resumed, FederatedDataModule(again[1]), verbose=False)
        return tested, dict(resumed.module.state_dict()), validated

    def there() -> tuple[Engine, Any]:
        return connected(lambda: evaluated(name), data, tmp_path / "nodes")

    nodes = left(*there(), there(), tmp_path / "there")
    here = left(Sequential(), data, (Sequential(), data), tmp_path / "here")
    assert_bits(nodes[1], here[1])
    assert nodes[0] == here[0]
    assert nodes[2] == here[2]


class Evaluates(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("distance", (self.x - batch[0]).abs().mean())


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_evaluations_say_which_updates_did_not_count(tmp_path: Path) -> None:
    data = {worker: EvaluatedRows(numbers) for worker, numbers in NUMBERS.items()}

    def late(node: int, asked: Any, answer: Any) -> Any:
        return None if node == 1 and asked["ask"] == "train" else answer

    engine, workers = connected(Evaluates, data, tmp_path, late)
    module = Evaluates()
    fed = FederatedModule(module, algorithm=Scaffold(), engine=engine, on_worker_error="drop")
    trainer(max_steps=1, max_epochs=-1, num_sanity_val_steps=0).fit(fed, FederatedDataModule(workers))
    asked = [message["refused"] for message in engine.link.asked if message["ask"] == "evaluate"]
    assert asked == [{}, {"alice": [0]}]
