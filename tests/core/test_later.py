"""A number that is computed when it is looked at, whoever looks."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lightning_fed.core.later import Later

LOOKS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "item": lambda number: number.item(),
    "format": lambda number: float(f"{number:.3f}"),
    "numpy": lambda number: float(np.asarray(number)),
    "plus": lambda number: float(1.0 + number) - 1.0,
    "stack": lambda number: torch.stack([number, number])[1].item(),
    "deepcopy": lambda number: copy.deepcopy({"epsilon": number})["epsilon"].item(),
    "pickle": lambda number: pickle.loads(pickle.dumps(number)).item(),
    "cpu": lambda number: number.cpu().item(),
    "squeeze": lambda number: number.squeeze().item(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_whoever_looks_sees_the_value_and_it_is_computed_once(look: Callable[[Any], Any]) -> None:
    computed: list[int] = []
    number = Later(lambda: computed.append(1) or 2.5)  # type: ignore[func-returns-value]
    assert not computed
    assert isinstance(number, torch.Tensor)
    assert look(number) == 2.5
    assert look(number) == 2.5
    assert len(computed) == 1


def test_what_is_made_of_it_is_a_plain_tensor() -> None:
    for plain in (Later(lambda: 1.0).detach(), copy.deepcopy(Later(lambda: 1.0)), Later(lambda: 1.0) * 2):
        assert type(plain) is torch.Tensor


def test_it_can_be_saved_and_loaded_as_weights_only() -> None:
    file = io.BytesIO()
    torch.save({"epsilon": Later(lambda: 1.5)}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == {"epsilon": torch.tensor(1.5)}
