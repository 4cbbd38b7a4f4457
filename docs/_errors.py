"""Write ``docs/reference/errors.md``, the errors of the package from A to Z, from the messages in its own source.

``python docs/_errors.py`` writes the page; ``tests/docs/test_reference_pages.py`` is red if the page is out of date.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "lightning_fed"
PAGE = DOCS / "reference" / "errors.md"

SHORTEST = 25
"""Letters of a message that is long enough to be searched for."""

ROOMS = {
    "": "Modules and the Trainer",
    "aggregation": "Aggregators",
    "algorithms": "Algorithms",
    "callbacks": "Callbacks",
    "cli": "The command line",
    "core": "Shared parts",
    "datasets": "Data sets and partitions",
    "engines": "Engines",
    "flower": "Machines over Flower",
    "models": "Models",
    "node": "Nodes",
    "optim": "Server optimizers",
    "population": "Workers and their data",
    "privacy": "Promises of privacy",
    "record": "Records of runs",
    "reports": "Reports and comparisons",
    "secure": "Secure aggregation",
    "selection": "Cohorts and availability",
    "server": "Rounds, evaluations and checkpoints on the server",
    "state": "State of workers",
    "testing": "Suites for extensions",
    "transforms": "Transforms and compression",
    "wire": "Jobs, updates and their bytes",
    "worker": "Local training",
}
"""Title of the errors of each room of the package."""

NOTES = {
    "the-batch-of-a-round-is-its-cohort-which": (
        "If the Trainer was given your module itself, wrap it: `trainer.fit(FederatedModule(module), data)`."
    ),
}
"""What a message leaves open, by the beginning of its anchor."""

HEAD = """\
# Errors A–Z

Find the message of an error, where the message comes from and what to do. Search this page, or the whole site, for the
beginning of the message. Words in angle brackets stand for your own names and numbers. A message names the fix itself;
a note follows where more is to say. `python docs/_errors.py` writes this page from the source.
"""


class Error(NamedTuple):
    """One message of the package."""

    room: str
    kind: str
    text: str
    where: str

    @property
    def anchor(self) -> str:
        """Beginning of the message in small letters, with lines between the words."""
        words = re.findall(r"[a-z0-9]+", re.sub(r"<[^>]*>", " ", self.text).lower())
        return "-".join(words[:9])


def _text(node: ast.expr) -> str | None:
    """Return the text of an expression, with ``<name>`` in place of what is not constant, or None if it is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_piece(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text(node.left), _text(node.right)
        return None if left is None and right is None else (left or _name(node.left)) + (right or _name(node.right))
    return None


def _piece(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    return _name(part.value)


def _name(node: ast.expr) -> str:
    """Return a short name for a value that is put into a message."""
    while isinstance(node, ast.Call):
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        node = node.args[0] if node.args else inner if inner is not None else node.func
    if isinstance(node, ast.Attribute):
        value = node.value
        if node.attr in ("__name__", "__qualname__"):
            return "<class>"
        return f"<{node.attr.strip('_')}>" if isinstance(value, ast.expr) else "<…>"
    if isinstance(node, ast.Name):
        return f"<{node.id.strip('_')}>"
    return "<…>"


def _class(call: ast.Call) -> str:
    name = call.func
    return name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""


Raised = dict[str, str]
"""Constants, functions and variables whose text is an error's, with the class of the error."""


def _raised(tree: ast.Module) -> Raised:
    """Return the names whose text is that of an error that a file raises."""
    names: Raised = {"says": "ValueError"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            kind = _class(node.exc) if _EXCEPTION.search(_class(node.exc)) else "ValueError"
            for part in (node.exc.func if kind != _class(node.exc) else None, *node.exc.args):
                inner = part.func if isinstance(part, ast.Call) else part
                if isinstance(inner, ast.Name) and not _EXCEPTION.search(inner.id):
                    names[inner.id] = kind
                elif isinstance(inner, ast.Attribute) and isinstance(part, ast.Call) and inner.attr.startswith("_"):
                    names[inner.attr] = kind
    return names


def _messages(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Yield class, text and function of each error that a file makes."""
    names = _raised(tree)

    def walk(node: ast.AST, inside: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
        for child in ast.iter_child_nodes(node):
            within, kind, texts = inside, "", []
            if isinstance(child, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                within = (*inside, child.name)
            elif isinstance(child, ast.Call):
                called = _class(child)
                if _EXCEPTION.search(called):
                    kind, texts = called, list(child.args)
                elif called in ("error", "refuse"):
                    kind, texts = "SystemExit", list(child.args)
                else:
                    kind, texts = "ValueError", [word.value for word in child.keywords if word.arg == "says"]
            elif isinstance(child, ast.Return) and child.value is not None and inside and inside[-1] in names:
                kind, texts = names[inside[-1]], [child.value]
            elif isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name):
                kind = names.get(child.targets[0].id, "")
                texts = [child.value] if kind else []
            for expression in texts:
                for part in _alternatives(expression):
                    if (text := _text(part)) is not None:
                        yield kind, text, ".".join(within)
            yield from walk(child, within)

    yield from walk(tree, ())


def _alternatives(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the expressions that a condition chooses from."""
    if isinstance(node, ast.IfExp):
        yield from _alternatives(node.body)
        yield from _alternatives(node.orelse)
    else:
        yield node


_EXCEPTION = re.compile(r"(Error|Exception|Exit|Interrupt)$")


def errors() -> list[Error]:
    """Return every message of the package that is long enough to be searched for, in alphabetical order."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        room = place.parts[0] if len(place.parts) > 1 else ""
        for kind, text, function in _messages(ast.parse(path.read_text(encoding="utf-8"))):
            text = " ".join(text.split())
            text = f"<argument>=<value>{text}" if text.startswith(":") else text
            if len(re.sub(r"<[^>]*>|\W", "", text)) >= SHORTEST:
                module = ".".join(("lightning_fed", *place.with_suffix("").parts)).removesuffix(".__init__")
                found.add(Error(room, kind, text, f"{module}: {function}" if function else module))
    return sorted(found, key=lambda error: (ROOMS[error.room], error.anchor, error.text, error.kind, error.where))


def page() -> str:
    """Return the page's text."""
    parts, room = [HEAD], None
    taken: dict[str, int] = {}
    for error in errors():
        if error.room != room:
            room = error.room
            parts.append(f"## {ROOMS[room]}\n")
        taken[error.anchor] = taken.get(error.anchor, 0) + 1
        number = taken[error.anchor]
        anchor = f"error-{error.anchor}" + (f"-{number}" if number > 1 else "")
        shown = error.text.replace("`", "'")
        parts.append(f"({anchor})=\n- `{shown}`\n  {error.kind}, raised in `{error.where}`.\n")
        parts += [f"  {note}\n" for start, note in NOTES.items() if error.anchor.startswith(start)]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(errors())} errors")
