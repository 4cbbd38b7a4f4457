"""The recipes of ``docs/ecosystem.md``, as programs. Imports no Lightning: a recipe decides which one is used."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[2] / "docs" / "ecosystem.md"
ROOT = Path(__file__).parent


def sections() -> dict[str, str]:
    """Each library's section of the page, by its heading."""
    _, *parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    found = (part.partition("\n") for part in parts)
    return {heading: text for heading, _, text in found if "```python" in text and "tests/ecosystem/" in text}


def code(heading: str) -> str:
    """A section's program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", sections()[heading], flags=re.MULTILINE | re.DOTALL))


def engine(heading: str) -> tuple[str, str]:
    """What a section says that ``engine="auto"`` chooses, and the reason that it quotes."""
    found = re.search(r"^Engine: (\w+), because (.+)$", sections()[heading], flags=re.MULTILINE)
    assert found, f'## {heading} has no line "Engine: ..., because ..."'
    return found[1], found[2]


def recipe(heading: str) -> ModuleType:
    """Everything that a section's program defines, as a module that can be imported, so that it can be pickled."""
    module = ModuleType("recipe_" + re.sub(r"\W", "_", heading))
    sys.modules[module.__name__] = module
    exec(compile(code(heading), f"{PAGE}, {heading}", "exec", dont_inherit=True), vars(module))
    return module
