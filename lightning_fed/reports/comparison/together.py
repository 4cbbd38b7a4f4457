"""Joint cost of several private runs: a worker in all of them is protected by their composition only."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_fed.core.arguments import article
from lightning_fed.privacy.account import Account
from lightning_fed.privacy.accounting import Kind
from lightning_fed.privacy.ledger import recomputed
from lightning_fed.privacy.question import rounded_up
from lightning_fed.reports.comparison.run import Spending


def together(spendings: Sequence[Spending]) -> str:
    """Return a sentence about the joint cost of all runs.

    Their releases are composed by the accountant if all runs used the same accountant and δ, and their ledgers record
    the releases; else their ε and δ are added up, which is also valid, but larger.

    Args:
        spendings: The spent budget of each run.

    Returns:
        A sentence; empty if there is at most one.
    """
    once = list({spending.key or number: spending for number, spending in enumerate(spendings)}.values())
    if len(once) < 2:
        return ""
    if any(spending.insecure for spending in once):
        return "Noise of some runs came from a seed: these are not private."
    units = {spending.unit for spending in once}
    if len(units) > 1:
        hidden = " and some ".join(article(unit) for unit in sorted(units))
        return f"What the {len(once)} private runs cost together is not said, since some hide {hidden}."
    all_of_them = "both" if len(once) == 2 else f"all {len(once)}"
    intro = f"Whoever was in {all_of_them} private runs is protected by"
    composed = _composed(once)
    delta = once[0].delta
    if composed is not None:
        return f"{intro} ε = {_up(composed)} at δ = {delta:.3g}, their releases composed by {once[0].accountant}."
    total, deltas = math.fsum(one.epsilon for one in once), math.fsum(one.delta for one in once)
    return f"{intro} ε = {_up(total)} at δ = {deltas:.3g}, the plain sum over the runs, since {_why(once)}."


def _composed(spendings: Sequence[Spending]) -> float | None:
    first = spendings[0]
    if any((one.accountant, one.delta) != (first.accountant, first.delta) for one in spendings):
        return None
    kind: Kind | None = next((kind for kind in ("pld", "rdp") if kind == first.accountant), None)
    if kind is None or not all(one.charges for one in spendings):
        return None
    account = Account()
    try:
        for number, one in enumerate(spendings):
            for charge in one.charges:
                count = charge["count"]
                account.record(str(number), charge, count if isinstance(count, int) else -1)
        return recomputed(account, kind, first.delta)
    except (ImportError, ValueError):  # the extra is not installed, or relations of neighbours do not agree
        return None


def _why(spendings: Sequence[Spending]) -> str:
    if not all(one.charges for one in spendings):
        return "not all of their ledgers are here"
    if len({(one.accountant, one.delta) for one in spendings}) > 1:
        return "their accountants or δ differ"
    return "no accountant here composes them"


def _up(epsilon: float) -> str:
    return f"{rounded_up(epsilon):.4f}" if math.isfinite(epsilon) else "∞"
