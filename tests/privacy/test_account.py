"""An account only grows: the union of two of them counts every release once, and takes nothing back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.privacy import Accountant, Gaussian, SubsampledGaussian
from lightning_fed.privacy.account import Account, fresh_name

GAUSSIAN = {"mechanism": "Gaussian", "parameters": {"noise_multiplier": 1.0}}
SAMPLED = {"mechanism": "SubsampledGaussian", "parameters": {"noise_multiplier": 1.0, "sampling_rate": 0.1}}


def account(**counts: tuple[int, int]) -> Account:
    """Stretches by name, each charged so often for the one mechanism and for the other."""
    result = Account()
    for stretch, (gaussian, sampled) in counts.items():
        result.record(stretch, GAUSSIAN, gaussian)
        result.record(stretch, SAMPLED, sampled)
    return result


def union(*accounts: Account) -> Account:
    joined = Account()
    for each in accounts:
        joined.join({"stretches": each.state_dict()})
    return joined


def counts(of: Account) -> dict[str, int]:
    return {charge["mechanism"]: charge["count"] for charge in of.total()}


def test_an_older_record_of_the_same_stretch_is_not_added() -> None:
    assert counts(union(account(a=(5, 0)), account(a=(3, 0)))) == {"Gaussian": 5}


def test_stretches_of_different_fits_add_up() -> None:
    assert counts(union(account(a=(5, 1)), account(a=(3, 1), b=(2, 0)))) == {"Gaussian": 7, "SubsampledGaussian": 1}


def test_what_two_accounts_have_in_common() -> None:
    both = account(a=(5, 1), b=(2, 0)).meet(account(a=(3, 4)))
    assert counts(both) == {"Gaussian": 3, "SubsampledGaussian": 1}


def test_a_charge_adds_to_its_stretch_and_says_how_much_it_has() -> None:
    one = Account()
    assert [one.charge("a", GAUSSIAN, n) for n in (2, 3, 0)] == [2, 5, 5]
    assert one.charge("b", GAUSSIAN, 1) == 1
    assert counts(one) == {"Gaussian": 6}


some = st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 9), st.integers(0, 9))).map(
    lambda stretches: account(**stretches)
)


@given(some, some, some)
def test_order_and_repetition_of_unions_do_not_matter(a: Account, b: Account, c: Account) -> None:
    assert union(a, b) == union(b, a)
    assert union(a, union(b, c)) == union(union(a, b), c)
    assert union(a, a) == a
    for name, count in counts(a).items():
        assert counts(union(a, b))[name] >= count


@given(some, some)
def test_an_account_may_be_included_as_it_is(a: Account, b: Account) -> None:
    expected, before = union(a, b), union(b)
    a.include(b)
    assert a == expected
    assert b == before


def test_a_checkpoint_of_an_older_version_is_a_run_of_its_own_once() -> None:
    accountant = Accountant("rdp")
    accountant.charge(SubsampledGaussian(1.0, 0.1), 4)
    older = {"accountant": accountant.state_dict()}
    joined = account(a=(0, 3))
    for _ in range(2):
        joined.join(older)
    assert counts(joined) == {"SubsampledGaussian": 7}


def test_the_total_is_what_an_accountant_takes_bit_for_bit() -> None:
    direct = Accountant("rdp")
    direct.charge(Gaussian(1.0), 7)
    direct.charge(SubsampledGaussian(1.0, 0.1), 2)
    loaded = Accountant("rdp")
    loaded.load_state_dict({"history": account(a=(5, 0), b=(2, 2)).total()})
    assert loaded.history == direct.history
    assert loaded.epsilon(1e-5) == direct.epsilon(1e-5)


@pytest.mark.parametrize("state", [{}, {"stretches": {"a": [{"count": -1}]}}, {"stretches": {"a": [3]}}, None])
def test_what_is_no_account_is_refused_and_changes_nothing(state: Any) -> None:
    one = account(a=(5, 0))
    with pytest.raises(ValueError, match="no account of privacy"):
        one.join(state)
    assert one == account(a=(5, 0))


def test_names_are_new_each_time() -> None:
    assert len({fresh_name() for _ in range(100)}) == 100
