"""``lightning-fed privacy --of RUN``: the spent budget of a run, as a page for those who are accountable for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from lightning_fed.privacy.account import Account
from lightning_fed.privacy.ledger import PREFIX, Record, ledger_in, read, recomputed, relation_of
from lightning_fed.privacy.question import rounded_up
from lightning_fed.privacy.run import neighbours

_KEY = "lightning_fed"


@final
@dataclass
class Statement:
    """A record of one run's releases.

    Args:
        run: The run's name.
        ledger: Its ledger's file; None: only a checkpoint is left.
        record: What the ledger says.
        settings: The promise and its settings, of the last fit.
        checkpoint: The account of the checkpoint that was asked for, if it was one.
    """

    run: str
    ledger: Path | None
    record: Record
    settings: dict[str, Any]
    checkpoint: dict[str, Any] | None = None
    account: Account = field(default_factory=Account)

    def __post_init__(self) -> None:
        self.account.join({"stretches": self.record.account.state_dict()})
        if self.checkpoint is not None:
            self.account.join(self.checkpoint)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON has it, ε computed anew from the entries of the ledger and the checkpoint."""
        settings, releases, ends = self.settings, self.record.releases, self.record.ends
        delta, kind = settings["delta"], settings["accountant"]
        epsilon = recomputed(self.account, kind, delta)
        claims = [end["epsilon"] for end in ends if (end["delta"], end["accountant"]) == (delta, kind)]
        complete = epsilon >= max(claims, default=0.0) * (1 - 1e-9)  # else lines are missing
        bounds = [release["bound"] for release in releases]
        result: dict[str, Any] = {
            "run": self.run,
            "ledger": None if self.ledger is None else str(self.ledger),
            **{name: settings.get(name) for name in _SETTINGS},
            "neighbours": neighbours(settings["relation"], settings["unit"]),
            "epsilon": epsilon,
            "releases": len(releases),
            "charges": self.account.total(),
            "bounds": {"first": bounds[0], "least": min(bounds), "most": max(bounds), "last": bounds[-1]}
            if bounds
            else None,
            "fits": list(self._fits()),
            "signed_off": complete and all(end["agrees"] for end in ends) if ends else None,
            "unreadable_lines": self.record.unreadable,
            "outside": sorted({what for run in self.record.runs for what in run["outside"]}),
        }
        if self.checkpoint is not None:
            own = recomputed(_of(self.checkpoint), kind, self.checkpoint["delta"])
            claimed = self.checkpoint["epsilon"]
            result["checkpoint"] = {
                "epsilon": own,
                "claimed": claimed,
                "agrees": math.isclose(own, claimed, rel_tol=1e-9),
            }
        return result

    def _fits(self) -> Iterator[dict[str, Any]]:
        ends = {end["stretch"]: end for end in self.record.ends}
        releases: dict[str, list[dict[str, Any]]] = {}
        for release in self.record.releases:
            releases.setdefault(release["stretch"], []).append(release)
        for run in self.record.runs:
            own, end = releases.get(run["stretch"], []), ends.get(run["stretch"])
            yield {
                "began": run["time"],
                "promise": run["promise"],
                "mechanism": run["mechanism"],
                "rounds": len(own),
                "bounds": [own[0]["bound"], own[-1]["bound"]] if own else None,
                "noise_std": [own[0]["noise_std"], own[-1]["noise_std"]] if own else None,
                "claimed": None if end is None else end["epsilon"],
                "agrees": None if end is None else end["agrees"],
            }

    def as_text(self) -> str:
        """Return a page in Markdown, which reads well as it is."""
        facts = self.as_json()
        bounds = facts["bounds"]
        rows = {
            "NOT PRIVATE": "its noise comes from a seed, so nothing below is promised" if facts["insecure"] else "",
            "promise": f"{facts['promise']}: hides {_UNITS.get(facts['unit'], facts['unit'])}",
            "from whom": facts["audience"],
            "neighbours": facts["neighbours"],
            "ε": f"{shown_epsilon(facts['epsilon'])} at δ = {facts['delta']:.3g}, accounted by "
            + facts["accountant"].upper(),
            "budget": "none" if facts["budget"] is None else f"ε = {facts['budget']:g}",
            "released": "" if self.ledger is None else f"{facts['releases']} rounds",
            "charged": "; ".join(f"{_mechanism(c)} × {c['count']}" for c in facts["charges"]) or "nothing",
            "clipping bound": "" if bounds is None else _span(bounds["least"], bounds["most"]),
            "cohorts": _cohorts(facts),
            "signed off": _NO_LEDGER if self.ledger is None else _SIGNED[facts["signed_off"]],
        }
        if "checkpoint" in facts:
            one = facts["checkpoint"]
            claim = "" if one["agrees"] else f", BUT IT CLAIMS {shown_epsilon(one['claimed'])}"
            rows["this checkpoint"] = (
                f"written at ε = {shown_epsilon(one['epsilon'])}{claim}; if it was chosen among several, choosing it "
                "cost all of the above"
            )
        if facts["unreadable_lines"]:
            rows["torn lines"] = (
                f"{facts['unreadable_lines']}: either a process was killed while it wrote, before the release, or the "
                "file is damaged"
            )
        lines = [f"# Privacy of run {self.run}", "", *_table(("", ""), [(k, v) for k, v in rows.items() if v]), ""]
        lines += ["## Outside of the guarantee", "", *[f"- {what}" for what in (*facts["outside"], _ALWAYS)], ""]
        lines += ["## Fits", "", *_table(_FIT, [_fit_row(fit) for fit in facts["fits"]]), ""]
        some = _some(self.record.releases)
        lines += [f"## Releases ({len(some)} of {facts['releases']})", "", *_table(_RELEASE, map(_release_row, some))]
        return "\n".join(lines)


def statements_of(path: Path) -> list[Statement]:
    """Return the statements of the runs at a path.

    Args:
        path: A ledger, a checkpoint, or a folder with one of them in it or below it.

    Raises:
        OSError: If something cannot be opened.
        ValueError: If there is no record of a private run; the message states where.
    """
    if path.is_dir():
        ledgers = sorted(path.rglob(f"{PREFIX}*.jsonl"))
        if ledgers:
            return [_of_ledger(ledger) for ledger in ledgers]
        by_run: dict[str, Statement] = {}
        for checkpoint in sorted(path.rglob("*.ckpt"), key=lambda p: p.stat().st_mtime):
            part = _part_of(checkpoint)
            if "privacy" in part:
                statement = _of_checkpoint(checkpoint, part)
                by_run[statement.run] = statement  # the newest
        if not by_run:
            raise ValueError(
                f"{path} has no ledger ({PREFIX}*.jsonl) and no checkpoint of a private run; give the run's folder, "
                "its ledger, or a checkpoint"
            )
        return list(by_run.values())
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a run's folder, its ledger, or a checkpoint")
    if path.suffix == ".jsonl":
        return [_of_ledger(path)]
    return [_of_checkpoint(path, _part_of(path))]


def _of_ledger(path: Path) -> Statement:
    record = read(path)
    if not record.runs:
        raise ValueError(f"{path} is no ledger of privacy: it has no line of the kind 'run'")
    return Statement(record.runs[-1]["run"], path, record, record.runs[-1])


def _of_checkpoint(path: Path, part: Mapping[str, Any]) -> Statement:
    if "privacy" not in part:
        raise ValueError(f"{path} is no checkpoint of a run with privacy=: it has no account")
    state = {**part["privacy"], **part.get("account", {})}
    run = state.get("run") or "without a name"
    folders = [path.parent, path.parent.parent, *([Path(state["ledger"])] if state.get("ledger") else [])]
    ledger = next((file for folder in folders if (file := ledger_in(folder, run)).is_file()), None)
    record = Record() if ledger is None else read(ledger)
    settings = {
        "promise": state.get("promise") or "unknown",
        "unit": state.get("unit") or "worker",
        "audience": state.get("audience") or "unknown",
        "delta": state["delta"],
        "accountant": state.get("kind") or "rdp",
        "relation": relation_of(_of(state), state.get("kind") or "rdp"),
        "noise_multiplier": state["noise_multiplier"],
        "insecure": state["insecure"],
        **(record.runs[-1] if record.runs else {}),
    }
    return Statement(run, ledger, record, settings, state)


def _part_of(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has a dozen ways to say it, one of them an OSError without a file's name
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path} is neither a ledger nor a checkpoint that can be read") from error
    part = checkpoint.get(_KEY) if isinstance(checkpoint, dict) else None
    return part if isinstance(part, dict) else {}


def _of(state: Mapping[str, Any]) -> Account:
    account = Account()
    account.join(state)
    return account


def _mechanism(charge: Mapping[str, Any]) -> str:
    parameters = charge.get("parameters", {})
    return f"{charge['mechanism']}({', '.join(f'{k}={v}' for k, v in parameters.items())})"


def _cohorts(facts: Mapping[str, Any]) -> str:
    if facts["population"] is None:  # there is a checkpoint alone
        return ""
    if facts["sampling"] == "everyone":
        return f"all of {facts['population']} workers"
    return f"{facts['cohort_size']} of {facts['population']} workers, sampled by {facts['sampling']}"


def _fit_row(fit: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        fit["began"],
        fit["mechanism"],
        str(fit["rounds"]),
        "" if fit["bounds"] is None else _span(*fit["bounds"]),
        "" if fit["noise_std"] is None else _span(*fit["noise_std"]),
        "did not end" if fit["claimed"] is None else shown_epsilon(fit["claimed"]),
        {True: "agrees", False: "DOES NOT AGREE", None: "no"}[fit["agrees"]],
    )


def _some(releases: Sequence[dict[str, Any]], most: int = 12) -> list[dict[str, Any]]:
    """The first and the last, and some evenly between them."""
    n = len(releases)
    return [releases[round(i * (n - 1) / (most - 1))] for i in range(most)] if n > most else list(releases)


def _release_row(release: Mapping[str, Any]) -> tuple[str, ...]:
    epsilon = "" if release["epsilon"] is None else shown_epsilon(release["epsilon"])
    numbers = (f"{release[name]:.6g}" for name in ("bound", "noise_std"))
    return (str(release["round"]), str(release["cohort"]), *numbers, str(release["charged"]), epsilon)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _span(first: float, last: float) -> str:
    return f"{first:.6g}" if first == last else f"{first:.6g} to {last:.6g}"


def shown_epsilon(epsilon: float) -> str:
    """Write ε to four decimals, never too small.

    Args:
        epsilon: ε.

    >>> shown_epsilon(1.23451)
    '1.2346'
    """
    return f"{rounded_up(epsilon):.4f}" if math.isfinite(epsilon) else "infinite"


def text_of(statements: Sequence[Statement], as_json: bool) -> str:
    """Return the output of the command.

    Args:
        statements: The runs.
        as_json: As JSON (a list if there are several), or as pages.
    """
    if not as_json:
        return "\n\n".join(statement.as_text() for statement in statements)
    facts = [statement.as_json() for statement in statements]
    return json.dumps(facts[0] if len(facts) == 1 else facts, indent=2, ensure_ascii=False)


_SETTINGS: tuple[str, ...] = (
    "promise",
    "unit",
    "audience",
    "relation",
    "delta",
    "accountant",
    "budget",
    "noise_multiplier",
)
_SETTINGS += ("population", "cohort_size", "sampling", "insecure")
_UNITS = {"worker": "a worker, with all of its data", "example": "one example of a worker"}
_SIGNED = {
    True: "agrees: the accountant finds what was claimed from the ledger's entries alone",
    False: "DOES NOT AGREE with what was claimed",
    None: "not yet: the last fit did not end",
}
_NO_LEDGER = "no: there is no ledger beside the checkpoint, and what was released after it is not counted here"
_FIT: tuple[str, ...] = ("began", "mechanism", "rounds", "bound", "noise (std)", "ε at its end", "signed off")
_RELEASE: tuple[str, ...] = ("round", "cohort", "bound", "noise (std)", "charged", "ε at most (RDP)")
_ALWAYS = "other runs on the same data, what the server's own code shows, and side channels (docs/privacy.md)"
