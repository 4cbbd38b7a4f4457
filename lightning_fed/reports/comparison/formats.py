"""A table as Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "−": "$-$", "–": "--", "∞": r"$\infty$"}
_LATEX |= {"ε": r"$\varepsilon$", "δ": r"$\delta$", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "√": r"$\surd$"}


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a table in Markdown, its columns aligned, with the caption below it.

    Args:
        heads: The heads of the columns.
        rows: The cells.
        caption: The caption.

    >>> print(markdown(["algorithm", "val_acc"], [["FedAvg()", "0.9"]], "By the rule last."))
    | algorithm | val_acc |
    | --------- | ------- |
    | FedAvg()  | 0.9     |
    <BLANKLINE>
    By the rule last.
    """
    table = [[_in_markdown(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(3, *(len(row[column]) for row in table)) for column in range(len(heads))]
    table.insert(1, ["-" * width for width in widths])
    lines = [" | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join([*(f"| {line} |" for line in lines), "", _in_markdown(caption)])


def latex(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a table in LaTeX that needs no package.

    Args:
        heads: The heads of the columns.
        rows: The cells.
        caption: The caption.
    """
    lines = [f"    {' & '.join(map(in_latex, row))} \\\\" for row in (heads, *rows)]
    lines.insert(1, "    \\hline")
    return "\n".join(
        [
            "\\begin{table}",
            "  \\centering",
            f"  \\begin{{tabular}}{{{'l' * len(heads)}}}",
            "    \\hline",
            *lines,
            "    \\hline",
            "  \\end{tabular}",
            f"  \\caption{{{in_latex(caption)}}}",
            "\\end{table}",
        ]
    )


def comma_separated(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV, numbers as they are; what is not known is empty.

    Args:
        rows: The rows; all have the same columns.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def in_latex(text: str) -> str:
    r"""Return a text as LaTeX has it.

    >>> print(in_latex("val_acc ± 5 %"))
    val\_acc $\pm$ 5 \%
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _in_markdown(text: str) -> str:
    return re.sub(r"([|*<`\\])", r"\\\1", " ".join(text.split()))
