"""Facts that may or must not differ between runs: settings, seeds, data, code and promises, from a run's record."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lightning_fed.core.configs import Scalar, about_data, config_of, is_seed
from lightning_fed.privacy.ledger import read as read_ledger
from lightning_fed.record import RunRecord
from lightning_fed.reports.comparison.run import Evaluation, Spending

_MAY_DIFFER = ("cohort_size",)
"""Facts about the data in which runs may differ."""
_DEALT = ("partition", "population", "val", "eval_cohort_size")
"""Settings that say what data there are, who holds what, and what is evaluated, with what stands below them."""
_NOT_DEALT = "batch_size"
_WORDS = {
    "names_checksum": "the checksum of the workers' names",
    "sizes": "numbers of training examples",
    "sizes_checksum": "the checksum of all numbers of training examples",
    "contents_checksum": "the checksum of the workers' tensors",
}
_EVALUATED = "numbers of evaluated examples"
_EVERY = "rounds between evaluations"
_SEED = re.compile(r"(?:, )?\bseed=[^,()\[\]]*")
_CUT = re.compile(r"\.\.\. #[0-9a-f]+$")


def settings_of(record: RunRecord) -> tuple[dict[str, Scalar], dict[str, Scalar] | None]:
    """Return the settings of a run, without seeds, and those of its config, if it has one.

    Args:
        record: The record.
    """
    names = [name for name in record.settings if not is_seed(name)]
    owners = {name.rpartition("/")[0] for name in record.settings}
    settings = {name: _scalar(record.settings[name]) for name in names}
    settings |= {name: _seedless(str(settings[name])) for name in owners if name in settings}
    config = record.run.get("config")
    return settings, None if config is None else config_of(record.folder / config)


def seeds_of(record: RunRecord) -> dict[str, Scalar]:
    """Return the seeds of a run, by name.

    Args:
        record: The record.
    """
    return {name: _scalar(value) for name, value in record.run["seeds"].items()}


def is_dealt(name: str) -> bool:
    """Whether a setting is about the data, their partition, or the evaluation.

    Args:
        name: The setting's name.
    """
    words = name.split("/")
    return words[0] in _DEALT and words[-1] != _NOT_DEALT


def hides(record: RunRecord) -> bool:
    """Whether a run records little about its data, because of a promise of privacy."""
    return bool(record.run.get("promise"))


def dealt_of(record: RunRecord, config: Mapping[str, Scalar] | None) -> dict[str, Scalar]:
    """Return the settings of a run that say what data there are, who holds what, and what is evaluated.

    Args:
        record: The record.
        config: The settings of its config; None: there is none, or not all runs have one.
    """
    settings = {name: value for name, value in record.settings.items() if is_dealt(name)}
    dealt = {**settings, **{name: value for name, value in (config or {}).items() if about_data(name)}}
    return {name: "none" if value is None else _scalar(value) for name, value in dealt.items()}


def data_of(record: RunRecord, evaluations: Sequence[Evaluation]) -> dict[str, Scalar]:
    """Return what is recorded of the data themselves, and of how they were evaluated; None is not known.

    Args:
        record: The record.
        evaluations: The evaluations whose rounds must agree; none: it does not matter when a run was evaluated.
    """
    data = {
        _WORDS.get(name, name): _scalar(value) for name, value in record.run["data"].items() if name not in _MAY_DIFFER
    }
    return {**data, _EVALUATED: _evaluated(record), _EVERY: _every(evaluations)}


def code_of(record: RunRecord) -> dict[str, str]:
    """Return the software of a run: its commit and the versions, by name.

    Args:
        record: The record.
    """
    commit = record.run.get("commit")
    versions = {f"version of {name}": str(version) for name, version in (record.run.get("versions") or {}).items()}
    return {**({} if commit is None else {"commit": str(commit)[:10]}), **versions}


def spending_of(record: RunRecord) -> Spending | None:
    """Return the spent privacy budget of a run; None without a promise.

    Args:
        record: The record.
    """
    promise = record.run.get("promise")
    if not promise:
        return None
    ledger = _ledger(record)
    epsilon = promise.get("epsilon")
    return Spending(
        epsilon=math.inf if epsilon is None else float(epsilon),
        delta=float(promise["delta"]),
        unit=str(promise["unit"]),
        charges=() if ledger is None else read_ledger(ledger).account.total(),
        accountant=promise.get("accountant"),
        key="" if ledger is None else str(ledger.resolve()),
        insecure=bool(promise.get("insecure")),
    )


def _ledger(record: RunRecord) -> Path | None:
    name = record.run.get("ledger")
    folders = (record.folder, *record.folder.parents[:2])
    return None if name is None else next((folder / name for folder in folders if (folder / name).is_file()), None)


def _evaluated(record: RunRecord) -> str | None:
    """Sum and checksum of the workers' numbers of examples in the last evaluation; None if they are not recorded."""
    last = next((line for line in reversed(record.evaluations) if line["stage"] == "val"), None)
    if last is None or not last.get("examples") or last.get("failures"):
        return None
    examples = last["examples"]
    checksum = zlib.crc32(json.dumps(examples, sort_keys=True).encode())
    return f"{sum(examples.values()):g} of {len(examples)} workers (checksum {checksum:08x})"


def _every(evaluations: Sequence[Evaluation]) -> int | None:
    rounds = [evaluation.rounds for evaluation in evaluations]
    return min((after - before for before, after in pairwise(rounds)), default=rounds[0] if rounds else None)


def _scalar(value: Any) -> Scalar:
    return value if value is None or isinstance(value, (str, int, float, bool)) else json.dumps(value, sort_keys=True)


def _seedless(text: str) -> str:
    """Take the seeds out of what an object was built with; of a text that was cut only the class is left.

    >>> _seedless("Dirichlet(workers=9, seed=3)"), _seedless("Synthetic(seed=1)"), _seedless("Own(a=1, b... #0aa1")
    ('Dirichlet(workers=9)', 'Synthetic', 'Own')
    """
    if _CUT.search(text):
        return text.partition("(")[0]
    text = _SEED.sub("", text)
    return re.sub(r"\((?:, )?", "(", text).replace("()", "")
