"""Terms of a run: all requests of the server to its nodes, sent before the first round, for a node to agree to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, final

from lightning_fed.wire.errors import WireError
from lightning_fed.wire.parts import Description

PROTOCOL = 2
"""The version of the questions and answers between server and nodes: another for every change of them."""


@final
@dataclass(frozen=True)
class Terms:
    """Terms of a run. Plain data: names of classes and their arguments, and no code.

    Args:
        run: The name of the run, under which a node keeps its workers' own state; the same after a resume.
        seed: The seed of the run.
        fingerprint: The fingerprint of the server's module; see :mod:`lightning_fed.wire.fingerprint`.
        algorithm: The algorithm of the run.
        transforms: Steps on updates before they leave.
        promise: The promise to the workers; None: none.
        kept: The part of the workers' own optimizers and schedulers that is kept between rounds.
        precision: The Trainer's precision, such as ``"32-true"``.
        default_dtype: torch's default dtype, such as ``"float32"``.
        matmul_precision: The precision of float32 products.
        deterministic: Whether torch is to use deterministic algorithms only.
        trainer: The Trainer's settings that user code at the workers may read, such as ``max_epochs``.
        rounds: The number of planned rounds; None: unlimited.
        population: The number of all workers.
        cohort_size: The number of workers in a round.
        frozen: The parameters that the server does not train when the fit begins.
        least_workers: The number of workers below which a round fails.
        sampling: The kind of sampler that chooses cohorts; None: everyone takes part.
        broadcast: The compression of the model on its way to workers; None: none.
        secure: The sealing of updates, of which only sums can be read; None: none.
        insecure: Whether noise follows from the seed of the run; then nothing is private.
    """

    run: str
    seed: int
    fingerprint: str
    algorithm: Description
    transforms: tuple[Description, ...] = ()
    promise: Description | None = None
    kept: Description = field(default_factory=dict)
    precision: str = "32-true"
    default_dtype: str = "float32"
    matmul_precision: str = "highest"
    deterministic: bool = False
    trainer: Mapping[str, Any] = field(default_factory=dict)
    rounds: int | None = None
    population: int = 1
    cohort_size: int = 1
    frozen: tuple[str, ...] = ()
    least_workers: int = 1
    sampling: str | None = None
    broadcast: Description | None = None
    secure: Description | None = None
    insecure: bool = False

    def to_bytes(self) -> bytes:
        """Return the terms as bytes; equal terms have equal bytes."""
        return json.dumps(self.to_fields(), sort_keys=True).encode()

    def to_fields(self) -> dict[str, Any]:
        """Return the terms as plain JSON values."""
        return {**asdict(self), "transforms": list(self.transforms), "frozen": list(self.frozen)}

    @classmethod
    def from_fields(cls, given: object) -> Terms:
        """Read what :meth:`to_fields` returned.

        Args:
            given: The fields, not trusted.

        Raises:
            WireError: If a field is missing, is no field of terms, or is of another type.

        >>> terms = Terms("a1", 7, "sha256:0", {"class": "FedAvg", "arguments": {}})
        >>> Terms.from_fields(terms.to_fields()) == terms
        True
        """
        if not isinstance(given, dict):
            raise WireError("the terms of the run are missing: send the message again")
        names = {each.name for each in fields(cls)}
        if given.keys() != names:
            raise WireError(
                f"the terms of the run have other fields than these ({', '.join(sorted(given.keys() ^ names))}): "
                "install the same lightning_fed on the server and on all nodes"
            )
        for name, kinds in _KINDS.items():
            value = given[name]
            if type(value) not in kinds:
                raise WireError(f"the terms of the run hold {name}={str(value)[:50]!r}: send the message again")
        told = given["trainer"]
        if told.keys() - _OF_A_TRAINER or not all(type(number) in (int, float) for number in told.values()):
            raise WireError(f"the terms of the run hold trainer={str(told)[:100]}: it says {', '.join(_OF_A_TRAINER)}")
        return cls(**{**given, "transforms": tuple(given["transforms"]), "frozen": tuple(given["frozen"])})


_OF_A_TRAINER = ("max_epochs", "max_steps", "overfit_batches", "reload_dataloaders_every_n_epochs")
"""Attributes of its Trainer that user code at the workers may read: numbers only, and so no paths of the server."""

_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "run": (str,),
    "seed": (int,),
    "fingerprint": (str,),
    "algorithm": (dict,),
    "transforms": (list,),
    "promise": (dict, _NONE),
    "kept": (dict,),
    "precision": (str,),
    "default_dtype": (str,),
    "matmul_precision": (str,),
    "deterministic": (bool,),
    "trainer": (dict,),
    "rounds": (int, _NONE),
    "population": (int,),
    "cohort_size": (int,),
    "frozen": (list,),
    "least_workers": (int,),
    "sampling": (str, _NONE),
    "broadcast": (dict, _NONE),
    "secure": (dict, _NONE),
    "insecure": (bool,),
}
