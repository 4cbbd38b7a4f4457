"""The pages that run when the site is built: their cells run here too, and print what the prose says of them."""

from __future__ import annotations

import ast
import builtins
import logging
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
START = [DOCS / "start" / f"{name}.md" for name in ("first-run", "your-trainer-script", "hundred-workers")]
TUTORIALS = [
    DOCS / "tutorials" / f"{name}.md"
    for name in (
        *("your-own-images", "compare-algorithms", "train-with-a-promise", "your-own-algorithm"),
        "robust-to-attackers",
    )
]
DRIFT = DOCS / "explain" / "client-drift.md"
PAGES = [*START, *TUTORIALS, DRIFT]
CELL = re.compile(
    r"^```\{code-cell\} ipython3\n(?P<options>---\n.*?\n---\n|(?::[^\n]*\n)*)(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Cell:
    options: str
    code: str


def cells(page: Path) -> list[Cell]:
    return [Cell(found["options"], found["code"]) for found in CELL.finditer(page.read_text())]


def block(page: Path, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run a page and return what its cells have printed, and its names."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fed")]
    levels = [logger.level for logger in loggers]

    def run(page: Path) -> tuple[str, dict[str, Any]]:
        program: dict[str, Any] = {"__name__": "page"}
        for number, cell in enumerate(cells(page), 1):
            exec(compile(cell.code, f"{page.name}, cell {number}", "exec", dont_inherit=True), program)
        return capsys.readouterr().out, program

    yield run
    plt.close("all")
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_a_title_a_quiet_beginning_and_pictures_with_words(page: Path) -> None:
    text = page.read_text()
    assert re.match(r"---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n# [^\n]+\n\n\w", text)
    first, *others = cells(page)
    assert len(others) == text.count("```{code-cell}") - 1
    assert ":tags: [remove-cell]" in first.options
    for cell in others:
        draws = "plt.show()" in cell.code or cell.code.endswith(".plot()\n")
        assert draws == ("image:\n    alt: " in cell.options), cell.code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(((?!https?:)[^)#]+)", page.read_text()):
        assert (page.parent / link).is_file(), link


def names_in(code: str) -> tuple[set[str], set[str]]:
    """Return the names that a program defines, and those that it reads."""
    defined, read = set(dir(builtins)), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name is not None:
            defined.add(node.name)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
    return defined, read


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_shown_runs_without_what_is_not(page: Path) -> None:
    defined, read = names_in("\n".join(cell.code for cell in cells(page) if ":tags: [remove-" not in cell.options))
    assert read <= defined


def test_bob_and_alice(ran: Any) -> None:
    printed, names = ran(START[0])
    losses = [float(loss) for loss in re.findall(r"round +\d+: loss (\S+)", printed)]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.01
    assert names["fed"].history[-1]["round"] == 19
    assert abs(float(re.search(r"(\S+), and should be 7", printed)[1]) - 7) < 0.1  # type: ignore[index]
    assert re.search(r"bob: loss \S+ over 2 rows\nalice: loss \S+ over 2 rows", printed)
    assert list(Path("lightning_logs/version_0").glob("events.out.tfevents.*")), "for TensorBoard"


def test_the_diff_is_that_of_the_two_scripts() -> None:
    """But for the last two lines of both, which print the result."""
    *_, before, after = (cell.code.splitlines() for cell in cells(START[1]))
    diff = block(START[1], "diff").splitlines()
    assert [line[1:] for line in diff if line[0] in " -"] == before[:-2]
    assert [line[1:] for line in diff if line[0] in " +"] == after[:-2]
    assert [line.replace("before", "after") for line in before[-2:]] == after[-2:]


def test_more_local_steps_end_farther_from_the_optimum(ran: Any) -> None:
    """One step is gradient descent on the sum; many steps end in the middle of the two optima."""
    printed, _ = ran(DRIFT)
    ends = [float(end) for end in re.findall(r"comes to rest at (\S+)$", printed, re.MULTILINE)]
    assert ends[0] == 0.6
    assert ends == sorted(ends, reverse=True)
    assert 0 < ends[-1] < 0.1


@pytest.mark.slow
def test_a_script_before_and_after(ran: Any) -> None:
    printed, names = ran(START[1])
    assert printed.count("accuracy on held-out digits") == 2
    assert 0.8 < names["after"] < names["before"]


@pytest.mark.slow
def test_one_hundred_workers(ran: Any) -> None:
    printed, names = ran(START[2])
    assert "100 workers with " in printed
    assert "90 rounds" in printed
    report = names["fed"].last_evaluation
    assert len(report.workers) == 100
    assert report.quantile("val_acc", 0.1) < report.metrics["val_acc"] - 0.05
    assert len(names["evaluated"]) == 6


@pytest.mark.slow
def test_own_images(ran: Any) -> None:
    printed, names = ran(TUTORIALS[0])
    assert re.findall(r"^(\w+) +\d\.\d\d of 20 pictures$", printed, re.MULTILINE) == ["east", "north", "south", "west"]
    assert names["report"].metrics["val_acc"] > 0.8


@pytest.mark.slow
def test_algorithms_over_seeds(ran: Any) -> None:
    printed, _ = ran(TUTORIALS[1])
    assert re.search(r"^\| FedAvg .*\(3\).*\n\| Scaffold .*\(3\)", printed, re.MULTILINE)
    assert "95 % interval" in " ".join(printed.split())


@pytest.mark.slow
def test_a_promise(ran: Any) -> None:
    pytest.importorskip("dp_accounting")
    printed, names = ran(TUTORIALS[2])
    assert re.search(r"^ +40 +4\.6882$", printed, re.MULTILINE), "what the plan costs"
    assert names["costs"].rows[-1][:2] == (40, pytest.approx(4.6882, abs=1e-3)), "is what the run has cost"
    assert names["costs"].rows[-1][2] > 0.8
    for sentence in ("ε = 4.6882 at δ = 1e-05", "**Who must be trusted.** The server", "**Not covered.**"):
        assert sentence in printed
    assert "/tmp" not in printed


@pytest.mark.slow
def test_an_algorithm_in_twenty_lines(ran: Any) -> None:
    printed, _ = ran(TUTORIALS[3])
    assert "all checks passed" in printed
    assert "refused: " in printed
    lines = next(cell.code for cell in cells(TUTORIALS[3]) if "class ProxWithMomentum" in cell.code).splitlines()
    assert len(lines[lines.index("@dataclass(frozen=True)") :]) <= 20
    assert printed.count(": accuracy ") == 2


@pytest.mark.slow
def test_attackers(ran: Any) -> None:
    _, names = ran(TUTORIALS[4])
    honest, attacked = zip(*names["results"].values(), strict=True)
    assert min(honest) > 75
    assert attacked[0] < 50, "the mean"
    assert min(attacked[1:]) > 70, "the others"
