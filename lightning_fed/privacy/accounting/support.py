"""Choice of the accountants that count a mechanism: dp-accounting is asked, and no class is known by name."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

from lightning_fed.privacy.extra import import_extra
from lightning_fed.privacy.mechanisms import RELATIONS, Mechanism, Relation

Kind: TypeAlias = Literal["pld", "rdp"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The accountants, the tightest first."""

GRID = 1e-4
"""dp-accounting's own step of a privacy loss distribution."""

_NEIGHBOURS = {"add/remove": "ADD_OR_REMOVE_ONE", "zero-out": "REPLACE_SPECIAL", "replace-one": "REPLACE_ONE"}


def tightest(mechanism: Mechanism) -> Kind:
    """Return the first of ``KINDS`` that counts a mechanism.

    Args:
        mechanism: What is released.

    Raises:
        ValueError: If none does, saying why.
    """
    relation = relation_of(mechanism)
    for kind in KINDS:
        if refusal(kind, mechanism, relation) is None:
            return kind
    raise ValueError(refusal(KINDS[-1], mechanism, relation))


def relation_of(mechanism: Mechanism) -> Relation:
    """Return the relation under which a mechanism is analysed.

    Args:
        mechanism: What is released.

    Raises:
        ValueError: If it says none of ``RELATIONS``.
    """
    relation: Relation | None = getattr(mechanism, "relation", None)  # a foreign class may have left it out
    if relation not in RELATIONS:
        raise ValueError(
            f"{type(mechanism).__name__}.relation={relation!r} must say for which neighbours its analysis holds: one "
            f"of {', '.join(map(repr, RELATIONS))}"
        )
    return relation


def dp_accountant(kind: Kind, relation: Relation, grid: float, whole_orders: bool = False) -> Any:
    """Return a fresh accountant of dp-accounting's for the events of mechanisms.

    Args:
        kind: Which.
        relation: The neighbouring relation of the events.
        grid: The step of a privacy loss distribution.
        whole_orders: Whether Rényi divergences at dp-accounting's default orders are those of the next whole ones: no
            smaller, since they grow with the order (van Erven & Harremoës 2014, theorem 3).
    """
    neighbours = import_extra("dp_accounting").NeighboringRelation[_NEIGHBOURS[relation]]
    if kind == "pld":
        return import_extra("dp_accounting.pld").PLDAccountant(neighbours, value_discretization_interval=grid)
    rdp = import_extra("dp_accounting.rdp.rdp_privacy_accountant")
    orders = [math.ceil(order) for order in rdp.DEFAULT_RDP_ORDERS] if whole_orders else None
    return rdp.RdpAccountant(orders, neighbours)


@lru_cache(maxsize=256)
def refusal(kind: Kind, mechanism: Mechanism, relation: Relation) -> str | None:
    """Return why an accountant cannot count a mechanism; None: it can.

    Args:
        kind: The accountant.
        mechanism: What is released.
        relation: The neighbouring relation of the guarantee.

    Raises:
        ValueError: If the mechanism has no analysis for that relation.
    """
    name = type(mechanism).__name__
    reason = _reason(kind, mechanism, relation)
    if reason is None:
        return None
    if kind == "pld" and _reason("rdp", mechanism, relation) is None:
        return f'{name} has no privacy loss distribution: take Accountant(kind="rdp"), since {reason}'
    if kind == "rdp" and _reason("pld", mechanism, relation) is None:
        return f'{name} has no Rényi divergences: take Accountant(kind="pld"), since {reason}'
    return (
        f'Accountant(kind="{kind}") cannot count {mechanism} for {relation}, since {reason}: let its event() be made '
        "up of events that dp-accounting counts"
    )


def _reason(kind: Kind, mechanism: Mechanism, relation: Relation) -> str | None:
    dp_accounting = import_extra("dp_accounting")
    event = mechanism.event(relation)
    if not isinstance(event, dp_accounting.DpEvent):
        return f"its event() is no event of dp-accounting but {event!r}"
    if kind == "pld":
        if mechanism.has_losses:
            return None
        if relation == "replace-one":
            # Of a replaced worker its PLDAccountant takes noise in units of C, its RdpAccountant in units of 2C.
            return "events for replaced workers are in the units of dp-accounting's RDP"
    accountant = dp_accountant(kind, relation, GRID)
    if accountant.supports(event):
        return None
    try:
        accountant.compose(event)
    except dp_accounting.UnsupportedEventError as error:
        inner = re.search(r"\[(.*)\]", str(error), flags=re.DOTALL)
        said = " ".join((inner.group(1) if inner else str(error)).replace("`", "").split()).rstrip(".")
        return f"dp-accounting does not count its {type(event).__name__} ({said})"
    return None
