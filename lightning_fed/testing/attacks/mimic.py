"""Mimic: Karimireddy, He, Jaggi, *Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing*, 2022."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.arguments import settle, whole
from lightning_fed.testing.attacks.base import Attack, Seen


@final
@dataclass(frozen=True)
class Mimic(Attack):
    """All attackers copy one honest worker, which outvotes the others.

    No update is false, and none looks false. The copied worker is the one whose update goes farthest along the
    direction in which honest updates differ most. The direction is estimated over some rounds by Oja's rule: with the
    mean μ of all honest updates so far,

        ``s = Σᵢ ⟨xᵢ - μ, z⟩ (xᵢ - μ)``, ``z ← t/(t + 1) z + 1/(t + 1) s/‖s‖``, both made of length 1,

    beginning in round t = 0 with a random z, which that step replaces. In each of these rounds the worker is chosen
    again; afterwards the last one is always copied, or, in a round without it, the worker that goes farthest along z.
    This follows the authors' code, whose published runs use one round. ``Mimic`` of byzfl copies a worker given by its
    position.

    Only rounds with attackers count. The state is z and, during the warm-up, μ: one or two vectors.

    Args:
        warm_up: The number of rounds in which the direction is estimated.

    Raises:
        TypeError: If ``warm_up`` is not a number.
        ValueError: If ``warm_up`` is not positive, or not an integer.
    """

    warm_up: int = 1

    def __post_init__(self) -> None:
        settle(self, warm_up=whole("warm_up", self.warm_up, least=1, owner=self))

    def lies(self, seen: Seen) -> Tensor:
        t = int(seen.memory.get("rounds", torch.zeros(())))
        if t < self.warm_up:
            self._learn(seen, t)
        elif (copied := _name(seen.memory["copied"])) in seen.honest_workers:
            return seen.honest[seen.honest_workers.index(copied)]
        farthest = int((seen.honest @ seen.memory["direction"]).argmax())
        if t < self.warm_up:
            seen.memory["copied"] = torch.tensor(list(seen.honest_workers[farthest].encode()), dtype=torch.uint8)
        return seen.honest[farthest]

    def _learn(self, seen: Seen, t: int) -> None:
        """Take a step towards the direction in which honest updates differ most."""
        mean = seen.honest.mean(dim=0)
        if t > 0:
            mean = (t * seen.memory["mean"] + mean) / (t + 1)
        direction = seen.memory["direction"] if t > 0 else _of_length_one(seen.normal(1)[0])
        centred = seen.honest - mean
        step = _of_length_one((centred @ direction) @ centred)
        if bool(step.any()):  # else all honest workers agree, and any direction is as good
            direction = _of_length_one(t * direction + step)
        seen.memory.update(rounds=torch.tensor(t + 1), direction=direction, mean=mean)
        if t + 1 == self.warm_up:
            del seen.memory["mean"]


def _of_length_one(vector: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(vector)
    return vector / length if bool(length > 0) else vector


def _name(letters: Tensor) -> str:
    return bytes(letters.tolist()).decode()
