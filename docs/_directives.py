"""Directives of the site: diagrams, and the help of a command."""

from __future__ import annotations

import os
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from lightning_fed.cli.commands import COMMANDS
from lightning_fed.cli.shipped import help_of

COLUMNS = "96"
"""Width of a help text, as wide as a page of the site."""


class Mermaid(SphinxDirective):
    """A diagram in Mermaid, which the browser draws by the script in ``_static``."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the diagram's text, and the script that draws it."""
        diagram = "\n".join(self.content)
        return [nodes.raw("", f'<pre class="mermaid">\n{diagram}\n</pre>', format="html")]


class Help(SphinxDirective):
    """The help of a command of ``lightning-fed``, as the command prints it when the site is built."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a block with the text."""
        command = {one.name: one for one in COMMANDS}[self.arguments[0]]
        with mock.patch.dict(os.environ, COLUMNS=COLUMNS):
            text = help_of(command).rstrip()
        return [nodes.literal_block(text, text, language="text")]
