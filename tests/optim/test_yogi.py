from __future__ import annotations

import math

import pytest
import torch
from helpers import Rows, Scalar, fit

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.optim import Yogi


def test_two_steps_by_hand() -> None:
    x = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = Yogi([x], lr=0.1, betas=(0.9, 0.99), tau=0.5)
    m, v, expected = 0.0, 0.25, 1.0
    for gradient in (2.0, -0.1):  # v grows, then shrinks
        x.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        m = 0.9 * m + 0.1 * gradient
        v = v - 0.01 * gradient**2 * math.copysign(1, v - gradient**2)
        expected -= 0.1 * m / (math.sqrt(v) + 0.5)
        assert x.item() == pytest.approx(expected)


def test_its_state_is_saved_and_loaded() -> None:
    def steps(optimizer: Yogi, x: torch.nn.Parameter, n: int) -> None:
        for _ in range(n):
            x.grad = x.detach().clone()
            optimizer.step()

    whole, half = (torch.nn.Parameter(torch.tensor([3.0])) for _ in range(2))
    steps(Yogi([whole]), whole, 4)
    first = Yogi([half])
    steps(first, half, 2)
    second = Yogi([half])
    second.load_state_dict(first.state_dict())
    steps(second, half, 2)
    assert half.item() == whole.item()


def test_as_server_optimizer() -> None:
    module = Scalar(lr=0.5)
    federated = FederatedModule(module, server_optimizer=lambda p: Yogi(p, lr=0.3))
    fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}), max_steps=100)
    assert module.x.item() == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"tau": 0.0}, {"betas": (0.9, 1.0)}])
def test_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least 0"):
        Yogi([torch.nn.Parameter(torch.zeros(1))], **options)  # type: ignore[arg-type]
