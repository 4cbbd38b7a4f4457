"""``--vary_partition``: the use of ``--seed_everything`` for the partition, too."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace

from lightning_fed._lightning import pl
from lightning_fed.lightning_cli import imported


def follow(parsed: Namespace, given: Mapping[str, Any], seed: int | bool) -> None:
    """Set the seeds by which data are dealt out or drawn, unless the user sets them.

    These are the arguments ``seed`` of the objects in ``workers``. A datamodule's own seed stays: it determines the
    held-out examples, and different seeds for training and evaluation would mix the two.

    Args:
        parsed: The section ``data`` of the configuration, with all defaults; changed in place.
        given: The section as it was given.
        seed: The value of ``seed_everything``; False: there is none.

    Raises:
        ValueError: If there is none, nothing is dealt out or drawn by a seed, or all of the others are given, and
            differ.
    """
    if seed is False:
        raise ValueError("vary_partition=true needs a seed to follow; give one, such as --seed_everything 1")
    seeds = list(_seeds("data.workers", parsed.get("workers"), given.get("workers")))
    if not seeds:
        raise ValueError(
            "vary_partition=true varies nothing: data.workers has no partition with a seed, so who holds what is the "
            "same whatever the seed; deal data out by a PartitionedPopulation with IID, Dirichlet, Shards or "
            "LogNormal, or leave vary_partition out"
        )
    ours = [(key, arguments) for key, arguments, is_given in seeds if not is_given]
    others = [f"{key}={arguments['seed']}" for key, arguments, is_given in seeds if is_given]
    for _, arguments in ours:
        arguments["seed"] = seed
    if not ours and [arguments for _, arguments, _ in seeds if arguments["seed"] not in (seed, None)]:
        raise ValueError(
            f"vary_partition=true varies nothing: {', '.join(others)} is given, and so does not follow "
            f"seed_everything={seed}; leave it out, or leave vary_partition out"
        )


def _seeds(key: str, parsed: Any, given: Any) -> Iterator[tuple[str, Any, bool]]:
    """Go through the arguments of classes that have a seed: where they stand, they themselves, whether it is given."""
    if not isinstance(parsed, (Namespace, dict)):
        return
    kind = imported(parsed.get("class_path"))
    if inspect.isclass(kind) and issubclass(kind, pl.LightningDataModule):
        return
    within = parsed.get("init_args") if kind is not None else parsed
    theirs = _mapping(_mapping(given).get("init_args") if kind is not None else given)
    if not isinstance(within, (Namespace, dict)):
        return
    if kind is not None and "seed" in within:
        yield f"{key}.init_args.seed", within, "seed" in theirs
    for name in list(within.keys()) if isinstance(within, dict) else list(vars(within)):
        yield from _seeds(f"{key}.init_args.{name}" if kind else f"{key}.{name}", within[name], theirs.get(name))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
