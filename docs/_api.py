"""Write ``docs/reference/api/``, a page for each public package with every name of its ``__all__``.

``python docs/_api.py`` writes the pages; ``tests/docs/test_api_pages.py`` is red where a public name has no entry, or a
page is not up to date.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parent / "reference" / "api"

PACKAGES = {
    "lightning_fed": "The two classes that wrap a module and its data",
    "lightning_fed.algorithms": "Algorithms: the computation of a round",
    "lightning_fed.aggregation": "Aggregators: one update from those of a cohort",
    "lightning_fed.optim": "Server optimizers, and learning rates over rounds",
    "lightning_fed.transforms": "Steps on updates: clipping, momentum, compression",
    "lightning_fed.engines": "Engines: ways to train a cohort",
    "lightning_fed.engines.remote": "The engine of workers on nodes, and the link to them",
    "lightning_fed.flower": "Nodes over Flower",
    "lightning_fed.selection": "Cohorts and availability",
    "lightning_fed.population": "Workers and their data",
    "lightning_fed.datasets": "Data sets, and partitions of one data set among workers",
    "lightning_fed.models": "Small modules of the examples",
    "lightning_fed.privacy": "Differential privacy, audits and attacks",
    "lightning_fed.privacy.accounting": "The ledger of a run",
    "lightning_fed.secure": "Secure aggregation",
    "lightning_fed.node": "Nodes: machines that host workers",
    "lightning_fed.callbacks": "Callbacks of a Trainer",
    "lightning_fed.callbacks.display": "Displays of progress: terminals, log files and notebooks",
    "lightning_fed.reports.comparison": "Comparison of runs",
    "lightning_fed.record": "The record that a run leaves",
    "lightning_fed.cli": "The command line in a script of your own",
    "lightning_fed.wire": "Jobs, updates and their bytes",
    "lightning_fed.state": "State that is kept from round to round",
    "lightning_fed.server.checkpoint": "The format of checkpoints",
    "lightning_fed.testing": "Suites for extensions of your own",
    "lightning_fed.testing.attacks": "Attacks, for tests and studies of aggregators",
}
"""The public packages, in the order of the index, with what each holds."""

LAZY: dict[str, dict[str, str]] = {"lightning_fed.flower": import_module("lightning_fed.flower")._HOMES}
"""The module of each name of the packages whose names cannot be imported here: flwr has an environment of its own."""


def names_of(package: str) -> list[str]:
    """Return the public names of a package in alphabetical order."""
    return sorted(import_module(package).__all__)


def home_of(package: str, name: str) -> str:
    """Return the package whose page documents a name: the deepest of those that export it."""
    if package in LAZY:
        return package
    value = getattr(import_module(package), name)
    homes = [each for each in PACKAGES if each not in LAZY and name in names_of(each)]
    same = [each for each in homes if getattr(import_module(each), name) is value]
    return max(same, key=lambda each: each.count("."))


def directive_of(package: str, name: str) -> str:
    """Return the directive of autodoc that documents a public name."""
    if package in LAZY:
        file = FOLDER.parents[2] / package.replace(".", "/") / f"{LAZY[package][name]}.py"
        return "autoclass" if re.search(rf"^class {name}\b", file.read_text(), re.MULTILINE) else "autofunction"
    value = getattr(import_module(package), name)
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if callable(value) and hasattr(value, "__name__") else "autodata"


def page_of(package: str) -> str:
    """Return the text of a package's page."""
    own = [name for name in names_of(package) if home_of(package, name) == package]
    lines = [f"# {package}", "", "```{eval-rst}", f".. automodule:: {package}", "   :no-members:", "```", ""]
    others = [name for name in names_of(package) if name not in own]
    if others:
        links = ", ".join(f"[{name}]({home_of(package, name)}.md#{name.lower()})" for name in others)
        lines += [f"Also here: {links}.", ""]
    for name in own:
        lines += [f"## {name}", "", "```{eval-rst}", f".. {directive_of(package, name)}:: {package}.{name}", "```", ""]
    return "\n".join(lines)


def index() -> str:
    """Return the text of the page that lists the packages."""
    lines = [
        "# API",
        "",
        "Every public name, by package. Public is what a package lists in `__all__`; anything else may change without",
        "notice.",
        "`python docs/_api.py` writes these pages.",
        "",
        "| package | holds |",
        "|---|---|",
        *(f"| [`{package}`]({package}.md) | {holds} |" for package, holds in PACKAGES.items()),
        "",
        "```{toctree}",
        ":hidden:",
        "",
        *PACKAGES,
        "```",
        "",
    ]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    return {"index.md": index(), **{f"{package}.md": page_of(package) for package in PACKAGES}}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, text in pages().items():
        (FOLDER / file).write_text(text)
