"""Links between pages: each relative one leads to a file, and to a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTSIDE = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "examples/hospitals/README.md"]
PAGES = [
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts),
    *(ROOT / page for page in OUTSIDE),
]


def prose(page: Path) -> str:
    """A page without its blocks and spans of code."""
    text = re.sub(r"^(`{3,}|:{3,}).*?^\1\s*$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on GitHub and on the site, and those that it sets itself."""
    text = re.sub(r"^```.*?^```\s*$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain} | set(
        re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)
    )


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong


def test_links_of_pages_that_the_site_has_stay_within_it() -> None:
    """A page of the site cannot lead to a file of the repository by a relative link."""
    docs = ROOT / "docs"
    wrong = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in PAGES
        if docs in page.parents and page.name != "ecosystem.md"
        for link in links(page)
        if docs not in (page.parent / link.partition("#")[0]).resolve().parents and link.partition("#")[0]
    ]
    assert not wrong
