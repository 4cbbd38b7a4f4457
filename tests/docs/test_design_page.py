"""``docs/design.md`` and ``docs/decisions``; ``python tests/docs/test_design_page.py`` draws the picture of layers."""

from __future__ import annotations

import ast
import re
from datetime import datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "design.md"
DECISIONS = ROOT / "docs" / "decisions"
GROUPS = {
    "__main__": "people and machines",
    "module": "server",
    "engines": "how a cohort runs",
    "worker": "workers and their data",
    "algorithms": "what a round computes: no Lightning from here down",
    "state": "what is kept, what crosses, and tools",
}
"""The first layer of each group, and the group's title."""


def layers() -> list[list[str]]:
    """Return the packages of each layer, from the top, as ``pyproject.toml`` has them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^type = "layers"\n.*?^layers = (\[.*?^\])', text, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return [re.split(r" [|:] ", layer) for layer in ast.literal_eval(found[1])]


def picture() -> str:
    """Return the layers as a mermaid flowchart: a box for each group, with its layers from left to right.

    An arrow leads to the layer, or the group of layers, that may be imported next.
    """
    groups: dict[str, list[str]] = {}
    for number, names in enumerate(layers()):
        if names[0] in GROUPS:
            group = groups.setdefault(names[0], [])
        group.append(f'layer{number}["{" · ".join(names)}"]')
    lines = ["```mermaid", "flowchart TB"]
    for first, nodes in groups.items():
        lines += [f'    subgraph {first.strip("_")}_["{GROUPS[first]}"]', "        direction LR"]
        lines += ["        " + " --> ".join(nodes), "    end"]
    lines.append("    " + " --> ".join(f"{first.strip('_')}_" for first in groups))
    return "\n".join([*lines, "```"])


def first_mermaid(text: str) -> str:
    found = re.search(r"^```mermaid\nflowchart.*?^```", text, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def test_the_picture_has_the_layers_that_imports_are_checked_by() -> None:
    assert first_mermaid(PAGE.read_text(encoding="utf-8")) == picture(), (
        "the layers in pyproject.toml have changed: python tests/docs/test_design_page.py"
    )


def test_every_layer_is_a_part_of_the_package() -> None:
    for name in [name for names in layers() for name in names]:
        assert (ROOT / "lightning_fed" / name).is_dir() or (ROOT / "lightning_fed" / f"{name}.py").is_file(), name


def test_the_page_is_short() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= 150


def test_every_dependency_has_its_reason() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^dependencies = \[\n.*?^\]", settings, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    needed = re.findall(r'^    "([\w-]+)', found[0], flags=re.MULTILINE)
    rows = set(re.findall(r"^\| ([\w-]+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert "torch" in needed
    assert set(needed) <= rows


def test_every_decision_is_in_the_index() -> None:
    index = (DECISIONS / "index.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((2\d{3}-[^)#]*\.md)\)", index)
    assert sorted(linked) == sorted(path.name for path in DECISIONS.glob("2*.md"))


@pytest.mark.parametrize("path", sorted(DECISIONS.glob("2*.md")), ids=lambda path: path.stem)
def test_a_decision_has_the_date_of_its_file_and_a_status(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = re.match(
        r"# .+\n\n- \*\*Date\*\*: (\d+ \w+ \d{4})(?:; last changed \d+ \w+ \d{4})?\n"
        r"- \*\*Status\*\*: (accepted|replaced by \[.+\]\(.+\.md\))\n\n",
        text,
    )
    assert head is not None, "a title, a date and a status come first"
    assert path.name.startswith(f"{datetime.strptime(head[1], '%d %B %Y'):%Y-%m-%d}-")


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(first_mermaid(text), picture()), encoding="utf-8")
