"""What a line says, by numbers that one can compute by hand."""

from __future__ import annotations

import pytest

from lightning_fed.callbacks.display import Status
from lightning_fed.callbacks.display.lines import Lines
from lightning_fed.callbacks.display.text import columns, fitted, whole_line
from lightning_fed.callbacks.tally import Tally

FULL = Status(
    title="round",
    done=37,
    total=200,
    fraction=0.18,
    cohort="6/10",
    pace=2.1,
    left=300.0,
    values={"loss": "0.34", "val_acc": "0.91"},
    asides={"val_acc": "p10 0.78"},
    epsilon="2.1 of 3",
)


def drawn(status: Status, width: int) -> str:
    line = fitted(status, width)
    return line.before + "=" * line.bar + line.after


def test_everything_has_room_on_a_wide_terminal() -> None:
    rest = "18 % · cohort 6/10 · 2.1 s/round · 5 min left · loss 0.34 · val_acc 0.91 (p10 0.78) · ε 2.1 of 3"
    assert drawn(FULL, 140) == f"round 37/200 {'=' * 20} {rest}"
    assert whole_line(FULL) == f"round 37/200 · {rest}"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (80, "round 37/200 ======= 18 % · cohort 6/10 · 5 min left · loss 0.34 · ε 2.1 of 3"),
        (60, "round 37/200 ========== 18 % · cohort 6/10 · 5 min left"),
        (40, "round 37/200 ======= 18 % · cohort 6/10"),
        (20, "round 37/200"),
        (5, "round"),
    ],
)
def test_the_least_important_goes_first(width: int, expected: str) -> None:
    line = drawn(FULL, width)
    assert columns(line) <= width
    assert line.replace("=", "") == expected.replace("=", "")


@pytest.mark.parametrize("width", range(1, 150))
def test_no_line_is_too_long(width: int) -> None:
    assert columns(drawn(FULL, width)) <= width
    wide = Status("round", 3, None, values={"損失": "1", "準確率": "0.9"}, within="evaluating 6/12", pace=1.0)
    assert columns(drawn(wide, width)) <= width


def test_a_name_with_control_characters_tears_nothing() -> None:
    assert whole_line(Status("round", 1, values={"a\r\n\x1b[2J": "1"})) == "round 1 · a???[2J 1"


def test_pace_and_time_left() -> None:
    tally = Tally("round", done=0, total=10, now=100.0)
    assert (tally.pace(100.0), tally.left(100.0), tally.fraction(100.0)) == (None, None, 0.0)
    tally.is_at_hand, tally.part = True, 0.5
    assert tally.number == 1
    assert (tally.pace(105.0), tally.left(105.0), tally.fraction(105.0)) == (10.0, 95.0, 0.05)
    tally.end_one(1, 110.0)  # ten seconds, as everything was set up in it
    tally.end_one(2, 112.0)
    assert tally.pace(112.0) == 6.0
    tally.end_one(3, 114.0)
    assert tally.pace(114.0) == 2.0, "the first one counts no more"
    assert tally.left(114.0) == 14.0
    tally.paused = 7.0  # an evaluation
    assert tally.pace(121.0) == 2.0
    assert tally.left(121.0) == pytest.approx(14.0 * (1 + 7 / 14))
    assert tally.left(125.0, pause=4.0) == pytest.approx(14.0 * (1 + 11 / 14))


def test_a_limit_of_time_bounds_what_is_left() -> None:
    tally = Tally("round", 0, None, 0.0, lambda: 30.0)
    assert (tally.left(10.0), tally.fraction(10.0)) == (30.0, 0.25)
    tally = Tally("round", 0, 100, 0.0, lambda: 30.0)
    tally.end_one(1, 10.0)
    assert tally.left(10.0) == 30.0


def test_a_resumed_run_is_as_fast_as_its_own_rounds() -> None:
    tally = Tally("round", done=90, total=100, now=0.0)
    tally.end_one(91, 5.0)
    assert (tally.pace(5.0), tally.left(5.0), tally.fraction(5.0)) == (5.0, 45.0, 0.91)


def test_lines_wait_for_thirty_seconds_and_a_twentieth(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    assert not lines.is_due(0.0, 0, 1000, between=False)
    assert lines.is_due(0.0, 1, 1000, between=True)
    lines.show(Status("round", 1, 1000), 0.0)
    assert not lines.is_due(29.0, 900, 1000, between=True)
    assert not lines.is_due(5000.0, 50, 1000, between=True)
    assert lines.is_due(30.0, 51, 1000, between=True)
    late = Lines(begun=100.0)  # an evaluation by itself says nothing if it is quick
    assert not late.is_due(129.0, 5, 10, between=True)
    assert late.is_due(130.0, 5, 10, between=True)
    assert capsys.readouterr().out == "round 1/1000\n"
