from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, trainer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lightning_fed.population import Worker
from lightning_fed.wire import GlobalModel, Job, LocalTraining
from lightning_fed.worker.local_fit import LocalFit


def train(module: Scalar) -> float:
    """Two steps towards 8 from 0; gives where x ends."""
    job = Job(0, 0, 0, GlobalModel({"x": torch.tensor(0.0)}), LocalTraining(steps=2))
    end = torch.zeros(())
    LocalFit(module, trainer()).train(job, Worker("bob", Rows([8.0]), None), {"x": end})
    return -end.item()


STEPS: list[int] = []  # outside of the module and its class, since what training changes on them is set back


class Hooked(Scalar):
    def __init__(self) -> None:
        super().__init__(lr=0.5)
        STEPS.clear()

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        optimizer.register_step_post_hook(lambda *_: STEPS.append(1))
        return optimizer


def test_a_step_hook_of_the_users_optimizer_is_called() -> None:
    module = Hooked()
    replica = LocalFit(module, trainer())
    job = Job(0, 0, 0, GlobalModel({"x": torch.tensor(0.0)}), LocalTraining(steps=2))
    replica.train(job, Worker("bob", Rows([8.0]), None), {"x": torch.zeros(())})
    assert len(STEPS) == 2


def test_a_step_hook_of_all_optimizers_is_called() -> None:
    seen: list[str] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(type(optimizer).__name__))
    try:
        assert train(Scalar(lr=0.5)) == 6.0
    finally:
        handle.remove()
    assert seen == ["SGD", "SGD"]


@pytest.mark.parametrize("family", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Rprop])
def test_a_step_without_its_wrapper_is_the_same_step(family: Any) -> None:
    class Chosen(Scalar):
        def configure_optimizers(self) -> Any:
            return family(self.parameters(), lr=0.25)

    alone = Chosen()
    optimizer = alone.configure_optimizers()
    for _ in range(2):
        optimizer.zero_grad()
        alone.training_step([torch.tensor([8.0])], 0).backward()
        optimizer.step()
    assert train(Chosen()) == alone.x.item()


def test_an_optimizer_of_the_users_own_zeroes_gradients_itself() -> None:
    class Keeps(torch.optim.SGD):
        """Never zeroes: gradients add up."""

        def zero_grad(self, set_to_none: bool = True) -> None:
            pass

    class Accumulates(Scalar):
        def configure_optimizers(self) -> Any:
            return Keeps(self.parameters(), lr=0.5)

    # 0 -> 4 by the gradient -8; then -8 - 4 = -12 takes it to 10.
    assert train(Accumulates(lr=0.5)) == 10.0


def test_an_optimizer_with_a_past_from_the_start_is_made_anew_for_every_worker() -> None:
    class Adagrad(Scalar):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adagrad(self.parameters(), lr=0.5)

    replica = LocalFit(Adagrad(), trainer())
    job = Job(0, 0, 0, GlobalModel({"x": torch.tensor(0.0)}), LocalTraining(steps=2))
    ends = [torch.zeros(()) for _ in range(2)]
    for end in ends:
        replica.train(job, Worker("bob", Rows([8.0]), None), {"x": end})
    # Steps of lr * g / sqrt(sum of g²): 0.5, then 0.5 * 7.5 / sqrt(8² + 7.5²).
    assert [-end.item() for end in ends] == pytest.approx([0.5 + 3.75 / (64 + 56.25) ** 0.5] * 2)
