from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_fed.state.folder import StateFolder
from lightning_fed.state.spilled_rows import SpilledRows

WIDTH = 4
ROW = WIDTH * 4  # bytes


def store(folder: Path, rows: float = 4) -> SpilledRows:
    return SpilledRows(int(rows * ROW), StateFolder(lambda: folder), "table")


def row(number: float) -> Tensor:
    return torch.full((1, WIDTH), float(number))


def read(rows: SpilledRows, names: list[str], default: float = -1) -> list[float]:
    out = torch.full((len(names), WIDTH), float(default))
    rows.read(names, out)
    assert (out == out[:, :1]).all()
    return out[:, 0].tolist()


def write(rows: SpilledRows, **values: float) -> None:
    rows.write(list(values), torch.cat([row(value) for value in values.values()]))


def bytes_in_memory(rows: SpilledRows) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in rows._recent.values())


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_what_was_written_is_read_and_what_was_not_is_left_as_it_is(tmp_path: Path) -> None:
    rows = store(tmp_path)
    assert read(rows, ["a", "b"]) == [-1, -1]
    write(rows, a=1, b=2)
    assert read(rows, ["b", "nobody", "a"]) == [2, -1, 1]
    assert ("a" in rows, "nobody" in rows, len(rows)) == (True, False, 2)
    write(rows, a=5)
    assert (read(rows, ["a", "b"]), len(rows)) == ([5, 2], 2)


def test_within_the_budget_nothing_touches_the_disk(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    rows = store(folder, rows=3)
    write(rows, a=1, b=2, c=3)
    assert not folder.exists()
    write(rows, d=4)
    assert len(files(folder)) == 1


def test_the_longest_unwritten_go_to_disk(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=3)
    write(rows, a=1, b=2, c=3)
    write(rows, a=4)  # newest again
    write(rows, d=5)
    assert (set(rows._places), set(rows._recent)) == ({"b", "c"}, {"a", "d"})
    assert read(rows, list("abcd")) == [4, 2, 3, 5]


@pytest.mark.parametrize("cohort", [1, 3, 10, 50])
def test_the_budget_holds_after_every_write(tmp_path: Path, cohort: int) -> None:
    rows = store(tmp_path, rows=8)
    for turn in range(40):
        names = [f"w{(turn * cohort + i) % 100}" for i in range(cohort)]
        rows.write(names, torch.full((cohort, WIDTH), float(turn)))
        assert bytes_in_memory(rows) <= 8 * ROW


def test_the_budget_holds_when_many_files_are_let_go_at_once(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=4)
    names = [f"w{i}" for i in range(48)]
    for start in range(0, 48, 12):  # files of 8 rows or more
        rows.write(names[start : start + 12], torch.arange(start, start + 12.0).unsqueeze(1).expand(-1, WIDTH))
    stored = dict(rows._places)
    by_file: dict[int, list[str]] = {}
    for name, (file, _) in stored.items():
        by_file.setdefault(file, []).append(name)
    rewritten = [name for members in by_file.values() for name in members[: len(members) // 2 + 1]]
    rows.write(rewritten, torch.full((len(rewritten), WIDTH), 100.0))
    assert bytes_in_memory(rows) <= 4 * ROW
    assert read(rows, names) == [100.0 if name in rewritten else i for i, name in enumerate(names)]


def test_a_budget_below_a_row_keeps_none_in_memory(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=0.5)
    write(rows, a=1)
    write(rows, b=2)
    assert bytes_in_memory(rows) == 0
    assert read(rows, ["a", "b"]) == [1, 2]


def test_rows_do_not_keep_the_matrix_alive_that_they_came_in(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=1000)
    matrix = torch.zeros(500, WIDTH)
    gone = weakref.ref(matrix.untyped_storage())
    rows.write([f"w{i}" for i in range(500)], matrix)
    del matrix
    gc.collect()
    assert gone() is None
    assert bytes_in_memory(rows) == 500 * ROW


def test_rows_read_from_a_checkpoint_or_a_file_do_not_keep_others_alive(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=1000)
    write(rows, **{f"w{i}": i for i in range(100)})
    again = store(tmp_path, rows=1000)
    again.load_state_dict(rows.state_dict())
    assert bytes_in_memory(again) == 100 * ROW


def test_what_was_read_is_a_copy(tmp_path: Path) -> None:
    rows = store(tmp_path)
    given_in = row(1)
    rows.write(["a"], given_in)
    given_in.zero_()
    out = torch.zeros(1, WIDTH)
    rows.read(["a"], out)
    out += 5
    assert read(rows, ["a"]) == [1]


def test_a_file_that_is_mostly_garbage_is_let_go(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=2)
    write(rows, a=1, b=2, c=3, d=4)
    (first,) = files(tmp_path)
    write(rows, a=5)
    assert first.exists()  # half of it is alive
    write(rows, b=6)
    assert not first.exists()
    assert read(rows, list("abcd")) == [5, 6, 3, 4]


def test_disk_is_bounded_too(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=10)
    names = [f"w{i}" for i in range(100)]
    for turn in range(50):
        start = (turn * 30) % 100
        cohort = [names[(start + i) % 100] for i in range(30)]
        rows.write(cohort, torch.full((30, WIDTH), float(turn)))
    on_disk = sum(path.stat().st_size for path in files(tmp_path))
    assert on_disk <= 2 * 100 * ROW + len(files(tmp_path)) * 100  # a header each
    assert set(files(tmp_path)) == set(rows._files.values())


def test_a_file_that_a_checkpoint_refers_to_stays(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=2)
    write(rows, a=1, b=2, c=3, d=4)
    checkpoint = rows.state_dict()
    (first,) = files(tmp_path)
    write(rows, a=5, b=6, c=7, d=8)
    assert first.exists()
    assert first not in rows._files.values()
    again = store(tmp_path, rows=2)
    again.load_state_dict(checkpoint)
    assert read(again, list("abcd")) == [1, 2, 3, 4]
    write(again, a=9, b=9, c=9, d=9)  # the run that goes on must not take it away from the checkpoint either
    assert first.exists()


def test_a_checkpoint_is_not_changed_by_what_comes_later(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=3)
    write(rows, a=1, b=2, c=3, d=4)
    checkpoint = rows.state_dict()
    write(rows, a=10, b=20, c=30, d=40, e=50)
    again = store(tmp_path, rows=3)
    again.load_state_dict(checkpoint)
    assert read(again, list("abcde")) == [1, 2, 3, 4, -1]


def test_a_checkpoint_is_plain_data(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=2)
    write(rows, a=1, b=2, c=3, d=4)
    torch.save(rows.state_dict(), tmp_path / "state.pt")
    again = store(tmp_path, rows=2)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert read(again, list("abcd")) == [1, 2, 3, 4]


def test_files_are_found_in_the_folder_of_the_run_that_goes_on(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    rows = store(old, rows=2)
    write(rows, a=1, b=2, c=3, d=4)
    checkpoint = rows.state_dict()
    old.rename(new)
    again = store(new, rows=2)
    again.load_state_dict(checkpoint)
    assert read(again, list("abcd")) == [1, 2, 3, 4]


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=2)
    write(rows, a=1, b=2, c=3, d=4)
    checkpoint = rows.state_dict()
    (first,) = files(tmp_path)
    first.unlink()
    with pytest.raises(FileNotFoundError, match=f"{first.name} is gone.*put the file back there or into"):
        store(tmp_path / "elsewhere").load_state_dict(checkpoint)


def test_nothing_unfinished_is_left(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=2)
    write(rows, a=1, b=2, c=3, d=4)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_other_dtypes_come_back_as_they_were(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = SpilledRows(1, StateFolder(lambda: tmp_path), "table")
    values = torch.tensor([[1, 2, 3]], dtype=dtype)
    rows.write(["a"], values)
    out = torch.zeros(1, 3, dtype=dtype)
    rows.read(["a"], out)
    assert torch.equal(out, values)


Step = Any


@settings(max_examples=80, deadline=None)
@given(
    budget=st.integers(0, 6),
    steps=st.lists(
        st.one_of(
            st.lists(st.integers(0, 12), min_size=1, max_size=8, unique=True),  # write these
            st.just("save"),
            st.just("resume"),
        ),
        max_size=25,
    ),
)
def test_it_is_a_dict_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, budget: int, steps: list[Step]
) -> None:
    """Against a plain dict: rows written again and again, spilled, compacted, saved, and gone back to."""
    folder = tmp_path_factory.mktemp("rows")
    rows, expected = store(folder, budget), dict[str, float]()
    checkpoint, then = rows.state_dict(), dict[str, float]()
    for number, step in enumerate(steps):
        if step == "save":
            checkpoint, then = rows.state_dict(), dict(expected)
        elif step == "resume":
            rows, expected = store(folder, budget), dict(then)
            rows.load_state_dict(checkpoint)
        else:
            values = {str(name): float(number) for name in step}
            write(rows, **values)
            expected |= values
            assert bytes_in_memory(rows) <= budget * ROW
        names = [str(name) for name in range(13)]
        assert read(rows, names) == [expected.get(name, -1) for name in names]
        assert len(rows) == len(expected)
