"""Simulated runs of a promise, with a canary among the workers and without it, as an attacker observes them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.privacy.accounting import Accountant
from lightning_fed.privacy.attacks import Numbers
from lightning_fed.privacy.base import Privacy
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.selection import CohortSampler
from lightning_fed.wire import GlobalModel, Job, Updates

_HUGE = 1e6  # in clipping bounds: larger than anything that passes the clipping


@final
@dataclass
class CanaryRuns:
    """Simulates runs with the canary and without it, and records the attacker's observations.

    Args:
        privacy: The promise.
        setting: The setting of the promise, with the number of simulated rounds.
        sampler: The sampler of cohorts; None: all workers take part.
        dimension: The number of parameters.
        dtype: The dtype of the parameters.
        noise_multiplier: The noise multiplier of the runs.
        accountant: Charged as in a run; its relation defines the canary's neighbour.
    """

    privacy: Privacy
    setting: Setting
    sampler: CohortSampler | None
    dimension: int
    dtype: torch.dtype
    noise_multiplier: float
    accountant: Accountant

    def played(self, there: bool, trials: int) -> Numbers:
        """Return the observations of runs: ``[trials, rounds, 4]``, see ``privacy.attacks``."""
        with torch.no_grad():
            return np.asarray([self._run(there) for _ in range(trials)], dtype=np.float64)

    def _run(self, there: bool) -> list[list[float]]:
        run = self.privacy.start(self.setting, self.noise_multiplier)
        aggregator = self.privacy.aggregator(run)
        # As in a real run: the cohorts that a run's seed chooses are not secret.
        seed = self.setting.seed if run.insecure else int.from_bytes(os.urandom(8), "little") >> 1
        seen = []
        for number in range(self.setting.rounds or 1):
            run.cohort = number
            run.charge()
            chosen = self.sampler is None or 0 in self.sampler.sample(
                self.setting.population, self.setting.cohort_size, number, seed
            )
            seen.append(self._round(run, aggregator, there, chosen))
        return seen

    def _round(self, run: PrivateRun, aggregator: Aggregator[Any] | None, there: bool, chosen: bool) -> list[float]:
        job = Job(run.cohort, run.cohort, self.setting.seed, self._model, self.setting.local)
        job = self.privacy.job(job, run)
        if job.record_privacy is not None:
            raise ValueError(
                f"audit() plays workers, and {type(self.privacy).__name__} hides their examples in local training; "
                "use audit_fits(), which attacks whole fits"
            )
        bound = run.bound
        trusted = aggregator is not None and aggregator.always  # the server adds the noise
        updates = self._updates(job, self._direction * bound * _HUGE, there, chosen, trusted)
        if updates is not None:
            updates = self.privacy.at_worker(updates, job)
        said, release = 0.0, self._model.vector
        if updates is not None and chosen and not trusted and not self.privacy.release_metrics:
            said = float(torch.stack([updates.loss[0], updates.examples[0], updates.steps[0]]).nan_to_num().sum())
        if aggregator is None:
            release = updates.delta[0] if updates is not None and chosen else release
        elif trusted or updates is not None:
            folded = aggregator.fold([] if updates is None else [updates], job)
            aggregate = self.privacy.server(aggregator.finish(folded, Processes()), job)
            replies = 0 if updates is None else len(updates.workers)
            release = aggregate.delta * aggregator.count(replies)
        pointing = float(release.double() @ self._direction) / bound
        return [pointing, math.log(run.bound), said, finest_bit(release.numpy())]

    @cached_property
    def _model(self) -> GlobalModel:
        return GlobalModel({"w": torch.zeros(self.dimension, dtype=self.dtype)})

    @cached_property
    def _direction(self) -> Tensor:
        return torch.full((self.dimension,), self.dimension**-0.5, dtype=torch.float64)

    def _updates(self, job: Job, canary: Tensor, there: bool, chosen: bool, trusted: bool) -> Updates | None:
        """Return the canary's or its neighbour's update, and zeros of the fewest others that a round requires."""
        rows = []
        if chosen and there:
            rows.append(canary)
        elif chosen and self.accountant.relation == "replace-one":
            rows.append(-canary)
        elif chosen and not trusted:  # a worker's contribution without its update: only its noise
            rows.append(torch.zeros_like(canary))
        others = max(self.privacy.least_replies() - chosen, min(1, self.setting.cohort_size - chosen))
        rows += [torch.zeros_like(canary)] * others
        if not rows:
            return None
        numbers = torch.ones(len(rows), dtype=torch.float64)
        if chosen and there:
            numbers[0] = _HUGE  # its loss and its numbers of examples and steps must be hidden too
        names = tuple(f"w{i}" for i in range(len(rows)))
        return Updates(job.cohort, names, torch.stack(rows).to(self.dtype), {}, numbers, numbers, numbers, numbers)


def finest_bit(release: Any) -> float:
    """Return the exponent of the lowest bit that is set in any number: noise on a lattice sets no lower bit.

    The last two bits of a number are ignored, since multiplying a mean by its denominator rounds them.
    """
    digits = np.finfo(release.dtype).nmant - 1
    mantissas, exponents = np.frexp(release[release != 0].astype(np.float64))
    whole = np.rint(np.ldexp(mantissas, digits)).astype(np.int64)
    lowest = np.log2(whole & -whole) + exponents - digits
    return float(lowest.min()) if len(lowest) else 0.0
