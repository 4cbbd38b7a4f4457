"""The comparison with other frameworks: each claim has a source and a date, and what is named here exists."""

from __future__ import annotations

import importlib
import re
from datetime import date
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
BODY, _, SOURCES = PAGE.partition("\n## Sources\n")
NOTES = {
    name: " ".join(text.split()) for name, text in re.findall(r"^\[\^([\w-]+)\]: (.*(?:\n {4}.*)*)", SOURCES, re.M)
}
OTHERS = {
    "Flower": "flower",
    "NVFlare": "nvflare",
    "pfl-research": "pfl",
    "FedJAX": "fedjax",
    "FLUTE": "flute",
    "FedLab": "fedlab",
}
ROOMS = (
    *("lightning_fed", "lightning_fed.aggregation", "lightning_fed.algorithms", "lightning_fed.datasets"),
    *("lightning_fed.engines", "lightning_fed.optim", "lightning_fed.population", "lightning_fed.privacy"),
    *("lightning_fed.secure", "lightning_fed.selection", "lightning_fed.transforms", "lightning_fed.callbacks"),
)


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page, each a list of rows, the head first."""
    found = re.findall(r"^(\|.*\|)\n\|[-|]+\|\n((?:\|.*\|\n)+)", text, re.M)
    return [
        [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rest.splitlines())]
        for head, rest in found
    ]


COMPARED = [table for table in tables(BODY) if "Flower" in table[0]]


@cache
def public() -> frozenset[str]:
    rooms = [importlib.import_module(room) for room in ROOMS]
    return frozenset(name for room in rooms for name in room.__all__)


def names(text: str) -> set[str]:
    """The names of classes in backticks, bare or called: ``TopK(fraction=0.1)`` is ``TopK``."""
    code = re.findall(r"`([^`]+)`", text)
    return {name for span in code for name in re.findall(r"(?<![\w.\"'])([A-Z][A-Za-z]+)(?=[\s,()\]=]|$)", span)}


def test_every_table_has_the_same_projects() -> None:
    assert len(COMPARED) == 3
    for table in COMPARED:
        assert table[0] == ["", "lightning_fed", *OTHERS]
        assert {len(row) for row in table} == {8}


@pytest.mark.parametrize("row", [row for table in COMPARED for row in table[1:]], ids=lambda row: row[0])
def test_each_claim_about_another_project_has_a_source_of_that_project(row: list[str]) -> None:
    for label, cell in zip(OTHERS.values(), row[2:], strict=True):
        cited = re.findall(r"\[\^([\w-]+)\]", cell)
        assert cited, cell
        assert all(name.startswith(f"{label}-") for name in cited), cell
        assert set(cited) <= set(NOTES), cell
        assert re.sub(r"\[\^[\w-]+\]", "", cell).strip(), "a source without a claim"
    assert row[1], "our own cell is empty"


def test_each_source_has_a_version_and_a_day_and_is_used() -> None:
    assert set(NOTES) == set(re.findall(r"\[\^([\w-]+)\]", BODY))
    for name, text in NOTES.items():
        seen = re.search(r"seen (\d{4}-\d\d-\d\d)", text)
        assert seen is not None, name
        assert date(2026, 11, 1) <= date.fromisoformat(seen[1]), name
        assert re.search(r"commit [0-9a-f]{7}\b|\b\d+\.\d+\.\d+\b", text), name


def test_a_dash_says_what_was_searched() -> None:
    """A claim that something is missing needs another source than one that it is there."""
    for table in COMPARED:
        for row in table[1:]:
            for cell in row[2:]:
                if cell.startswith("–"):
                    (cited,) = re.findall(r"\[\^([\w-]+)\]", cell)
                    assert re.search(r"Searched|describes? noise|describe noise", NOTES[cited]), cell


def test_what_we_name_of_ours_exists() -> None:
    cells = [row[1] for table in COMPARED for row in table[1:]]
    named = set().union(*map(names, cells))
    assert len(named) > 30
    assert named <= public()


def test_what_we_do_worse_stands_first() -> None:
    headings = re.findall(r"^## (.*)", PAGE, re.M)
    assert headings[0] == "What lightning_fed does worse"
    worse = PAGE.partition("## What lightning_fed does worse")[2].partition("\n## ")[0]
    assert worse.count("\n- **") >= 8


def test_measured_ratios_stand_in_the_file_that_is_named() -> None:
    (table,) = [table for table in tables(BODY) if "times as fast" in table[0]]
    for _, ratios, name in table[1:]:
        results = (ROOT / "benchmarks" / "results" / name.strip("`")).read_text(encoding="utf-8")
        for ratio in ratios.split(", "):
            assert re.search(rf"\| {re.escape(ratio)} \|", results), (ratio, name)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "from").glob("*.md")), ids=lambda page: page.stem)
def test_the_words_of_a_page_for_comers_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    words = next(table for table in tables(text) if "lightning_fed" in table[0])
    known = public() | {"Trainer", "Dashboard", "ModelCheckpoint", "LightningModule", "TensorBoard"}
    assert set().union(*(names(row[-1]) for row in words[1:])) <= known
    sentences = " ".join(text.split())
    assert "read on 28 November 2026" in sentences
    assert "commit " in sentences
    assert "## What you lose\n" in text
    assert "## What you gain\n" in text
    assert text.index("## What you lose") < text.index("## What you gain")


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "from").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_shows_the_script_that_is_tested(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    (path,) = re.findall(r"^```\{literalinclude\} (\S+)$", text, re.M)
    script = (page.parent / path).resolve()
    assert script.is_file()
    assert f"lightning-fed examples copy {script.stem}`" in text
    tests = (Path(__file__).parent / "test_translated_files.py").read_text(encoding="utf-8")
    assert f'script("{script.stem}")' in tests
