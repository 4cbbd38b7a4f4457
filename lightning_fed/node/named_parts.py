"""The parts of a run that terms name: looked up among the classes installed on this node, and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_fed import algorithms, privacy, transforms
from lightning_fed.algorithms import Algorithm
from lightning_fed.node.errors import RefusalError
from lightning_fed.privacy import Privacy
from lightning_fed.secure import SecureAggregation
from lightning_fed.transforms import UpdateTransform
from lightning_fed.transforms.compression.broadcast import Broadcast
from lightning_fed.wire import LocalTraining
from lightning_fed.wire.parts import name_of_class, part_from
from lightning_fed.wire.terms import Terms
from lightning_fed.worker.kept import Kept
from lightning_fed.worker.outbox import Outbox
from lightning_fed.worker.sealing import Sealing


def known_classes(parts: Sequence[type]) -> dict[str, type]:
    """Return the classes that terms may name, by the names by which they cross.

    Args:
        parts: Algorithms, transforms and promises besides those of the package.
    """
    return {name_of_class(kind): kind for kind in (*_OURS, *parts)}


def outbox_of(terms: Terms, known: Mapping[str, type]) -> Outbox:
    """Build the outbox that terms describe, without state.

    Args:
        terms: The terms, not trusted.
        known: The classes that may be made.

    Raises:
        RefusalError: If they name a part of a wrong kind, or allow a sum of so few workers that it is one update.
        WireError: If they name a class that is not known, or arguments that it refuses.
    """

    def part(field: str, description: object, kind: type) -> Any:
        made = part_from(description, known)
        if not isinstance(made, kind):
            raise RefusalError(f"the terms name {type(made).__name__} as their {field}, which is no {kind.__name__}")
        return made

    algorithm = part("algorithm", terms.algorithm, Algorithm)
    chosen = [part("transforms", each, UpdateTransform) for each in terms.transforms]
    promise = None if terms.promise is None else part("promise", terms.promise, Privacy)
    kept = part("kept", terms.kept, Kept)
    sealing = None if terms.secure is None else part("secure", terms.secure, Sealing)
    if sealing is not None:
        try:
            sealing = replace(sealing, promise=promise)  # the one that is kept here
            _ = sealing.parameters  # whoever makes them may ask for a sum of one
        except ValueError as error:
            raise RefusalError(str(error)) from error
    coded = None if terms.broadcast is None else part("broadcast", terms.broadcast, transforms.Compressor)
    broadcast = None if coded is None else Broadcast(coded)
    return Outbox(algorithm, tuple(chosen), promise, kept=kept, sealing=sealing, broadcast=broadcast)


def _exported(*modules: Any) -> list[type]:
    """Return the algorithms, transforms and promises of the package, and the classes of their arguments."""
    things = [getattr(module, name) for module in modules for name in module.__all__]
    kinds = (Algorithm, UpdateTransform, transforms.Compressor, Privacy, privacy.AdaptiveClip)
    return [thing for thing in things if isinstance(thing, type) and issubclass(thing, kinds)]


_OURS: tuple[type, ...] = (
    *_exported(algorithms, transforms, privacy),
    Kept,
    LocalTraining,
    Sealing,
    SecureAggregation,
    dict,
)
