"""A report as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from lightning_fed.reports.run.document import Block, Report


def as_json(report: Report) -> str:
    """Return a report as JSON: every block with its ``kind``, such as ``"table"``.

    Args:
        report: The report.
    """
    sections = [
        {"title": section.title, "blocks": [_block(block) for block in section.blocks]} for section in report.sections
    ]
    content = {"title": report.title, "subtitle": report.subtitle, "sections": sections}
    return json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _block(block: Block) -> dict[str, Any]:
    return {"kind": type(block).__name__.lower(), **asdict(block)}


def _finite(value: Any) -> Any:
    """The value with plain lists, and with words in place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [_finite(part) for part in value] if isinstance(value, (list, tuple)) else value
