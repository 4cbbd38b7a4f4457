"""Every program on a page of the documentation runs, or is named here with the reason why it does not."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

RUN_ELSEWHERE = {
    "docs/cli.md": "tests/cli/test_page.py",
    "docs/data.md": "tests/test_data_page.py",
    "docs/ecosystem.md": "tests/ecosystem/page.py",
    "docs/extending.md": "tests/test_docs.py",
    "docs/progress.md": "tests/callbacks/test_page_of_progress.py",
    "docs/results.md": "tests/test_docs.py",
    "docs/sweeps.md": "tests/test_sweeps.py",
}
"""Pages whose programs are run by a test of their own."""

FRAGMENTS = {
    ("docs/compare.md", 0): "reads runs of the commands above it",
    ("docs/compression.md", 0): "goes on from the reader's own module",
    ("docs/compression.md", 1): "goes on from the reader's own module",
    ("docs/deployment.md", 0): "a site's file, which tests/flower runs with flwr",
    ("docs/deployment.md", 1): "a server's file, which tests/flower runs with flwr",
    ("docs/node_policy.md", 0): "needs cryptography",
    ("docs/privacy.md", 0): "goes on from the reader's own module",
    ("docs/privacy.md", 1): "takes minutes; tests/privacy/test_audit.py runs it smaller",
    ("docs/records.md", 0): "reads a run of the command above it",
    ("docs/secure_aggregation.md", 0): "goes on from the reader's own module",
    ("docs/seeds.md", 0): "a line out of a program",
    ("docs/seeds.md", 1): "a line out of a program",
}
"""Blocks that do not run by themselves, by page and number (from 0), with the reason. They are compiled."""


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    line: int
    code: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\{?[\w-]+\}?)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(one[1], text.count("\n", 0, one.start(2)), one[2]) for one in found]


def programs(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def is_notebook(page: Path) -> bool:
    return any(block.language == "{code-cell}" for block in blocks(page))


def to_run(page: Path) -> list[Block]:
    """Return the blocks of a page that run by themselves, one after another."""
    return [block for number, block in enumerate(programs(page)) if (name_of(page), number) not in FRAGMENTS]


RUNNING = [page for page in PAGES if name_of(page) not in RUN_ELSEWHERE and not is_notebook(page) and to_run(page)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_the_programs_of_a_page_run_in_their_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    defined: dict[str, Any] = {"__name__": "page"}
    for block in to_run(page):
        exec(compile(block.code, f"{name_of(page)}:{block.line}", "exec", dont_inherit=True), defined)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_every_program_is_python(page: Path) -> None:
    for block in blocks(page):
        if block.language in ("python", "{code-cell}"):
            lines = re.sub(r"\A---\n.*?^---\n", "", block.code, flags=re.MULTILINE | re.DOTALL).splitlines()
            code = "\n".join(line for line in lines if not line.startswith((":", "---", "%", "!")))
            compile(code, f"{name_of(page)}:{block.line}", "exec", dont_inherit=True)


def test_what_is_run_elsewhere_is_read_there() -> None:
    for page, test in RUN_ELSEWHERE.items():
        assert programs(ROOT / page), f"{page} has no program any more"
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not read {page}"


def test_every_fragment_is_still_there() -> None:
    for (page, number), reason in FRAGMENTS.items():
        assert page not in RUN_ELSEWHERE
        assert number < len(programs(ROOT / page)), f"{page} has no block {number}"
        assert reason


def commands(page: Path) -> Iterator[str]:
    """Yield the commands of ``lightning-fed`` on a page, without variables and what follows a pipe."""
    for block in blocks(page):
        if block.language == "sh":
            for line in block.code.replace("\\\n", " ").splitlines():
                line = re.split(r"\s#|\s[|>&]|;", line.strip().removeprefix("$ "))[0]
                if line.startswith("lightning-fed "):
                    yield line


def test_every_command_of_a_page_is_one() -> None:
    names = {command.name for command in COMMANDS}
    wrong = [
        f"{name_of(page)}: {command}"
        for page in PAGES
        for command in commands(page)
        if (word := shlex.split(command)[1]) not in names and not word.startswith("-")
    ]
    assert not wrong


def test_the_configs_that_commands_name_are_there() -> None:
    bundled = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    named = {
        (name_of(page), word)
        for page in PAGES
        for command in commands(page)
        for word in re.findall(r" -c (\w+)(?= |$)", command)
    }
    assert len(named) > 3
    assert {word for _, word in named} <= bundled


OPTIONS = json.loads((ROOT / "lightning_fed" / "cli" / "options.json").read_text(encoding="utf-8"))["commands"]
"""The options of each command that is not a Trainer's."""
OF_A_TRAINER: dict[str, set[str] | None] = {
    "trainer": set(signature(pl.Trainer).parameters),
    "model": set(signature(FederatedModule).parameters),
    "data": set(signature(FederatedDataModule).parameters),
    **dict.fromkeys(("ckpt_path", "help-all", "lr_scheduler", "optimizer", "print_config", "seed_everything")),
    **dict.fromkeys(("help", "version", "vary_partition")),
}
"""First parts of the options of ``fit`` and the like, with the second parts that there are; None: any."""


def unknown_options(command: str) -> list[str]:
    """Return the options of a command that it does not have."""
    words = shlex.split(command)[1:]
    if "--" in words:
        parts = words[: words.index("--")], words[words.index("--") + 1 :]
        return [option for part in parts for option in unknown_options(shlex.join(["lightning-fed", *part]))]
    options = [re.split(r"\+?=", word)[0] for word in words[1:] if re.match(r"--\w", word)]
    if words[0] in OPTIONS:
        return [option for option in options if option not in OPTIONS[words[0]]]
    return [option for option in options if not is_of_a_trainer(option)]


def is_of_a_trainer(option: str) -> bool:
    head, _, rest = option.removeprefix("--").partition(".")
    seconds = OF_A_TRAINER.get(head, set())
    return head in OF_A_TRAINER and (not rest or seconds is None or rest.partition(".")[0] in seconds)


def test_every_option_of_a_command_is_one() -> None:
    wrong = [
        f"{name_of(page)}: {command}: {option}"
        for page in PAGES
        for command in commands(page)
        if not command.startswith("lightning-fed --")
        for option in unknown_options(command.replace("[", "").replace("]", ""))
    ]
    assert not wrong
    assert unknown_options("lightning-fed repeat --seed 0 -- fit --model.algo FedAvg") == [
        "--seed",
        "--model.algo",
    ]
