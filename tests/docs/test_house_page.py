"""Every file, name and package on ``docs/house.md`` exists, and no package is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lightning_fed"
PAGE = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
CODES = sorted(set(re.findall(r"`([\w./]+(?:/|\.py|\.md)(?:::[\w.]+)?)`", PAGE)))


def file_of(code: str) -> Path:
    path = code.partition("::")[0]
    return ROOT / path if path.split("/")[0] in ("tests", "lightning_fed") else PACKAGE / path


def names_in(path: Path) -> set[str]:
    """Return the functions, classes, their methods and the constants that a file defines, by dotted name."""
    found: set[str] = set()

    def look(body: list[ast.stmt], within: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(within + node.name)
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{within}{node.name}.")
            if isinstance(node, ast.Assign):
                found.update(within + target.id for target in node.targets if isinstance(target, ast.Name))

    look(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


@pytest.mark.parametrize("code", CODES)
def test_what_the_page_names_exists(code: str) -> None:
    path, _, name = code.partition("::")
    if "/" not in path:  # a file named beside its package
        assert list(PACKAGE.rglob(path)), path
        return
    assert file_of(code).exists(), path
    assert not name or name in names_in(file_of(code))


def test_every_package_has_a_row() -> None:
    packages = {f"{path.parent.relative_to(PACKAGE).as_posix()}/" for path in PACKAGE.rglob("*/__init__.py")} - {"./"}
    rows = set(re.findall(r"^\| `([\w/]+/)` \|", PAGE, flags=re.MULTILINE))
    assert rows == packages
