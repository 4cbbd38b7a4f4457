"""Availability of the workers of a cohort: real workers are absent, slow, or lost."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

from lightning_fed.core.arguments import flag, instance, number, one_of, settle
from lightning_fed.core.rng import derive
from lightning_fed.core.shown import Shown

_OUTCOMES = ("replies", "absent", "lost")


class Response(NamedTuple):
    """Response of a worker to a job.

    Args:
        outcome: ``"replies"``; ``"absent"``: the worker does not begin; ``"lost"``: the worker receives the model, but
            its update never arrives, and its own state stays as it was.
        work: The fraction of its local steps that the worker takes; below 1 for a straggler. At least one step is
            taken.
    """

    outcome: Literal["replies", "absent", "lost"] = "replies"
    work: float = 1.0


class Availability(Shown, ABC):
    """Base of the models of availability: functions of the worker's name, the cohort's number and the seed only.

    A run is therefore reproducible and can be resumed without any stored state.
    """

    @abstractmethod
    def respond(self, worker: str, number: int, seed: int) -> Response:
        """Return the response of a worker to a job.

        Args:
            worker: The worker's name.
            number: The running number of the cohort, from 0.
            seed: The seed of the run.
        """


def asked(availability: Availability, worker: str, cohort: int, seed: int) -> Response:
    """Return the response of a worker, and refuse an invalid one.

    Args:
        availability: The model of availability.
        worker: The worker's name.
        cohort: The cohort's running number.
        seed: The seed of the run.

    Raises:
        TypeError: If ``respond`` does not return a Response.
        ValueError: If the outcome is unknown, or ``work`` is not a fraction.
    """
    response = availability.respond(worker, cohort, seed)
    name = f"{type(availability).__name__}.respond({worker!r})"
    instance(name, response, Response, "Response()")
    one_of(f"{name}.outcome", response.outcome, _OUTCOMES)
    number(f"{name}.work", response.work, least=0, most=1)
    return response


@final
@dataclass(frozen=True)
class RandomAvailability(Availability):
    """Makes each worker of each cohort absent, lost or slow with given probabilities, independently of all others.

    ``stragglers=0.9`` is the setting of FedProx (Li et al. 2020, section 5.2), where the part of the work that a
    straggler does is uniformly distributed; with ``drop_stragglers=True`` it is FedAvg's setting in that paper.

    Args:
        absent: The probability that a worker does not begin.
        lost: The probability that the update of a worker that has begun never arrives.
        stragglers: The probability that a worker that replies does only a part of its work.
        drop_stragglers: Whether stragglers count as lost; if False, the server waits for them.

    Raises:
        TypeError: If a probability is not a number, or ``drop_stragglers`` is not a bool.
        ValueError: If a probability does not lie in [0, 1].

    >>> RandomAvailability(absent=1.0).respond("bob", number=0, seed=0).outcome
    'absent'
    """

    absent: float = 0.0
    lost: float = 0.0
    stragglers: float = 0.0
    drop_stragglers: bool = False

    def __post_init__(self) -> None:
        for name in ("absent", "lost", "stragglers"):
            says = " is a probability, and must lie in [0, 1]"
            settle(self, **{name: number(name, getattr(self, name), least=0, most=1, says=says)})
        settle(self, drop_stragglers=flag("drop_stragglers", self.drop_stragglers))

    def respond(self, worker: str, number: int, seed: int) -> Response:
        draw = random.Random(derive(seed, number, worker, "availability"))
        absent, lost, slow, work = (draw.random() for _ in range(4))
        if absent < self.absent:
            return Response("absent")
        if lost < self.lost:
            return Response("lost")
        if slow < self.stragglers:
            return Response("lost") if self.drop_stragglers else Response(work=work)
        return Response()
