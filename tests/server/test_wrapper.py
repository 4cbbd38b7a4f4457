"""The FederatedModule in the place of the user's module: the same names, layers, summaries and exports.

The oracle is what torch and Lightning say of the plain module.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from helpers import Rows, fit, trainer
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl

pytestmark = pytest.mark.filterwarnings("ignore:.* has attributes with names of a FederatedModule's own")


class Net(pl.LightningModule):
    """Has a parameter, a buffer and a part of its own, and a part whose name is also a FederatedModule's."""

    def __init__(self, bias: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("offset", torch.full((1,), bias))
        self.net = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.0), nn.Linear(4, 1))
        self.transforms = nn.Identity()
        self.example_input_array = torch.zeros(2, 1)
        self._rate = 0.1

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return self.transforms(self.net(x)) * self.scale + self.offset

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].unsqueeze(1)
        return (self(x) - 2 * x).square().mean() * getattr(self, "weight_of_loss", 1.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def people() -> FederatedDataModule:
    return FederatedDataModule({"a": Rows([1.0, 2.0]), "b": Rows([3.0])})


def test_torch_finds_what_it_finds_in_the_plain_module() -> None:
    fed, plain = FederatedModule(Net()), Net()
    assert [name for name, _ in fed.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in fed.named_buffers()] == [name for name, _ in plain.named_buffers()]
    assert [name for name, _ in fed.named_modules()] == [name for name, _ in plain.named_modules()]
    assert [name for name, _ in fed.named_children()] == [name for name, _ in plain.named_children()]
    torch.testing.assert_close(fed.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert fed.get_submodule("net.0") is fed.net[0] is fed.module.net[0]
    assert fed.transforms == (), "a name of FederatedModule's own"
    assert fed.module.transforms is fed.get_submodule("transforms")


def test_what_is_done_to_it_is_done_to_the_module() -> None:
    fed = FederatedModule(module := Net())
    fed.eval()
    assert not fed.training
    assert not module.training
    assert not module.net.training
    fed.train()
    assert fed.training
    assert module.training
    fed.training = False
    assert not module.training
    fed.freeze()
    assert not any(p.requires_grad for p in module.parameters())
    fed.unfreeze()
    assert all(p.requires_grad for p in module.parameters())
    fed.to(torch.float64)
    assert fed.dtype == module.dtype == module.scale.dtype == module.offset.dtype == torch.float64
    fed.apply(lambda part: setattr(part, "seen", True))
    assert module.seen
    assert module.net[0].seen


def test_layers_and_attributes_are_set_on_the_module() -> None:
    fed = FederatedModule(module := Net())
    fed.net = nn.Linear(1, 1)
    fed.scale = nn.Parameter(torch.tensor(3.0))
    fed.offset = torch.full((1,), 5.0)
    fed.rate = 0.5
    fed.weight_of_loss = 2.0
    fed.register_buffer("late", torch.ones(1))
    assert module.net is fed.net
    assert module.scale.item() == 3.0
    assert module.offset.item() == module._buffers["offset"].item() == 5.0
    assert module.rate == 0.5
    assert module.weight_of_loss == 2.0
    assert module.late is fed.late
    del fed.weight_of_loss
    assert not hasattr(module, "weight_of_loss")
    fed.min_workers = 2
    assert not hasattr(module, "min_workers"), "FederatedModule's own"


@pytest.mark.parametrize("name", ["register", "mro"])
def test_so_are_those_with_names_of_what_every_class_has(name: str) -> None:
    fed = FederatedModule(module := Net())
    setattr(fed, name, 1)
    assert getattr(module, name) == getattr(fed, name) == 1
    delattr(fed, name)
    assert name not in vars(module)


class Hidden(pl.LightningModule):
    """Has attributes of every kind whose names are a FederatedModule's, and some that are Lightning's or nobody's."""

    transforms = "of the class"

    def __init__(self) -> None:
        super().__init__()
        self.aggregator = nn.Linear(1, 1)
        self.local = nn.Parameter(torch.ones(1))
        self.register_buffer("own_state", torch.ones(1))
        self.module = 3
        self._log = self.net = 4
        self.example_input_array = torch.ones(1)

    def algorithm(self) -> int:
        return 1

    @property
    def engine(self) -> int:
        raise RuntimeError("nobody asks for it")

    @property
    def strict_loading(self) -> bool:
        return False

    def on_train_start(self) -> None:
        pass


def test_attributes_that_the_wrapper_hides_are_named_once() -> None:
    with pytest.warns(UserWarning, match="own, which callbacks find in their place on pl_module") as told:
        fed = FederatedModule(Hidden())
    (warning,) = told
    names = ["aggregator", "algorithm", "engine", "local", "module", "own_state", "transforms"]
    assert str(warning.message) == (
        "Hidden has attributes with names of a FederatedModule's own, which callbacks find in their place on "
        f"pl_module: read those of the module as {', '.join(f'fed.module.{name}' for name in names)}, or rename them"
    )
    assert fed.module.module == 3
    assert fed.get_submodule("aggregator") is fed.module.aggregator is not fed.aggregator


OURS = {*dir(FederatedModule), "last_report", "min_workers"} - {*dir(pl.LightningModule()), "transforms"}


@pytest.mark.parametrize("name", sorted(name for name in OURS if not name.startswith("_")))
def test_so_is_any_of_them(name: str) -> None:
    kind = type("Mine", (Net,), {name: 1})
    with pytest.warns(UserWarning, match=rf"fed\.module\.{name},"):
        FederatedModule(kind())


def test_an_override_of_train_is_called() -> None:
    class KeepsNetInEval(Net):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.net.eval()
            return self

    fed = FederatedModule(module := KeepsNetInEval())
    fed.train()
    assert module.training
    assert not module.net.training


def test_forward_hooks_of_both_are_called_once() -> None:
    fed = FederatedModule(module := Net())
    calls: list[str] = []
    module.register_forward_hook(lambda *_: calls.append("module's"))
    fed.register_forward_hook(lambda *_: calls.append("wrapper's"))
    fed(torch.zeros(1, 1))
    assert calls == ["module's", "wrapper's"]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda fed: pickle.loads(pickle.dumps(fed))], ids=["copy", "pickle"])
def test_a_copy_is_whole(again: Any) -> None:
    other = again(FederatedModule(Net()))
    with torch.no_grad():
        other.module.scale.fill_(7.0)
    assert other.scale.item() == other.state_dict()["scale"].item() == 7.0
    assert other.get_submodule("net") is other.module.net


@pytest.mark.parametrize("depth", [0, 1, 2, -1])
def test_a_summary_is_that_of_the_module(depth: int) -> None:
    """Rows, sizes and FLOPs, within a fit as in a plain one."""

    class Summarise(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            said.append(str(pl.utilities.model_summary.ModelSummary(pl_module, max_depth=depth)))

    said: list[str] = []
    fit(FederatedModule(Net()), people(), callbacks=[Summarise()])
    trainer(callbacks=[Summarise()]).fit(Net(), Rows([1.0]))
    ours, plains = said
    assert ours == plains
    assert depth == 0 or "[2, 1]" in plains


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's tracing
def test_a_logger_draws_the_graph(tmp_path: Any) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = pl.loggers.TensorBoardLogger(tmp_path, log_graph=True)
    fit(FederatedModule(Net()), people(), logger=logger)
    assert EventAccumulator(logger.log_dir).Reload().Tags()["graph"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's tracing
def test_it_exports_the_module() -> None:
    fed = FederatedModule(Net())
    x = torch.ones(3, 1)
    script = fed.to_torchscript(method="trace")
    torch.testing.assert_close(script(x), fed.module.eval()(x))


def test_a_new_attribute_reaches_the_workers() -> None:
    """The loss is multiplied by 0: nothing moves."""

    class Weighs(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.weight_of_loss = 0.0

    fed = FederatedModule(module := Net())
    fit(fed, people(), callbacks=[Weighs()])
    torch.testing.assert_close(module.state_dict(), Net().state_dict(), rtol=0, atol=0)


def test_the_modules_own_trainer_is_the_servers() -> None:
    seen = []

    class Looks(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append(pl_module.module.trainer is trainer)

    fit(FederatedModule(Net()), people(), callbacks=[Looks()])
    assert seen == [True]
