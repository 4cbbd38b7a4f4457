"""Links from the reference to the source on GitHub."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent


def place_of(module: str, name: str) -> str | None:
    """Return where a name of the package is defined, such as ``lightning_fed/module.py#L110``; None: it is not there.

    Args:
        module: The module that documents it, which is imported already.
        name: The name there, such as ``FederatedModule`` or ``FederatedModule.setup``.
    """
    first, dot, rest = name.partition(".")
    found = getattr(sys.modules.get(module), first, None)
    home = sys.modules.get(getattr(found, "__module__", None) or "")
    file = getattr(home, "__file__", None)
    if file is None or ROOT not in Path(file).parents:
        return None
    line = _lines(Path(file)).get(f"{getattr(found, '__qualname__', first)}{dot}{rest}")
    return None if line is None else f"{Path(file).relative_to(ROOT).as_posix()}#L{line}"


@cache
def _lines(file: Path) -> dict[str, int]:
    """Return the line of each class and function of a file, by its name there."""
    return dict(_walk(ast.parse(file.read_text(encoding="utf-8")), ""))


def _walk(tree: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node.lineno
            yield from _walk(node, f"{prefix}{node.name}.")
