"""The audit of whole fits: with canaries of the user's own, through a Trainer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rows, Scalar, fit
from private import began
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.privacy import CentralDP, Noise, Privacy, PrivateRun, RecordDP, audit_fits

pytestmark = pytest.mark.filterwarnings("ignore:.*Secure RNG")
Fit = Callable[[bool], tuple[Tensor, PrivateRun]]


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system's entropy be the same every time: a test that fails by chance is no test."""
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)


@pytest.mark.parametrize(("std", "holds"), [(1.0, True), (0.5, False)])
def test_by_noise_that_is_known(std: float, holds: bool) -> None:
    """A canary of norm 1 in a place that the attacker has to find."""
    run = began(CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5))
    run.charge()
    canary, generator = torch.eye(10)[7], torch.Generator().manual_seed(0)
    found = audit_fits(lambda there: (std * torch.randn(10, generator=generator) + there * canary, run), trials=1000)
    assert found.holds is holds
    assert found.lower_bound > 0.1
    assert str(found).startswith("1000 fits: ε >= ")


class Line(pl.LightningModule):
    """``w · x`` from ``w = 0``, half the mean squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.mse_loss(self.linear(batch[0]), batch[1]) / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Examples(pl.LightningDataModule):
    """Eight examples at zero, of which one may be a canary."""

    def __init__(self, canary: bool) -> None:
        super().__init__()
        x, y = torch.zeros(8, 2), torch.zeros(8, 1)
        if canary:
            x[0, 1] = y[0] = 1000.0
        self.set = TensorDataset(x, y)

    def train_dataloader(self) -> Any:
        return DataLoader(self.set, batch_size=8)


def of_examples(privacy: Privacy) -> Fit:
    def run(there: bool) -> tuple[Tensor, PrivateRun]:
        module = Line()
        fed = FederatedModule(module, privacy=privacy, local_steps=1, engine="sequential")
        fit(fed, FederatedDataModule({"w": Examples(there)}), max_steps=1)
        assert fed.private_run is not None
        return module.linear.weight.detach().flatten(), fed.private_run

    return run


def of_workers(privacy: Privacy) -> Fit:
    def run(there: bool) -> tuple[Tensor, PrivateRun]:
        module = Scalar()
        workers = {"canary": Rows([1000.0 * there]), "other": Rows([0.3])}
        fed = FederatedModule(module, privacy=privacy, engine="sequential")
        fit(fed, FederatedDataModule(workers), max_steps=1)
        assert fed.private_run is not None
        return module.x.detach(), fed.private_run

    return run


@pytest.mark.parametrize(
    "fits",
    [
        pytest.param(
            of_examples(RecordDP(clip=1.0, noise_multiplier=1.0, sampling_rate=0.9, delta=1e-5)), marks=pytest.mark.slow
        ),
        of_workers(CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5)),
    ],
    ids=["examples", "workers"],
)
def test_a_fit_keeps_its_promise_and_not_without_noise(fits: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert audit_fits(fits, trials=45).holds
    gaussian = Noise.gaussian
    monkeypatch.setattr(Noise, "gaussian", lambda self, size, std, *keys: gaussian(self, size, std / 10, *keys))
    found = audit_fits(fits, trials=90)
    assert not found.holds
    assert (found.guesses, found.trials) == (60, 90)


@pytest.mark.parametrize("options", [{"trials": 29}, {"trials": 50.0}, {"confidence": 0.0}, {"delta": 1}])
def test_arguments_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        audit_fits(lambda there: pytest.fail("nothing is trained"), **options)
