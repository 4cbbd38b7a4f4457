from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed._lightning import pl
from lightning_fed.datasets import ToyDataModule
from lightning_fed.models import LinearRegression

# What Lightning says of a loader without processes, of a model without validation data, and of torch's pytrees.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

# fmt: off
NOTEBOOK_LOSSES = [
    1.3331, 0.8759, 0.5817, 0.3887, 0.2613, 0.1769, 0.1206, 0.0828, 0.0573, 0.0399,
    0.0281, 0.0199, 0.0142, 0.0102, 0.0074, 0.0054, 0.0040, 0.0029, 0.0022, 0.0016,
]
# fmt: on


def trainer(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def model_with(weight: list[list[float]], bias: list[float]) -> LinearRegression:
    model = LinearRegression(len(weight[0]), len(weight))
    model.load_state_dict({"linear.weight": torch.tensor(weight), "linear.bias": torch.tensor(bias)})
    return model


class Losses(pl.Callback):
    """Keeps the loss of every training step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.values.append(outputs["loss"].item())


def test_one_step_by_hand() -> None:
    # w = 0, b = 0: errors (1, 1, 0, 0), so the gradient of the sum is w: (-2, -4), b: -4, and lr is 0.1.
    model = model_with([[0.0, 0.0]], [0.0])
    trainer(max_epochs=1, log_every_n_steps=1).fit(model, ToyDataModule())
    torch.testing.assert_close(model.linear.weight.data, torch.tensor([[0.2, 0.4]]))
    torch.testing.assert_close(model.linear.bias.data, torch.tensor([0.4]))


def test_the_notebooks_losses() -> None:
    losses = Losses()
    model = model_with([[-0.43363728, 2.04810365]], [-0.41509591])
    trainer(max_epochs=20, log_every_n_steps=1, callbacks=[losses]).fit(model, ToyDataModule())
    assert losses.values == pytest.approx(NOTEBOOK_LOSSES, abs=1e-4)


def test_logs_the_sum_over_the_batch_in_training() -> None:
    run = trainer(max_epochs=1, log_every_n_steps=1)
    run.fit(model_with([[0.0, 0.0]], [0.0]), ToyDataModule())
    assert run.callback_metrics["train_loss"].item() == 2.0


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
@pytest.mark.parametrize("stage", ["val", "test"])
def test_mean_squared_error_does_not_depend_on_the_batch_size(stage: str, batch_size: int) -> None:
    # Errors (1, 1, 0, 0): two over four examples.
    run = trainer()
    evaluate = run.validate if stage == "val" else run.test
    (metrics,) = evaluate(model_with([[0.0, 0.0]], [0.0]), ToyDataModule(batch_size=batch_size), verbose=False)
    assert metrics[f"{stage}_mse"] == pytest.approx(0.5)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_evaluation_loss_is_the_sum_over_the_batch(stage: str) -> None:
    run = trainer()
    evaluate = run.validate if stage == "val" else run.test
    (metrics,) = evaluate(model_with([[0.0, 0.0]], [0.0]), ToyDataModule(), verbose=False)
    assert metrics[f"{stage}_loss"] == 2.0


def test_predicts_from_x_alone_and_from_x_with_its_target() -> None:
    model = model_with([[1.0, 2.0]], [0.5])
    expected = [[3.5], [2.5], [1.5], [0.5]]
    toy = ToyDataModule()
    x, target = next(iter(toy.train_dataloader()))
    loaders: list[Any] = [toy.predict_dataloader(), toy.train_dataloader(), DataLoader(TensorDataset(x), batch_size=4)]
    for loader in loaders:
        predictions: Any = trainer().predict(model, loader)
        assert torch.cat(predictions).tolist() == expected
    assert model.predict_step((x, target), 0).tolist() == expected


def broadcast_losses(model: LinearRegression, *targets: Tensor) -> list[float]:
    losses = Losses()
    for target in targets:
        loader = DataLoader(TensorDataset(torch.zeros(len(target), 2), target), batch_size=len(target))
        trainer(max_epochs=1, log_every_n_steps=1, callbacks=[losses]).fit(model, loader)
    return losses.values


def test_target_of_another_shape_gives_what_torch_gives() -> None:
    # x = 0, bias = 1: the prediction is [[1], [1]], against [[1, 1], [0, 1]]: one error of 1.
    model = model_with([[0.0, 0.0]], [1.0])
    with pytest.warns(UserWarning, match=r"the target's shape \(2, 2\) differs from the prediction's \(2, 1\)"):
        assert broadcast_losses(model, torch.tensor([[1.0, 1.0], [0.0, 1.0]])) == [1.0]


def test_flat_target_gives_what_torch_gives() -> None:
    # [2] against [2, 1]: every prediction (1, 1) with every target (0, 3): 2 * (1 + 4).
    with pytest.warns(UserWarning, match=r"the target's shape \(2,\) differs"):
        assert broadcast_losses(model_with([[0.0, 0.0]], [1.0]), torch.tensor([0.0, 3.0])) == [10.0]


def test_warns_once_per_pair_of_shapes() -> None:
    model = model_with([[0.0, 0.0]], [1.0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        broadcast_losses(model, torch.ones(2, 2), torch.ones(2, 2), torch.ones(3, 2), torch.ones(2, 2))
    shapes = [str(warning.message)[19:25] for warning in caught if "the target's shape" in str(warning.message)]
    assert shapes == ["(2, 2)", "(3, 2)"]


def test_matching_shapes_do_not_warn() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        broadcast_losses(LinearRegression(2, 1), torch.ones(2, 1))
    assert not [warning for warning in caught if "the target's shape" in str(warning.message)]


def test_checkpoint_rebuilds_it_from_its_own_hyperparameters(tmp_path: Path) -> None:
    model = LinearRegression(3, 2, lr=0.25)
    run = trainer(max_epochs=1, log_every_n_steps=1)
    run.fit(model, DataLoader(TensorDataset(torch.ones(4, 3), torch.ones(4, 2)), batch_size=4))
    run.save_checkpoint(tmp_path / "linear.ckpt")
    loaded = LinearRegression.load_from_checkpoint(tmp_path / "linear.ckpt")
    assert dict(loaded.hparams) == {"in_features": 3, "out_features": 2, "lr": 0.25}
    assert torch.equal(loaded.linear.weight, model.linear.weight)
    assert loaded.configure_optimizers().param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_the_same(clone: Any) -> None:
    model = LinearRegression(2, 1)
    x = torch.rand(3, 2)
    assert torch.equal(clone(model)(x), model(x))
