"""Write ``docs/reference/hooks.md`` from the tables of ``lightning_fed/hooks.py`` and ``docs/lightning.md``.

``python docs/_hooks.py`` writes the page; ``tests/docs/test_reference_pages.py`` is red if the page is out of date.
"""

from __future__ import annotations

import re
from pathlib import Path

from lightning_fed import hooks

DOCS = Path(__file__).parent
PAGE = DOCS / "reference" / "hooks.md"

HEAD = """\
# Hooks: where each one runs

Look up on which side a hook of Lightning runs before you write one: on the server, on each worker, on both, or not at
all. `python docs/_hooks.py` writes this page from the tables of the package and from
[the page about Lightning](../lightning.md).

- **server**: called as in any other fit or evaluation, on your module while it holds the global model.
- **worker**: called in local training, on the worker's copy of your module (or in the process of the worker).
- **both**: called in local training on the worker's copy, and in evaluations on the server's module.
- **never**: defined hooks of this kind are named in a warning at the start.
"""


def _table(section: str) -> dict[str, str]:
    """Return the last words on each hook that a section of ``docs/lightning.md`` has, by the hook's name."""
    page = (DOCS / "lightning.md").read_text(encoding="utf-8")
    body = re.split(r"^#+ ", page.split(f"## {section}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    rows = re.findall(r"^\| (`.*?) \| (\w+) \| (.*?) ?\| .* \|$", body, re.M)
    return {name: f"{kind}|{note.strip()}" for names, kind, note in rows for name in re.findall(r"`(\w+)`", names)}


def _linked(note: str) -> str:
    """Return a note whose links to a heading of ``docs/lightning.md`` work from a folder below."""
    return re.sub(r"\]\(#", "](../lightning.md#", re.sub(r"\]\((?![#h.])", "](../", note))


def page() -> str:
    """Return the page's text."""
    of_modules = _table("Hooks of your module")
    sides = dict.fromkeys((*hooks.SERVER_HOOKS, *hooks.EVALUATION_STEPS, *hooks.CHECKPOINT_HOOKS), "server")
    sides |= dict.fromkeys((*hooks.LOCAL_HOOKS, "training_step", "configure_optimizers"), "worker")
    sides |= dict.fromkeys((*hooks.TRANSFER_HOOKS, "forward"), "both")
    sides |= {"predict_step": "server"} | dict.fromkeys(hooks.UNUSED_HOOKS, "never")
    parts = [HEAD, "## Of a LightningModule\n", "| hook | runs on | remarks |\n|---|---|---|"]
    for name in sorted(sides):
        note = hooks.UNUSED_HOOKS.get(name) or of_modules.get(name, "|").partition("|")[2]
        parts.append(f"| `{name}` | {sides[name]} | {_linked(note)} |")
    for title, section in (
        ("Of a Callback", "Hooks of callbacks"),
        ("Of a LightningDataModule", "Datamodules"),
    ):
        parts += [f"\n## {title}\n", "| hook | compared with Lightning | remarks |\n|---|---|---|"]
        for name, row in sorted(_table(section).items()):
            kind, _, note = row.partition("|")
            parts.append(f"| `{name}` | {kind} | {_linked(note)} |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
