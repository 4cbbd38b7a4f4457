"""The extension point for attacks, and what attackers see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.shown import Shown
from lightning_fed.core.tree import Tensors


@final
@dataclass(frozen=True)
class Seen:
    """View of a round that attackers have who collude: everything.

    A row is all that one worker sends, its update (global minus local) and behind it what an algorithm has workers send
    besides, ``[size]``, of at least float32. Rows are in the order of the workers' names.

    Args:
        honest: The rows of the h honest workers, ``[h, size]``; where there is none in the cohort, those of ``own``, so
            h is never 0. Read only.
        own: The rows that the f attackers would send if they were honest, ``[f, size]``. Read only.
        honest_workers: The names of the former.
        attackers: The names of the latter.
        workers: The number of workers in the cohort, n: honest ones and attackers.
        round: The number of the round, for messages.
        generator: Decides what is drawn at random: a function of the run's seed and the cohort.
        memory: What the attack has put there in earlier rounds, by name; to be changed by putting new tensors in place
            of old ones. It lies in checkpoints, and a round that fails leaves it as it was.
    """

    honest: Tensor
    own: Tensor
    honest_workers: tuple[str, ...]
    attackers: tuple[str, ...]
    workers: int
    round: int
    generator: torch.Generator
    memory: Tensors = field(default_factory=dict)

    def normal(self, rows: int) -> Tensor:
        """Draw independent standard normal numbers, the same on every device.

        Args:
            rows: The number of rows.

        Returns:
            ``[rows, size]``, of the dtype and on the device of ``own``.
        """
        drawn = torch.randn(rows, self.own.shape[1], generator=self.generator, dtype=self.own.dtype)
        return drawn.to(self.own.device)


class Attack(Shown, ABC):
    """Rule by which attackers lie. It has settings only: what it remembers lies in ``Seen.memory``."""

    @abstractmethod
    def lies(self, seen: Seen) -> Tensor:
        """Return what the attackers send: a function of what they see, and of nothing else.

        It is asked only for cohorts in which there are attackers, on every process with the same rows.

        Args:
            seen: What they see.

        Returns:
            ``[f, size]``, one row for each attacker, or ``[size]``: all send the same. Finite, as a server drops what
            is not.
        """
