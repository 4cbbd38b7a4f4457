"""Sections about the setup of the run, and the instructions to repeat it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_fed.record.facts import HIDDEN
from lightning_fed.reports.run.document import Block, Cell, Paragraph, Section, Table, counted
from lightning_fed.reports.run.view import View

_REPEATS = {
    "workers": "population",
    "data/seed": "seed",
    "noise_multiplier": "privacy/noise_multiplier",
    "epsilon_budget": "privacy/epsilon",
}
"""Settings that are left out where the other one has their value."""


def what_was_run(view: View) -> Section:
    """Return settings, versions, commit and config.

    Args:
        view: The run.
    """
    settings = view.fact("settings", "with which settings it was run")
    versions = view.fact("versions", "which versions ran it")
    data = view.fact("data", "about the data")
    rows: list[tuple[Cell, ...]] = [
        (name, _said(value))
        for name, value in settings.items()
        if value is not None and not (name in _REPEATS and settings.get(_REPEATS[name]) == value)
    ]
    rows += [
        (f"data: {name}", _said(value)) for name, value in data.items() if value is not None and name not in settings
    ]
    rows += [(f"version of {name}", _said(value)) for name, value in versions.items()]
    rows.append(("commit", view.fact("commit", "at which commit it was run") or "not in a git repository"))
    rows.append(("began", view.fact("started", "when it began")))
    rows.append(("ended", view.fact("finished", "when it ended") or "not yet"))
    return Section(
        "What was run", (Table(("setting", "value"), tuple(rows), is_long=True), *_config(view), *_fits(view))
    )


def how_to_repeat(view: View) -> Section:
    """Return the command, the seeds and the versions.

    Args:
        view: The run.
    """
    seeds = view.fact("seeds", "from which seeds it was run")
    versions = view.fact("versions", "which versions ran it")
    earlier = () if view.origin is None else view.origin.records
    before = [str(record.run.get("command")) for record in earlier]
    if view.missing:
        before.insert(0, "a command that is not recorded here")
    command = view.fact("command", "by which command it was run")
    blocks: list[Block] = [
        *(Paragraph(each, "Before it") for each in before),
        Paragraph(command, "Command"),
        *_of_masked((*before, command), view),
        Table(("seed", "value"), tuple((name, _seed(value)) for name, value in seeds.items())),
    ]
    pinned = " ".join(f"{_package(name)}=={version}" for name, version in versions.items() if name != "python")
    blocks.append(Paragraph(f"Python {versions.get('python', 'of an unknown version')}; {pinned}", "Versions"))
    commit = view.fact("commit", "at which commit it was run")
    if commit is not None:
        text = f"The folder was at commit {commit}; changes that were not committed are not recorded."
        blocks.append(Paragraph(text, "Commit"))
    if seeds.get("seed", ...) is None:
        text = (
            "The initial weights had no seed (no pl.seed_everything before the module was built), so this command "
            "gives another run."
        )
        blocks.append(Paragraph(text, "Does not repeat", "warning"))
    if view.promise is not None and not view.promise.get("insecure"):
        text = "Noise and cohorts come from the system's entropy, so a private run never repeats."
        blocks.append(Paragraph(text, "Privacy"))
    return Section("How to repeat it", tuple(blocks))


def _of_masked(commands: Sequence[str], view: View) -> Iterator[Paragraph]:
    if any(HIDDEN in command for command in commands):
        of_workers = "" if view.promise is None else "is about single workers, whom the promise hides, or that "
        yield Paragraph(f"{HIDDEN} stands for a word that {of_workers}lets others in, such as a token.", "", "small")


def _config(view: View) -> Iterator[Paragraph]:
    config, digest = view.fact("config", "which config it had"), view.fact("config_sha256", "which config it had")
    if config is None or digest is None:
        yield Paragraph(
            "The run's folder has no config.yaml: the command line leaves one there, a run from Python none.",
            "",
            "small",
        )
        return
    yield Paragraph(f"{config}, SHA-256 {digest}", "Config", "small")
    try:
        now = hashlib.sha256((view.record.folder / config).read_bytes()).hexdigest()
    except OSError:
        yield Paragraph(f"{config} is no longer in {view.record.folder}.", "", "warning")
        return
    if now != digest:
        yield Paragraph(f"{config} in {view.record.folder} was changed since: it has another SHA-256.", "", "warning")


def _fits(view: View) -> Iterator[Block]:
    earlier = () if view.origin is None else view.origin.records
    fits = [fit for record in (*earlier, view.record) for fit in record.run.get("fits", ())]
    if len(fits) > 1 or view.missing:
        rows = tuple((fit["started"], int(fit["round"]), fit.get("checkpoint")) for fit in fits)
        more = ", besides those that are not recorded here" if view.missing else ""
        yield Paragraph(f"The run was resumed: it is made of {counted(len(fits), 'fit')}{more}.")
        yield Table(("began", "after rounds", "from checkpoint"), rows)


def _said(value: Any) -> Cell:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_said(part)) for part in value)
    return str(value)  # a seed is no amount


def _seed(value: Any) -> Cell:
    return "none" if value is None else _said(value)


def _package(name: str) -> str:
    """The name by which pip knows a package."""
    return name if name == "lightning_fed" else name.partition(".")[0].replace("_", "-")
