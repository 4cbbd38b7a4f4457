from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers import Rows, Scalar, fit, trainer
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed.aggregation import Krum
from lightning_fed.algorithms import Ditto, Scaffold
from lightning_fed.core.processes import Processes
from lightning_fed.state.own_state import AlgorithmState
from lightning_fed.testing.workload import memory

TABLES = ("first", "second")


def new(folder: Path, budget: int = 1000) -> AlgorithmState:
    return AlgorithmState(budget, lambda: folder)


def value(state: AlgorithmState, worker: str, table: str = "first") -> list[float]:
    return state.rows(table, [worker], torch.full((2,), -1.0))[0].tolist()


def test_what_is_staged_counts_only_once_the_round_has_succeeded(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.stage("first", ["a", "b"], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert (value(state, "a"), state.has("first", "a")) == ([-1, -1], False)
    state.commit(TABLES, Processes())
    assert (value(state, "a"), value(state, "b"), value(state, "c")) == ([1, 2], [3, 4], [-1, -1])
    assert (state.has("first", "a"), state.has("first", "c"), state.has("second", "a")) == (True, False, False)


def test_what_a_round_has_staged_that_did_not_succeed_is_forgotten(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.stage("first", ["a"], torch.ones(1, 2))
    state.commit(TABLES, Processes())
    state.stage("first", ["a"], torch.zeros(1, 2))
    state.begin(torch.device("cpu"))
    state.commit(TABLES, Processes())
    assert value(state, "a") == [1, 1]


def test_several_stacks_and_tables_in_one_round(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.stage("first", ["a"], torch.tensor([[1.0, 1.0]]))
    state.stage("second", ["a"], torch.tensor([[5.0]]))
    state.stage("first", ["b"], torch.tensor([[2.0, 2.0]]))
    state.commit(TABLES, Processes())
    assert (value(state, "a"), value(state, "b")) == ([1, 1], [2, 2])
    assert state.rows("second", ["a", "b"], torch.zeros(1)).tolist() == [[5], [0]]


def test_what_is_staged_is_cut_from_its_gradients_and_rows_are_copies(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.stage("first", ["a"], torch.ones(1, 2, requires_grad=True) * 2)
    state.commit(TABLES, Processes())
    rows = state.rows("first", ["a"], torch.zeros(2))
    assert not rows.requires_grad
    rows += 1
    default = torch.zeros(2)
    state.rows("first", ["nobody"], default).add_(1)
    assert (value(state, "a"), default.tolist()) == ([2, 2], [0, 0])


def test_rows_have_the_dtype_of_the_default(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.stage("first", ["a"], torch.ones(1, 2))
    state.commit(TABLES, Processes())
    assert state.rows("first", ["a"], torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


def test_the_budget_is_shared_by_the_tables(tmp_path: Path) -> None:
    state = new(tmp_path, budget=10 * 8 * 2)  # ten rows of two floats for each of the two tables
    for table in TABLES:
        state.stage(table, [f"w{i}" for i in range(100)], torch.arange(200.0).view(100, 2))
    state.commit(TABLES, Processes())
    in_memory = [len(part["names"]) for part in state.state_dict()["workers"].values()]
    assert all(0 < n <= 10 for n in in_memory)
    for table in TABLES:
        assert [value(state, f"w{i}", table) for i in range(100)] == torch.arange(200.0).view(100, 2).tolist()


def test_a_checkpoint_holds_everything_also_what_lies_on_disk(tmp_path: Path) -> None:
    state = new(tmp_path, budget=100)
    state.stage("first", [f"w{i}" for i in range(100)], torch.arange(200.0).view(100, 2))
    state.stage("second", ["a"], torch.ones(1, 1))
    state.server["c"] = torch.tensor([7.0])
    state.commit(TABLES, Processes())
    state.stage("first", ["w0"], torch.zeros(1, 2))  # of a round that is not over
    torch.save(state.state_dict(), tmp_path / "state.pt")
    again = new(tmp_path, budget=100)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [value(again, f"w{i}") for i in range(100)] == torch.arange(200.0).view(100, 2).tolist()
    assert again.rows("second", ["a"], torch.zeros(1)).tolist() == [[1]]
    assert again.server["c"].item() == 7
    again.commit(TABLES, Processes())
    assert value(again, "w0") == [0, 1]


def test_a_checkpoint_is_not_changed_by_what_comes_later(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.server["c"] = torch.tensor([1.0])
    before = state.state_dict()
    state.server["c"] += 1
    assert before["server"]["c"].item() == 1


def test_loading_forgets_what_was_there(tmp_path: Path) -> None:
    state = new(tmp_path)
    empty = state.state_dict()
    state.server["c"] = torch.ones(1)
    state.stage("first", ["a"], torch.ones(1, 2))
    state.commit(TABLES, Processes())
    state.stage("first", ["b"], torch.ones(1, 2))
    state.load_state_dict(empty)
    state.commit(TABLES, Processes())
    assert (state.server, value(state, "a"), value(state, "b")) == ({}, [-1, -1], [-1, -1])


class Two:
    """Stands for two processes, of which this one trained nobody and the other one trained worker b."""

    def __init__(self, theirs: Tensor) -> None:
        self.theirs = theirs

    def gather(self, thing: Any) -> list[Any]:
        assert thing == ([], None)
        return [thing, (["b"], self.theirs[:0])]

    def gather_rows(self, rows: Tensor) -> Tensor:
        assert (rows.dtype, rows.shape[1]) == (self.theirs.dtype, self.theirs.shape[1])  # or gloo would abort
        return torch.cat([rows, self.theirs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_process_that_trained_nobody_learns_what_the_others_did(tmp_path: Path, dtype: torch.dtype) -> None:
    state = new(tmp_path)
    state.commit(("first",), cast(Processes, Two(torch.tensor([[1.0, 2.0]], dtype=dtype))))
    assert value(state, "b") == [1, 2]


def test_the_servers_tensors_go_to_the_device_of_the_round(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.server["c"] = torch.ones(1)
    state.begin(torch.device("meta"))
    assert state.server["c"].device.type == "meta"


# ---- within a run ---------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_has_them_moved_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is read before the module is placed, when its device is still the CPU."""
    data = {"a": Rows([1.0]), "b": Rows([2.0])}
    fit(FederatedModule(Scalar(0.1), algorithm=Scaffold()), FederatedDataModule(data)).save_checkpoint(tmp_path / "c")
    moved: list[tuple[list[str], str]] = []
    monkeypatch.setattr(AlgorithmState, "begin", lambda self, device: moved.append((list(self.server), device.type)))
    federated = FederatedModule(Scalar(0.1), algorithm=Scaffold())
    trainer(max_steps=2).fit(federated, FederatedDataModule(data), ckpt_path=tmp_path / "c")
    assert moved == [(["control"], "cpu")]


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
        fit(federated, data, max_steps=4)
        ends.append(module.x.detach().clone())
        part = federated._state.state_dict()["workers"]["control"]
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
    fit(FederatedModule(Large(), algorithm=Ditto(0.1), state_memory_mb=1), data, default_root_dir=tmp_path)
    assert list((tmp_path / "lightning_fed_state" / "process-0").glob("personal-*.safetensors"))


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match="state_memory_mb=0 must be at least 1"):
        FederatedModule(Scalar(), state_memory_mb=0)


def test_rows_of_a_table_that_nobody_named_are_an_error(tmp_path: Path) -> None:
    state = new(tmp_path)
    state.stage("third", ["a"], torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"\['third'\].*name them there"):
        state.commit(TABLES, Processes())
