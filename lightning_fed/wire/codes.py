"""Codes in place of numbers: updates, and the model that is sent, as a compressor makes them shorter."""

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
    """Codes of the vectors of n workers; they cross, and the vectors do not.

    Args:
        rows: Under ``"delta"`` and ``"extra/<name>"`` what crosses in place of that vector: uint8 ``[n, bytes]``.
        lengths: The number of bytes of each parameter in a row, in order. It does not cross: both sides know it.
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
    """Makes vectors of codes: what whoever receives updates knows of how they were compressed.

    It comes from the settings of the run, as the layout does, and no message says it: nobody can choose for others how
    bytes are read.
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
        """Return the vectors for which codes stand.

        Args:
            codes: uint8 ``[n, code_bytes(job, stays)]``, from anyone.
            what: The name of the vector, as in ``Codes.rows``.
            workers: The n names.
            job: Theirs.
            stays: The parameters that do not travel; there the vectors are 0.

        Returns:
            ``[n, size]``; NaN where codes say so.

        Raises:
            WireError: If they cannot be codes of such vectors.
        """


class ModelCoder(ABC):
    """Makes parameters of codes: what whoever receives a job knows of how the model in it was compressed."""

    @abstractmethod
    def decode(self, codes: Tensor, spec: Spec, seed: int, cohort: int) -> Tensor:
        """Return the parameter for which codes stand.

        Args:
            codes: What crossed in its place, from anyone.
            spec: Its name, dtype and shape.
            seed: The seed of the run.
            cohort: The number of the job's cohort.

        Raises:
            WireError: If they cannot be codes of such a tensor.
        """
