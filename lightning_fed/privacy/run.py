"""The changing part of a private run: the spent budget, the clipping bound, and the source of noise."""

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
        rounds: The planned number of rounds; None: no limit.
        seed: The seed of the run. Noise depends on it only with ``insecure_deterministic_noise``.
        local: The length of local training.
        separation: The number of rounds after which a worker may take part again; see
            ``CohortSampler.separation``.
        dimension: The number of elements of a worker's message that receive noise; None: unknown, and a promise whose
            cost depends on it is refused.
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
    """Return the number of elements of a worker's message that are clipped together and receive noise.

    Args:
        size: The number of elements of the update.
        extra: The names of an algorithm's extra vectors, each as long as the update.
    """
    return size * (1 + len(extra))


def neighbours(relation: Relation, unit: Literal["worker", "example"]) -> str:
    """Return a description of the two populations that are hard to distinguish.

    Numbers of workers and of examples are public: δ, cohorts and denominators depend on them. Therefore no guarantee
    here covers one worker or example more or fewer.

    Args:
        relation: The relation under which releases are accounted.
        unit: The hidden unit.

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
        mechanism: The mechanism of one round.
        accountant: The accountant of the charges.
        noise_multiplier: The noise's standard deviation in units of the clipping bound.
        bound: The clipping bound C of the next round.
        delta: δ.
        budget: The ε that must not be exceeded, if there is one.
        noise: The source of noise.
        insecure: Whether noise is drawn from a seed; the run is then not private.
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
    """The number of rounds of one charge."""
    releases: int = 1
    """The number of releases of the mechanism in one charge."""
    cohort: int = 0
    """The running number of the current cohort."""
    account: Account = field(default_factory=Account)
    """All charges, stretch by stretch; the accountant holds their total."""
    stretch: str = field(default_factory=fresh_name)
    """The name of the stretch of rounds that this fit releases."""
    ledger: Ledger = field(default_factory=Ledger)
    """The ledger, in which every release is recorded before it is made."""
    _rounds: int = 0  # since the run began or was resumed
    _affordable: int | None = None
    _charged: int | None = None  # the number of the last charged cohort

    @property
    def tells_quickly(self) -> bool:
        """Whether :attr:`spent` is cheap enough to compute in every round."""
        # Rényi divergences are cheap; privacy loss distributions are not.
        return self.accountant.kind == "rdp"

    @property
    def spent(self) -> float:
        """ε so far."""
        return self.accountant.epsilon(self.delta)

    @property
    def relation(self) -> Relation:
        """The neighbouring relation of the run's guarantee; ``zero-out`` where the analysis has ``add/remove``."""
        relation = max(self.accountant.relation, self.mechanism.relation, key=RELATIONS.index)
        return "zero-out" if relation == "add/remove" else relation

    def spent_later(self) -> Callable[[], float]:
        """Return a function that computes, at any later time, the ε of the charges up to now."""
        then = Accountant(self.accountant.kind)
        for mechanism, count in self.accountant.history:
            then.charge(mechanism, count)
        return lambda: then.epsilon(self.delta)

    def affords_another(self) -> bool:
        """Whether the budget allows another round."""
        if self.budget is None or self._rounds % self.period:
            return True
        return self._affords() >= self.releases

    @property
    def rounds_left(self) -> float:
        """The number of further rounds that the budget allows; infinity without a budget."""
        if self.budget is None:
            return math.inf
        paid = -self._rounds % self.period  # rounds that the last charge still covers
        return paid + self._affords() // self.releases * self.period

    def _affords(self) -> int:
        assert self.budget is not None
        if self._affordable is None:  # computed once: it is slow with the accountant "pld"
            self._affordable = rounds_for(self.budget, self.delta, self.mechanism, self.accountant)
        return self._affordable

    def trial(self) -> None:
        """Refuse a run whose releases could not be charged.

        Raises:
            ValueError: If the earlier charges and this run's releases cannot be composed.
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
            RoundError: If the cohort has been charged, or was never drawn: it is not a fresh sample.
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
        """Record that a round is about to be released.

        Args:
            round: The round, for the ledger.

        Raises:
            OSError: If the ledger cannot be written; the round is then charged, but must not be released.
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
        """Return an upper bound on the spent ε by RDP, which is cheap."""
        try:
            quick = Accountant("rdp")
            quick.load_state_dict({"history": self.account.total()})
            return {"epsilon": quick.epsilon(self.delta), "epsilon_by": "rdp"}
        except ValueError:  # mechanisms that only privacy loss distributions support
            return {"epsilon": None, "epsilon_by": None}

    def _stored(self) -> dict[str, Any]:
        """The mechanism as a checkpoint stores it."""
        one = Accountant(self.accountant.kind)
        one.charge(self.mechanism)
        return {name: value for name, value in one.state_dict()["history"][0].items() if name != "count"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint: its charges and the current charges both count.

        Args:
            state: The result of :meth:`state_dict`.

        Raises:
            ValueError: If the state is invalid, or cannot be composed with this run's releases.
        """
        self.join(state)
        if self.moving:
            self.bound = state["bound"]
        self.insecure = self.insecure or state["insecure"]

    def join(self, state: Mapping[str, Any]) -> None:
        """Add the charges of another record of this run, or of a run whose model this run continues.

        Args:
            state: The result of :meth:`state_dict`; only its account is used.

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
