"""``docs/reference/glossary.md`` has the words of the design, in order, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
GLOSSARY = (DOCS / "reference" / "glossary.md").read_text(encoding="utf-8")


def words_of(text: str) -> list[str]:
    return re.findall(r"^\| ([^|*`]+?) \| .", text, flags=re.MULTILINE)[1:]


def test_every_word_of_the_design_is_explained() -> None:
    design = (DOCS / "design.md").read_text(encoding="utf-8")
    words = design.partition("## Words")[2].partition("## Dependencies")[0]
    known = ", ".join(words_of(GLOSSARY))
    of_the_code = {"shown, logged", "distribution over workers", "attendance", "words, single numbers", "run, record"}
    missing = [row for row in words_of(words) if row not in of_the_code and row.split(", ")[0] not in known]
    assert not missing


def test_words_stand_in_order() -> None:
    spelt = [word.lower().replace("δ, ", "").replace("ε, ", "") for word in words_of(GLOSSARY)]
    assert len(spelt) > 50
    assert spelt == sorted(spelt)


def test_links_lead_to_pages() -> None:
    for link in re.findall(r"\]\(([^)#]+)", GLOSSARY):
        assert (DOCS / "reference" / link).is_file(), link
