"""The extension point for attacks, and the attackers' view of a round."""

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
    """View of a round by colluding attackers, who see everything.

    A row holds everything that one worker sends: its delta (global minus local), followed by an algorithm's extra
    vectors, ``[size]``, of at least float32. Rows are in the order of the workers' names.

    Args:
        honest: The rows of the h honest workers, ``[h, size]``; in a cohort without them the rows of ``own``, so h is
            never 0. Read only.
        own: The rows that the f attackers would send if they were honest, ``[f, size]``. Read only.
        honest_workers: The names of the honest workers.
        attackers: The names of the attackers.
        workers: The number of workers in the cohort, n: honest ones and attackers.
        round: The number of the round, for messages.
        generator: The source of randomness: a function of the run's seed and the cohort.
        memory: The attack's state from earlier rounds, by name; changed by replacing tensors. Checkpoints hold it, and
            a round that fails leaves it unchanged.
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
    """Base of the attacks. An attack holds settings only; its state is in ``Seen.memory``."""

    @abstractmethod
    def lies(self, seen: Seen) -> Tensor:
        """Return the attackers' rows: a function of their view only.

        It is called only for cohorts with attackers, on every process with the same rows.

        Args:
            seen: The attackers' view.

        Returns:
            ``[f, size]``, one row for each attacker, or ``[size]``: all send the same. The numbers must be finite,
            since a server drops other updates.
        """
