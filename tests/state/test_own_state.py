from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers import Rows, Scalar, fit, trainer
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule, RoundRobin, WorkerError
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Krum, UniformMean
from lightning_fed.algorithms import Algorithm, Ditto, FedAvg, Scaffold
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.engines import Sequential
from lightning_fed.server.round import FederatedLoop
from lightning_fed.state import OwnState
from lightning_fed.testing.workload import memory
from lightning_fed.wire import Aggregate, GlobalModel, Job, LocalTraining
from lightning_fed.worker.outbox import Outbox

TABLES = ("first", "second")


def new(folder: Path, budget: int = 1000, tables: tuple[str, ...] = TABLES) -> OwnState:
    return OwnState(tables, budget, lambda: folder)


def value(state: OwnState, worker: str, table: str = "first") -> list[float]:
    return state.rows(table, [worker], torch.full((2,), -1.0))[0].tolist()


def stage(state: OwnState, **rows: float) -> None:
    """Stage in the first table for each worker the row of twice the same number."""
    state.stage("first", list(rows), torch.tensor([[number, number] for number in rows.values()]))


# ---- two slots ------------------------------------------------------------------------------------------------------


def test_what_is_staged_counts_only_once_the_round_has_succeeded(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    state.stage("first", ["a", "b"], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert (value(state, "a"), state.has("first", "a")) == ([-1, -1], False)
    state.settle(last=None)
    assert (value(state, "a"), state.has("first", "a")) == ([-1, -1], False)
    state.settle(last=0)
    assert (value(state, "a"), value(state, "b"), value(state, "c")) == ([1, 2], [3, 4], [-1, -1])
    assert (state.has("first", "a"), state.has("first", "c"), state.has("second", "a")) == (True, False, False)


def test_the_next_job_says_that_the_round_succeeded(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(4, last=3)
    stage(state, a=1.0)
    state.begin(5, last=4)
    assert (value(state, "a"), state.staged()) == ([1, 1], {})


def two_cohorts(folder: Path) -> OwnState:
    """One that has succeeded, number 3, and one of which nothing is known yet, number 4."""
    state = new(folder)
    state.begin(3, last=None)
    stage(state, a=1.0, b=1.0)
    state.begin(4, last=3)
    stage(state, a=2.0, c=2.0)
    return state


def test_what_is_staged_is_dropped_if_the_cohort_failed(tmp_path: Path) -> None:
    state = two_cohorts(tmp_path)
    state.begin(6, last=5, failed=[4])
    assert (value(state, "a"), value(state, "b"), value(state, "c")) == ([1, 1], [1, 1], [-1, -1])
    state.settle(last=4)  # too late
    assert value(state, "a") == [1, 1]


def test_a_worker_that_is_asked_again_after_many_rounds_keeps_what_succeeded(tmp_path: Path) -> None:
    state = two_cohorts(tmp_path)
    state.begin(60, last=59, failed=[7])
    assert (value(state, "a"), value(state, "b"), value(state, "c")) == ([2, 2], [1, 1], [2, 2])


@pytest.mark.parametrize("last", [None, 3])
def test_what_is_staged_waits_as_long_as_nothing_is_known_of_its_cohort(tmp_path: Path, last: int | None) -> None:
    """As while gradients of several cohorts are accumulated for one step; a checkpoint then does not have it."""
    state = two_cohorts(tmp_path)
    state.begin(5, last=last)
    stage(state, a=3.0)
    assert (value(state, "a"), value(state, "c")) == ([1, 1], [-1, -1])
    assert state.state_dict(last)["first"]["names"] == ["a", "b"]
    state.begin(6, last=5)
    assert (value(state, "a"), value(state, "c")) == ([3, 3], [2, 2])


def test_a_round_that_was_given_up_is_dropped(tmp_path: Path) -> None:
    state = two_cohorts(tmp_path)
    state.drop(4)
    state.begin(5, last=4)
    assert (value(state, "a"), value(state, "c")) == ([1, 1], [-1, -1])


def test_a_cohort_that_is_tried_again_begins_with_nothing(tmp_path: Path) -> None:
    """A server that went on from its last checkpoint sends the same number again."""
    state = new(tmp_path)
    state.begin(0, last=None)
    stage(state, a=1.0)
    state.begin(1, last=0)
    stage(state, a=2.0, b=2.0)
    state.begin(1, last=0)
    stage(state, a=3.0)
    state.begin(2, last=1)
    assert (value(state, "a"), value(state, "b")) == ([3, 3], [-1, -1])


def test_settling_twice_is_settling_once(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    stage(state, a=1.0)
    state.settle(last=0)
    state.settle(last=0)
    assert state.kept().keys() == {"first"}
    assert value(state, "a") == [1, 1]


def test_a_workers_newest_row_counts(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    stage(state, a=1.0, b=1.0)
    stage(state, a=2.0)
    assert {worker: row.tolist() for worker, row in state.staged()["first"].items()} == {"a": [2, 2], "b": [1, 1]}
    state.begin(1, last=0)
    assert (value(state, "a"), value(state, "b")) == ([2, 2], [1, 1])
    stage(state, b=3.0)
    state.begin(2, last=1)
    assert (value(state, "a"), value(state, "b")) == ([2, 2], [3, 3])


def test_several_stacks_and_tables_in_one_round(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    state.stage("first", ["a"], torch.tensor([[1.0, 1.0]]))
    state.stage("second", ["a"], torch.tensor([[5.0]]))
    state.stage("first", ["b"], torch.tensor([[2.0, 2.0]]))
    state.settle(last=0)
    assert (value(state, "a"), value(state, "b")) == ([1, 1], [2, 2])
    assert state.rows("second", ["a", "b"], torch.zeros(1)).tolist() == [[5], [0]]


def test_rows_of_another_length_than_the_kept_ones_are_refused(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    stage(state, a=1)
    state.settle(last=0)
    with pytest.raises(ValueError, match="remember 2 numbers each in the table 'first', and 3 are asked for"):
        state.rows("first", ["b"], torch.zeros(3))


def test_what_is_staged_is_cut_from_its_gradients_and_rows_are_copies(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    state.stage("first", ["a"], torch.ones(1, 2, requires_grad=True) * 2)
    state.settle(last=0)
    rows = state.rows("first", ["a"], torch.zeros(2))
    assert not rows.requires_grad
    rows += 1
    default = torch.zeros(2)
    state.rows("first", ["nobody"], default).add_(1)
    assert (value(state, "a"), default.tolist()) == ([2, 2], [0, 0])


def test_rows_have_the_dtype_of_the_default(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    state.stage("first", ["a"], torch.ones(1, 2))
    state.settle(last=0)
    assert state.rows("first", ["a"], torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


def test_rows_of_a_table_that_nobody_named_are_an_error(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    with pytest.raises(ValueError, match=r"in the table 'third', but `tables` names \['first', 'second'\]; add it"):
        state.stage("third", ["a"], torch.ones(1, 2))


def test_a_scope_sees_the_tables_that_begin_with_its_prefix(tmp_path: Path) -> None:
    state = new(tmp_path, tables=("error", "transforms.0.error"))
    state.begin(0, last=None)
    outer, inner = state.scope(), state.scope("transforms.0.")
    outer.stage("error", ["a"], torch.ones(1, 2))
    inner.stage("error", ["b"], torch.full((1, 2), 2.0))
    state.settle(last=0)
    assert (value(state, "a", "error"), value(state, "b", "transforms.0.error")) == ([1, 1], [2, 2])
    assert inner.rows("error", ["a", "b"], torch.zeros(2)).tolist() == [[0, 0], [2, 2]]
    assert (outer.has("error", "a"), inner.has("error", "a"), inner.has("error", "b")) == (True, False, True)
    with pytest.raises(ValueError, match=r"'transforms\.0\.third', but `tables` names"):
        inner.stage("third", ["a"], torch.ones(1, 2))


# ---- checkpoints of the simulation ----------------------------------------------------------------------------------


def test_the_budget_is_shared_by_the_tables(tmp_path: Path) -> None:
    state = new(tmp_path, budget=10 * 8 * 2)  # ten rows of two floats for each of the two tables
    state.begin(0, last=None)
    for table in TABLES:
        state.stage(table, [f"w{i}" for i in range(100)], torch.arange(200.0).view(100, 2))
    in_memory = [len(part["names"]) for part in state.state_dict(last=0).values()]
    assert len(in_memory) == 2
    assert all(0 < n <= 10 for n in in_memory)
    for table in TABLES:
        assert [value(state, f"w{i}", table) for i in range(100)] == torch.arange(200.0).view(100, 2).tolist()
        kept = state.kept()[table]
        assert torch.equal(torch.stack([kept[f"w{i}"] for i in range(100)]), torch.arange(200.0).view(100, 2))


def test_a_checkpoint_holds_everything_also_what_lies_on_disk(tmp_path: Path) -> None:
    state = new(tmp_path, budget=100)
    state.begin(0, last=None)
    state.stage("first", [f"w{i}" for i in range(100)], torch.arange(200.0).view(100, 2))
    state.stage("second", ["a"], torch.ones(1, 1))
    state.begin(1, last=0)
    state.stage("first", ["w0"], torch.zeros(1, 2))  # of a round that is not over
    torch.save(state.state_dict(last=0), tmp_path / "state.pt")
    again = new(tmp_path, budget=100)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [value(again, f"w{i}") for i in range(100)] == torch.arange(200.0).view(100, 2).tolist()
    assert again.rows("second", ["a"], torch.zeros(1)).tolist() == [[1]]
    again.settle(last=1)
    assert value(again, "w0") == [0, 1]


def test_a_checkpoint_is_not_changed_by_what_comes_later(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    stage(state, a=1.0)
    before = state.state_dict(last=0)
    state.begin(1, last=0)
    stage(state, a=2.0)
    state.settle(last=1)
    assert before["first"]["rows"].tolist() == [[1, 1]]


def test_loading_forgets_what_was_there(tmp_path: Path) -> None:
    state = new(tmp_path)
    empty = state.state_dict(last=None)
    state.begin(0, last=None)
    stage(state, a=1.0)
    state.begin(1, last=0)
    stage(state, b=1.0)
    state.load_state_dict(empty)
    state.settle(last=1)
    assert (value(state, "a"), value(state, "b"), state.kept()) == ([-1, -1], [-1, -1], {})


# ---- on a node ------------------------------------------------------------------------------------------------------


def plain(slot: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, list[float]]]:
    return {table: {worker: row.tolist() for worker, row in rows.items()} for table, rows in slot.items()}


def test_a_node_finds_both_slots_again(tmp_path: Path) -> None:
    """The next job says whether the round that it was killed in has succeeded."""
    for last, expected in ((7, [2, 2]), (6, [1, 1])):
        state = new(tmp_path / "rows")
        state.begin(6, last=None)
        stage(state, a=1.0, b=1.0)
        state.begin(7, last=6)
        stage(state, a=2.0)
        state.stage("second", ["c"], torch.tensor([[5.0, 6.0, 7.0]], dtype=torch.float64))
        state.write_to(tmp_path / "node")
        again = new(tmp_path / "rows")
        again.read_from(tmp_path / "node")
        assert plain(again.kept()) == plain(state.kept()) == {"first": {"a": [1, 1], "b": [1, 1]}}
        assert plain(again.staged()) == plain(state.staged()) == {"first": {"a": [2, 2]}, "second": {"c": [5, 6, 7]}}
        assert again.staged()["second"]["c"].dtype == torch.float64
        again.begin(8, last=last)
        assert (value(again, "a"), value(again, "b")) == (expected, [1, 1])
        assert again.has("second", "c") == (last == 7)


def test_what_a_node_reads_takes_the_place_of_what_it_had(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    stage(state, a=1.0)
    state.settle(last=0)
    state.read_from(tmp_path / "nothing")
    assert (state.kept(), state.staged()) == ({}, {})


def test_rows_that_share_memory_are_written(tmp_path: Path) -> None:
    """Such as one row for all workers."""
    state = new(tmp_path)
    state.begin(0, last=None)
    state.stage("first", ["a", "b"], torch.ones(2).expand(2, 2))
    state.write_to(tmp_path)
    again = new(tmp_path)
    again.read_from(tmp_path)
    assert plain(again.staged()) == {"first": {"a": [1, 1], "b": [1, 1]}}


@pytest.mark.parametrize("step", ["lightning_fed.state.own_state.save_file", "os.fsync", "pathlib.Path.replace"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    stage(state, a=1.0)
    state.write_to(tmp_path)
    state.begin(1, last=0)
    stage(state, a=2.0)

    def killed(*arguments: Any, **options: Any) -> None:
        if step.endswith("save_file"):
            Path(arguments[1]).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(step, killed)
        with pytest.raises(KeyboardInterrupt):
            state.write_to(tmp_path)
    again = new(tmp_path)
    again.read_from(tmp_path)
    assert (plain(again.kept()), plain(again.staged())) == ({}, {"first": {"a": [1, 1]}})
    state.write_to(tmp_path)  # over what lies there half done
    again.read_from(tmp_path)
    assert (plain(again.kept()), plain(again.staged())) == ({"first": {"a": [1, 1]}}, {"first": {"a": [2, 2]}})


# ---- several processes ----------------------------------------------------------------------------------------------


class Two:
    """Stands for two processes, of which this one trained nobody and the other one trained worker b."""

    size = 2

    def __init__(self, theirs: Tensor) -> None:
        self.theirs = theirs

    def gather(self, thing: Any) -> list[Any]:
        assert thing == ((), None)
        return [thing, (("b",), self.theirs[:0])]

    def gather_rows(self, rows: Tensor) -> Tensor:
        assert (rows.dtype, rows.shape[1]) == (self.theirs.dtype, self.theirs.shape[1])  # or gloo would abort
        return torch.cat([rows, self.theirs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_process_that_trained_nobody_learns_what_the_others_did(tmp_path: Path, dtype: torch.dtype) -> None:
    state = new(tmp_path, tables=("first",))
    state.begin(0, last=None)
    state.exchange(cast(Processes, Two(torch.tensor([[1.0, 2.0]], dtype=dtype))))
    assert value(state, "b") == [-1, -1]
    state.settle(last=0)
    assert value(state, "b") == [1, 2]


# ---- within a run ---------------------------------------------------------------------------------------------------


class Assigning(FedAvg):  # type: ignore[misc]
    """Remembers a counter at the server, and notes where it lies when a round begins."""

    def __init__(self) -> None:
        self.devices: list[str] = []

    def assign(self, job: Job, server: Tensors) -> Job:
        self.devices += [tensor.device.type for tensor in server.values()]
        return job

    def conclude(self, aggregate: Aggregate, job: Job, server: Tensors, replies: float) -> Aggregate:
        server["rounds"] = server.get("rounds", torch.zeros(())) + 1
        return aggregate


def loop(algorithm: Algorithm) -> FederatedLoop:
    """A loop whose cohorts are empty."""
    return FederatedLoop(
        algorithm, Sequential(), UniformMean(), Processes(), lambda _: 1, Outbox(algorithm), min_workers=1
    )


def test_the_servers_tensors_go_to_the_device_of_the_round() -> None:
    """A checkpoint is read before the module is placed, when its device is still the CPU."""
    algorithm = Assigning()
    model = GlobalModel({"x": torch.zeros(1, device="meta")})
    server = {"rounds": torch.ones(())}
    outcome = loop(algorithm).run(Job(0, 0, 0, model, LocalTraining()), [], server)
    assert (algorithm.devices, outcome.server["rounds"].device.type) == (["meta"], "meta")
    assert server["rounds"].device.type == "cpu"


def test_a_run_that_goes_on_has_the_servers_tensors_of_its_checkpoint(tmp_path: Path) -> None:
    data = {"a": Rows([1.0]), "b": Rows([2.0])}
    fit(FederatedModule(Scalar(0.1), algorithm=Assigning()), FederatedDataModule(data)).save_checkpoint(tmp_path / "c")
    algorithm = Assigning()
    federated = FederatedModule(Scalar(0.1), algorithm=algorithm)
    trainer(max_steps=2).fit(federated, FederatedDataModule(data), ckpt_path=tmp_path / "c")
    assert (algorithm.devices, federated.server_state["rounds"].item()) == (["cpu"], 2.0)


@pytest.mark.parametrize("moment", ["on_before_optimizer_step", "on_before_zero_grad"])
def test_a_checkpoint_between_a_rounds_end_and_the_servers_step_holds_the_round_before(
    tmp_path: Path, moment: str
) -> None:
    """The model has not moved yet, so neither has what workers and server remember: going on repeats the round."""

    class Saves(pl.Callback):
        def save(self, run: pl.Trainer, federated: Any, *_: Any) -> None:
            if run.global_step == 2 and federated.last_report.replies:
                run.save_checkpoint(tmp_path / "c")

    def run(rounds: int, callback: Any = None, **options: Any) -> FederatedModule:
        federated = FederatedModule(Scalar(0.1), algorithm=Scaffold(), local_steps=2)
        data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}, cohort_size=1, sampler=RoundRobin())
        trainer(max_steps=rounds, callbacks=callback).fit(federated, data, **options)
        return federated

    callback = Saves()
    setattr(callback, moment, callback.save)
    whole, two = run(4, callback), run(2)
    saved = torch.load(tmp_path / "c", weights_only=True)
    assert saved["global_step"] == 2
    state = saved["lightning_fed"]["state"]
    control = state["workers"]["control"]
    rows = dict(zip(control["names"], control["rows"], strict=True))
    torch.testing.assert_close({"control": rows}, two.own_state, rtol=0, atol=0)
    torch.testing.assert_close(state["server"], two.server_state, rtol=0, atol=0)
    torch.testing.assert_close(saved["state_dict"], dict(two.module.state_dict()), rtol=0, atol=0)
    resumed = run(4, ckpt_path=tmp_path / "c")
    torch.testing.assert_close(memory(resumed), memory(whole), rtol=0, atol=0)
    torch.testing.assert_close(resumed.module.state_dict(), whole.module.state_dict(), rtol=0, atol=0)


def test_a_round_that_the_aggregator_refuses_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    workers = {str(i): Rows([float("nan") if i == 0 else 1.0]) for i in range(5)}
    federated = FederatedModule(Scalar(0.1), algorithm=Scaffold(), aggregator=Krum(1), on_worker_error="drop")
    with pytest.raises(ValueError, match="n=4 workers"):
        fit(federated, FederatedDataModule(workers))
    assert memory(federated) == {"server": {}, "workers": {}}


def test_a_round_that_failed_leaves_the_state_as_it_was() -> None:
    """The first rounds are remembered, the one that fails is not, not even of workers that came back before it."""

    class Fails(Rows):
        passes = 0

        def train_dataloader(self) -> Any:
            loader = super().train_dataloader()
            owner = self

            class Once(type(loader)):  # type: ignore[misc]
                def __iter__(self) -> Any:
                    owner.passes += 1
                    if owner.passes > 2:
                        raise OSError("the disk is gone")
                    return super().__iter__()

            return Once(loader.dataset, batch_size=1, collate_fn=lambda rows: [torch.stack([r[0] for r in rows])])

    def run(rounds: int) -> FederatedModule:
        federated = FederatedModule(Scalar(0.1), algorithm=Scaffold(), engine="sequential")
        data = FederatedDataModule({"a": Rows([1.0]), "b": Fails([2.0])})
        with pytest.raises(WorkerError, match="worker 'b' failed in round 2") if rounds == 3 else nullcontext():
            fit(federated, data, max_steps=rounds)
        return federated

    two, three = run(2), run(3)
    torch.testing.assert_close(memory(three), memory(two), rtol=0, atol=0)
    torch.testing.assert_close(three.module.state_dict(), two.module.state_dict(), rtol=0, atol=0)
    # nor does a round after it, of other workers, bring back what it had staged
    fit(three, FederatedDataModule({"c": Rows([1.0])}), max_steps=1)
    after, before = (memory(federated)["workers"]["control"] for federated in (three, two))
    assert after.keys() == {"a", "b", "c"}
    assert all(torch.equal(after[name], before[name]) for name in "ab")


def test_a_fit_that_fails_at_once_leaves_what_the_fit_before_it_remembered() -> None:
    """Numbers of cohorts begin again with every fit; the one that failed has that of the one that succeeded."""
    federated = FederatedModule(Scalar(0.1), algorithm=Scaffold(), engine="sequential")
    fit(federated, FederatedDataModule({"a": Rows([1.0])}), max_steps=1)
    before = memory(federated)

    class Gone(Rows):
        def train_dataloader(self) -> Any:
            raise OSError("the disk is gone")

    with pytest.raises(WorkerError, match="worker 'gone' failed in round 0"):
        fit(federated, FederatedDataModule({"a": Rows([5.0]), "gone": Gone([1.0])}), max_steps=1)
    torch.testing.assert_close(memory(federated), before, rtol=0, atol=0)


def test_a_second_fit_goes_on_from_what_the_first_one_remembered() -> None:
    ends = []
    for fits in ([2], [1, 1]):
        federated = FederatedModule(Scalar(0.1), algorithm=Scaffold())
        for rounds in fits:
            fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}), max_steps=rounds)
        ends.append((memory(federated), dict(federated.module.state_dict())))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_state_in_files_of_a_whole_run(tmp_path: Path) -> None:
    """With 1 MB in memory, and models of half of it: as with everything in memory; and each process has its folder."""

    class Wide(Scalar):
        def __init__(self) -> None:
            super().__init__(lr=0.1)
            self.x = torch.nn.Parameter(torch.zeros(2**17))

    ends = []
    for megabytes in (1, 100):
        module = Wide()
        federated = FederatedModule(
            module, algorithm=Scaffold(), state_memory_mb=megabytes, state_dir=tmp_path / str(megabytes)
        )
        data = FederatedDataModule({f"w{i}": Rows([float(i)] * 2, batch_size=1) for i in range(8)}, cohort_size=5)
        fit(federated, data, max_steps=4).save_checkpoint(tmp_path / "c")
        ends.append(module.x.detach().clone())
        part = torch.load(tmp_path / "c", weights_only=True)["lightning_fed"]["state"]["workers"]["control"]
        assert part["rows"].nbytes <= megabytes * 2**20
        assert len(part["names"]) + len(part["names_on_disk"]) == 8
    assert torch.equal(*ends)
    assert list((tmp_path / "1" / "process-0").glob("*.safetensors"))
    assert not (tmp_path / "100").exists()


def test_a_folder_is_made_beside_the_runs_other_files(tmp_path: Path) -> None:
    class Large(Scalar):
        def __init__(self) -> None:
            super().__init__(lr=0.1)
            self.x = torch.nn.Parameter(torch.zeros(2**19))

    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])})
    fit(FederatedModule(Large(), algorithm=Ditto(0.1), state_memory_mb=1), data, max_steps=2, default_root_dir=tmp_path)
    assert list((tmp_path / "lightning_fed_state" / "process-0").glob("personal-*.safetensors"))


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match="state_memory_mb=0 must be at least 1"):
        FederatedModule(Scalar(), state_memory_mb=0)


def test_what_a_worker_staged_whose_update_did_not_count_is_dropped(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.begin(0, last=None)
    stage(state, a=1.0, b=2.0, c=3.0)
    state.forget("b")
    state.forget("nobody")
    state.begin(1, last=0)
    assert [value(state, worker) for worker in "abc"] == [[1, 1], [-1, -1], [3, 3]]
