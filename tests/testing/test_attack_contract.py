"""The contract of attacks holds of ours, and finds what breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_fed.testing import check_attack
from lightning_fed.testing.attacks import ALIE, IPM, Attack, BitFlip, Gaussian, Mimic, SameValue, Scaled, Seen, SignFlip


@pytest.mark.parametrize(
    "attack",
    [ALIE(), BitFlip(), Gaussian(1.0), IPM(0.1), Mimic(), Mimic(warm_up=2), SameValue(3.0), Scaled(10.0), SignFlip()],
    ids=repr,
)
def test_ours(attack: Attack) -> None:
    check_attack(lambda: attack)


def short(attack: Any, seen: Seen) -> Tensor:
    return seen.own[:, :-1]


def infinite(attack: Any, seen: Seen) -> Tensor:
    return seen.own / 0


def writes_to_honest(attack: Any, seen: Seen) -> Tensor:
    return seen.honest.mul_(-1).mean(dim=0)


def writes_to_own(attack: Any, seen: Seen) -> Tensor:
    return seen.own.neg_()


def draws_elsewhere(attack: Any, seen: Seen) -> Tensor:
    return torch.randn_like(seen.own)


def remembers_in_place(attack: Any, seen: Seen) -> Tensor:
    seen.memory.setdefault("sum", torch.zeros_like(seen.own[0])).add_(seen.own[0])
    return seen.memory["sum"].clone()


def remembers_a_number(attack: Any, seen: Seen) -> Tensor:
    seen.memory["round"] = seen.round  # type: ignore[assignment]
    return seen.own


def remembers_at_random(attack: Any, seen: Seen) -> Tensor:
    seen.memory["noise"] = torch.randn(3)
    return seen.own


def remembers_in_itself(attack: Any, seen: Seen) -> Tensor:
    attack.settings.append(seen.round)
    return seen.own


@pytest.mark.parametrize(
    ("lies", "message"),
    [
        (short, r"lies have shape \(3, 11\): give \(3, 12\), or \(12,\) for all"),
        (infinite, "a lie is not finite"),
        (writes_to_honest, "seen.honest was written to"),
        (writes_to_own, "seen.own was written to"),
        (draws_elsewhere, "gives other lies: draw by seen.generator"),
        (remembers_in_place, r"seen.memory\['sum'\] was written to: put a new tensor there"),
        (remembers_a_number, "what it remembers is no tensor"),
        (remembers_at_random, "leaves another memory, 'noise'"),
        (remembers_in_itself, "a round changed the attack's settings: use seen.memory"),
    ],
)
def test_what_breaks_it(lies: Callable[[Any, Seen], Tensor], message: str) -> None:
    @dataclass(frozen=True)
    class Broken(Attack):
        settings: Any

        def lies(self, seen: Seen) -> Tensor:
            return lies(self, seen)

    with pytest.raises(AssertionError, match=message):
        check_attack(lambda: Broken([]))
