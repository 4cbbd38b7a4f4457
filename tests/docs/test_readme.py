"""The README's first screen, its links, and the two scripts of its diff."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPOSITORY = "https://github.com/lightning-fed/lightning_fed/"


def script(dropped: str, kept: str) -> str:
    """Return one side of the README's diff."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in diff.splitlines() if not line.startswith(dropped)]
    return "\n".join(line.removeprefix(kept) if line.startswith(kept) else line[1:] for line in lines)


def run(code: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    defined: dict[str, Any] = {"__name__": "script"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "README.md", "exec", dont_inherit=True), defined)
    return defined


@pytest.mark.parametrize(
    "asked",
    ["Federated learning for [PyTorch Lightning]", "**simulated**", "[between machines]", "pip install lightning_fed"],
)
def test_the_first_twelve_lines_say_what_it_is_and_how_to_install_it(asked: str) -> None:
    assert asked in "\n".join(README.splitlines()[:12])


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 110


def test_the_two_commands_stand_in_one_block() -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert [line.partition("#")[0].strip() for line in block.splitlines()] == ["make toy", "make test"]


def test_links_and_pictures_are_absolute_and_those_into_the_repository_lead_to_files() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("https://"), link
        path = re.match(
            rf"{REPOSITORY}(?:blob|tree)/main/([^#]+)|https://raw\.githubusercontent\.com/[\w-]+/\w+/main/(.+)", link
        )
        assert path is None or (ROOT / (path[1] or path[2])).exists(), link
        if "#" in link and path is not None:
            titles = re.findall(r"^#+ (.+)$", (ROOT / path[1]).read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert link.partition("#")[2] in [title.lower().replace(" ", "-") for title in titles], link


@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
def test_the_script_before_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = script("+", "-")
    assert "lightning_fed import" not in code
    assert run(code, monkeypatch, tmp_path)["trainer"].global_step == 20


def test_the_script_after_trains_for_twenty_rounds_on_both_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    defined = run(script("-", "+"), monkeypatch, tmp_path)
    assert defined["trainer"].global_step == 20
    x, y = defined["x"], defined["y"]
    assert (defined["model"](x) - y).square().mean() < y.square().mean() / 2
    assert list(defined["workers"]) == ["bob", "alice"]
