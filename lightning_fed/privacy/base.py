"""The extension point for guarantees of privacy: what is promised, and how a round keeps the promise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.arguments import flag, number, one_of, settle
from lightning_fed.privacy.accounting import Accountant, Kind, tightest
from lightning_fed.privacy.calibration import noise_for
from lightning_fed.privacy.clipping import AdaptiveClip
from lightning_fed.privacy.mechanisms import Mechanism
from lightning_fed.privacy.noise import Noise
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.secure.ring import Ring
from lightning_fed.selection import CohortSampler
from lightning_fed.wire import Aggregate, Job, LocalTraining, Updates

AUDIENCES = (
    "everyone who sees the model",
    "everyone who sees the sum of a cohort, the server too",
    "everyone but the worker itself",
)
"""From whom a promise hides, the smallest circle first; what is hidden from a larger one is hidden from a smaller."""


class Privacy(ABC):
    """Promise to the workers. Settings only: what changes over rounds lies in a :class:`PrivateRun`."""

    noise_multiplier: float | None
    """The noise's standard deviation in units of the clipping bound; None: as much as ``epsilon`` needs."""
    epsilon: float | None
    """The budget ε: training stops before the round that would exceed it. None: no budget."""
    delta: float | None
    """δ; None: ``population ** -1.1``."""
    accountant: Kind | None
    """How ε is computed; None: by ``"pld"`` where that is possible, else by ``"rdp"``."""
    release_metrics: bool
    """Whether losses, metrics and counts of workers are shown, although no guarantee covers them."""
    insecure_deterministic_noise: bool
    """Whether noise comes from the seed of the run, for tests. Such a run is not private, and is marked so."""

    sampler: ClassVar[type[CohortSampler] | None] = None
    """The kind of cohort sampler that is taken if the user has chosen none."""

    unit: ClassVar[Literal["worker", "example"]] = "worker"
    """The thing that is hidden."""

    audience: ClassVar[str] = AUDIENCES[0]
    """From whom: one of ``AUDIENCES``."""

    any_aggregator: ClassVar[bool] = False
    """Whether updates are private when they leave the workers, so that any aggregator may follow."""

    counts_trainings: ClassVar[bool] = False
    """Whether each local training is what is released, so that no algorithm may train a worker again in a round."""

    @abstractmethod
    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        """Return the mechanism by which the accountant counts one round.

        Raises:
            ValueError: If nothing can be promised in this setting.
        """

    def mechanism_alone(self, noise_multiplier: float, setting: Setting) -> Mechanism | None:
        """Return the mechanism of what one worker sends in a round, for those who see it alone.

        That is what a node can count which does not trust the server.

        Args:
            noise_multiplier: That of the round.
            setting: What the promise is made for.

        Returns:
            The mechanism; None: what leaves a worker has no noise of its own, and nothing is hidden from the server.
        """
        return self.mechanism(noise_multiplier, setting) if self.audience == AUDIENCES[2] else None

    @abstractmethod
    def bound(self) -> float:
        """The clipping bound of the first round."""

    @property
    def moving(self) -> bool:
        """Whether the clipping bound changes over rounds."""
        return False

    @abstractmethod
    def aggregator(self, run: PrivateRun) -> Aggregator[Any] | None:
        """The aggregator that keeps the promise; None: any in which workers count equally."""

    def at_worker(self, updates: Updates, job: Job) -> Updates:
        """Keep the promise at the workers: the last step, after all transforms.

        Args:
            updates: The updates of n workers.
            job: What the server sent, with :attr:`Job.promise`.

        Raises:
            ValueError: If something else than trained parameters and buffers has moved.
        """
        return self.worker(self.hidden(updates, job), job)

    def hidden(self, updates: Updates, job: Job) -> Updates:
        """Return updates of which only that is left which the promise covers, as yet without noise.

        Buffers stay with the workers. Losses, metrics and numbers of steps and examples too, unless they are released.
        Workers count equally, since a weight would be a number of examples.

        Args:
            updates: The updates of n workers.
            job: What the server sent.

        Raises:
            ValueError: If something else than trained parameters and buffers has moved.
        """
        for name in sorted(updates.buffers.keys() - job.model.buffers.keys()):
            raise ValueError(
                f"{type(self).__name__}: local training moves {name!r}, which is not trained, and no noise covers "
                "it; move it on the server, in on_train_batch_end of a callback, or train without privacy="
            )
        n = len(updates.workers)
        buffers = {name: buffer.expand(n, *buffer.shape) for name, buffer in job.model.buffers.items()}
        weight = torch.ones_like(updates.weight)
        updates = replace(updates, buffers=buffers, stays=updates.stays.union(buffers), weight=weight)
        if not self.release_metrics:
            nothing = torch.full((n,), math.nan, dtype=torch.float64)
            examples = updates.examples if self.needs_examples else torch.ones_like(nothing)
            updates = replace(updates, loss=nothing, steps=torch.ones_like(nothing), examples=examples)
            updates = replace(updates, metrics={}, shown={}, metric_states={}, rates={})
        return updates

    def check_module(self, module: nn.Module) -> None:  # noqa: B027 - most promises hold for every module
        """Refuse a module in whose local training the promise cannot be kept.

        Args:
            module: The user's module; when a fit begins, in the Trainer's precision.

        Raises:
            ValueError: Naming the part and the fix.
        """

    @property
    def needs_examples(self) -> bool:
        """Whether a server that is trusted has to learn the workers' numbers of examples."""
        return False

    def worker(self, updates: Updates, job: Job) -> Updates:
        """Clip and noise updates, if the promise says that workers do; see :meth:`at_worker`."""
        return updates

    def server(self, aggregate: Aggregate, job: Job) -> Aggregate:
        """Return the aggregate with the global buffers, which have not moved; the mirror image of :meth:`at_worker`."""
        # Averaging identical buffers can change them by a rounding error, so the originals are restored.
        return replace(aggregate, buffers={name: buffer.clone() for name, buffer in job.model.buffers.items()})

    def least_replies(self) -> int:
        """The number of replies below which a round must release nothing."""
        return 1

    def releases(self, local: LocalTraining) -> int:
        """Return how often a round releases :meth:`mechanism`.

        Args:
            local: How long workers train.
        """
        return 1

    def job(self, job: Job, run: PrivateRun) -> Job:
        """Return the job with the numbers that workers need to keep the promise."""
        return replace(job, promise={"bound": run.bound, "noise_multiplier": run.noise_multiplier})

    def weights(self, updates: Updates) -> Tensor:
        """Return for what each worker counts in the sum, from 0 to 1, whatever it claims; float64 ``[n]``.

        Args:
            updates: The updates of n workers, as they leave them.
        """
        return torch.ones_like(updates.weight)

    def ring(self, job: Job, workers: int, bits: int) -> Ring | None:
        """Return the ring in which updates are added under secure aggregation, all that a worker sends in one.

        Where :attr:`audience` is those who see the model, workers shorten what they send to
        :meth:`~lightning_fed.secure.ring.Ring.within`; else it has its noise, and is made of multiples of the step.

        Args:
            job: What the server sent, with :attr:`Job.promise`.
            workers: The largest number of workers in a round.
            bits: The bits of a number.

        Returns:
            The ring; None: what is promised says nothing of the norm of an update, so ``SecureAggregation(clip=)`` has
            to.

        Raises:
            ValueError: If what is promised cannot be kept in a sum of so few bits, or in no sum at all.
        """
        if self.unit == "worker":
            raise ValueError(
                f"{type(self).__name__} does not go with secure_aggregation=: it does not say how its updates are "
                "added; leave out one of the two, or define ring()"
            )
        return None

    def period(self, setting: Setting) -> int:
        """The number of rounds for which :meth:`mechanism` is one charge."""
        return 1

    def start(self, setting: Setting, noise_multiplier: float | None = None) -> PrivateRun:
        """Begin a run.

        Args:
            setting: What the promise is made for.
            noise_multiplier: That of the run that goes on here; None: what is asked for, or what the budget needs.

        Raises:
            ValueError: If nothing can be promised in this setting.
        """
        delta = setting.population**-1.1 if self.delta is None else self.delta
        if delta >= 1:
            raise ValueError(f"{type(self).__name__}: for {setting.population} worker say delta=, such as delta=1e-5")
        kind = self.accountant
        if kind is None:
            kind = tightest(self.mechanism(1.0, setting))
        if noise_multiplier is None:
            noise_multiplier = self.noise_multiplier
        if noise_multiplier is None:
            assert self.epsilon is not None, "refused by check_settings"
            if setting.rounds is None:
                raise ValueError(
                    f"{type(self).__name__}(epsilon={self.epsilon}) needs to know for how many rounds: give the "
                    "Trainer max_steps or max_epochs, or say noise_multiplier="
                )
            noise_multiplier = noise_for(
                self.epsilon,
                delta,
                math.ceil(setting.rounds / self.period(setting)) * self.releases(setting.local),
                lambda z: self.mechanism(z, setting),
                kind,
            )
        return PrivateRun(
            setting=setting,
            mechanism=self.mechanism(noise_multiplier, setting),
            accountant=Accountant(kind),
            noise_multiplier=noise_multiplier,
            bound=self.bound(),
            delta=delta,
            budget=self.epsilon,
            noise=Noise(setting.seed if self.insecure_deterministic_noise else None),
            insecure=self.insecure_deterministic_noise,
            moving=self.moving,
            period=self.period(setting),
            releases=self.releases(setting.local),
        )


def check_settings(privacy: Privacy, clip: object) -> None:
    """Refuse settings that are out of range.

    Args:
        privacy: The settings.
        clip: The clipping bound, or an AdaptiveClip, which has been checked.

    Raises:
        TypeError: If one of them is of a wrong type; it names the argument.
        ValueError: If one of them is out of range; it names the argument and the fix.
    """
    name = type(privacy).__name__
    if privacy.noise_multiplier is None and privacy.epsilon is None:
        raise ValueError(f"{name} needs noise_multiplier= (how much noise) or epsilon= (how much may be spent)")
    moves = isinstance(clip, AdaptiveClip) and privacy.moving
    says = " must be positive and finite: no noise, no privacy"
    settle(
        privacy,
        clip=clip if moves else number("clip", clip, above=0, owner=privacy),
        noise_multiplier=_given(number, privacy, "noise_multiplier", above=0, says=says),
        epsilon=_given(number, privacy, "epsilon", above=0),
        delta=_given(number, privacy, "delta", above=0, below=1, says=" must lie between 0 and 1"),
        accountant=_given(one_of, privacy, "accountant", choices=get_args(Kind)),
        release_metrics=flag("release_metrics", privacy.release_metrics, owner=privacy),
        insecure_deterministic_noise=flag(
            "insecure_deterministic_noise", privacy.insecure_deterministic_noise, owner=privacy
        ),
    )


def _given(check: Callable[..., object], privacy: Privacy, name: str, **bounds: Any) -> object:
    value = getattr(privacy, name)
    return None if value is None else check(name, value, owner=privacy, **bounds)
