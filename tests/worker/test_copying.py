"""Copies of the user's module: nothing on them leads back to the server's, and nothing of the server comes along.

By hand: with lr 1 a step of ``Scalar`` goes to the batch's mean, and a cohort of two to the mean of both.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.worker.copying import copied

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

ENGINES = ["auto", "sequential", "vectorized"]


def people(kind: type[Rows] = Rows) -> FederatedDataModule:
    return FederatedDataModule({"a": kind([2.0]), "b": kind([4.0]), "c": kind([3.0]), "d": kind([3.0])})


class Scaled(Scalar):
    """x is found by a layer, on which hooks can be put."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return ((self.layer(self.x) - batch[0]) ** 2).mean() / 2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(self.x))

    def add(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + 1

    def shifted(self, x: Tensor) -> Tensor:
        return self.x - x


# ---- references out of the copy --------------------------------------------------------------------------------------


def by_lambda(module: Any) -> None:
    module.head = lambda x: module.x - x


def in_a_list(module: Any) -> None:
    module.heads = [torch.tanh, {"first": lambda x: module.layer(x)}]


def by_default(module: Any) -> None:
    def head(x: Tensor, own: nn.Parameter = module.x) -> Tensor:
        return own - x

    module.head = head


def in_a_partial(module: Any) -> None:
    module.head = partial(lambda y, x: module.x - x, 1)


def on_a_part(module: Any) -> None:
    module.layer.scale = lambda: module.x


def forward_hook(module: Any) -> None:
    module.layer.register_forward_hook(lambda layer, inputs, output: module.x * 1)


def forward_pre_hook(module: Any) -> None:
    module.layer.register_forward_pre_hook(lambda layer, inputs: (module.x * 1,))


@pytest.mark.parametrize("engine", [*ENGINES, "isolated"])
@pytest.mark.parametrize(
    ("put", "named"),
    [
        (by_lambda, r"the attribute 'head' is the function by_lambda\.<locals>\.<lambda>"),
        (in_a_list, r"the attribute 'heads\.first' is the function in_a_list"),
        (by_default, r"the attribute 'head' is the function by_default\.<locals>\.head"),
        (in_a_partial, r"the attribute 'head' is the function in_a_partial"),
        (on_a_part, r"the attribute 'layer\.scale' is the function on_a_part"),
        (forward_hook, r"the hook 'layer\._forward_hooks\.\d+' is the function forward_hook"),
        (forward_pre_hook, r"the hook 'layer\._forward_pre_hooks\.\d+' is the function forward_pre_hook"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_closure_over_the_module_is_refused_at_the_start(put: Callable[[Any], None], named: str, engine: Any) -> None:
    put(module := Scaled())
    with pytest.raises(ValueError, match=rf"^Scaled: {named}.*make it a method of the module"):
        fit(FederatedModule(module, engine=engine), people())
    assert module.x.item() == 0.0


def double(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [Rows, EvaluatedRows], ids=["", "validating"])
def test_hooks_that_are_methods_or_functions_of_their_arguments_alone_work(engine: Any, kind: type[Rows]) -> None:
    """x + 1 goes to 3, whose gradient is x + 1 − 3; (2x − 3)²/2 has the gradient −6 at 0."""
    module = Scaled()
    module.layer.register_forward_hook(module.add)
    fit(FederatedModule(module, engine=engine), people(kind))
    assert module.x.item() == 2.0
    module = Scaled()
    module.layer.register_forward_hook(double)
    fit(FederatedModule(module, engine=engine), people(kind))
    assert module.x.item() == 6.0


def of_nothing(x: Tensor, scale: Any = None) -> Tensor:
    return x


def test_a_default_of_none_is_no_reference_to_a_layer_without_a_bias() -> None:
    module: Any = Scaled()
    module.linear = nn.Linear(1, 1, bias=False)
    module.head = of_nothing
    copy: Any = copied(module, trainer())
    assert copy.head is of_nothing


@pytest.mark.parametrize("engine", ENGINES)
def test_a_method_as_an_attribute_is_the_copys_own(engine: Any) -> None:
    class Headed(Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.head = self.shifted

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.head(batch[0]).square().mean() / 2

    fit(FederatedModule(module := Headed(), engine=engine), people())
    assert module.x.item() == 3.0


# ---- what belongs to the server --------------------------------------------------------------------------------------


class Post(nn.Module, pl.Callback):
    """A part of the module that is a callback too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def on_validation_batch_end(self, *_: Any) -> None:
        self.seen += 1
        self.log("seen", float(self.seen))


class WithCallback(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.post = Post()

    def configure_callbacks(self) -> Any:
        return [self.post]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_module_may_keep_a_callback_of_its_own(engine: Any) -> None:
    """Lightning puts a bound method of the FederatedModule on it, which leads to the whole run."""
    module = WithCallback()
    run = fit(FederatedModule(module, engine=engine), people(EvaluatedRows), num_sanity_val_steps=0)
    assert module.x.item() == 3.0
    assert module.post.seen == 4
    assert "seen" in run.callback_metrics


def test_a_copy_holds_nothing_of_the_server() -> None:
    class Looks(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            copy = copied(pl_module.module, trainer)
            with pytest.raises(RuntimeError, match=r"the FederatedModule.* belongs to the server"):
                copy.post.log("seen", 1.0)  # type: ignore[union-attr, operator]

    data = people(EvaluatedRows)
    fit(FederatedModule(WithCallback()), data, callbacks=[Looks()], num_sanity_val_steps=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule")
def test_a_profiler_that_puts_hooks_on_the_module(engine: Any, tmp_path: Path) -> None:
    module = Scaled()
    run = trainer(profiler="pytorch", default_root_dir=tmp_path, max_epochs=2)
    run.fit(FederatedModule(module, engine=engine), people())
    assert module.x.item() == 3.0
    assert not module.layer._forward_hooks


class Extractor:
    """Keeps what a layer gives; it is no part of the module."""

    def __init__(self, kept: Any = None) -> None:
        self.kept, self.outputs = kept, 0

    def hook(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self.outputs += 1

    def __call__(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self.outputs += 1


@pytest.mark.parametrize("by_partial", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_hook_of_an_object_outside_is_named_and_stays_on_the_server(engine: Any, by_partial: bool) -> None:
    """Also where the object itself cannot be copied: it is none of the workers'."""
    extractor = Extractor(threading.Lock())
    fed = FederatedModule(module := Scaled(), engine=engine)
    module.layer.register_forward_hook(partial(extractor.hook) if by_partial else extractor.hook)
    with pytest.warns(UserWarning, match=r"the hook Extractor.hook on 'layer' of Scaled is that of an object outside"):
        fit(fed, people())
    assert module.x == 3.0
    assert extractor.outputs == 0
    trainer().validate(fed, people(EvaluatedRows), verbose=False)
    assert extractor.outputs == 4


@pytest.mark.parametrize(
    "kept", [threading.Lock(), (i for i in range(3)), sys.stdout], ids=["lock", "generator", "file"]
)
def test_what_cannot_be_copied_is_named(kept: Any) -> None:
    module = Scaled()
    handle = module.layer.register_forward_hook(partial(Extractor(kept)))
    named = rf"its hook 'layer._forward_hooks.{handle.id}.kept' cannot be \(cannot pickle .*the objects of its hooks"
    with pytest.raises(ValueError, match=named):
        fit(FederatedModule(module), people())
    handle.remove()
    module.mine = {"of mine": kept}
    with pytest.raises(ValueError, match=r"its attribute 'mine.of mine' cannot be \(cannot pickle"):
        fit(FederatedModule(module), people())
