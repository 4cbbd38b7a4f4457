"""The extension point for promises of privacy, and for their enforcement in a round."""

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
"""The audiences from which a promise hides, the smallest first; hidden from one means hidden from all smaller ones."""


class Privacy(ABC):
    """Base of the promises of privacy. A promise holds settings only; a :class:`PrivateRun` holds what changes."""

    noise_multiplier: float | None
    """The noise's standard deviation in units of the clipping bound; None: the noise that ``epsilon`` requires."""
    epsilon: float | None
    """The budget ε: training stops before the round that would exceed it. None: no budget."""
    delta: float | None
    """δ; None: ``population ** -1.1``."""
    accountant: Kind | None
    """The accountant of ε; None: ``"pld"`` where possible, else ``"rdp"``."""
    release_metrics: bool
    """Whether to log losses, metrics and counts of workers, which no guarantee covers."""
    insecure_deterministic_noise: bool
    """Whether to draw noise from the run's seed, for tests. Such a run is not private, and is marked accordingly."""

    sampler: ClassVar[type[CohortSampler] | None] = None
    """The class of the default cohort sampler."""

    unit: ClassVar[Literal["worker", "example"]] = "worker"
    """The hidden unit: a worker or an example."""

    audience: ClassVar[str] = AUDIENCES[0]
    """The audience from which the unit is hidden: one of ``AUDIENCES``."""

    any_aggregator: ClassVar[bool] = False
    """Whether updates are private when they leave the workers, so that any aggregator may follow."""

    counts_trainings: ClassVar[bool] = False
    """Whether each local training is a release; an algorithm may then train a worker only once in a round."""

    @abstractmethod
    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        """Return the mechanism with which the accountant counts one round.

        Raises:
            ValueError: If the promise is impossible in this setting.
        """

    def mechanism_alone(self, noise_multiplier: float, setting: Setting) -> Mechanism | None:
        """Return the mechanism of a single worker's message in a round, for observers of that message.

        A node that does not trust the server counts this mechanism.

        Args:
            noise_multiplier: The noise multiplier of the round.
            setting: The setting of the promise.

        Returns:
            The mechanism; None: messages carry no noise of their own, and nothing is hidden from the server.
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
        """Return the aggregator that enforces the promise; None: any in which workers count equally."""

    def at_worker(self, updates: Updates, job: Job) -> Updates:
        """Enforce the promise at the workers, after all transforms.

        Args:
            updates: The updates of n workers.
            job: The job that the server sent, with ``Job.promise``.

        Raises:
            ValueError: If anything but trained parameters and buffers has changed.
        """
        return self.worker(self.hidden(updates, job), job)

    def hidden(self, updates: Updates, job: Job) -> Updates:
        """Return updates reduced to what the promise covers, still without noise.

        Buffers stay with the workers, and so do losses, metrics and numbers of steps and examples unless they are
        released. Workers count equally, since a weight would reveal a number of examples.

        Args:
            updates: The updates of n workers.
            job: The job that the server sent.

        Raises:
            ValueError: If anything but trained parameters and buffers has changed.
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
        """Refuse a module whose local training cannot satisfy the promise.

        Args:
            module: The user's module; when a fit begins, in the Trainer's precision.

        Raises:
            ValueError: Naming the part and the fix.
        """

    @property
    def needs_examples(self) -> bool:
        """Whether a trusted server requires the workers' numbers of examples."""
        return False

    def worker(self, updates: Updates, job: Job) -> Updates:
        """Clip updates and add noise, if the promise assigns this to the workers; see :meth:`at_worker`."""
        return updates

    def server(self, aggregate: Aggregate, job: Job) -> Aggregate:
        """Return the aggregate with the unchanged global buffers; the mirror image of :meth:`at_worker`."""
        # Averaging identical buffers can change them by a rounding error, so the originals are restored.
        return replace(aggregate, buffers={name: buffer.clone() for name, buffer in job.model.buffers.items()})

    def least_replies(self) -> int:
        """The number of replies below which a round must release nothing."""
        return 1

    def releases(self, local: LocalTraining) -> int:
        """Return the number of releases of :meth:`mechanism` in a round.

        Args:
            local: The length of local training.
        """
        return 1

    def job(self, job: Job, run: PrivateRun) -> Job:
        """Return the job with the numbers that workers require for the promise."""
        return replace(job, promise={"bound": run.bound, "noise_multiplier": run.noise_multiplier})

    def weights(self, updates: Updates) -> Tensor:
        """Return each worker's weight in the sum, from 0 to 1 for any reported number; float64 ``[n]``.

        Args:
            updates: The updates of n workers, as they leave the workers.
        """
        return torch.ones_like(updates.weight)

    def ring(self, job: Job, workers: int, bits: int) -> Ring | None:
        """Return the ring of secure aggregation, one for everything that a worker sends.

        If :attr:`audience` is those who see the model, workers clip what they send to
        ``Ring.within``; else it includes noise, and consists of multiples of the step.

        Args:
            job: The job that the server sent, with ``Job.promise``.
            workers: The largest number of workers in a round.
            bits: The bits of a number.

        Returns:
            The ring; None: the promise does not bound the norm of an update, so ``SecureAggregation(clip=)`` must.

        Raises:
            ValueError: If the promise cannot be kept in a sum of so few bits, or in any sum.
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
            setting: The setting of the promise.
            noise_multiplier: The noise multiplier of a resumed run; None: the configured one, or the one that the
                budget requires.

        Raises:
            ValueError: If the promise is impossible in this setting.
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
        clip: The clipping bound, or a checked AdaptiveClip.

    Raises:
        TypeError: If an argument has the wrong type; the message names the argument.
        ValueError: If an argument is out of range; the message names the argument and the fix.
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
