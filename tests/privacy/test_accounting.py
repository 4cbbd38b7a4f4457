"""Accountants: reference values, other libraries, histories that are resumed and mixed, and what is refused."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import dp_accounting
import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant, RDPAccountant

from lightning_fed.privacy import (
    Accountant,
    FixedSizeGaussian,
    Gaussian,
    LocalGaussian,
    Mechanism,
    Relation,
    SubsampledGaussian,
    TreeAggregation,
)

Kind = Literal["pld", "rdp"]
MIXED: tuple[tuple[Mechanism, int], ...] = (
    (SubsampledGaussian(1.0, 0.01), 300),
    (SubsampledGaussian(1.5, 0.02), 200),
    (Gaussian(20.0), 5),
    (TreeAggregation(30.0, steps=8, epochs=2), 2),
)


def epsilon(kind: Kind, mechanism: Mechanism, count: int, delta: float = 1e-5) -> float:
    accountant = Accountant(kind)
    accountant.charge(mechanism, count)
    return accountant.epsilon(delta)


def test_before_the_first_release_nothing_is_spent() -> None:
    assert Accountant().epsilon(1e-5) == 0
    assert Accountant().history == ()
    assert Accountant().state_dict() == {"history": []}


@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "delta", "rdp", "pld"),
    [
        (1.0, 1.0, 1, 1e-5, 4.7285, 4.3772),
        (1.0, 4.0, 10, 1e-5, 3.6171, 3.3414),
        (0.01, 1.0, 1000, 1e-5, 2.1014, 1.8282),
        (0.04, 1.5, 2250, 1e-5, 7.3293, 6.7688),
        (0.1, 1.0, 100, 1e-5, 7.9039, 7.0466),
        (0.001, 0.6, 2000, 1e-6, 3.3133, 2.3549),
    ],
)
def test_reference_values(rate: float, noise: float, rounds: int, delta: float, rdp: float, pld: float) -> None:
    assert epsilon("rdp", SubsampledGaussian(noise, rate), rounds, delta) == pytest.approx(rdp, abs=2e-3)
    assert epsilon("pld", SubsampledGaussian(noise, rate), rounds, delta) == pytest.approx(pld, abs=2e-3)


def test_ten_of_a_thousand_workers_by_what_is_claimed_for_the_sampling() -> None:
    assert epsilon("rdp", SubsampledGaussian(1.0, 0.01), 1000) == pytest.approx(2.10, abs=2e-3)
    assert epsilon("rdp", FixedSizeGaussian(1.0, 10, 1000), 1000) == pytest.approx(20.99, abs=5e-3)  # not 3.58
    assert epsilon("rdp", Gaussian(1.0), 1000) == pytest.approx(654.9, abs=0.05)


def test_dp_ftrl_with_five_trees_of_twenty_epochs() -> None:
    """The example of Kairouz et al.'s code: each tree but the last is completed before it is left."""
    accountant = Accountant("rdp")
    accountant.charge(TreeAggregation(46.3, steps=100, epochs=20, completed=True), 4)
    accountant.charge(TreeAggregation(46.3, steps=100, epochs=20))
    assert accountant.epsilon(1e-5) == pytest.approx(6.92, abs=5e-3)
    assert accountant.relation == "zero-out"


def test_dp_fedavg_by_the_conversion_of_its_time_and_by_todays() -> None:
    """McMahan et al. 2018: the moments accountant has integer orders and ε = rdp + ln(1/δ)/(α - 1)."""
    mechanism = SubsampledGaussian(1.0, 5000 / 763430)
    theirs = dp_accounting.rdp.RdpAccountant(orders=range(2, 65)).compose(mechanism.event("add/remove"), 5000)
    assert min(theirs.rdp - math.log(1e-9) / (theirs.orders - 1)) == pytest.approx(4.634, abs=1e-3)
    assert epsilon("rdp", mechanism, 5000, 1e-9) == pytest.approx(4.183, abs=1e-3)


@pytest.mark.parametrize(("rate", "noise", "rounds"), [(0.01, 1.0, 1000), (0.04, 1.5, 2250), (0.1, 1.0, 100)])
def test_opacus_agrees(rate: float, noise: float, rounds: int) -> None:
    rdp, prv = RDPAccountant(), PRVAccountant()
    rdp.history = prv.history = [(noise, rate, rounds)]
    assert epsilon("rdp", SubsampledGaussian(noise, rate), rounds) == pytest.approx(rdp.get_epsilon(1e-5), abs=0.01)
    upper = prv.get_epsilon(1e-5, eps_error=0.01)  # its upper bound, so up to 2 · 0.01 above
    assert upper - 0.02 <= epsilon("pld", SubsampledGaussian(noise, rate), rounds) <= upper


def test_what_is_kept_between_calls_changes_nothing() -> None:
    """The same as dp-accounting's own accountants, which start anew each time."""
    for kind, make in (("rdp", dp_accounting.rdp.RdpAccountant), ("pld", dp_accounting.pld.PLDAccountant)):
        theirs, ours = make(), Accountant(kind)  # type: ignore[arg-type]
        for mechanism, count in MIXED[:3]:
            theirs.compose(mechanism.event("zero-out"), count)
            ours.charge(mechanism, count)
            assert ours.epsilon(1e-5) == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-12)


def test_releases_compose() -> None:
    """Gaussians compose to a Gaussian: 1/σ² add up."""
    for kind in ("rdp", "pld"):
        accountant = Accountant(kind)  # type: ignore[arg-type]
        accountant.charge(Gaussian(3.0), 9)  # together as much as one with noise 1
        accountant.charge(Gaussian(1.0))
        assert accountant.epsilon(1e-5) == pytest.approx(
            epsilon(kind, Gaussian(1 / math.sqrt(2)), 1),  # type: ignore[arg-type]
            rel=1e-4,
        )


@pytest.mark.parametrize("kind", ["rdp", "pld"])
def test_ten_times_a_hundred_rounds_are_a_thousand(kind: Kind, tmp_path: Path) -> None:
    state = Accountant(kind).state_dict()
    for part in range(10):
        resumed = Accountant(kind)
        resumed.load_state_dict(state)
        for _ in range(100):
            resumed.charge(SubsampledGaussian(1.0, 0.01))
        torch.save(resumed.state_dict(), tmp_path / f"{part}.ckpt")
        state = torch.load(tmp_path / f"{part}.ckpt", weights_only=True)
    assert state == {
        "history": [
            {
                "mechanism": "SubsampledGaussian",
                "parameters": {"noise_multiplier": 1.0, "sampling_rate": 0.01},
                "count": 1000,
            }
        ]
    }
    resumed = Accountant(kind)
    resumed.load_state_dict(state)
    assert resumed.epsilon(1e-5) == epsilon(kind, SubsampledGaussian(1.0, 0.01), 1000)
    assert resumed.epsilon(1e-5) == pytest.approx({"rdp": 2.1014, "pld": 1.8282}[kind], abs=2e-3)


def test_a_mixed_history_survives_a_checkpoint() -> None:
    accountant = Accountant("rdp")
    for mechanism, count in MIXED:
        accountant.charge(mechanism, count)
    resumed = Accountant("rdp")
    resumed.charge(LocalGaussian(1.0), 7)  # forgotten
    resumed.load_state_dict(json.loads(json.dumps(accountant.state_dict())))
    assert resumed.history == accountant.history == MIXED
    assert resumed.epsilon(1e-6) == accountant.epsilon(1e-6)
    assert resumed.relation == "zero-out"


def test_numpys_numbers_do_not_get_into_a_checkpoint(tmp_path: Path) -> None:
    accountant = Accountant("rdp")
    accountant.charge(SubsampledGaussian(np.float64(1.0), np.float64(10) / 1000))
    torch.save(accountant.state_dict(), tmp_path / "state.ckpt")
    assert torch.load(tmp_path / "state.ckpt", weights_only=True) == accountant.state_dict()


@pytest.mark.parametrize("kind", ["rdp", "pld"])
def test_asking_changes_nothing(kind: Kind) -> None:
    accountant = Accountant(kind)
    accountant.charge(SubsampledGaussian(1.0, 0.01), 100)
    before, first = accountant.state_dict(), accountant.epsilon(1e-5)
    with_one_more = accountant.epsilon_with(SubsampledGaussian(1.0, 0.01), 1e-5)
    accountant.epsilon_with(Gaussian(1.0), 1e-5, count=3)
    accountant.epsilon(1e-6)
    assert accountant.epsilon(1e-5) == first < with_one_more
    assert accountant.state_dict() == before
    accountant.charge(SubsampledGaussian(1.0, 0.01))
    assert accountant.epsilon(1e-5) == with_one_more


def test_every_charge_costs() -> None:
    accountant = Accountant("rdp")
    spent = [0.0]
    for mechanism, _ in MIXED:
        for _ in range(3):
            accountant.charge(mechanism)
            spent.append(accountant.epsilon(1e-5))
    # Not strictly: what a weak mechanism costs once can be lost in the rounding of δ.
    assert spent == sorted(spent)
    assert spent[-1] > spent[1]
    assert accountant.epsilon(1e-6) > accountant.epsilon(1e-5)


def test_a_coarser_grid_is_never_too_small_and_near() -> None:
    accountant = Accountant()
    accountant.charge(SubsampledGaussian(1.0, 0.01), 1000)
    assert 0 <= accountant.epsilon(1e-5, grid=1e-3) - accountant.epsilon(1e-5) <= 1e-3


def test_a_worker_that_is_replaced_moves_twice_as_much() -> None:
    """dp-accounting's PLD sees to it by itself, its RDP does not."""
    replace = dp_accounting.NeighboringRelation.REPLACE_ONE
    theirs = dp_accounting.pld.PLDAccountant(replace).compose(dp_accounting.GaussianDpEvent(3.0), 2)
    assert epsilon("pld", LocalGaussian(3.0), 2) == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-6)
    assert epsilon("pld", LocalGaussian(3.0), 2) == epsilon("pld", Gaussian(1.5), 2)
    assert epsilon("rdp", LocalGaussian(3.0), 2) == epsilon("rdp", Gaussian(1.5), 2)
    # A cohort of everyone leaves no secret about who takes part.
    assert epsilon("rdp", FixedSizeGaussian(3.0, 10, 10), 2) == epsilon("rdp", Gaussian(1.5), 2)


def test_the_strictest_relation_of_a_history_holds_for_all_of_it() -> None:
    accountant = Accountant("rdp")
    accountant.charge(SubsampledGaussian(1.0, 0.1))
    assert accountant.relation == "add/remove"
    mixed = Accountant("rdp")
    mixed.charge(Gaussian(2.0), 4)
    mixed.charge(LocalGaussian(8.0))
    assert mixed.relation == "replace-one"
    twice = Accountant("rdp")
    twice.charge(Gaussian(1.0), 4)
    twice.charge(Gaussian(4.0))
    assert mixed.epsilon(1e-5) == twice.epsilon(1e-5)


def test_samples_of_both_kinds_do_not_go_together() -> None:
    poisson, fixed = SubsampledGaussian(1.0, 0.01), FixedSizeGaussian(1.0, 10, 1000)
    for first, second in ((poisson, fixed), (fixed, poisson)):
        accountant = Accountant("rdp")
        accountant.charge(first, 3)
        with pytest.raises(ValueError, match="sample by Poisson, or with a fixed size, in all rounds"):
            accountant.charge(second)
        with pytest.raises(ValueError, match="sample by Poisson"):
            accountant.epsilon_with(second, 1e-5)
        assert accountant.history == ((first, 3),)


def test_fixed_sizes_need_rdp() -> None:
    accountant = Accountant()
    with pytest.raises(ValueError, match='no privacy loss distribution: take Accountant\\(kind="rdp"\\)'):
        accountant.charge(FixedSizeGaussian(1.0, 10, 1000))
    assert accountant.history == ()


# ---- mechanisms of one's own ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Laplace(Mechanism):
    """Counted by both accountants of dp-accounting, but not as a Gaussian."""

    relation: ClassVar[Relation] = "add/remove"
    noise_multiplier: float

    def event(self, relation: Relation) -> Any:
        return dp_accounting.LaplaceDpEvent(self.noise_multiplier / (2 if relation == "replace-one" else 1))


@dataclass(frozen=True)
class Misplaced(Laplace):
    relation: ClassVar[Any] = "worker"


@dataclass(frozen=True)
class Silent(Mechanism):
    noise_multiplier: float

    def event(self, relation: Relation) -> Any:
        return dp_accounting.GaussianDpEvent(self.noise_multiplier)


@dataclass(frozen=True)
class OneTree(Mechanism):
    """All prefix sums of 64 rounds by one tree, as dp-accounting has it: by RDP, and for zeros in a worker's place."""

    relation: ClassVar[Relation] = "zero-out"
    noise_multiplier: float

    def event(self, relation: Relation) -> Any:
        return dp_accounting.SingleEpochTreeAggregationDpEvent(self.noise_multiplier, 64)


@dataclass(frozen=True)
class WrongTree(OneTree):
    relation: ClassVar[Relation] = "add/remove"


@dataclass(frozen=True)
class Mixture(Mechanism):
    """A worker counts once, or twice with some probability; tuples of numbers are stored too."""

    relation: ClassVar[Relation] = "add/remove"
    noise_multiplier: float
    sensitivities: tuple[float, ...] = (1.0, 2.0)
    probabilities: tuple[float, ...] = (0.9, 0.1)

    def event(self, relation: Relation) -> Any:
        return dp_accounting.dp_event.MixtureOfGaussiansDpEvent(
            self.noise_multiplier, self.sensitivities, self.probabilities
        )


@dataclass(frozen=True)
class Returns(Mechanism):
    """Any event."""

    relation: ClassVar[Relation] = "add/remove"
    what: Any = None
    noise_multiplier: float = 1.0

    def event(self, relation: Relation) -> Any:
        return {"none": dp_accounting.NonPrivateDpEvent(), "nothing": None}[self.what]


def test_a_foreign_mechanism_is_counted_by_dp_accounting_and_never_guessed() -> None:
    """Not as the Gaussian with its noise multiplier, 4.38 at z = 1."""
    for kind, make in (("rdp", dp_accounting.rdp.RdpAccountant), ("pld", dp_accounting.pld.PLDAccountant)):
        theirs = make().compose(dp_accounting.LaplaceDpEvent(1.0), 3)
        assert epsilon(kind, Laplace(1.0), 3) == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-12)  # type: ignore[arg-type]
    mixture = dp_accounting.pld.PLDAccountant(value_discretization_interval=0.1)
    mixture.compose(Mixture(2.0).event("add/remove"), 5)
    accountant = Accountant()
    accountant.charge(Mixture(2.0), 5)
    # Tails are cut off at 1e-15 in another order.
    assert accountant.epsilon(1e-5, grid=0.1) == pytest.approx(mixture.get_epsilon(1e-5), rel=1e-9)
    assert epsilon("rdp", OneTree(5.0), 3) == pytest.approx(epsilon("rdp", TreeAggregation(5.0, 64), 3), rel=1e-9)


def test_a_foreign_mechanism_beside_ours() -> None:
    events = (dp_accounting.LaplaceDpEvent(1.0), dp_accounting.GaussianDpEvent(2.0), MIXED[0][0].event("add/remove"))
    theirs, ours = dp_accounting.pld.PLDAccountant(), Accountant()
    for event, mechanism, count in zip(events, (Laplace(1.0), Gaussian(2.0), MIXED[0][0]), (3, 2, 20), strict=True):
        theirs.compose(event, count)
        ours.charge(mechanism, count)
    assert ours.epsilon(1e-5) == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-9)
    assert ours.delta(6.0) == pytest.approx(theirs.get_delta(6.0), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "mechanism", "message"),
    [
        (
            "pld",
            OneTree(1.0),
            r'OneTree has no privacy loss distribution: take Accountant\(kind="rdp"\), since .*Single',
        ),
        (
            "rdp",
            Mixture(1.0),
            r'Mixture has no Rényi divergences: take Accountant\(kind="pld"\), since .*MixtureOfGauss',
        ),
        (
            "pld",
            WrongTree(1.0),
            r"cannot count WrongTree\(noise_multiplier=1\.0\) for add/remove, since .*: let its event",
        ),
        ("rdp", WrongTree(1.0), r"cannot count WrongTree.*must be REPLACE_SPECIAL for .*: let its event"),
        ("rdp", Returns("nothing"), r"cannot count Returns.*its event\(\) is no event of dp-accounting but None"),
        (
            "pld",
            Misplaced(1.0),
            r"Misplaced.relation='worker' must say for which neighbours .*: one of 'add/remove', 'ze",
        ),
        ("pld", Silent(1.0), r"Silent.relation=None must say for which neighbours its analysis holds"),
        ("pld", 3, r"3 cannot be counted: a release is a Mechanism, and a frozen dataclass"),
        ("pld", Mixture(1.0, [1.0], [1.0]), r"cannot be counted: a release is a Mechanism, and a frozen dataclass"),  # type: ignore[arg-type]
        ("rdp", Returns(1j), r"Returns\(what=1j\) cannot be stored: a mechanism's fields are numbers"),
    ],
)
def test_what_dp_accounting_does_not_count_is_refused_when_charged(kind: Kind, mechanism: Any, message: str) -> None:
    accountant = Accountant(kind)
    with pytest.raises(ValueError, match=message):
        accountant.charge(mechanism)
    assert accountant.history == ()


def test_without_any_privacy_no_epsilon_holds() -> None:
    for kind in ("pld", "rdp"):
        accountant = Accountant(kind)  # type: ignore[arg-type]
        accountant.charge(Returns("none"))
        assert (accountant.epsilon(1e-5), accountant.delta(5.0)) == (math.inf, 1.0)


def test_a_relation_that_a_foreign_event_lacks_is_refused_beside_others() -> None:
    accountant = Accountant("rdp")
    accountant.charge(OneTree(5.0))
    with pytest.raises(ValueError, match=r"cannot count OneTree.* for replace-one"):
        accountant.charge(LocalGaussian(5.0))
    assert accountant.relation == "zero-out"


def test_foreign_mechanisms_survive_a_checkpoint(tmp_path: Path) -> None:
    accountant = Accountant()
    accountant.charge(Laplace(np.float64(1.0)), 3)
    accountant.charge(Mixture(2.0), 2)
    torch.save(accountant.state_dict(), tmp_path / "state.ckpt")
    for state in (
        json.loads(json.dumps(accountant.state_dict())),
        torch.load(tmp_path / "state.ckpt", weights_only=True),
    ):
        assert state["history"][0]["mechanism"] == f"{__name__}.Laplace"
        resumed = Accountant()
        resumed.load_state_dict(state)
        assert resumed.history == accountant.history
        assert resumed.epsilon(1e-5, grid=0.1) == accountant.epsilon(1e-5, grid=0.1)


def test_a_checkpoint_makes_nothing_but_mechanisms_that_the_program_has_defined() -> None:
    """It imports nothing, and calls nothing else."""
    accountant = Accountant("rdp")
    entry = {"mechanism": "not_there.noises.Laplace", "parameters": {"noise_multiplier": 1.0}, "count": 1}
    with pytest.raises(
        ValueError, match=r"releases of not_there\.noises\.Laplace, .*: import not_there\.noises before"
    ):
        accountant.load_state_dict({"history": [entry]})
    sys.modules.pop("this", None)
    for name in ("this.s", "os.system", "builtins.eval", f"{__name__}.dataclass"):
        with pytest.raises(ValueError, match=r"which this program does not define"):
            accountant.load_state_dict({"history": [{**entry, "mechanism": name}]})
    assert "this" not in sys.modules
    with pytest.raises(ValueError, match=r"among its settings, which is no number"):
        accountant.load_state_dict(
            {"history": [{**entry, "mechanism": "Gaussian", "parameters": {"noise_multiplier": eval}}]}
        )


# ---- exactness and cost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rdp", "pld"])
def test_delta_is_the_inverse_of_epsilon(kind: Kind) -> None:
    accountant = Accountant(kind)
    assert accountant.delta(1.0) == 0
    for mechanism, count in MIXED:
        accountant.charge(mechanism, count)
        for delta in (1e-3, 1e-6):
            assert accountant.delta(accountant.epsilon(delta)) == pytest.approx(delta, rel=1e-3)


def test_one_gaussian_has_the_delta_of_the_analytic_one() -> None:
    """Balle & Wang 2018, equation 6: Φ(1/2z - εz) - exp(ε) Φ(-1/2z - εz), by hand for z = 1 and ε = 1."""

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    accountant = Accountant()
    accountant.charge(Gaussian(1.0))
    assert accountant.delta(1.0) == pytest.approx(normal(-0.5) - math.e * normal(-1.5), rel=1e-6)
    assert accountant.delta(0.0) == pytest.approx(normal(0.5) - normal(-0.5), rel=1e-6)


@pytest.mark.parametrize(
    ("mechanism", "rounds", "delta"),
    [
        (SubsampledGaussian(1.0, 0.001), 10**6, 2.5e-7),  # many rounds
        (SubsampledGaussian(0.3, 0.01), 1000, 1e-5),  # little noise
        (SubsampledGaussian(0.05, 0.01), 1, 1e-5),
        (SubsampledGaussian(1e-6, 0.5), 10, 1e-5),  # next to none: exp(loss) is no float
    ],
)
def test_hard_cases_are_bounded_by_rdp_and_quick(mechanism: Mechanism, rounds: int, delta: float) -> None:
    """With dp-accounting's own grid they take minutes, or all memory."""
    rdp = epsilon("rdp", mechanism, rounds, delta)
    accountant = Accountant()
    accountant.charge(mechanism, rounds)
    began = time.process_time()
    pld = accountant.epsilon(delta)
    assert 0.8 * rdp < pld <= rdp
    assert accountant.rounding(delta) < 0.01 * pld
    assert time.process_time() - began < 20, "seconds, with much to spare"


def test_a_million_rounds_that_compose_to_one_gaussian() -> None:
    """Each a subsampled one, of which everybody takes part in all but none in a thousand million."""
    sampled = SubsampledGaussian(1000.0, 1 - 1e-9)
    exact = epsilon("pld", Gaussian(1.0), 1)
    assert exact <= epsilon("pld", sampled, 10**6) == pytest.approx(exact, rel=5e-3)


def test_a_delta_below_what_floating_point_tells_is_left_to_rdp() -> None:
    mechanism = SubsampledGaussian(1.0, 0.001)
    assert epsilon("pld", mechanism, 10**5, 1e-12) == epsilon("rdp", mechanism, 10**5, 1e-12)
    with pytest.raises(ValueError, match=r"delta=1e-12 is less than floating point can tell after 1000 releases: take"):
        epsilon("pld", Mixture(2.0), 1000, 1e-12)  # not counted by RDP


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match='kind=\'gdp\'\\) must be "pld" or "rdp"'):
        Accountant("gdp")  # type: ignore[arg-type]
    accountant = Accountant("rdp")
    for count in (0, -1, 1.5):
        with pytest.raises(ValueError, match=r"count=.* must be a positive integer"):
            accountant.charge(Gaussian(1.0), count)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"count=True must be a whole number of at least 1, not a bool"):
        accountant.charge(Gaussian(1.0), True)
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(ValueError, match=r"delta=.* must be above 0 and below 1"):
            accountant.epsilon(delta)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"epsilon=.* must be at least 0 and finite"):
            accountant.delta(wrong)
    with pytest.raises(ValueError, match=r"grid=0\.0 must be positive"):
        accountant.epsilon(1e-5, grid=0.0)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"history": None},
        {"history": [{"mechanism": "Laplace", "parameters": {}, "count": 1}]},
        {"history": [{"mechanism": "Gaussian", "parameters": {"sigma": 1.0}, "count": 1}]},
        {"history": [{"mechanism": "Gaussian", "parameters": {"noise_multiplier": 0.0}, "count": 1}]},
        {"history": [{"mechanism": "Gaussian", "parameters": {"noise_multiplier": 1.0}, "count": -1}]},
    ],
)
def test_a_state_that_is_none_is_refused_and_changes_nothing(state: dict[str, object]) -> None:
    accountant = Accountant("rdp")
    accountant.charge(Gaussian(2.0), 2)
    with pytest.raises(ValueError, match="this is no state of a privacy accountant"):
        accountant.load_state_dict(state)
    assert accountant.history == ((Gaussian(2.0), 2),)


def test_without_dp_accounting_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r'needs dp-accounting .*: pip install "lightning_fed\[privacy\]"'):
        Accountant()


def test_orders_that_do_not_converge_are_left_out_quietly(caplog: pytest.LogCaptureFixture) -> None:
    mechanism = SubsampledGaussian(1.0, 0.12)
    with caplog.at_level(logging.WARNING):
        epsilon("rdp", mechanism, 7)
        assert not caplog.records
        dp_accounting.rdp.RdpAccountant().compose(mechanism.event("add/remove"))
    assert caplog.records, "dp-accounting itself remarks on them, and goes on doing so"
