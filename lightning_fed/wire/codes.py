"""Codes in place of numbers: the compressed form of updates, and of the model that is sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.wire.container import Spec
from lightning_fed.wire.job import Job


@final
@dataclass(frozen=True)
class Codes:
    """Codes of the vectors of n workers, which cross in place of the vectors.

    Args:
        rows: The codes of the vectors, by the names ``"delta"`` and ``"extra/<name>"``; uint8 ``[n, bytes]``.
        lengths: The number of bytes of each parameter in a row, in order. It does not cross: both sides compute it.
    """

    rows: Tensors
    lengths: Mapping[str, int] = field(default_factory=dict)

    def pick(self, index: Tensor) -> Codes:
        """Return the codes of some of the workers.

        Args:
            index: Their rows, int64.
        """
        return Codes({what: rows[index.to(rows.device)] for what, rows in self.rows.items()}, self.lengths)

    @staticmethod
    def together(parts: Sequence[Codes]) -> Codes:
        """Return the codes of several stacks of workers as those of one."""
        first = parts[0]
        return Codes({what: torch.cat([part.rows[what] for part in parts]) for what in first.rows}, first.lengths)


class Coder(ABC):
    """Decoder of vectors, for the side that receives compressed updates.

    The decoder follows from the settings of the run, as the layout does, and is part of no message: a sender cannot
    choose how its bytes are read.
    """

    @abstractmethod
    def code_bytes(self, job: Job, stays: Set[str]) -> int:
        """Return the length of the codes of one vector.

        Args:
            job: The workers' job.
            stays: The parameters that do not travel.
        """

    @abstractmethod
    def decode(self, codes: Tensor, what: str, workers: Sequence[str], job: Job, stays: Set[str]) -> Tensor:
        """Decode vectors.

        Args:
            codes: uint8 ``[n, code_bytes(job, stays)]``, not trusted.
            what: The name of the vector, as in ``Codes.rows``.
            workers: The n names.
            job: Theirs.
            stays: The parameters that do not travel; there the vectors are 0.

        Returns:
            ``[n, size]``; NaN where the codes stand for NaN.

        Raises:
            WireError: If they cannot be codes of such vectors.
        """


class ModelCoder(ABC):
    """Decoder of parameters, for the side that receives a job with a compressed model."""

    @abstractmethod
    def decode(self, codes: Tensor, spec: Spec, seed: int, cohort: int) -> Tensor:
        """Decode a parameter.

        Args:
            codes: The codes of the parameter, not trusted.
            spec: Its name, dtype and shape.
            seed: The seed of the run.
            cohort: The number of the job's cohort.

        Raises:
            WireError: If they cannot be codes of such a tensor.
        """
