"""The contract of attacks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from lightning_fed.core.tree import Tensors
from lightning_fed.testing.attacks.base import Attack, Seen

_SIZE, _ROUNDS = 12, 3


def check_attack(make: Callable[[], Attack]) -> None:
    """Check an attack against its contract, in some rounds with more honest workers than attackers.

    - It returns a row for each attacker, or one for all, of finite numbers.
    - Lies and memory are a function of the attackers' view only, bit for bit.
    - Neither the seen updates nor the tensors of earlier memory are modified.
    - The attack itself stays unchanged.

    Args:
        make: Makes the attack.

    Raises:
        AssertionError: With the part of the contract that fails.
    """
    for dtype in (torch.float32, torch.float64):
        for honest, attackers in ((7, 3), (5, 1)):
            _check(make(), honest, attackers, dtype)


def _check(attack: Attack, honest: int, attackers: int, dtype: torch.dtype) -> None:
    settings = copy.deepcopy(vars(attack))
    memory: Tensors = {}
    for round in range(_ROUNDS):
        seen = _seen(round, honest, attackers, dtype, dict(memory))
        twin = _seen(round, honest, attackers, dtype, copy.deepcopy(memory))
        before = copy.deepcopy(memory)
        lies = attack.lies(seen)
        assert lies.shape in (seen.own.shape, seen.own.shape[1:]), (
            f"lies have shape {tuple(lies.shape)}: give {tuple(seen.own.shape)}, or {tuple(seen.own.shape[1:])} for all"
        )
        assert bool(lies.isfinite().all()), "a lie is not finite, which a server drops"
        for name, rows in (("honest", twin.honest), ("own", twin.own)):
            assert torch.equal(getattr(seen, name), rows), f"seen.{name} was written to"
        for name, tensor in memory.items():
            assert torch.equal(tensor, before[name]), f"seen.memory[{name!r}] was written to: put a new tensor there"
        assert all(isinstance(tensor, torch.Tensor) for tensor in seen.memory.values()), (
            "what it remembers is no tensor"
        )
        assert torch.equal(attack.lies(twin), lies), "the same that is seen gives other lies: draw by seen.generator"
        assert seen.memory.keys() == twin.memory.keys(), "the same that is seen leaves another memory"
        for name, tensor in seen.memory.items():
            assert torch.equal(tensor, twin.memory[name]), f"the same that is seen leaves another memory, {name!r}"
        memory = seen.memory
    assert vars(attack) == settings, "a round changed the attack's settings: use seen.memory"


def _seen(round: int, honest: int, attackers: int, dtype: torch.dtype, memory: Tensors) -> Seen:
    generator = torch.Generator().manual_seed(round)
    rows = torch.randn(honest + attackers, _SIZE, generator=generator, dtype=torch.float64).to(dtype)
    return Seen(
        honest=rows[:honest].clone(),
        own=rows[honest:].clone(),
        honest_workers=tuple(f"honest_{i}" for i in range(honest)),
        attackers=tuple(f"attacker_{i}" for i in range(attackers)),
        workers=honest + attackers,
        round=round,
        generator=generator,
        memory=memory,
    )
