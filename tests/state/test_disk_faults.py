"""A disk that fails, and a hand that interrupts: no row is lost."""

from __future__ import annotations

import errno
import itertools
import os
import pkgutil
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lightning_fed.state import DamagedFileError, OwnState, StateFolder
from lightning_fed.state.spilled_rows import SpilledRows

WIDTH = 4
NAMES = list("abcdef")
FULL = OSError(errno.ENOSPC, "No space left on device")
STEPS = ("lightning_fed.state.files.save_file", "os.fsync", "pathlib.Path.replace", "pathlib.Path.mkdir")


def store(folder: Path, rows: int = 2) -> SpilledRows:
    return SpilledRows(rows * WIDTH * 4, StateFolder(lambda: folder), "table")


def write(rows: SpilledRows, **values: float) -> None:
    rows.write(list(values), torch.tensor([[float(value)] * WIDTH for value in values.values()]))


def read(rows: SpilledRows) -> dict[str, float]:
    assert len(rows) == len(rows.all())
    return {name: row[0].item() for name, row in sorted(rows.all().items())}


def failing(patched: pytest.MonkeyPatch, step: str, error: BaseException, only: int | None = None) -> None:
    """Let a function raise, at its n-th call or at all of them.

    Args:
        patched: Does it, and undoes it.
        step: The function's name.
        error: What it raises.
        only: The number of the call.
    """
    owner, _, name = step.rpartition(".")
    right, calls = getattr(pkgutil.resolve_name(owner), name), itertools.count(1)

    def fail(*arguments: Any, **options: Any) -> Any:
        if only in (None, next(calls)):
            raise error
        return right(*arguments, **options)

    patched.setattr(step, fail)


@pytest.mark.parametrize(
    ("step", "error"),
    [*((step, FULL) for step in STEPS), (STEPS[0], SafetensorError("No space left on device"))],
)
def test_a_disk_that_takes_no_file_leaves_the_rows_in_memory_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    rows = store(tmp_path / "state")
    with monkeypatch.context() as patched:
        failing(patched, step, error)
        with pytest.warns(
            UserWarning, match=r"cannot be written to .*state \(.*; \d+ MB are free there\): .* go on from"
        ):
            write(rows, a=1, b=2, c=3, d=4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write(rows, e=5)  # it is said once
    assert read(rows) == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    assert not list(tmp_path.rglob("*.*"))
    write(rows, f=6)  # the disk has room again
    assert read(rows) == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}
    assert len(rows._recent) <= 2
    again = store(tmp_path / "state")
    again.load_state_dict(rows.state_dict())
    assert read(again) == read(rows)


def test_a_warning_that_is_an_error_loses_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = OwnState(("first",), 8, lambda: tmp_path)
    state.begin(0, None)
    state.stage("first", NAMES, torch.arange(12.0).view(6, 2))
    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("error")
        failing(patched, "os.fsync", FULL)
        with pytest.raises(UserWarning, match="cannot be written"):
            state.settle(0)
    state.settle(0)
    assert {name: row.tolist() for name, row in state.kept()["first"].items()} == {
        name: [2.0 * i, 2 * i + 1] for i, name in enumerate(NAMES)
    }


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("step", [*STEPS, "pathlib.Path.unlink", "lightning_fed.state.spilled_rows.read_rows"])
def test_an_interrupted_settling_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    """Ctrl-C in the middle of a spill, of a compaction, of a deletion: a checkpoint of that moment has every row."""
    state = OwnState(("first",), 2 * 8, lambda: tmp_path)

    def stage(cohort: int, workers: str, value: float) -> None:
        state.begin(cohort, cohort - 1)
        state.stage("first", list(workers), torch.full((len(workers), 2), value))

    stage(0, "abcdef", 1.0)
    stage(1, "abc", 2.0)
    stage(2, "bcde", 3.0)
    with monkeypatch.context() as patched:
        failing(patched, step, KeyboardInterrupt(), only=call)
        with suppress(KeyboardInterrupt):
            state.settle(2)
    expected = dict.fromkeys("a", 2.0) | dict.fromkeys("bcde", 3.0) | {"f": 1.0}
    saved = state.state_dict(2)
    for one in (state, OwnState(("first",), 100, lambda: tmp_path)):
        if one is not state:
            one.load_state_dict(saved)
        assert {name: row[0].item() for name, row in one.kept()["first"].items()} == expected
    stage(3, "f", 4.0)
    state.settle(3)
    assert {name: row[0].item() for name, row in state.kept()["first"].items()} == expected | {"f": 4.0}


# ---- files that are not what was written -----------------------------------------------------------------------------


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit in the last row": lambda path, other: flip(path, -1),
    "a flipped bit in the header": lambda path, other: flip(path, 30),
    "truncated": lambda path, other: os.truncate(path, path.stat().st_size // 2),
    "a byte short": lambda path, other: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path, other: os.truncate(path, 0),
    "something else": lambda path, other: path.write_bytes(b"hello" * 100),
    "another run's": lambda path, other: path.write_bytes(other.read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("when", ["before it is loaded", "while it is used"])
def test_a_damaged_file_is_found_when_it_is_opened(tmp_path: Path, damage: str, when: str) -> None:
    rows, others = store(tmp_path, rows=1), store(tmp_path / "other", rows=1)
    write(rows, a=1, b=2, c=3)
    write(others, a=5, b=6, c=7)
    (path,), (other,) = rows.files, others.files
    saved = rows.state_dict()
    used = store(tmp_path)
    used.load_state_dict(saved)
    DAMAGES[damage](path, other)
    open_it = used.all if when == "while it is used" else partial(store(tmp_path).load_state_dict, saved)
    with pytest.raises(DamagedFileError, match=f"the state of workers in {path} is damaged .*put back a copy of the"):
        open_it()


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    rows = store(tmp_path, rows=1)
    write(rows, a=1, b=2, c=3)
    (path,), saved = rows.files, rows.state_dict()
    right = path.read_bytes()
    for position in range(len(right)):
        flip(path, position)
        try:
            store(tmp_path).load_state_dict(saved)
        except DamagedFileError:
            pass
        else:  # such as a space after the header that is another kind of space
            again = store(tmp_path)
            again.load_state_dict(saved)
            assert read(again) == read(rows), position
        path.write_bytes(right)


def test_a_file_of_the_format_before_is_read_without_checksums(tmp_path: Path) -> None:
    save_file({"rows": torch.tensor([[1.0] * WIDTH, [2.0] * WIDTH])}, tmp_path / "old.safetensors")
    old = {
        **{"names": ["c"], "rows": torch.full((1, WIDTH), 3.0), "files": [str(tmp_path / "old.safetensors")]},
        **{"lengths": [2], "names_on_disk": ["a", "b"], "places": torch.tensor([[0, 0], [0, 1]])},
    }
    rows = store(tmp_path)
    rows.load_state_dict(old)
    assert read(rows) == {"a": 1, "b": 2, "c": 3}
    write(rows, a=5, b=6)
    assert (tmp_path / "old.safetensors").exists()  # no notes say that it may go


def test_what_a_node_has_written_is_checked_too(tmp_path: Path) -> None:
    state = OwnState(("first",))
    state.begin(0, None)
    state.stage("first", ["a"], torch.tensor([[1.0, 2.0]]))
    state.write_to(tmp_path)
    (path,) = tmp_path.iterdir()
    right = path.read_bytes()
    for position in (-1, 20, len(right) // 2):
        flip(path, position)
        with pytest.raises(DamagedFileError, match=str(path)):
            state.read_from(tmp_path)
        path.write_bytes(right)
    assert state.staged()["first"]["a"].tolist() == [1, 2]  # what was there is there
