"""The seeds of a run, their purpose, and whether they follow ``pl.seed_everything``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lightning_fed.core.processes import Processes
from lightning_fed.core.rng import global_seed


@final
class RunSeed:
    """The seed of all randomness of training but the initial weights.

    The seed is fixed when a fit begins. Otherwise user code that calls ``pl.seed_everything`` on a worker, for example
    in ``setup()``, would change the next cohort.

    Args:
        given: The seed; None: follow ``pl.seed_everything``.
    """

    def __init__(self, given: int | None) -> None:
        self.follows = given is None
        self._value = given

    @property
    def value(self) -> int:
        """The seed; before the first run, if none is given, that of ``pl.seed_everything``, and 0 if there is none."""
        return (global_seed() or 0) if self._value is None else self._value

    def settle(self, processes: Processes, anew: bool) -> int:
        """Return the seed of a run that begins, the same on every process.

        Args:
            processes: The processes of the run; the seed of the first counts.
            anew: Whether a fit begins. An evaluation after a fit keeps the fit's seed.
        """
        if self.follows and (anew or self._value is None):
            self._value = processes.gather(global_seed() or 0)[0]
        return self.value


@final
@dataclass(frozen=True)
class Seeds:
    """The seeds of a run.

    Args:
        everything: The seed of ``pl.seed_everything``, for the initial weights; None: it was not called.
        training: The seed of cohorts, of the workers' datamodules, of batch orders and of dropout.
        follows: Whether ``training`` follows ``everything``.
        partition: The seed with which data were partitioned over workers, or generated; None: there is none.
        chooses_in_secret: Whether cohorts are drawn with a secret seed, as a promise requires.
    """

    everything: int | None
    training: int
    follows: bool
    partition: int | None
    chooses_in_secret: bool = False

    def __str__(self) -> str:
        """Return all seeds in one line.

        >>> str(Seeds(everything=3, training=3, follows=True, partition=0))
        'seeds: 3 decides the initial weights, cohorts, batch orders and dropout (pl.seed_everything); 0 the partition'
        >>> str(Seeds(everything=None, training=7, follows=False, partition=None))
        'seeds: none decides the initial weights (no pl.seed_everything); 7 cohorts, batch orders and dropout'
        """
        drawn = "batch orders and dropout" if self.chooses_in_secret else "cohorts, batch orders and dropout"
        if self.everything is None:
            says = f"none decides the initial weights (no pl.seed_everything); {self.training} {drawn}"
        elif self.follows and self.everything == self.training:
            says = f"{self.training} decides the initial weights, {drawn} (pl.seed_everything)"
        else:
            says = f"{self.everything} decides the initial weights (pl.seed_everything); {self.training} {drawn}"
        partition = "" if self.partition is None else f"; {self.partition} the partition"
        secret = "; cohorts are drawn by a secret one" if self.chooses_in_secret else ""
        return f"seeds: {says}{partition}{secret}"
