"""``on_train_batch_start`` that returns -1, which skips the rest of a pass: what follows is what a Trainer does."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import Rows, Scalar, assert_equal, trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from lightning_fed import FederatedDataModule, FederatedModule

SEEN: list[Any] = []


class Skips(Scalar):
    """Skips the rest of a pass at a batch, and notes what is called, and with which rates."""

    def __init__(self, at: int, interval: str, frequency: int) -> None:
        super().__init__(lr=0.1, x=1.0)
        self.at, self.interval, self.frequency = at, interval, frequency

    def on_train_epoch_start(self) -> None:
        SEEN.append("pass")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == self.at else None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        SEEN.append((batch_idx, self.optimizers().param_groups[0]["lr"]))  # type: ignore[union-attr]
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        SEEN.append((self.trainer.is_last_batch, self.optimizers().param_groups[0]["lr"]))  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=self.lr)
        scheduler = StepLR(optimizer, 1, 0.5)
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval, "frequency": self.frequency}]


@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # where no batch is trained on
@pytest.mark.filterwarnings("ignore:the workers' StepLR begins anew")
@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize(("interval", "frequency"), [("epoch", 1), ("epoch", 2), ("step", 1), ("step", 2)])
def test_schedulers_step_as_in_a_trainer(at: int, epochs: int, interval: str, frequency: int) -> None:
    SEEN.clear()
    plain = Skips(at, interval, frequency)
    trainer(max_epochs=epochs).fit(plain, Rows([1.0, 2.0, 3.0, 4.0], batch_size=1))
    seen, SEEN[:] = list(SEEN), []
    ours = Skips(at, interval, frequency)
    module = FederatedModule(ours, local_epochs=epochs, engine="sequential")
    data = FederatedDataModule({"a": Rows([1.0, 2.0, 3.0, 4.0], batch_size=1)})
    trainer(max_epochs=1).fit(module, data)
    assert seen == SEEN
    assert seen.count("pass") == epochs
    assert_equal(ours.x, plain.x)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.filterwarnings("ignore:the workers' StepLR begins anew")
def test_so_many_steps_of_passes_that_have_none_come_to_an_end() -> None:
    module = FederatedModule(Skips(0, "epoch", 1), local_steps=2, engine="sequential")
    trainer(max_epochs=1).fit(module, FederatedDataModule({"a": Rows([1.0, 2.0])}))
