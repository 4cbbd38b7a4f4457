"""Every package that is imported is declared, and the version stands in one place."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import lightning_fed

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Where a module has another name than its distribution
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml"}

# Packages that no extra brings, each with the reason
ELSEWHERE = {
    "datasets": "for type checkers, and for those who give a Dataset of it",
    "pandas": "for type checkers, and for those who give a DataFrame of it",
    "wandb": "imported only where the user's logger is W&B's",
}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(lines: list[str]) -> set[str]:
    return {normalized(Requirement(line).name) for line in lines}


def imported(folder: Path) -> dict[str, set[str]]:
    """Return the files that import each package which is neither Python's nor in this repository."""
    found: dict[str, set[str]] = {}
    ours = {part for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py") for part in path.parts}
    ours = {part.removesuffix(".py") for part in ours}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [str(node.module)]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "import_extra":
                modules = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            for package in {module.partition(".")[0] for module in modules}:
                if package not in {*sys.stdlib_module_names, *ours, "lightning_fed", "hospitals", "tests"}:
                    name = normalized(DISTRIBUTIONS.get(package, package))
                    found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


CORE = declared(PROJECT["dependencies"])
EXTRAS = {name: declared(lines) for name, lines in PROJECT["optional-dependencies"].items()}
IMPORTED = imported(ROOT / "lightning_fed")


@pytest.mark.parametrize("package", sorted(IMPORTED))
def test_every_package_that_lightning_fed_imports_is_declared(package: str) -> None:
    anywhere = CORE.union(*EXTRAS.values())
    assert package in anywhere or package in ELSEWHERE, f"declare {package}, imported in {sorted(IMPORTED[package])}"


def test_what_is_imported_at_the_top_of_a_module_is_a_dependency_and_not_an_extra() -> None:
    """The modules of `flower` and `secure` apart, and figures, which are imported by those only who have the extra."""
    places = {}
    for path in sorted((ROOT / "lightning_fed").rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for package in {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "lightning_fed"}:
                places.setdefault(normalized(DISTRIBUTIONS.get(package, package)), []).append(place)
    assert "torch" in places
    beyond = {package: files for package, files in places.items() if package not in CORE}
    lazy = (
        "lightning_fed/flower/",
        "lightning_fed/secure/",
        "lightning_fed/callbacks/dashboard/figures.py",
        "lightning_fed/core/notebook_figure.py",
    )
    assert {p: files for p, files in beyond.items() if not all(file.startswith(lazy) for file in files)} == {}


def test_no_dependency_is_declared_that_nothing_imports() -> None:
    # TensorBoard is the logger of the command line, by Lightning's class
    assert CORE - set(IMPORTED) == {"tensorboard"}


@pytest.mark.parametrize("folder", ["tests", "examples"])
def test_every_package_that_tests_and_examples_import_is_declared(folder: str) -> None:
    anywhere = CORE.union(*EXTRAS.values())
    found = {package: files for package, files in imported(ROOT / folder).items() if package not in anywhere}
    found = {p: {f for f in files if not f.startswith("tests/ecosystem/")} for p, files in found.items()}
    known = {"a-package-that-nobody-has", "lightning-fabric"}
    assert {package: files for package, files in found.items() if files and package not in known} == {}


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT, "pyproject.toml takes it from lightning_fed/__init__.py"
    assert PROJECT["dynamic"] == ["version"]
    assert str(Version(lightning_fed.__version__)) == lightning_fed.__version__
    places = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "lightning_fed").rglob("*.py"))
        if re.search(r"^__version__\s*=", path.read_text(), re.MULTILINE)
    ]
    assert places == ["lightning_fed/__init__.py"]


def test_the_installed_package_has_the_version_of_the_source() -> None:
    assert metadata.version("lightning_fed") == lightning_fed.__version__, "install again: make install"


def test_the_first_release_of_the_changelog_is_the_version() -> None:
    headings = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == lightning_fed.__version__


def test_the_oldest_versions_are_those_of_pyproject() -> None:
    """Each lower bound of a dependency is what `make oldest` installs, as far as its tools go with it."""
    pins = {}
    for line in (ROOT / "constraints-oldest.txt").read_text().splitlines():
        if "==" in line:
            name, _, version = line.partition("==")
            pins[normalized(name)] = Version(version)
    newer = {"packaging": "hatchling needs a newer one", "typing-extensions": "cryptography needs a newer one"}
    for line in PROJECT["dependencies"]:
        requirement = Requirement(line)
        name = normalized(requirement.name)
        (bound,) = (Version(each.version) for each in requirement.specifier if each.operator == ">=")
        if name in newer:
            assert pins[name] > bound, f"{name}: {newer[name]}"
        else:
            assert pins[name].release[: len(bound.release)] == bound.release, name
