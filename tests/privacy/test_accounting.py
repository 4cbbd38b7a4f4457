"""Accountants: reference values, other libraries, histories that are resumed and mixed, and what is refused."""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import Literal

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


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match='kind=\'gdp\'\\) must be "pld" or "rdp"'):
        Accountant("gdp")  # type: ignore[arg-type]
    accountant = Accountant("rdp")
    for count in (0, -1, 1.5):
        with pytest.raises(ValueError, match=r"count=.* must be a positive integer"):
            accountant.charge(Gaussian(1.0), count)  # type: ignore[arg-type]
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(ValueError, match=r"delta=.* must be above 0 and below 1"):
            accountant.epsilon(delta)
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
