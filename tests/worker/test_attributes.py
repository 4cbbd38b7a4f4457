"""Attributes that the server's code changes reach the workers in the next round; those that a worker changes do not."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule

ENGINES = ["auto", "sequential", "vectorized"]


def people(*names: str, kind: type[Rows] = Rows) -> FederatedDataModule:
    return FederatedDataModule({name: kind([1.0]) for name in names or ("a", "b")})


class Annealed(Scalar):
    """The weight of its loss, beta, follows validation: 0, 1, 2 in the first three rounds."""

    seen: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        super().__init__()
        self.beta = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(self.beta)
        return super().training_step(batch, batch_idx) * self.beta

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing."""

    def on_validation_epoch_end(self) -> None:
        self.beta += 1.0


def test_one_that_a_hook_on_the_server_changes_is_as_with_a_plain_trainer() -> None:
    Annealed.seen = []
    trainer(max_epochs=3, num_sanity_val_steps=0).fit(Annealed(), EvaluatedRows([1.0]))
    assert Annealed.seen == [0, 1, 2]
    Annealed.seen = []
    fit(
        FederatedModule(Annealed(), engine="sequential"),
        people(kind=EvaluatedRows),
        max_epochs=3,
        num_sanity_val_steps=0,
    )
    assert Annealed.seen == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("engine", [*ENGINES, "isolated"])
def test_it_has_an_effect_with_every_engine(engine: Any) -> None:
    """With lr 0.25 and beta 0, 1 and 2, x goes from 0 to 0, 1/4, and half of the rest to 5/8."""

    class Anneal(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.beta = float(trainer.current_epoch)

    Annealed.seen = []
    fed = FederatedModule(module := Annealed(), engine=engine)
    module.lr = 0.25
    fit(fed, people(*"abcd", kind=EvaluatedRows), max_epochs=3, callbacks=[Anneal()], limit_val_batches=0)
    assert module.x.item() == 0.625


class Parts(Scalar):
    """Attributes of parts, and of many kinds."""

    seen: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.norm = nn.BatchNorm1d(1)
        self.weights = {"first": 1.0, "rest": [1, 2]}
        self.scale = torch.tensor(1.0)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append((self.drop.p, self.norm.momentum, self.norm.training, self.weights, float(self.scale)))
        return super().training_step(batch, batch_idx)


def test_those_of_parts_and_of_every_plain_kind() -> None:
    class Change(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.drop.p, pl_module.norm.momentum = 0.0, None
                pl_module.norm.eval()
                pl_module.weights["rest"].append(3)
                pl_module.scale.mul_(2)

    Parts.seen = []
    before = (0.9, 0.1, True, {"first": 1.0, "rest": [1, 2]}, 1.0)
    after = (0.0, None, False, {"first": 1.0, "rest": [1, 2, 3]}, 2.0)
    fit(FederatedModule(Parts(), engine="sequential"), people(), max_epochs=2, callbacks=[Change()])
    assert Parts.seen == [before, before, after, after]


def test_one_that_cannot_cross_is_named() -> None:
    class Change(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.module.helper = object()

    class Helped(Scalar):
        helper: Any = None

    with pytest.warns(UserWarning, match="the attribute 'helper' of Helped was changed on the server; workers keep"):
        fit(FederatedModule(Helped()), people(), max_epochs=2, callbacks=[Change()])


def test_one_that_a_worker_changes_is_set_back_before_the_next() -> None:
    class Counting(Scalar):
        seen: ClassVar[list[Any]] = []

        def __init__(self) -> None:
            super().__init__()
            self.steps, self.kept, self.last = 0, [0.0], torch.zeros(())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.seen.append((self.steps, list(self.kept), self.last.item()))
            self.steps += 1
            self.kept.append(1.0)
            self.last.add_(1)
            return super().training_step(batch, batch_idx)  # type: ignore[no-any-return]

    fed = FederatedModule(module := Counting(), engine="sequential", local_epochs=2)
    with pytest.warns(UserWarning, match="local training changes the module's attribute") as told:
        fit(fed, people(), max_epochs=2)
    assert Counting.seen == [(0, [0.0], 0.0), (1, [0.0, 1.0], 1.0)] * 4
    assert (module.steps, module.kept, module.last.item()) == (0, [0.0], 0.0)
    said = [str(warning.message) for warning in told if "local training changes" in str(warning.message)]
    assert sorted(text.split("'")[2] for text in said) == ["kept", "last", "steps"]
