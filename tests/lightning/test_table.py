"""The tables of ``docs/lightning.md`` against Lightning's own lists, the package's own sentences, and the tests."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from helpers import OVERRIDABLE
from lightning_fabric.utilities.device_dtype_mixin import _DeviceDtypeModuleMixin
from pytorch_lightning.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from pytorch_lightning.core.mixins import HyperparametersMixin
from pytorch_lightning.strategies import StrategyRegistry
from pytorch_lightning.tuner import Tuner

import lightning_fed

PAGE = Path(__file__).parents[2] / "docs" / "lightning.md"
REPOSITORY = "https://github.com/lightning-fed/lightning_fed/blob/main/"
VERSION = tuple(int(part) for part in pl.__version__.split(".")[:2])


@dataclass
class Row:
    """A row of a table: the names that it is about, what becomes of them, and the tests that show it."""

    names: list[str]
    kind: str
    text: str
    shown: list[tuple[str, Path]]


def tables() -> dict[str, list[Row]]:
    """The page's tables about Lightning by their headings, without rows of other versions of Lightning."""
    found: dict[str, list[Row]] = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("| `")]
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        if rows and len(rows[0]) == 4:
            found[heading.strip()] = [row for cells in rows if (row := _row(cells)).names]
    return found


def _row(cells: list[str]) -> Row:
    names = []
    for name, bound, since in re.findall(r"`([^`]+)`(?: \((to )?(\d+\.\d+)\))?", cells[0]):
        version = tuple(map(int, since.split("."))) if since else ()
        if not since or (version >= VERSION if bound else version <= VERSION):
            names.append(name)
    links = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", cells[3])
    return Row(
        names, cells[1], cells[2], [(text, PAGE.parents[1] / path.removeprefix(REPOSITORY)) for text, path in links]
    )


def public(thing: type, *, where: Callable[[Any], bool] = lambda _: True) -> set[str]:
    """Names of a class's own public members."""
    return {name for name, value in vars(thing).items() if not name.startswith("_") and where(value)}


def is_property(member: Any) -> bool:
    return isinstance(member, property)


def is_called(member: Any) -> bool:
    return not is_property(member)


HOOKS = public(ModelHooks) | public(DataHooks) | public(CheckpointHooks)
OF_MODULES = (pl.LightningModule, HyperparametersMixin, _DeviceDtypeModuleMixin)
KEYS = {name for name in vars(pl.LightningModule) if name.startswith("CHECKPOINT_")}

LIGHTNINGS: dict[str, set[str]] = {
    "Trainer flags": set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"},
    "Trainer methods": public(pl.Trainer, where=is_called),
    "`self.trainer` on a worker": public(pl.Trainer, where=is_property),
    "Callbacks": set(pl.callbacks.__all__),
    "Hooks of callbacks": public(pl.Callback),
    "Hooks of your module": HOOKS | OVERRIDABLE,
    "Your module's other methods": set().union(*map(public, OF_MODULES)) - OVERRIDABLE - KEYS,
    "Options of `self.log`": set(inspect.signature(pl.LightningModule.log).parameters) - {"self"},
    "Datamodules": (public(pl.LightningDataModule) | public(DataHooks) | public(HyperparametersMixin)) - KEYS,
    "Loggers": set(pl.loggers.__all__),
    "Profilers": set(pl.profilers.__all__),
    "Strategies": {name for name in pl.strategies.__all__ if name.endswith("Strategy")},
    "Plugins": set(pl.plugins.__all__),
    "Tuner": public(Tuner),
}
"""What each table has a row for."""

every_table = pytest.mark.parametrize("table", LIGHTNINGS)


@every_table
def test_every_name_of_lightning_has_one_row_and_no_row_is_of_something_else(table: str) -> None:
    named = Counter(name for row in tables()[table] for name in row.names)
    assert not sorted(LIGHTNINGS[table] - named.keys()), "Lightning has what the page has not"
    assert not sorted(named.keys() - LIGHTNINGS[table]), "the page has what Lightning has not"
    assert not [name for name, times in named.items() if times > 1]


def test_there_is_no_table_that_is_compared_with_nothing() -> None:
    assert tables().keys() == LIGHTNINGS.keys()


def everything() -> Iterable[Row]:
    return (row for rows in tables().values() for row in rows)


def test_what_becomes_of_a_thing_is_one_of_the_words_that_the_page_explains() -> None:
    legend = PAGE.read_text().partition("| word |")[2].partition("\n\n")[0]
    assert {row.kind for row in everything()} == set(re.findall(r"^\| ([a-z]+) \|", legend, flags=re.MULTILINE))


def test_every_row_names_a_test_that_exists() -> None:
    missing = []
    for row in everything():
        if row.kind != "untried" and not row.shown:
            missing.append(f"{row.names}: no test")
        for text, path in row.shown:
            words = re.escape(text.replace(" ", "_").replace("-", "_"))
            if not path.is_file() or not re.search(rf"def test_\w*{words}", path.read_text()):
                missing.append(f"{row.names}: {text} in {path.name}")
    assert not missing, "\n".join(missing)


def sentences() -> str:
    """Every text in the package, with ``{}`` where a value is put in, one a line."""
    found = []
    for path in Path(lightning_fed.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_a_row_that_says_refused_has_the_sentence_that_is_raised() -> None:
    raised = sentences()
    for row in everything():
        if row.kind == "refused":
            said = [re.sub(r"\{\w+\}", "{}", text) for text in re.findall(r"`([^`]+ [^`]+ [^`]+)`", row.text)]
            assert said, f"{row.names} are refused, and the row does not say in which words"
            assert not [text for text in said if text not in raised], row.names


def test_strategies_by_name_are_those_of_the_table() -> None:
    """A Trainer takes a strategy by its name, too, and each name builds one of the table's classes."""
    classes = {entry["strategy"].__name__ for entry in StrategyRegistry.values()}
    assert not sorted(name for name in classes - LIGHTNINGS["Strategies"] if not re.search("XLA|TPU", name))
