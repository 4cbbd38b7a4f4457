"""The changing part of a private run: what is spent, the clipping bound, and where noise comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, final

from lightning_fed.privacy.account import Account, fresh_name
from lightning_fed.privacy.accounting import Accountant
from lightning_fed.privacy.calibration import rounds_for
from lightning_fed.privacy.ledger import Ledger
from lightning_fed.privacy.mechanisms import RELATIONS, Mechanism, Relation
from lightning_fed.privacy.noise import Noise
from lightning_fed.selection import CohortSampler
from lightning_fed.wire import LocalTraining, RoundError


class Setting(NamedTuple):
    """The settings of a run on which a guarantee depends.

    Args:
        population: The number of workers.
        cohort_size: The number of workers in a round; with Poisson sampling the expected one.
        sampling: The class of the sampler, which declares how it draws cohorts; None: everyone takes part.
        rounds: How many rounds are planned; None: without end.
        seed: That of the run. Noise depends on it only if that was asked for.
        local: How long workers train.
        separation: After how many rounds a worker may take part again; see :meth:`CohortSampler.separation`.
        dimension: How many numbers a worker sends that are noised; None: not known, and a promise of which the cost
            depends on it cannot be kept.
    """

    population: int
    cohort_size: int
    sampling: type[CohortSampler] | None
    rounds: int | None
    seed: int
    local: LocalTraining = LocalTraining()
    separation: int = 1
    dimension: int | None = None


def released_numbers(size: int, extra: Collection[str]) -> int:
    """Return how many numbers a worker sends that are clipped and noised together.

    Args:
        size: Those of its update.
        extra: The names of what an algorithm has workers send besides, each as long.
    """
    return size * (1 + len(extra))


def neighbours(relation: Relation, unit: Literal["worker", "example"]) -> str:
    """Return the sentence about which two populations are hard to tell apart.

    Numbers of workers and of examples are public: δ, cohorts and denominators depend on them. Therefore no guarantee of
    ours is about one more or fewer.

    Args:
        relation: The relation under which releases are accounted.
        unit: What is hidden.

    >>> neighbours("add/remove", "worker")
    "a worker's contributions or zeros in their place; how many workers there are is public"
    """
    if relation == "replace-one":
        return f"one {unit} or another in its place; how many {unit}s there are is public"
    return f"{_A[unit]}'s contributions or zeros in their place; how many {unit}s there are is public"


_A = {"worker": "a worker", "example": "an example"}


@final
@dataclass
class PrivateRun:
    """The private side of one run.

    Args:
        setting: The setting of the promise.
        mechanism: What one round is to the accountant.
        accountant: Adds up what is spent.
        noise_multiplier: The noise's standard deviation in units of the clipping bound.
        bound: The clipping bound C of the round to come.
        delta: δ.
        budget: The ε that must not be exceeded, if there is one.
        noise: Draws noise.
        insecure: Whether noise comes from a seed, so that the run is not private.
    """

    setting: Setting
    mechanism: Mechanism
    accountant: Accountant
    noise_multiplier: float
    bound: float
    delta: float
    budget: float | None
    noise: Noise
    insecure: bool
    moving: bool = False
    """Whether the bound changes over rounds."""
    period: int = 1
    """For how many rounds one charge is made."""
    releases: int = 1
    """How often a charge releases the mechanism."""
    cohort: int = 0
    """The running number of the cohort that is being trained."""
    account: Account = field(default_factory=Account)
    """All charges, stretch by stretch; the accountant holds their total."""
    stretch: str = field(default_factory=fresh_name)
    """The name of the stretch of rounds that this fit releases."""
    ledger: Ledger = field(default_factory=Ledger)
    """Where every release is written down before it is made."""
    _rounds: int = 0  # since the run began or went on
    _affordable: int | None = None
    _charged: int | None = None  # the number of the last cohort that was

    @property
    def tells_quickly(self) -> bool:
        """Whether :attr:`spent` is cheap enough to compute in every round."""
        # By Rényi's divergences it takes less than a millisecond, else a tenth of a second.
        return self.accountant.kind == "rdp"

    @property
    def spent(self) -> float:
        """ε so far."""
        return self.accountant.epsilon(self.delta)

    @property
    def relation(self) -> Relation:
        """For which neighbours the run's guarantee holds; where workers are added or removed, zeros in their place."""
        relation = max(self.accountant.relation, self.mechanism.relation, key=RELATIONS.index)
        return "zero-out" if relation == "add/remove" else relation

    def spent_later(self) -> Callable[[], float]:
        """Return what computes the ε of all that is charged by now, whenever it is called."""
        then = Accountant(self.accountant.kind)
        for mechanism, count in self.accountant.history:
            then.charge(mechanism, count)
        return lambda: then.epsilon(self.delta)

    def affords_another(self) -> bool:
        """Whether another round keeps within the budget."""
        if self.budget is None or self._rounds % self.period:
            return True
        return self._affords() >= self.releases

    @property
    def rounds_left(self) -> float:
        """How many more rounds keep within the budget; infinitely many without one."""
        if self.budget is None:
            return math.inf
        paid = -self._rounds % self.period  # of what has been charged last
        return paid + self._affords() // self.releases * self.period

    def _affords(self) -> int:
        assert self.budget is not None
        if self._affordable is None:  # asked once: with the accountant "pld" it takes a second
            self._affordable = rounds_for(self.budget, self.delta, self.mechanism, self.accountant)
        return self._affordable

    def trial(self) -> None:
        """Refuse to begin what could not be charged.

        Raises:
            ValueError: If what was spent before and what this run releases cannot be added up.
        """
        trial = Accountant(self.accountant.kind)
        trial.load_state_dict({"history": self.account.total()})
        trial.charge(self.mechanism)

    def begin(self, cohort: int, round: int, drawn: int) -> None:
        """Charge for a cohort that is about to be trained and released.

        Args:
            cohort: Its running number.
            round: The round, for messages and the ledger.
            drawn: The number after that of the last cohort that was drawn.

        Raises:
            RoundError: If it has been charged, or was never drawn: it cannot count as a fresh sample.
        """
        if self._charged is not None and cohort <= self._charged:
            raise RoundError(
                f"round {round}: cohort {cohort} has been charged once and is not released again, which would cost "
                "more than the account says. Something asks for one round several times: a server_optimizer that "
                "calls its closure more than once, such as LBFGS (take SGD, Adam or Yogi), or code that calls "
                "training_step itself; the global model is as it was before the round"
            )
        if cohort >= drawn:
            raise RoundError(
                f"round {round}: cohort {cohort} was not drawn by the FederatedDataModule's loader, so what its "
                "release costs cannot be said; train cohorts by trainer.fit() only"
            )
        self.cohort = self._charged = cohort
        self.charge(round)

    def charge(self, round: int = 0) -> None:
        """Note that a round is about to be released.

        Args:
            round: The round, for the ledger.

        Raises:
            OSError: If the ledger cannot be written; the round is charged then, and must not be released.
        """
        due = self.releases if self._rounds % self.period == 0 else 0
        if due:
            self.accountant.charge(self.mechanism, due)
            if self._affordable is not None:
                self._affordable -= due
        self._rounds += 1
        mechanism = self._stored()
        charges = self.account.charge(self.stretch, mechanism, due)
        self.ledger.write(
            "release",
            stretch=self.stretch,
            number=self._rounds,
            round=round,
            cohort=self.cohort,
            mechanism=mechanism,
            charged=due,
            charges=charges,
            bound=self.bound,
            noise_std=self.noise_multiplier * self.bound,
            relation=self.relation,
            **self._at_most(),
        )

    def _at_most(self) -> dict[str, Any]:
        """Return the most that has been spent, by RDP, which takes no time."""
        try:
            quick = Accountant("rdp")
            quick.load_state_dict({"history": self.account.total()})
            return {"epsilon": quick.epsilon(self.delta), "epsilon_by": "rdp"}
        except ValueError:  # mechanisms that only a privacy loss distribution knows
            return {"epsilon": None, "epsilon_by": None}

    def _stored(self) -> dict[str, Any]:
        """The mechanism as a checkpoint stores it."""
        one = Accountant(self.accountant.kind)
        one.charge(self.mechanism)
        return {name: value for name, value in one.state_dict()["history"][0].items() if name != "count"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: what was spent there is spent, and what was spent here as well.

        Args:
            state: The result of :meth:`state_dict`.

        Raises:
            ValueError: If it is something else, or cannot be added up with what this run releases.
        """
        self.join(state)
        if self.moving:
            self.bound = state["bound"]
        self.insecure = self.insecure or state["insecure"]

    def join(self, state: Mapping[str, Any]) -> None:
        """Count also what another record says of this run, or of one whose model this run goes on with.

        Args:
            state: The result of :meth:`state_dict`; of it only the account is looked at.

        Raises:
            ValueError: As :meth:`load_state_dict` does; nothing is changed then.
        """
        account = Account()
        account.join({"stretches": self.account.state_dict()})
        account.join(state)
        self.accountant.load_state_dict({"history": account.total()})
        self.account = account

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores."""
        return {
            "accountant": self.accountant.state_dict(),
            "noise_multiplier": self.noise_multiplier,
            "bound": self.bound,
            "epsilon": self.spent,
            "delta": self.delta,
            "insecure": self.insecure,
        }
