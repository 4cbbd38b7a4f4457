"""The seeds of a run: which there are, what each decides, and whether they follow ``pl.seed_everything``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lightning_fed.core.processes import Processes
from lightning_fed.core.rng import global_seed


@final
class RunSeed:
    """The seed of all randomness of training but the initial weights.

    It is settled when a fit begins: user code that calls ``pl.seed_everything`` on a worker, as many a ``setup()``
    does, would otherwise change whom the next round chooses.

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
            processes: Those of the run; the first one's seed counts.
            anew: Whether it is a fit. An evaluation afterwards keeps the seed of the fit.
        """
        if self.follows and (anew or self._value is None):
            self._value = processes.gather(global_seed() or 0)[0]
        return self.value


@final
@dataclass(frozen=True)
class Seeds:
    """The seeds of a run.

    Args:
        everything: That of ``pl.seed_everything``, which decides the initial weights; None: it was not called.
        training: That of cohorts, of what workers' datamodules draw, of batch orders and of dropout.
        follows: Whether ``training`` follows ``everything``.
        partition: That by which data were dealt out to workers, or drawn; None: they were not.
        chooses_in_secret: Whether cohorts are drawn by a seed that nobody is told, as a promise needs it.
    """

    everything: int | None
    training: int
    follows: bool
    partition: int | None
    chooses_in_secret: bool = False

    def __str__(self) -> str:
        """Say all of them in one line.

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
