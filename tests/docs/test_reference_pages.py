"""The generated pages of ``docs/reference`` are up to date, and list the errors that users meet."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.models import LinearRegression

DOCS = Path(__file__).parents[2] / "docs"
ERRORS = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["errors", "hooks"])
def test_the_page_is_what_its_script_writes(name: str) -> None:
    written = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
    fresh = runpy.run_path(str(DOCS / f"_{name}.py"))["page"]()
    assert written == fresh, f"out of date: python docs/_{name}.py writes it"


def test_every_note_is_on_the_page() -> None:
    for note in runpy.run_path(str(DOCS / "_errors.py"))["NOTES"].values():
        assert note in ERRORS


def test_no_anchor_occurs_twice() -> None:
    anchors = re.findall(r"^\((.*)\)=$", ERRORS, re.M)
    assert len(anchors) > 600
    assert len(anchors) == len(set(anchors))


def on_the_page(message: str) -> bool:
    """Whether a message is one of the page's, where ``<...>`` may be anything."""
    shown = re.findall(r"^- `(.*)`$", ERRORS, re.M)
    patterns = (".*".join(map(re.escape, re.split(r"<[^<>]*>", text))) for text in shown)
    message = " ".join(message.replace("`", "'").split())
    return any(re.search(pattern, message) for pattern in patterns)


def test_what_users_meet_first_is_on_the_page() -> None:
    module, workers = LinearRegression(2, 1), {"bob": [[1.0]]}
    with pytest.raises((TypeError, ValueError)) as refused:
        FederatedDataModule(workers)
    assert on_the_page(str(refused.value))
    with pytest.raises((TypeError, ValueError)) as refused:
        FederatedModule(module, local_epochs=0)
    assert on_the_page(str(refused.value))
    assert not on_the_page("nobody says this")


def test_every_hook_of_the_modules_table_is_on_the_page() -> None:
    page = (DOCS / "reference" / "hooks.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page.partition("## Of a Callback")[0], re.M))
    assert rows["training_step"] == rows["on_after_backward"] == "worker"
    assert rows["validation_step"] == rows["on_fit_start"] == "server"
    assert rows["transfer_batch_to_device"] == "both"
    assert rows["train_dataloader"] == "never"
