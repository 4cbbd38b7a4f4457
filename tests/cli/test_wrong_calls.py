"""What a mistyped command is answered with: ``wrong_calls.txt`` has each with its answer, to be read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import quiet_and_restored

from lightning_fed.cli import main

TEXT = (Path(__file__).parent / "wrong_calls.txt").read_text()
CALLS = re.findall(r"^\$ lightning-fed ?(.*)\n(error: .*)$", TEXT, re.MULTILINE)


@pytest.fixture(autouse=True)
def _quiet_there() -> Iterator[None]:
    with quiet_and_restored():
        yield


@pytest.mark.filterwarnings("ignore:.*JSONARGPARSE")
@pytest.mark.parametrize(("call", "answer"), CALLS, ids=[call or "nothing" for call, _ in CALLS])
def test_a_wrong_call_is_answered_in_a_line(call: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(shlex.split(call))
    said = capsys.readouterr()
    assert left.value.code == 2
    pattern = re.escape(answer).replace(r"\.\.\.", ".*")
    assert [line for line in said.err.splitlines() if re.fullmatch(pattern, line)], said.err
    assert said.out == ""
    assert "Namespace(" not in said.err


def test_the_file_is_read_to_its_end() -> None:
    assert len(CALLS) == TEXT.count("$ lightning-fed") == TEXT.count("error: ")
    assert len(CALLS) > 30
