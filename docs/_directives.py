"""Directives of the site: diagrams, and the help of a command."""

from __future__ import annotations

from _help import help_of
from docutils import nodes
from sphinx.util.docutils import SphinxDirective


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
        text = help_of(self.arguments[0])
        return [nodes.literal_block(text, text, language="text")]
