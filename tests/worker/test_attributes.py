"""Attributes that the server's code changes reach the workers in the next round; those that a worker changes do not."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.worker.attributes import set_attributes

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


@pytest.mark.parametrize("engine", [*ENGINES, "isolated"], indirect=True)
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


@dataclass
class Config:
    value: float = 0.0


class Keeps(Scalar):
    """One number, kept in all the ways in which code keeps its settings; as metrics."""

    def __init__(self, hyper: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.config, self.name_space, self.nested = Config(), SimpleNamespace(value=0.0), {"in": [Config(), print]}
        self.array, self.number, self.ordered = np.zeros(1), np.float64(0), OrderedDict(value=0.0)
        self.listed, self.complex, self.away, self.replaced = [0.0], 0j, 0.0, Config()
        self.shared = self.part = nn.Identity()
        self.part.config = self.config  # one object in two places

    def ways(self) -> dict[str, float]:
        nested: Any = self.nested["in"][0]
        return {
            "hyper": self.hparams.hyper,
            "config": self.config.value,
            "part": self.part.config.value,
            "name_space": self.name_space.value,
            "nested": nested.value,
            "array": float(self.array[0]),
            "number": float(self.number),
            "ordered": self.ordered["value"],
            "listed": self.listed[0],
            "complex": self.complex.imag,
            "away": float(not hasattr(self, "away")),
            "replaced": self.replaced.value,
        }

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log_dict(self.ways())
        return super().training_step(batch, batch_idx)

    def change(self, to: float) -> None:
        self.hparams.hyper = self.config.value = self.name_space.value = self.nested["in"][0].value = to
        self.array[0] = self.ordered["value"] = self.listed[0] = to
        self.number, self.complex, self.replaced = np.float64(to), to * 1j, Config(to)
        if to:
            del self.away
        else:
            self.away = 0.0


@pytest.mark.parametrize("engine", [*ENGINES, "isolated"], indirect=True)
def test_those_in_objects_arrays_and_hyperparameters_cross_and_so_does_that_one_is_gone(engine: Any) -> None:
    seen: list[dict[str, float]] = []

    class Change(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.module.change(float(trainer.current_epoch == 1))

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(pl_module.last_report.means())

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(FederatedModule(module := Keeps(), engine=engine), people(*"abcd"), max_epochs=3, callbacks=[Change()])
    assert seen == [dict.fromkeys(module.ways(), value) for value in (0.0, 1.0, 0.0)]
    assert not [w for w in told if "was changed on the server" in str(w.message)]


class Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


def _unseen() -> None:
    """A function that a module keeps."""


CHANGES: dict[str, Any] = {
    "replaced": lambda m: setattr(m, "replaced", SimpleNamespace(value=1)),
    "function": lambda m: setattr(m, "function", print),
    "queue": lambda m: m.queue.append(1),
    "slots": lambda m: setattr(m.slots, "value", 1),
    "generator": lambda m: torch.rand(1, generator=m.generator),
    "nested.in": lambda m: m.nested["in"].append(1),
    "odd": lambda m: m.odd.update({2: 2}),
    "drop": lambda m: setattr(m, "drop", nn.Tanh()),
    "spare": lambda m: delattr(m, "spare"),
    "added": lambda m: setattr(m, "added", nn.Tanh()),
    "drop._forward_hooks": lambda m: m.drop.register_forward_hook(_unseen),
}


@pytest.mark.parametrize("what", CHANGES)
def test_all_that_cannot_cross_is_named_once(what: str) -> None:
    class Rich(Keeps):
        def __init__(self) -> None:
            super().__init__()
            self.function, self.queue, self.slots, self.generator = _unseen, deque([0]), Slotted(), torch.Generator()
            self.odd, self.drop, self.spare = {1: 1, "rest": print}, nn.Dropout(), nn.Dropout()

    class Change(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                CHANGES[what](pl_module.module)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit(FederatedModule(Rich(), engine="sequential"), people(), max_epochs=4, callbacks=[Change()])
    said = [str(w.message).split("'")[1] for w in told if "was changed on the server" in str(w.message)]
    assert said == [what]


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


class Referring(pl.LightningModule):
    """Refers to modules of Python and to the process, as a user's may."""

    def __init__(self) -> None:
        super().__init__()
        self.functional, self.environment, self.limits = torch.nn.functional, os.environ, {"a": [1, {"b": 2}]}
        self.layer = torch.nn.Dropout(0.1)


@pytest.mark.parametrize(
    "path",
    [
        "functional.torch.sys.modules.lightning_fed.privacy.clipping._SLACK",
        "functional.relu",
        "environment._data.PATH",
        "training_step.__globals__.pl",
        "_parameters.weight",
        "_modules.layer",
        "layer",
        "layer._buffers.x",
        "_forward_hooks.0",
        "_trainer",
    ],
)
def test_a_server_reaches_no_further_than_the_modules_own_attributes(path: str) -> None:
    module = Referring()
    before = dict(vars(torch.nn.functional)), dict(os.environ), dict(vars(module))
    with pytest.raises(ValueError, match="that it may set"):
        set_attributes(module, {path: 1e30})
    assert (dict(vars(torch.nn.functional)), dict(os.environ), dict(vars(module))) == before


def test_a_server_sets_values_in_the_modules_own_containers_and_parts() -> None:
    module = Referring()
    set_attributes(module, {"limits.a.1.b": 3, "layer.p": 0.5})
    assert module.limits == {"a": [1, {"b": 3}]}
    assert module.layer.p == 0.5
