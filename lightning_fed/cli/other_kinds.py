"""Hints about classes that are given for the wrong option, including names of other frameworks."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_fed.cli.classes import classes_of

_SERVER = "the server's optimizer makes it of FedAvg"
_ELSEWHERE = {
    "fedadam": ("model.server_optimizer", "FedAdam", _SERVER),
    "fedyogi": ("model.server_optimizer", "Yogi", _SERVER),
    "fedadagrad": ("model.server_optimizer", "FedAdagrad", _SERVER),
    "fedavgm": ("model.server_optimizer", "SGD", f"{_SERVER}, with its momentum"),
    "fedopt": ("model.server_optimizer", "FedAdam", _SERVER),
    "fedsgd": ("model.local_steps", "1", "of FedAvg"),
    "fedmedian": ("model.aggregator", "Median", ""),
    "fedtrimmedavg": ("model.aggregator", "TrimmedMean", ""),
    "dpfedavg": ("model.privacy", "CentralDP", ""),
}


def option_of(name: str, key: str, kinds: Mapping[str, object]) -> str:
    """Return a hint about the option that accepts a class which another option refuses.

    Args:
        name: The class's name, as the user wrote it.
        key: The option for which it was given.
        kinds: The type of each option.

    Returns:
        The option with the class, and a remark; empty if there is none.
    """
    option, value, remark = _ELSEWHERE.get(name.lower().replace("-", "").replace("_", ""), ("", "", ""))
    if option:
        return f"--{option} {value}{f' ({remark})' if remark else ''}"
    found = {other: each for other, kind in kinds.items() for each in classes_of(kind) if each.lower() == name.lower()}
    others = [other for other in found if not other.endswith(".help")]  # jsonargparse's own, for --key.help CLASS
    return "" if key in found or not others else f"--{others[0]} {found[others[0]]}"
