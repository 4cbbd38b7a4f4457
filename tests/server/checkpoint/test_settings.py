"""What becomes of a run that goes on with other settings than those of its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Median
from lightning_fed.algorithms import Algorithm, Ditto, FedAvg, FedBN, FedDyn, FedPer, FedProx, Scaffold
from lightning_fed.server.checkpoint.settings import plain_settings
from lightning_fed.transforms import ClipNorm

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class Two(Scalar):
    """Two parameters of the same size, and one that may be frozen."""

    def __init__(self, size: int = 2, frozen: bool = False) -> None:
        super().__init__(lr=0.1)
        self.save_hyperparameters()
        self.x = torch.nn.Parameter(torch.zeros(size))
        self.y = torch.nn.Parameter(torch.zeros(size))
        self.z = torch.nn.Parameter(torch.zeros(1), requires_grad=not frozen)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return sum(((p - batch[0].mean()) ** 2).mean() for p in (self.x, self.y, self.z))


def fit(
    algorithm: Algorithm | None = None,
    ckpt: Path | None = None,
    *,
    rounds: int = 2,
    names: str = "abc",
    size: int = 2,
    frozen: bool = False,
    seed: int = 0,
    cohort_size: int | None = None,
    optimizer: Callable[[Any], Any] | None = None,
    **options: Any,
) -> pl.Trainer:
    if optimizer is not None:
        options["server_optimizer"] = optimizer
    fed = FederatedModule(Two(size, frozen), algorithm=algorithm or FedAvg(), **options)
    data = FederatedDataModule({name: Rows([1.0, 2.0]) for name in names}, seed=seed, cohort_size=cohort_size)
    run = trainer(max_steps=rounds)
    run.fit(fed, data, ckpt_path=ckpt)
    return run


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=1.0, momentum=0.5)


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=0.1)


def step_lr(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 2)


def exponential(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "Scaffold, FedAvg": ({"algorithm": Scaffold()}, {}, "a run with Scaffold, and this one uses FedAvg: what the one"),
    "FedAvg, Scaffold": ({}, {"algorithm": Scaffold()}, "a run with FedAvg, and this one uses Scaffold"),
    "Scaffold, FedDyn": ({"algorithm": Scaffold()}, {"algorithm": FedDyn(0.1)}, "Scaffold, and this one uses FedDyn"),
    "FedBN, Ditto": ({"algorithm": FedPer(["x"])}, {"algorithm": Ditto(0.1)}, "FedPer, and this one uses Ditto"),
    "other layers": (
        {"algorithm": FedPer(["x"])},
        {"algorithm": FedPer(["y"])},
        r"written with algorithm.personal=\['x'\], and here it is \['y'\]: .*give it as it was, or begin anew",
    ),
    "a transform less": (
        {"algorithm": Scaffold(), "transforms": [ClipNorm(1.0)]},
        {"algorithm": Scaffold()},
        r"written with transforms=\['ClipNorm'\], and here it is \[\]",
    ),
    "another population": (
        {"algorithm": Scaffold()},
        {"algorithm": Scaffold(), "names": "uvw"},
        "another population: none of the 3 workers that remember something there, such as 'a', is here",
    ),
    "another width": ({}, {"size": 3}, r"another module: 'x' has the shape \[2\] there and \[3\] here"),
    "SGD, Adam": ({"optimizer": sgd}, {"optimizer": adam}, "server_optimizer is SGD, and here it is Adam"),
    "Adam, SGD": ({"optimizer": adam}, {"optimizer": sgd}, "server_optimizer is Adam, and here it is SGD"),
    "fewer parameters": ({}, {"frozen": True}, "'z' is frozen from the start of this run, and was trained"),
    "another scheduler": (
        {"server_lr_scheduler": step_lr},
        {"server_lr_scheduler": exponential},
        "server_lr_scheduler is StepLR, and here it is ExponentialLR",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_numbers_would_mean_something_else_for_is_refused(tmp_path: Path, case: str) -> None:
    before, now, message = REFUSED[case]
    fit(**before).save_checkpoint(tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match=message):
        fit(**now, ckpt=tmp_path / "c.ckpt", rounds=4)


SAID: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a weight": (
        {"algorithm": FedProx(0.1)},
        {"algorithm": FedProx(0.2)},
        "other settings than those of its checkpoint: algorithm.mu was 0.1 and is 0.2. From here on",
    ),
    "another weight": ({"algorithm": Ditto(0.1)}, {"algorithm": Ditto(0.5)}, "algorithm.lam was 0.1 and is 0.5"),
    "a transform's number": (
        {"algorithm": Scaffold(), "transforms": [ClipNorm(1.0)]},
        {"algorithm": Scaffold(), "transforms": [ClipNorm(2.0)]},
        r"transforms\[0\].max_norm was 1.0 and is 2.0",
    ),
    "algorithms without memory": ({}, {"algorithm": FedProx(0.1)}, "a run with FedAvg, and this one uses FedProx"),
    "epochs": ({}, {"local_epochs": 2}, "local_epochs was 1 and is 2"),
    "steps": ({}, {"local_steps": 3}, "local_steps was None and is 3"),
    "the aggregator": ({}, {"aggregator": Median()}, "aggregator was 'WeightedMean' and is 'Median'"),
    "the cohort": ({}, {"cohort_size": 2}, "cohort_size was 3 and is 2"),
    "the seed": ({}, {"seed": 1}, "seed was 0 and is 1"),
    "a worker more": ({"algorithm": Scaffold()}, {"algorithm": Scaffold(), "names": "abcd"}, "3 workers there and 4"),
    "other workers": ({}, {"names": "abd"}, "other workers, or the same in another order"),
    "the server's learning rate": (
        {"optimizer": sgd},
        {"optimizer": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.5)},
        "goes on with the checkpoint's options .server_optimizer.lr is 1.0 there and 0.5 here",
    ),
    "a scheduler more": ({}, {"server_lr_scheduler": step_lr}, "there is none of server_lr_scheduler in the"),
}


@pytest.mark.parametrize("case", SAID)
@pytest.mark.filterwarnings("ignore:the run goes on with other settings")  # the cohort's size changes an epoch's, too
def test_what_may_change_is_said(tmp_path: Path, case: str) -> None:
    before, now, message = SAID[case]
    fit(**before).save_checkpoint(tmp_path / "c.ckpt")
    with pytest.warns(UserWarning, match=message):
        assert fit(**now, ckpt=tmp_path / "c.ckpt", rounds=4).global_step == 4


def test_the_same_settings_are_no_matter(tmp_path: Path) -> None:
    class Mine(torch.optim.SGD):
        """As its base class."""

    again = partial(fit, FedPer(["x"]), server_lr_scheduler=step_lr)
    again(optimizer=sgd).save_checkpoint(tmp_path / "c.ckpt")
    mine = again(optimizer=lambda p: Mine(p, lr=1.0, momentum=0.5), ckpt=tmp_path / "c.ckpt", rounds=4)
    assert mine.global_step == 4


def test_an_evaluation_does_not_take_over_what_another_algorithm_remembers(tmp_path: Path) -> None:
    fit(FedPer(["x"])).save_checkpoint(tmp_path / "c.ckpt")

    class Validated(Two):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("x", self.x.mean())

    fed = FederatedModule(Validated(), algorithm=FedBN())
    data = FederatedDataModule({"a": Rows([1.0])}, val=central())
    with pytest.warns(UserWarning, match="written by a run with FedPer, and this one uses FedBN"):
        trainer().validate(fed, data, ckpt_path=tmp_path / "c.ckpt", verbose=False)
    assert fed.own_state == {}


def central() -> pl.LightningDataModule:
    class Central(Rows):
        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    return Central([1.0])


def test_a_checkpoint_of_the_format_before_goes_on(tmp_path: Path) -> None:
    """It has no settings, and names no run."""
    run = partial(fit, Scaffold())
    whole, first = run(rounds=4), run()
    first.save_checkpoint(tmp_path / "c.ckpt")
    content = torch.load(tmp_path / "c.ckpt", weights_only=True)
    part = content["lightning_fed"]
    del part["settings"]
    for table in part["state"]["workers"].values():
        del table["checksums"]
    part["version"] = 2
    torch.save(content, tmp_path / "old.ckpt")
    again = run(ckpt=tmp_path / "old.ckpt", rounds=4)
    torch.testing.assert_close(again.lightning_module.state_dict(), whole.lightning_module.state_dict(), rtol=0, atol=0)


def test_settings_are_plain_values() -> None:
    assert plain_settings(FedPer(("head.*", "norm.*"))) == {"class": "FedPer", "personal": ["head.*", "norm.*"]}
    assert plain_settings(Scaffold()) == {"class": "Scaffold"}
    assert plain_settings([1, 2.5, None, {"a": True}]) == [1, 2.5, None, {"a": True}]
    assert plain_settings(torch.relu) == "builtin_function_or_method _VariableFunctionsClass.relu"
