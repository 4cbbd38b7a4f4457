"""Attacks of one line: SignFlip, Scaled, SameValue and Gaussian. Each attacker uses its own update at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.arguments import number, settle
from lightning_fed.testing.attacks.base import Attack, Seen


@final
@dataclass(frozen=True)
class SignFlip(Attack):
    """Each attacker sends its update times ``-scale`` (Li et al. 2019, *RSA: Byzantine-Robust Stochastic Aggregation*).

    With scale 1 it is the attack that the code of Karimireddy et al. 2022 and others call bit flipping. RSA's workers
    send models and reverse the model's sign; here the sign of the delta is reversed. ``SignFlipping`` of byzfl sends
    the opposite of the honest workers' mean instead, which is ``IPM(1.0)``.

    Args:
        scale: The factor of the length.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not positive and finite.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        settle(self, scale=number("scale", self.scale, above=0, owner=self))

    def lies(self, seen: Seen) -> Tensor:
        return -self.scale * seen.own


@final
@dataclass(frozen=True)
class Scaled(Attack):
    """Each attacker sends its update times a factor (Bagdasaryan et al. 2020, *How To Backdoor Federated Learning*).

    With the factor n of a mean over n workers, the global model becomes the attacker's own: model replacement.
    With attackers whose data are poisoned, it is the paper's backdoor.

    Args:
        factor: The factor γ; 1 changes nothing.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not positive and finite.
    """

    factor: float

    def __post_init__(self) -> None:
        settle(self, factor=number("factor", self.factor, above=0, owner=self))

    def lies(self, seen: Seen) -> Tensor:
        return self.factor * seen.own


@final
@dataclass(frozen=True)
class SameValue(Attack):
    """All attackers send one number in every coordinate (the same-value attack of Li et al. 2019, *RSA*).

    Args:
        value: The number, in the units of the parameters.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not finite.
    """

    value: float

    def __post_init__(self) -> None:
        settle(self, value=number("value", self.value, owner=self))

    def lies(self, seen: Seen) -> Tensor:
        return torch.full_like(seen.own, self.value)


@final
@dataclass(frozen=True)
class Gaussian(Attack):
    """Each attacker sends independent normal numbers (Blanchard et al. 2017, *Machine Learning with Adversaries*).

    Papers state standard deviations for gradients, such as 200; an update of one SGD step is the learning rate times
    its gradient. ``Gaussian`` of byzfl draws once for all attackers.

    Args:
        std: The standard deviation of each number, in the units of the parameters.
        mean: The mean of each number, in the same units.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If ``std`` is not positive, or one of them not finite.
    """

    std: float
    mean: float = 0.0

    def __post_init__(self) -> None:
        settle(self, std=number("std", self.std, above=0, owner=self), mean=number("mean", self.mean, owner=self))

    def lies(self, seen: Seen) -> Tensor:
        return self.mean + self.std * seen.normal(len(seen.own))
