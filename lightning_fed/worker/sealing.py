"""The last step of the outbox under secure aggregation: numbers in rings take the place of all that a worker sends.

What is added is written down here once, for both sides: the order of vectors among the words, and the names of the
single numbers. ``docs/secure_aggregation.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import torch
from torch import Tensor

from lightning_fed.aggregation.cohort_sum import CohortSum
from lightning_fed.core.double import row_norms
from lightning_fed.core.rng import derive
from lightning_fed.core.tree import Tensors
from lightning_fed.privacy import AUDIENCES, Privacy
from lightning_fed.privacy.clipping import clip_scales, with_norms
from lightning_fed.privacy.run import released_numbers
from lightning_fed.secure import SecureAggregation, scalars
from lightning_fed.secure.parameters import Parameters
from lightning_fed.secure.ring import Ring
from lightning_fed.secure.settings import DELTA
from lightning_fed.transforms.compression.randomness import random_bytes
from lightning_fed.wire import Job, Updates
from lightning_fed.wire.logged import Shown
from lightning_fed.wire.sealed import Sealed, Sealer

WORKERS, WITHIN, WEIGHT, EXAMPLES, STEPS, LEFT_OUT = "workers", "within", "weight", "examples", "steps", "left out"
LOSS, METRIC, RATE = "loss", "metric/", "rate/"
WEIGHT_OF = "weight of "
"""Before the name of a mean: the sum of the weights of the workers that have a value for the mean."""

_ALWAYS = frozenset({WORKERS, WITHIN, WEIGHT, EXAMPLES, STEPS, LEFT_OUT, LOSS, WEIGHT_OF + LOSS})
"""The single numbers that every worker adds."""
_LONGEST_NAME = 1000


def are_names(names: Set[str]) -> bool:
    """Whether single numbers can have such names; they come from anyone, and all workers are sent them.

    Args:
        names: The names.
    """

    def is_one(name: str) -> bool:
        if len(name) > _LONGEST_NAME or any("\ud800" <= letter <= "\udfff" for letter in name):
            return False
        told = name.removeprefix(WEIGHT_OF)
        return name in _ALWAYS or (told.startswith((METRIC, RATE)) and {told, WEIGHT_OF + told} <= names)

    return names >= _ALWAYS and all(map(is_one, names))


class _Vector(NamedTuple):
    """A vector among the words.

    Args:
        name: ``"delta"``, the name of an algorithm's own, or ``"buffers/<name>"``.
        ring: Its numbers' ring.
        columns: Where they lie among the words.
    """

    name: str
    ring: Ring
    columns: slice


@final
@dataclass(frozen=True)
class Sealing(Sealer):
    """Seals updates, and reads the sum of a cohort's.

    Args:
        settings: The user's settings.
        cohort: The largest number of workers in a round.
        equally: Whether all workers count the same; else by their examples up to ``weight_cap``.
        promise: What is promised to the workers, which then says by how much they are shortened and what they count
            for; None: nothing.

    Raises:
        ValueError: If the settings set what the promise sets.
    """

    settings: SecureAggregation
    cohort: int
    equally: bool = True
    promise: Privacy | None = None

    def __post_init__(self) -> None:
        if self.promise is None or self.promise.unit != "worker":
            return
        kind = type(self.promise).__name__
        for name in ("clip", "weight_cap"):
            if getattr(self.settings, name) is not None:
                raise ValueError(
                    f"SecureAggregation({name}={getattr(self.settings, name)}): that is for {kind} to say, whose "
                    f"guarantee rests on it; leave {name}= out of SecureAggregation"
                )

    def check(self, job: Job) -> None:
        """Refuse before the first round what could not be sealed.

        Args:
            job: One such as workers will be sent.

        Raises:
            ValueError: Naming what does not fit, and the fix.
        """
        self.size(job, frozenset())

    @property
    def bits(self) -> int:
        return self.settings.bits

    @property
    def parameters(self) -> Parameters:
        """The rules of each round. Workers hold to them, so no sum has fewer shares of noise than is promised."""
        rules = self.settings.parameters(self.cohort)
        shares = 0 if self.promise is None else self.promise.least_replies()
        return rules if rules.least >= shares else replace(rules, least=shares)

    def size(self, job: Job, stays: Set[str]) -> int:
        return max((vector.columns.stop for vector in self._vectors(job, stays)), default=0)

    # ---- at a worker -------------------------------------------------------------------------------------------------

    def sealed(self, updates: Updates, job: Job) -> Updates:
        """Return updates of which nothing is left but sealed numbers.

        Args:
            updates: The updates of n workers.
            job: Theirs.

        Raises:
            ValueError: If something has moved that cannot be added.
        """
        self._check(updates, job)
        updates, joint = self._joint(updates, job)
        n, weight = len(updates.workers), self._weight(updates)
        words = torch.empty(n, self.size(job, updates.stays), dtype=torch.int32, device=job.model.device)
        within = torch.ones(n, dtype=torch.float64)
        for vector in self._vectors(job, updates.stays):
            rows = _rows(vector.name, updates, job)
            if self._is_noised:
                words[:, vector.columns] = vector.ring.exact(rows)
                continue
            norms, most = (row_norms(rows).cpu(), vector.ring.clip) if joint is None else joint
            if joint is None and not norms.isfinite().all():
                raise ValueError(
                    f"SecureAggregation: {vector.name!r} has NaN or Inf in it after the transforms, which would be in "
                    "the sum of all; see what a transform divides by"
                )
            within *= norms <= vector.ring.clip
            scales = weight * clip_scales(norms, most)
            chances = _chances(vector.name, updates, job, rows.shape[1])
            words[:, vector.columns] = vector.ring.encode(rows, chances, scales)
        numbers = self._numbers(updates, weight, within)
        return _emptied(updates, job, Sealed(words, {k: scalars.encode(v) for k, v in numbers.items()}, self.bits))

    @property
    def _is_noised(self) -> bool:
        """Whether updates have noise that is made of multiples of the ring's step."""
        return self.promise is not None and self.promise.unit == "worker" and self.promise.audience != AUDIENCES[0]

    def _joint(self, updates: Updates, job: Job) -> tuple[Updates, tuple[Tensor, float] | None]:
        """Return updates, and if all of their vectors are clipped together the norms, and to which norm."""
        ring = self._ring(job)
        if ring is None or self._is_noised:
            return updates, None
        updates, norms = with_norms(updates)
        return updates, (norms, ring.within(released_numbers(updates.delta.shape[1], updates.extra)))

    def _check(self, updates: Updates, job: Job) -> None:
        """Refuse what local training has moved, and no sum says by how much."""
        for name, rows in sorted(updates.buffers.items()):
            before = job.model.buffers.get(name)
            if name in updates.stays or name.endswith(_COUNTERS):
                continue
            if before is None or rows.shape[1:] != before.shape:
                what = "which is neither trained nor a buffer" if before is None else "which changes its shape"
                raise ValueError(
                    f"SecureAggregation: local training moves {name!r}, {what}, and only what all workers have alike "
                    "can be added; move it on the server, in on_train_batch_end of a callback"
                )
            if rows.is_floating_point() and self.settings.buffer_clip is not None:
                if not bool((rows.isfinite() | ~before.isfinite()).all()):  # such as the -inf of a mask
                    raise ValueError(
                        f"SecureAggregation: the buffer {name!r} has NaN or Inf in it, which cannot be added; keep it "
                        f"with the workers: algorithm=FedBN(personal=[{name!r}])"
                    )
            elif not _equal(rows, before):
                fix = "give buffer_clip=, the largest norm of such a change, or " if rows.is_floating_point() else ""
                why = "nothing says how far" if rows.is_floating_point() else f"numbers of {rows.dtype} have no mean"
                raise ValueError(
                    f"SecureAggregation: local training moves {name!r}, and {why}; {fix}keep it with the workers: "
                    f"algorithm=FedBN(personal=[{name!r}])"
                )

    def _weight(self, updates: Updates) -> Tensor:
        if self.promise is not None and self.promise.unit == "worker":
            return self.promise.weights(updates)
        counts = (updates.weight > 0).to(torch.float64)
        if self.equally:
            return counts
        assert self.settings.weight_cap is not None, "refused at the start"
        return (updates.weight / self.settings.weight_cap).clamp(0.0, 1.0)

    def _numbers(self, updates: Updates, weight: Tensor, within: Tensor) -> dict[str, Tensor]:
        one = torch.ones(len(updates.workers), dtype=torch.float64)
        numbers = {
            WORKERS: one,
            WITHIN: within,
            WEIGHT: weight,
            EXAMPLES: updates.examples.clamp(0.0, scalars.most(self.cohort)),
            STEPS: updates.steps.clamp(0.0, scalars.most(self.cohort)),
        }
        left_out = torch.zeros_like(one)
        means = {LOSS: updates.loss} | {METRIC + n: v for n, v in updates.metrics.items() if _is_mean(updates.shown, n)}
        for name, values in means.items():
            good = scalars.within(values, weight, self.settings.metric_range)
            left_out += (~good & ~values.isnan()).to(torch.float64)
            numbers[name] = torch.where(good, values * weight, 0.0)
            numbers[WEIGHT_OF + name] = torch.where(good, weight, 0.0)
        for name, values in updates.rates.items():
            good = scalars.within(values, one, self.settings.metric_range)
            numbers[RATE + name] = torch.where(good, values, 0.0)
            numbers[WEIGHT_OF + RATE + name] = good.to(torch.float64)
        return {**numbers, LEFT_OUT: left_out}

    # ---- at the server -----------------------------------------------------------------------------------------------

    def opened(self, words: Tensor, numbers: Mapping[str, float], job: Job, stays: Set[str]) -> CohortSum:
        """Return the updates that a sum of sealed numbers stands for.

        Args:
            words: The sum of words modulo ``2**bits``; int32 ``[d]``.
            numbers: The sums of single numbers, by name.
            job: The workers' job.
            stays: The parameters and buffers that do not travel.
        """
        model, ring = job.model, self._ring(job)
        sums = CohortSum(
            delta=torch.zeros(model.layout.size, dtype=torch.float64, device=model.device),
            buffers={},
            extra={
                name: torch.zeros(model.layout.size, dtype=torch.float64, device=model.device) for name in job.extra
            },
            weight=numbers.get(WEIGHT, 0.0),
            within=numbers.get(WITHIN, 0.0),
            workers=round(numbers.get(WORKERS, 0.0)),
            step=0.0 if ring is None else ring.step,
        )
        runs = _runs(job, stays)
        for vector in self._vectors(job, stays):
            values = vector.ring.decode(words[vector.columns])
            if vector.name.startswith(_BUFFERS):
                name = vector.name.removeprefix(_BUFFERS)
                sums.buffers[name] = values.view(model.buffers[name].shape)
                continue
            into = sums.delta if vector.name == DELTA else sums.extra[vector.name]
            begin = 0
            for run in runs:
                into[run] = values[begin : begin + run.stop - run.start]
                begin += run.stop - run.start
        return sums

    # ---- the order of vectors ----------------------------------------------------------------------------------------

    def _ring(self, job: Job) -> Ring | None:
        """The one ring of all that a worker sends under a promise; None: each vector has its own."""
        return None if self.promise is None else self.promise.ring(job, self.cohort, self.bits)

    def _vectors(self, job: Job, stays: Set[str]) -> Iterator[_Vector]:
        width = sum(run.stop - run.start for run in _runs(job, stays))
        begin, together = 0, self._ring(job)
        for name in (DELTA, *sorted(job.extra)):
            ring = together or Ring(self.settings.clip_of(name), self.cohort, self.bits)
            yield _Vector(name, ring, slice(begin, begin + width))
            begin += width
        if self.settings.buffer_clip is None:
            return
        ring = Ring(self.settings.buffer_clip, self.cohort, self.bits)
        for name, buffer in sorted(job.model.buffers.items()):
            if name not in stays and buffer.is_floating_point():
                yield _Vector(_BUFFERS + name, ring, slice(begin, begin + buffer.numel()))
                begin += buffer.numel()


_BUFFERS = "buffers/"
_COUNTERS = "num_batches_tracked"
"""BatchNorm's counters. Their sum has no meaning, and with a momentum they have no effect: they stay unchanged."""


def _is_mean(shown: Mapping[str, Shown], name: str) -> bool:
    """Whether what was logged under a name is a mean; a sum, a largest or a smallest value does not leave."""
    return name not in shown or shown[name].reduction == "mean"


def _equal(rows: Tensor, before: Tensor) -> bool:
    """Whether nothing has moved; what never was a number has not."""
    same = rows == before
    return bool((same | ((rows != rows) & (before != before))).all())


def _runs(job: Job, stays: Set[str]) -> list[slice]:
    """The columns of vectors that travel, neighbouring ones as one."""
    runs: list[slice] = []
    for name, place in job.model.layout.places.items():
        if name in stays:
            continue
        if runs and runs[-1].stop == place.start:
            runs[-1] = slice(runs[-1].start, place.stop)
        else:
            runs.append(place)
    return runs


def _rows(name: str, updates: Updates, job: Job) -> Tensor:
    """The rows of one vector, ``[n, m]``."""
    if name.startswith(_BUFFERS):
        buffer = name.removeprefix(_BUFFERS)
        before = job.model.buffers[buffer].to(torch.float64)
        change = updates.buffers[buffer].to(torch.float64) - before
        return torch.where(before.isfinite(), change, 0.0).flatten(1)
    rows = updates.delta if name == DELTA else updates.extra[name]
    runs = _runs(job, updates.stays)
    if len(runs) == 1:
        return rows[:, runs[0]]
    return torch.cat([rows[:, run] for run in runs], dim=1) if runs else rows[:, :0]


def _chances(name: str, updates: Updates, job: Job, length: int) -> Tensor:
    """Numbers to round by, uint8 ``[n, length]``: by seed, cohort, worker and vector, whoever else is in the stack."""
    drawn = torch.empty(len(updates.workers), length, dtype=torch.uint8, device=job.model.device)
    for row, worker in zip(drawn, updates.workers, strict=True):
        row.copy_(random_bytes(derive(job.seed, job.cohort, worker, "sealing", name), length, job.model.device))
    return drawn


def _emptied(updates: Updates, job: Job, sealed: Sealed) -> Updates:
    n, model = len(updates.workers), job.model
    nothing = torch.zeros(1, 1, dtype=model.layout.dtype, device=model.device).expand(n, model.layout.size)
    buffers: Tensors = {name: buffer.expand(n, *buffer.shape) for name, buffer in model.buffers.items()}
    one = torch.ones(n, dtype=torch.float64)
    return replace(
        updates,
        delta=nothing,
        extra=dict.fromkeys(updates.extra, nothing),
        buffers=buffers,
        examples=one,
        weight=one,
        loss=torch.full_like(one, float("nan")),
        steps=one,
        metrics={},
        metric_states={},
        rates={},
        sealed=sealed,
    )
