"""Autocasts within an autocast that is left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_fed.core.autocast import outside_autocast


def narrow(layer: nn.Linear) -> Tensor:
    """The layer's weight as autocast sees it."""
    with torch.autocast("cpu", torch.bfloat16):
        return layer(torch.ones(1, 1))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_what_was_cast_is_forgotten_when_an_autocast_within_ends(depth: int) -> None:
    """A layer is moved from 1 to 2 in between."""

    def nested(depth: int) -> None:
        if depth:
            with torch.autocast("cpu", torch.bfloat16):
                return nested(depth - 1)
        layer = nn.Linear(1, 1, bias=False)
        nn.init.ones_(layer.weight)
        before = narrow(layer)
        enabled = torch.is_autocast_enabled("cpu")
        with outside_autocast("cpu"):
            assert not torch.is_autocast_enabled("cpu")
            seen = [narrow(layer)]
            nn.init.constant_(layer.weight, 2.0)
            seen.append(narrow(layer))
        assert [x.item() for x in (before, *seen)] == [1, 1, 2]
        assert torch.is_autocast_enabled("cpu") == enabled

    nested(depth)
    assert torch.autocast_increment_nesting() == 1
    torch.autocast_decrement_nesting()


def test_an_error_leaves_the_nesting_as_it_was() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match="no"), outside_autocast("cpu"):
            raise ValueError("no")
        assert torch.is_autocast_enabled("cpu")
    assert torch.autocast_increment_nesting() == 1
    torch.autocast_decrement_nesting()
