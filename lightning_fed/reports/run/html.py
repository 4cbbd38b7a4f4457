"""A report as one HTML page for A4, without scripts and external files."""

from __future__ import annotations

from html import escape

from lightning_fed.reports.run import svg
from lightning_fed.reports.run.document import (
    Bars,
    Block,
    Bullets,
    Chart,
    Paragraph,
    Report,
    Section,
    Table,
    Tiles,
    is_number,
    written,
)

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
h1{margin-bottom:.1em}h2{margin:1.6em 0 .4em;break-after:avoid}p{margin:.5em 0}small,.small{color:#666;font-size:12.5px}
table{border-collapse:collapse;margin:.5em 0;max-width:100%}
td,th{border-bottom:1px solid #ddd;padding:.2em .7em;text-align:left;vertical-align:top}
td,th{overflow-wrap:break-word;max-width:32em}
th{border-bottom-color:#888}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
tr.m td{background:#fdecea}thead{display:table-header-group}tr,svg,.tile{break-inside:avoid}
.tiles{display:flex;flex-wrap:wrap;gap:.7em}.tile{border:1px solid #ccc;border-radius:8px;padding:.5em .9em}
.tile b{display:block;font-size:21px}.figures{display:flex;flex-wrap:wrap;gap:1em}
.long{columns:2 24em;font-size:12.5px}.long table{width:100%;margin:0;table-layout:fixed}
.long td{overflow-wrap:anywhere}
.warning{color:#b00020;font-weight:600}ul{margin:.3em 0;padding-left:1.4em}
@page{size:A4;margin:14mm}
@media print{body{margin:0;padding:0;max-width:none;font-size:10.5pt}.tile b{font-size:15pt}svg{width:48%;height:auto}}
"""


def as_html(report: Report) -> str:
    """Return a report as a page.

    Args:
        report: The report.
    """
    title = escape(report.title)
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    sections = "\n".join(map(_section, report.sections))
    top = f"<h1>{title}</h1>\n<p><small>{escape(report.subtitle)}</small></p>"
    return f"{head}<style>{_STYLE}</style></head>\n<body>\n{top}\n{sections}\n</body></html>\n"


def _section(section: Section) -> str:
    figures = [_figure(block) for block in section.blocks if isinstance(block, (Chart, Bars))]
    title = f"<h2>{escape(section.title)}</h2>\n" if section.title else ""
    shown = f'<div class="figures">{"".join(figures)}</div>\n' if figures else ""
    rest = "\n".join(_block(block) for block in section.blocks if not isinstance(block, (Chart, Bars)))
    return f"<section>\n{title}{shown}{rest}\n</section>"


def _figure(block: Chart | Bars) -> str:
    return svg.chart(block) if isinstance(block, Chart) else svg.bars(block)


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        label = f"<b>{escape(block.label)}.</b> " if block.label else ""
        tone = "" if block.tone == "plain" else f' class="{block.tone}"'
        return f"<p{tone}>{label}{escape(block.text)}</p>"
    if isinstance(block, Bullets):
        label = f"<p><b>{escape(block.label)}.</b></p>" if block.label else ""
        return label + "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Tiles):
        tiles = "".join(
            f'<div class="tile">{escape(tile.label)}<b{_tone(tile.tone)}>{escape(tile.value)}</b></div>'
            for tile in block.tiles
        )
        return f'<div class="tiles">{tiles}</div>'
    assert isinstance(block, Table)
    return _table(block)


def _tone(tone: str) -> str:
    return "" if tone == "plain" else f' class="{tone}"'


def _table(table: Table) -> str:
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.head)
    kinds = [' class="n"' if is_number(column) else "" for column in columns]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(table.head, kinds, strict=True))
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(f"<td{kind}>{escape(written(cell))}</td>" for cell, kind in zip(row, kinds, strict=True))
        mark = ' class="m"' if number in table.marked else ""
        rows.append(f"<tr{mark}>{cells}</tr>")
    top = f"<thead><tr>{head}</tr></thead>" if any(table.head) else ""
    whole = f"<table>{top}<tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="long">{whole}</div>' if table.is_long else whole
