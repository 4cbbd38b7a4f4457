"""Settings of the documentation site, which ``make docs`` builds without a network."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]
# Notebooks run in processes of their own: they import the checkout, too, and share two cores with each other
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from _directives import Help, Mermaid  # noqa: E402
from _source_links import place_of  # noqa: E402

import lightning_fed  # noqa: E402
import lightning_fed.module  # noqa: E402  # with torch and Lightning, once for all processes that read pages

project = "lightning_fed"
author = "the lightning_fed authors"
copyright = f"2026, {author}"
version = release = lightning_fed.__version__
source_url = "https://github.com/lightning-fed/lightning_fed"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_inventories", "**/.ipynb_checkpoints"]

# Pages. The notebook lies where `lightning-fed examples copy` takes it from
shutil.copy(DOCS.parent / "examples" / "toy.ipynb", DOCS / "start" / "toy.ipynb")
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_render_markdown_format = "myst"
# Messages of the protocol as they are: JSON by JSON, with NaN
suppress_warnings = ["misc.highlighting_failure"]
# Prompts of a shell and of Python are not part of what is copied
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The reference
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_class_signature = "mixed"
# A method that only implements an extension point is described on the page of its base
autodoc_inherit_docstrings = False
autosummary_generate = False
autodoc_mock_imports = ["flwr"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
# Members of classes are not listed in the side bar, which every page repeats
toc_object_entries = False

# Links to other projects. Their inventories come from a network, which a build must not need: Python's own lies here,
# as Debian's python3-doc has it. Names of the others are shown without a link.
intersphinx_mapping = {"python": ("https://docs.python.org/3", "_inventories/python.inv")}
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|torchmetrics|pytorch_lightning|lightning|numpy|np|dp_accounting|opacus|pl|flwr)(\..*)?"),
    # Names that are imported for type checkers only
    (
        r"py:class",
        r"Path|OptimizerCallable|LRSchedulerCallable|EngineName|ArgsType|Frame|HuggingFace|Source|NDArray|Figure|"
        r"LoaderSettings|DatamoduleStates|Integers|Dataset|Tensor|nn.Module|Kind|Answers|Message|LinkError|Grid",
    ),
    # Types of signatures that are no public names, and so have no page
    (r"py:(class|obj)", r"lightning_fed\.[a-z_.]+\.\w+"),
]

# Appearance
html_theme = "furo"
html_title = f"lightning_fed {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": source_url,
    "source_branch": "main",
    "source_directory": "docs/",
    "navigation_with_keys": True,
}
html_copy_source = False
html_show_sphinx = False


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return the address of a name's source; with pages of sources, as viewcode writes them, a build takes longer."""
    place = place_of(info["module"], info["fullname"]) if domain == "py" else None
    return None if place is None else f"{source_url}/blob/main/{place}"


def add_mermaid(app: Sphinx, page: str, template: str, context: dict[str, object], tree: nodes.document | None) -> None:
    """Load the script on the pages that have a diagram, and on no other."""
    if tree is not None and any('class="mermaid"' in raw.astext() for raw in tree.findall(nodes.raw)):
        app.add_js_file("mermaid.min.js")
        app.add_js_file(None, body="mermaid.initialize({startOnLoad: true, theme: 'neutral'});")


COLON = "\ue000"
"""Stands for the colon in the first line of a property's docstring, which napoleon takes for the end of a type."""


def hide_colons(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Take the colon out of the first line before napoleon reads it."""
    if what in ("attribute", "property", "data") and lines:
        lines[0] = lines[0].replace(":", COLON)


def show_colons(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Put it back after napoleon."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def spread_notebooks(app: Sphinx, env: object, pages: list[str]) -> None:
    """Read pages in a mixed order: Sphinx deals out neighbours to one process, and executed pages are neighbours."""
    random.Random(0).shuffle(pages)


def setup(app: Sphinx) -> None:
    """Register the directives, and the edits of docstrings before napoleon reads them."""
    app.connect("autodoc-process-docstring", hide_colons, priority=100)
    app.connect("autodoc-process-docstring", show_colons, priority=900)
    app.add_directive("mermaid", Mermaid)
    app.add_directive("help", Help)
    app.connect("env-before-read-docs", spread_notebooks)
    app.connect("html-page-context", add_mermaid)
