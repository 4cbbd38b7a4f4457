"""The pages of the API: every public name has an entry, and the pages are those that the source gives."""

from __future__ import annotations

import importlib
import pkgutil
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import lightning_fed

DOCS = Path(__file__).parents[2] / "docs"
API = DOCS / "reference" / "api"

WITHIN_OTHERS = {
    "lightning_fed.callbacks.dashboard": "lightning_fed.callbacks",
    "lightning_fed.engines.isolated": "lightning_fed.engines",
    "lightning_fed.engines.vectorized": "lightning_fed.engines",
}
"""Packages with an ``__all__`` and no page: the package that exports their names."""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "_api.py"))


def packages() -> list[str]:
    """Every package with an ``__all__``."""
    names = ["lightning_fed"]
    for found in pkgutil.walk_packages(lightning_fed.__path__, "lightning_fed."):
        if found.ispkg and "__all__" in vars(importlib.import_module(found.name)):
            names.append(found.name)
    return names


@pytest.mark.parametrize("package", packages())
def test_every_public_name_has_an_entry(package: str) -> None:
    names = importlib.import_module(package).__all__
    home = WITHIN_OTHERS.get(package, package)
    if home != package:
        assert set(names) <= set(importlib.import_module(home).__all__)
        return
    page = (API / f"{package}.md").read_text()
    documented = set(re.findall(rf"^\.\. auto\w+:: {re.escape(package)}\.(\w+)$", page, re.MULTILINE))
    linked = dict(re.findall(r"\[(\w+)\]\((lightning_fed[\w.]*)\.md#\w+\)", page))
    assert documented | set(linked) == set(names)
    for name, elsewhere in linked.items():
        assert f":: {elsewhere}.{name}\n" in (API / f"{elsewhere}.md").read_text()


def test_the_pages_are_up_to_date(script: dict[str, Any]) -> None:
    written = {path.name: path.read_text() for path in API.glob("*.md")}
    assert written == script["pages"](), "run `make docs-pages`"


def test_every_package_of_the_table_is_in_the_index(script: dict[str, Any]) -> None:
    index = (API / "index.md").read_text()
    for package in script["PACKAGES"]:
        assert f"[`{package}`]({package}.md)" in index
        assert f"\n{package}\n" in index


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or what a module or a class has."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError as missing:
            if not str(missing.name).startswith("lightning_fed"):
                return True  # the module is there, and an extra that it needs is not
            continue
        for j, part in enumerate(parts[i:]):
            fields = getattr(found, "__dataclass_fields__", {}) | getattr(found, "__annotations__", {})
            if part in fields and i + j + 1 == len(parts):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_names_in_docstrings_exist() -> None:
    """The build does not warn of names of the package that have no page of their own."""
    role = re.compile(r":(?:class|func|meth|mod|attr|data|obj|exc):`~?(lightning_fed[\w.]*)`")
    package = Path(lightning_fed.__file__).parent
    named = {name: path for path in package.rglob("*.py") for name in role.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 30
    assert [f"{path}: {name}" for name, path in sorted(named.items()) if not resolves(name)] == []
    assert not resolves("lightning_fed.FederatedModel")


def test_links_to_the_source_lead_to_the_definition() -> None:
    place_of = runpy.run_path(str(DOCS / "_source_links.py"))["place_of"]
    for module, name, begins in (
        ("lightning_fed", "FederatedModule", "class FederatedModule("),
        ("lightning_fed.algorithms", "FedProx", "class FedProx("),
        ("lightning_fed.selection", "CohortSampler.sample", "    def sample("),
    ):
        assert hasattr(importlib.import_module(module), name.partition(".")[0]), "imported on access"
        path, _, line = place_of(module, name).partition("#L")
        assert (DOCS.parent / path).read_text(encoding="utf-8").splitlines()[int(line) - 1].startswith(begins)
    assert place_of("lightning_fed", "Nothing") is None
    assert place_of("pathlib", "Path") is None
