"""The contract of mechanisms, by which rounds of a promise are accounted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_fed.privacy import Accountant, Gaussian, LocalGaussian, Mechanism
from lightning_fed.privacy.accounting import KINDS, Kind

DELTA = 1e-5
"""The δ at which costs are compared."""


def check_mechanism(make: Callable[[float], Mechanism]) -> None:
    """Check a mechanism against its contract.

    - It is a function of its settings: equal settings have equal hashes, and cannot be changed.
    - Noise is required: a noise multiplier of 0, NaN or infinity is refused.
    - An accountant counts it; ε falls with the noise and grows with the number of releases, and the division of the
      releases into charges does not matter.
    - If it makes its own privacy loss distribution, dp-accounting makes the same one from its event, if it can.
    - A checkpoint stores it as numbers and strings, from which an equal mechanism is made.
    - Under a later relation it costs no less, and under ``replace-one`` more: the distance is twice as large.

    Args:
        make: Makes the mechanism from a noise multiplier.

    Raises:
        AssertionError: With the part of the contract that fails.
    """
    one, same = make(2.0), make(2.0)
    assert one == same, f"{one} and {same} have the same settings and are not equal"
    assert _hash(one) == _hash(same), f"{one} has no hash, or another one each time: make it a frozen dataclass"
    try:
        one.noise_multiplier = 100.0
    except AttributeError:
        pass
    else:
        raise AssertionError(f"{type(one).__name__} can be changed after it was charged: make it a frozen dataclass")
    for wrong in (0.0, -1.0, math.nan, math.inf):
        assert refused(partial(make, wrong)), f"a noise multiplier of {wrong} is not refused"

    accountant = _counting(one)
    once, twice, less = (
        accountant.epsilon_with(mechanism, DELTA, count) for mechanism, count in ((one, 1), (one, 2), (make(4.0), 1))
    )
    assert 0 < once < math.inf, f"one release of {one} costs ε = {once}"
    assert less < once < twice, f"with twice the noise ε is {less}, with one release {once}, with two {twice}"
    in_parts = accountant.after(one, 2).after(one, 3)
    assert in_parts.history == ((one, 5),), f"two charges of {one} are not counted together"
    _check_losses(one)

    state = json.loads(json.dumps(in_parts.state_dict()))
    resumed = Accountant(accountant.kind)
    resumed.load_state_dict(state)
    assert resumed.history == in_parts.history, f"a checkpoint made {resumed.history} of {in_parts.history}"

    for each in KINDS:
        _check_relations(one, each)


def _check_relations(mechanism: Mechanism, kind: Kind) -> None:
    replaced = 1.0 if mechanism.relation == "replace-one" else 1.5
    for other, least in ((Gaussian(1e4), 1.0), (LocalGaussian(1e4), replaced)):
        try:
            alone = Accountant(kind).epsilon_with(mechanism, DELTA)
            beside = Accountant(kind).after(other).epsilon_with(mechanism, DELTA)
        except ValueError:  # no analysis, which is allowed
            continue
        assert beside >= least * alone * (1 - 1e-6), (
            f"{mechanism} costs ε = {alone} for {mechanism.relation}, and {beside} beside {other}, which is for "
            f"{other.relation}: its event() has to be that of the relation it is asked for"
        )


def _check_losses(mechanism: Mechanism) -> None:
    import dp_accounting

    theirs = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
    event = mechanism.event(mechanism.relation)
    # For replaced workers dp-accounting's PLDAccountant uses other units of noise.
    if mechanism.has_losses and mechanism.relation != "replace-one" and theirs.supports(event):
        own = Accountant().after(mechanism, 3).epsilon(DELTA, grid=1e-3)
        expected = theirs.compose(event, 3).get_epsilon(DELTA)
        assert math.isclose(own, expected, rel_tol=1e-3), (
            f"by its losses() three releases of {mechanism} cost ε = {own}, and by its event() {expected}"
        )


def _counting(mechanism: Mechanism) -> Accountant:
    """Return the tightest accountant that counts a mechanism."""
    reasons = []
    for kind in KINDS:
        accountant = Accountant(kind)
        try:
            accountant.after(mechanism)
        except ValueError as error:
            reasons.append(str(error))
        else:
            return accountant
    raise AssertionError(f"no accountant counts {mechanism}: {reasons[-1]}")


def _hash(mechanism: Mechanism) -> int | None:
    try:
        return hash(mechanism)
    except TypeError as error:
        raise AssertionError(f"{mechanism} has no hash: make it a frozen dataclass ({error})") from error


def refused(action: Callable[[], Any]) -> bool:
    """Whether an action raises a ValueError or TypeError.

    Args:
        action: The action.
    """
    try:
        action()
    except (TypeError, ValueError):
        return True
    return False
