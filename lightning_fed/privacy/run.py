"""What changes over the rounds of a private run: what is spent, the clipping bound, and where noise comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, final

from lightning_fed.privacy.accounting import Accountant
from lightning_fed.privacy.calibration import rounds_for
from lightning_fed.privacy.mechanisms import Mechanism
from lightning_fed.privacy.noise import Noise
from lightning_fed.selection import CohortSampler
from lightning_fed.wire import LocalTraining


class Setting(NamedTuple):
    """What a guarantee depends on in a run.

    Args:
        population: The number of workers.
        cohort_size: The number of workers in a round; with Poisson sampling the expected one.
        sampling: The class of the sampler, which declares how it draws cohorts; None: everyone takes part.
        rounds: How many rounds are planned; None: without end.
        seed: That of the run. Noise depends on it only if that was asked for.
        local: How long workers train.
        separation: After how many rounds a worker may take part again; see :meth:`CohortSampler.separation`.
    """

    population: int
    cohort_size: int
    sampling: type[CohortSampler] | None
    rounds: int | None
    seed: int
    local: LocalTraining = LocalTraining()
    separation: int = 1


@final
@dataclass
class PrivateRun:
    """The private side of one run.

    Args:
        setting: What the promise is made for.
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
    _rounds: int = 0  # since the run began or went on
    _affordable: int | None = None

    @property
    def tells_quickly(self) -> bool:
        """Whether :attr:`spent` takes less than a millisecond, and not a tenth of a second."""
        return self.accountant.kind == "rdp"

    @property
    def spent(self) -> float:
        """ε so far."""
        return self.accountant.epsilon(self.delta)

    def affords_another(self) -> bool:
        """Whether another round keeps within the budget."""
        if self.budget is None or self._rounds % self.period:
            return True
        if self._affordable is None:  # asked once: with the accountant "pld" it takes a second
            self._affordable = rounds_for(self.budget, self.delta, self.mechanism, self.accountant)
        return self._affordable >= self.releases

    def charge(self) -> None:
        """Note that a round is about to be released."""
        if self._rounds % self.period == 0:
            self.accountant.charge(self.mechanism, self.releases)
            if self._affordable is not None:
                self._affordable -= self.releases
        self._rounds += 1

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: what was spent there is spent."""
        self.accountant.load_state_dict(state["accountant"])
        if self.moving:
            self.bound = state["bound"]
        self.insecure = self.insecure or state["insecure"]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "accountant": self.accountant.state_dict(),
            "noise_multiplier": self.noise_multiplier,
            "bound": self.bound,
            "epsilon": self.spent,
            "delta": self.delta,
            "insecure": self.insecure,
        }
