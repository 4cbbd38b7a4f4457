"""The settings of a run in its checkpoints, and their comparison when a run resumes.

A change of the *meaning* of numbers in a checkpoint is refused: another algorithm, other personal layers, a server
optimizer of another class. A change of the further course, such as a weight or a number of steps, is allowed and
logged. See the table in ``docs/reliability.md``.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, final

from torch import nn
from torch.optim import Optimizer

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.core.shown import is_of_no_worker, parameters_of
from lightning_fed.server.checkpoint.format import INSTEAD

_PLAIN = (bool, int, float, str, type(None))
_SAMPLE = 1000
_SAID_ELSEWHERE = ("algorithm", "privacy", "privacy.insecure_deterministic_noise")
"""Changes that are refused or warned of where the promise is kept, or with the class of the algorithm."""
_NOT_KEPT = object()
_HOW = ("params", "initial_lr", "foreach", "fused", "capturable", "differentiable")
"""Options of optimizers that say how they compute, and not what."""


@final
@dataclass(frozen=True)
class Settings:
    """The parts of a run, with their settings.

    Args:
        parts: Its parts by the names of FederatedModule's arguments, such as ``algorithm``, and plain values.
        names: All workers.
        tables: The names of the tables of the workers' own state.
        module: The user's module.
    """

    parts: Mapping[str, Any]
    names: Sequence[str]
    tables: Collection[str]
    module: nn.Module

    def state_dict(self, trainer: pl.Trainer | None) -> dict[str, Any]:
        """Return the settings for a checkpoint.

        Args:
            trainer: The Trainer, with the server's optimizer and its scheduler; None: it is in another process.
        """
        return {
            **{name: plain_settings(part, hides=self._hides) for name, part in self.parts.items()},
            "population": population(self.names),
            "server_optimizer": [] if trainer is None else _optimizers(trainer),
            "server_lr_scheduler": [] if trainer is None else _schedulers(trainer),
        }

    def goes_with(self, part: Mapping[str, Any]) -> bool:
        """Whether the workers' own state in a checkpoint fits this run; if not, a warning is issued.

        Args:
            part: The federated part of the checkpoint.
        """
        now = type(self.parts["algorithm"]).__name__
        if part["algorithm"] == now:
            return True
        rank_zero_warn(f"the checkpoint was written by a run with {part['algorithm']}, and this one uses {now}")
        return False

    def check(self, part: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
        """Compare the settings with those of a checkpoint, before training resumes from it.

        Args:
            part: The federated part of the checkpoint; an older format holds only the algorithm's name.
            parameters: The state dict of the user's module there.

        Raises:
            ValueError: If the checkpoint's numbers would have another meaning in this run.
        """
        for name, parameter in self.module.named_parameters():
            if name in parameters and parameters[name].shape != parameter.shape:
                raise ValueError(
                    f"the checkpoint is one of another module: {name!r} has the shape {list(parameters[name].shape)} "
                    f"there and {list(parameter.shape)} here; build the module as it was"
                )
        state = part["state"]
        remembered = {name: workers_of(table) for name, table in state["workers"].items()}
        holds = bool(state["server"]) or any(remembered.values())
        now = type(self.parts["algorithm"]).__name__
        if part["algorithm"] != now and (holds or self.tables):
            raise ValueError(
                f"the checkpoint was written by a run with {part['algorithm']}, and this one uses {now}: what the one "
                f"remembers of the rounds means nothing to the other. {INSTEAD}"
            )
        saved = part.get("settings")
        if saved is None:
            return
        changes = []
        hides = self._hides or saved.get("privacy") is not None
        for name, thing in self.parts.items():
            for change in differences(name, saved.get(name), plain_settings(thing, hides=self._hides), hides):
                structural = not change.is_strength and name in ("algorithm", "transforms")
                if structural and holds and part["algorithm"] == now:
                    raise ValueError(
                        f"the checkpoint was written with {change.name}={change.before!r}, and here it is "
                        f"{change.now!r}: what workers and server remember is about the former; give it as it was, or "
                        f"begin anew. {INSTEAD}"
                    )
                if change.name not in _SAID_ELSEWHERE:
                    changes.append(str(change))
        self._check_population(saved["population"], remembered, changes)
        if changes:
            rank_zero_warn(
                "the run goes on with other settings than those of its checkpoint: "
                + "; ".join(changes)
                + ". From here on it is not what it would have been"
            )

    @property
    def _hides(self) -> bool:
        """Whether a promise hides single workers."""
        privacy = self.parts.get("privacy")
        return privacy is not None and not privacy.release_metrics

    def _check_population(
        self, saved: Mapping[str, Any], remembered: Mapping[str, set[str]], changes: list[str]
    ) -> None:
        now = population(self.names)
        if saved == now:
            return
        theirs = set().union(*remembered.values())
        if theirs and theirs.isdisjoint(self.names):
            raise ValueError(
                f"the checkpoint is one of another population: none of the {len(theirs)} workers that remember "
                f"something there, such as {min(theirs)!r}, is here. {INSTEAD}"
            )
        changes.append(
            f"{saved['workers']} workers there and {now['workers']} here"
            if saved["workers"] != now["workers"]
            else "other workers, or the same in another order"
        )

    @staticmethod
    def check_optimizer(part: Mapping[str, Any], trainer: pl.Trainer) -> None:
        """Compare the server's optimizer and its scheduler with a checkpoint's, before these load their states.

        Args:
            part: The federated part of the checkpoint.
            trainer: The Trainer.

        Raises:
            ValueError: If the states belong to an optimizer or scheduler of another class.
        """
        saved = part.get("settings")
        if saved is None:
            return
        before, now = saved["server_optimizer"], _optimizers(trainer)
        if not before:
            raise ValueError(
                "the checkpoint was written after a fit in processes of its own (ddp_fork, ddp_spawn, ddp_notebook), "
                "by the process that started them, which has the weights and no server optimizer; go on from one "
                f"that was written during the fit, such as ModelCheckpoint's. {INSTEAD}"
            )
        if not _related([one["classes"] for one in before], [one["classes"] for one in now]):
            raise ValueError(
                f"the checkpoint's server_optimizer is {_classes(before)}, and here it is {_classes(now)}, which "
                f"cannot go on with its state; give it as it was, or begin anew. {INSTEAD}"
            )
        if [one["sizes"] for one in before] != [one["sizes"] for one in now]:
            raise ValueError(
                f"the checkpoint's server_optimizer steps on {_count(before)} trained parameters, and here on "
                f"{_count(now)}: layers were frozen or unfrozen since; set requires_grad as it was. {INSTEAD}"
            )
        schedulers, theirs = _schedulers(trainer), saved["server_lr_scheduler"]
        if schedulers and theirs and not _related(theirs, schedulers):
            raise ValueError(
                f"the checkpoint's server_lr_scheduler is {theirs[0][0]}, and here it is {schedulers[0][0]}, which "
                f"cannot go on with its state; give it as it was, or begin anew. {INSTEAD}"
            )
        changes = [
            f"{change.name} is {change.before!r} there and {change.now!r} here"
            for one, other in zip(before, now, strict=True)
            for change in differences("server_optimizer", one["options"], other["options"])
        ]
        if changes:
            rank_zero_warn(
                f"the server optimizer goes on with the checkpoint's options ({'; '.join(changes)}); to change them, "
                "begin a new run with the checkpoint's weights"
            )
        if bool(schedulers) != bool(theirs):
            there, here = ("one", "none") if theirs else ("none", "one")
            rank_zero_warn(
                f"there is {there} of server_lr_scheduler in the checkpoint and {here} here: from here on the server's "
                "learning rate is not what it would have been"
            )


@final
@dataclass(frozen=True)
class Difference:
    """A setting that has changed.

    Args:
        name: Its path, such as ``algorithm.lam``.
        before: The old value.
        now: The new value.
    """

    name: str
    before: Any
    now: Any

    @property
    def is_strength(self) -> bool:
        """Whether both values are numbers, such as a weight, which may change when a run resumes."""
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (self.before, self.now))

    def __str__(self) -> str:
        return f"{self.name} was {self.before!r} and is {self.now!r}"


def plain_settings(thing: Any, depth: int = 5, hides: bool = False) -> Any:
    """Return plain data that describe an object: its class, and the arguments of its constructor.

    Args:
        thing: A number, a string, None; a sequence or mapping; a function or class, of which the name is taken; or an
            object that keeps its constructor's arguments as attributes of the same names.
        depth: The largest depth of the description.
        hides: Whether to leave out values that may be about single workers: all texts and collections in arguments of
            a user's own classes.
    """
    if isinstance(thing, _PLAIN):
        return thing
    if inspect.isclass(thing) or inspect.isroutine(thing) or depth == 0:
        return f"{type(thing).__name__} {getattr(thing, '__qualname__', '')}".strip()
    if isinstance(thing, Mapping):
        return {} if hides else {str(key): plain_settings(value, depth - 1) for key, value in thing.items()}
    if isinstance(thing, (Sequence, Set)):
        return [
            plain_settings(value, depth - 1, hides)
            for value in (thing if isinstance(thing, Sequence) else sorted(thing))
        ]
    arguments = [p.name for p in parameters_of(type(thing)) if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    kept = {name: getattr(thing, name, getattr(thing, f"_{name}", _NOT_KEPT)) for name in arguments}
    settings = {
        name: plain_settings(value, depth - 1, hides)
        for name, value in kept.items()
        if value is not _NOT_KEPT and not (hides and not is_of_no_worker(type(thing), name, value))
    }
    return {"class": type(thing).__name__, **settings}


def differences(name: str, before: Any, now: Any, hides: bool = False) -> Iterable[Difference]:
    """Yield the settings that differ, each at the greatest depth that has a name.

    Args:
        name: The path of the compared objects.
        before: The old result of :func:`plain_settings`.
        now: The new result.
        hides: Whether one of them leaves out values about single workers; then only common values are compared.
    """
    if isinstance(before, dict) and isinstance(now, dict) and before.get("class") == now.get("class"):
        for key in sorted(before.keys() & now.keys() if hides else before.keys() | now.keys()):
            yield from differences(f"{name}.{key}", before.get(key), now.get(key), hides)
    elif _are_parts(before) and _are_parts(now) and len(before) == len(now):
        for position, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(f"{name}[{position}]", *pair, hides)
    elif before != now and not (before != before and now != now):  # NaN is itself here
        yield Difference(name, _short(before), _short(now))


def population(names: Sequence[str]) -> dict[str, int]:
    """Return a fingerprint of a population: the number of workers, and a checksum of at most 1,000 evenly spaced names.

    Args:
        names: All workers.
    """
    sample = [names[position * len(names) // _SAMPLE] for position in range(_SAMPLE)] if len(names) > _SAMPLE else names
    return {"workers": len(names), "checksum": zlib.crc32("\0".join(sample).encode("utf-8", "surrogatepass"))}


def workers_of(table: Mapping[str, Any]) -> set[str]:
    """Return the workers that have a row in a table of a checkpoint."""
    return {*table["names"], *table["names_on_disk"]}


def _are_parts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) and "class" in part for part in value)


def _short(value: Any) -> Any:
    """Return only the class of an object that is compared with one of another class."""
    if _are_parts(value):
        return [part["class"] for part in value]
    return value["class"] if isinstance(value, dict) and "class" in value else value


def options_of(optimizer: Optimizer) -> dict[str, Any]:
    """Return the options of an optimizer that decide its results, those of a second group as ``lr[1]``.

    Args:
        optimizer: The optimizer. Its initial learning rates are taken, from before any scheduler.
    """
    return {
        f"{key}[{position}]" if position else key: plain_settings(value)
        for position, group in enumerate(optimizer.param_groups)
        for key, value in {**group, "lr": group.get("initial_lr", group.get("lr"))}.items()
        if key not in _HOW and isinstance(value, (*_PLAIN, list, tuple))
    }


def _optimizers(trainer: pl.Trainer) -> list[dict[str, Any]]:
    return [
        {
            "classes": _classes_of(optimizer),
            "sizes": [len(group["params"]) for group in optimizer.param_groups],
            "options": options_of(optimizer),
        }
        for optimizer in trainer.optimizers
    ]


def _classes(optimizers: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(one["classes"][0] for one in optimizers) or "none"


def _schedulers(trainer: pl.Trainer) -> list[list[str]]:
    return [_classes_of(config.scheduler) for config in trainer.lr_scheduler_configs]


def _classes_of(thing: object) -> list[str]:
    """Return the names of a thing's class and of those that it derives from."""
    return [kind.__name__ for kind in type(thing).__mro__]


def _related(before: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> bool:
    """Whether one class derives from the other; then they can load each other's state."""
    return len(before) == len(now) and all(a[0] in b or b[0] in a for a, b in zip(before, now, strict=True))


def _count(optimizers: Sequence[Mapping[str, Any]]) -> int:
    return sum(sum(one["sizes"]) for one in optimizers)
