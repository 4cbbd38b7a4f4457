from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed._lightning import pl
from lightning_fed.datasets import DigitsDataModule
from lightning_fed.models import MLPClassifier

# What Lightning says of a loader without processes, of a model without validation data, and of torch's pytrees.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


def trainer(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def identity() -> MLPClassifier:
    """Make a classifier whose logits are its two inputs."""
    model = MLPClassifier(in_features=2, hidden=(), classes=2)
    model.load_state_dict({"net.1.weight": torch.eye(2), "net.1.bias": torch.zeros(2)})
    return model


# Logits (1, 0), (1, 0), (0, 1), (0, 1) against the labels 0, 1, 1, 1: three right.
ROWS = TensorDataset(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), torch.tensor([0, 1, 1, 1]))


def test_layers_follow_the_arguments() -> None:
    net = MLPClassifier(in_features=6, hidden=(5, 4), classes=3).net
    assert [type(layer) for layer in net] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in net if isinstance(layer, nn.Linear)] == [(5, 6), (4, 5), (3, 4)]


@pytest.mark.parametrize("batch_size", [2, 3, 4])
@pytest.mark.parametrize("stage", ["val", "test"])
def test_pooled_loss_and_accuracy_by_hand(stage: str, batch_size: int) -> None:
    run = trainer()
    evaluate = run.validate if stage == "val" else run.test
    (metrics,) = evaluate(identity(), DataLoader(ROWS, batch_size=batch_size), verbose=False)
    # -log softmax is log(1 + e^-1) where it is right, log(1 + e) where it is wrong.
    right, wrong = torch.log(1 + torch.exp(torch.tensor([-1.0, 1.0]))).tolist()
    assert metrics == pytest.approx({f"{stage}_loss": (3 * right + wrong) / 4, f"{stage}_acc": 0.75})


def test_training_logs_loss_and_accuracy_and_takes_an_sgd_step() -> None:
    model = identity()
    run = trainer(max_epochs=1, log_every_n_steps=1)
    run.fit(model, DataLoader(ROWS, batch_size=4))
    assert run.callback_metrics["train_acc"].item() == 0.75
    # The gradient of the mean loss on the bias is the mean of softmax - onehot: two rows of p, two of 1 - p, 1 label 0.
    bias = model.get_parameter("net.1.bias")
    torch.testing.assert_close(bias.data, -0.3 * torch.tensor([0.25, -0.25]))


def test_each_stage_has_a_metric_of_its_own() -> None:
    model = identity()
    calls: list[str] = []
    for name in ("train_acc", "val_acc", "test_acc"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    loader = DataLoader(ROWS, batch_size=4)
    trainer(max_epochs=1, log_every_n_steps=1).fit(model, loader)
    trainer().validate(model, loader, verbose=False)
    trainer().test(model, loader, verbose=False)
    assert calls == ["train_acc", "val_acc", "test_acc"]


def test_predicts_from_x_alone_and_from_x_with_its_label() -> None:
    x, label = ROWS.tensors
    model = identity()
    for batch in (x, (x, label), [x]):
        assert torch.equal(model.predict_step(batch, 0), x)


def test_learns_the_digits() -> None:
    pl.seed_everything(0, verbose=False)
    model, data, run = MLPClassifier(), DigitsDataModule(), trainer(max_epochs=10, log_every_n_steps=1)
    run.fit(model, data)
    (metrics,) = run.test(model, data, verbose=False)
    assert metrics["test_acc"] > 0.8


def test_checkpoint_rebuilds_it_from_its_own_hyperparameters(tmp_path: Path) -> None:
    settings = {"in_features": 2, "hidden": (3,), "classes": 2, "lr": 0.05, "momentum": 0.9}
    model = MLPClassifier(**settings)
    run = trainer(max_epochs=1, log_every_n_steps=1)
    run.fit(model, DataLoader(ROWS, batch_size=4))
    run.save_checkpoint(tmp_path / "mlp.ckpt")
    loaded = MLPClassifier.load_from_checkpoint(tmp_path / "mlp.ckpt")
    assert dict(loaded.hparams) == {**settings, "weight_decay": 0.0}
    group = loaded.configure_optimizers().param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.05, 0.9, 0.0)
    assert torch.equal(loaded(ROWS.tensors[0]), model(ROWS.tensors[0]))


def test_a_deep_copy_computes_the_same() -> None:
    model = MLPClassifier()
    x = torch.rand(3, 8, 8)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
