"""Availability of the workers of a cohort that are asked to train: real ones are away, slow, or get lost."""

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
    """Response of a worker that is asked to train.

    Args:
        outcome: ``"replies"``; ``"absent"``: it does not begin; ``"lost"``: it has received the model, but its update
            never arrives (and it remembers nothing of the round).
        work: The fraction of its local steps that it does; below 1 for a straggler. At least one step is done.
    """

    outcome: Literal["replies", "absent", "lost"] = "replies"
    work: float = 1.0


class Availability(Shown, ABC):
    """Says what each worker does, as a function of its name, the cohort's running number and the seed alone.

    That makes a run repeatable and resumable without any state.
    """

    @abstractmethod
    def respond(self, worker: str, number: int, seed: int) -> Response:
        """Return what a worker does when it is asked to train.

        Args:
            worker: Its name.
            number: The running number of the cohort, from 0.
            seed: The seed of the run.
        """


def asked(availability: Availability, worker: str, cohort: int, seed: int) -> Response:
    """Ask what a worker does, and refuse an answer that is none.

    Args:
        availability: Who answers.
        worker: The worker's name.
        cohort: The cohort's running number.
        seed: The seed of the run.

    Raises:
        TypeError: If the answer is no Response.
        ValueError: If its outcome is not known, or its part of the work no fraction.
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
    """Every worker of every cohort is absent, lost or slow with given probabilities, independently of all others.

    With ``stragglers=0.9`` it is the setting of FedProx (Li et al. 2020, section 5.2), where stragglers do any part of
    their work, each as likely; with ``drop_stragglers=True`` it is what FedAvg makes of it there.

    Args:
        absent: The probability that a worker does not begin.
        lost: The probability that the update of a worker that has begun never arrives.
        stragglers: The probability that a worker that replies does only a part of its work.
        drop_stragglers: Whether stragglers are waited for, or count as lost.

    Raises:
        TypeError: If a probability is no number, or ``drop_stragglers`` neither True nor False.
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
