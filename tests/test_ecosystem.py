"""The page of published libraries and their tests name the same: ``make ecosystem`` runs them, elsewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "ecosystem"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page = load(FOLDER / "page.py")
SECTIONS = page.sections()


def test_every_test_has_a_recipe_and_every_recipe_a_test() -> None:
    tests = {str(path.relative_to(ROOT)) for path in FOLDER.glob("*/test_*.py")}
    named = [path for text in SECTIONS.values() for path in re.findall(r"`(tests/ecosystem/\S+)`", text)]
    assert sorted(named) == sorted(tests)


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_recipe_is_a_program_with_a_pinned_version_and_an_engine(heading: str) -> None:
    compile(page.code(heading), heading, "exec")
    choice, reason = page.engine(heading)
    assert choice in ("sequential", "vectorized")
    assert reason
    text = SECTIONS[heading]
    (test,) = re.findall(r"`(tests/ecosystem/\S+)`", text)
    assert f'recipe("{heading}")' in (ROOT / test).read_text()
    versions = re.findall(r"`(\S+==\S+)`", text)
    assert versions
    pinned = (ROOT / test).with_name("requirements.txt").read_text().splitlines()
    assert set(versions) <= set(pinned)


@pytest.mark.parametrize("group", sorted(path.parent.name for path in FOLDER.glob("*/requirements.txt")))
def test_every_environment_has_the_torch_and_the_lightning_of_the_tests(group: str) -> None:
    pinned = (FOLDER / group / "requirements.txt").read_text().splitlines()
    ours = (ROOT / "constraints.txt").read_text().splitlines()
    for package in ("torch", "pytorch-lightning", "lightning", "torchmetrics", "safetensors", "pytest"):
        (version,) = (line for line in ours if line.startswith(f"{package}=="))
        assert version in pinned
    assert not [line for line in pinned if line.startswith(("nvidia", "triton", "cuda"))]


def test_the_suite_leaves_them_out() -> None:
    assert FOLDER.name in load(ROOT / "tests" / "conftest.py").collect_ignore
