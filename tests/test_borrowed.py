"""Every private name of another package stands on docs/reference/borrowed.md, with the test that guards it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lightning_fed"
PAGE = (ROOT / "docs" / "reference" / "borrowed.md").read_text()

DOCUMENTED = {"_replace", "_asdict", "_make", "_exit", "_getframe"}  # by Python
# Ends of names in strings
ENDS = {"_acc", "_mse", "_norm", "_batch_end", "_batch_start", "_dataloader", "_dataloaders", "_per_worker"}


def is_private(name: str) -> bool:
    return bool(re.fullmatch(r"_[A-Za-z]\w*", name))


def names_of(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Return the private names that a file defines, and those that it uses."""
    defined, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if str(node.module).partition(".")[0] not in ("lightning_fed", "__future__"):
                used |= {*str(node.module).split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            used |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.Attribute):
            (defined if isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value)
    return {name for name in defined if is_private(name)}, {name for name in used if is_private(name)}


def borrowed() -> dict[str, set[str]]:
    """Return the files that use each private name which nothing in the package defines."""
    files = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    found = {name: names_of(ast.parse(text)) for name, text in files.items()}
    ours = set().union(*(defined for defined, _ in found.values())) | DOCUMENTED | ENDS
    uses: dict[str, set[str]] = {}
    for file, (_, used) in found.items():
        for name in used - ours:
            uses.setdefault(name, set()).add(file)
    return uses


def rows() -> list[tuple[set[str], set[str], str]]:
    """Return names, files and the test of each row of the page."""
    found = []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`"):
            names, _, files, _, test = cells
            found.append((set(re.findall(r"`([^`]+)`", names)), set(re.findall(r"`([^`]+)`", files)), test.strip("`")))
    return found


def test_the_page_has_every_borrowed_name_and_where_it_is_used() -> None:
    listed: dict[str, set[str]] = {}
    for names, files, _ in rows():
        for name in names:
            assert name not in listed, f"{name} has two rows"
            listed[name] = files
    uses = borrowed()
    assert len(uses) > 50
    new = {name: sorted(files) for name, files in uses.items() if name not in listed}
    assert not new, f"write a row of docs/reference/borrowed.md, and the test that guards it: {new}"
    assert sorted(set(listed) - set(uses)) == [], "rows of names that are no longer used"
    moved = {name: sorted(files - listed[name]) for name, files in uses.items() if files - listed[name]}
    assert not moved, f"name these files on the page, too: {moved}"


def test_a_row_names_no_file_that_uses_nothing_of_it() -> None:
    uses = borrowed()
    for names, files, _ in rows():
        assert files == set().union(*(uses[name] for name in names)), names


@pytest.mark.parametrize("guard", sorted({test for _, _, test in rows()}))
def test_the_guarding_test_exists(guard: str) -> None:
    path, _, name = guard.partition("::")
    text = (ROOT / path).read_text()
    assert not name or f"def {name}(" in text
