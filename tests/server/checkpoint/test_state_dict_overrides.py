"""What the user's module says that its state is, is what a checkpoint holds: adapters only, other names."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, averaging, trainer
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Algorithm, FedAvg, FedPer
from lightning_fed.server.checkpoint import KEY

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class Plain(pl.LightningModule):
    """A frozen part, and an adapter that is trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.big = nn.Linear(1, 4).requires_grad_(False)
        self.adapter = nn.Linear(4, 1)

    def loss(self, batch: Any) -> Tensor:
        x = batch[0].unsqueeze(1)
        return (self.adapter(self.big(x)) - 2 * x).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class AdapterOnly(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return {name: tensor for name, tensor in super().state_dict(*args, **options).items() if "adapter" in name}


class Renamed(Plain):
    """Has other names in its state, as a module that was rewritten does."""

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return {f"old.{name}": tensor for name, tensor in super().state_dict(*args, **options).items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True) -> Any:
        return super().load_state_dict({name.removeprefix("old."): t for name, t in state_dict.items()}, strict)


class Saves(pl.Callback):
    """Saves once, in one hook of round 2."""

    def __init__(self, path: Path, hook: str) -> None:
        self._path = path
        self.seen: list[str] = []
        setattr(self, hook, self._save)

    def _save(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2 and not self.seen:
            trainer.save_checkpoint(self._path)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.seen = list(checkpoint["state_dict"])


def run(
    module: pl.LightningModule, *callbacks: pl.Callback, ckpt: Path | None = None, algorithm: Algorithm = FedAvg()
) -> pl.Trainer:
    fed = FederatedModule(module, algorithm, server_optimizer=lambda p: torch.optim.Adam(p, lr=0.1))
    data = {f"w{i}": EvaluatedRows([i, i + 1.0, i + 2.0], batch_size=2) for i in range(4)}
    fit = trainer(max_steps=4, num_sanity_val_steps=0, callbacks=list(callbacks))
    fit.fit(fed, FederatedDataModule(data, cohort_size=2, rounds_per_epoch=2), ckpt_path=ckpt)
    return fit


HOOKS = ("on_train_batch_start", "on_before_zero_grad", "on_before_optimizer_step", "on_validation_batch_end")
kinds = pytest.mark.parametrize("kind", [Plain, AdapterOnly, Renamed])


@kinds
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("algorithm", [FedAvg(), FedPer(["adapter.bias"])], ids=["global", "personal"])
def test_a_run_goes_on_from_it_bit_for_bit(tmp_path: Path, kind: Any, hook: str, algorithm: Algorithm) -> None:
    """Also from one that is written in the middle of a server step, or while a worker's own layers are in place."""
    saves = Saves(tmp_path / "it.ckpt", hook)
    run(whole := kind(), saves, algorithm=algorithm)
    run(resumed := kind(), ckpt=tmp_path / "it.ckpt", algorithm=algorithm)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(list(resumed.parameters()), list(whole.parameters()), rtol=0, atol=0)


@kinds
def test_it_holds_what_a_plain_trainers_checkpoint_holds(tmp_path: Path, kind: Any) -> None:
    saves, plains = Saves(tmp_path / "ours.ckpt", "on_train_end"), Saves(tmp_path / "plain.ckpt", "on_train_end")
    run(kind(), saves).save_checkpoint(tmp_path / "ours.ckpt")
    plain = trainer(callbacks=[plains])
    plain.fit(kind(), EvaluatedRows([1.0, 2.0]))
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    ours, theirs = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("ours", "plain"))
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    assert saves.seen == plains.seen == list(ours["state_dict"]), "what a callback's on_save_checkpoint finds"
    missing = pytest.warns(UserWarning, match="not in the checkpoint") if kind is AdapterOnly else nullcontext()
    with missing:
        kind.load_from_checkpoint(tmp_path / "ours.ckpt")


@pytest.mark.parametrize(
    ("kind", "hook"), [*((Plain, hook) for hook in HOOKS), *((Renamed, hook) for hook in HOOKS[:-1])]
)
def test_averaged_weights_go_on_from_it_too(tmp_path: Path, kind: Any, hook: str) -> None:
    saves = Saves(tmp_path / "it.ckpt", hook)
    run(whole := kind(), saves, averaging(decay=0.5))
    run(resumed := kind(), averaging(decay=0.5), ckpt=tmp_path / "it.ckpt")
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_averaged_weights_of_an_older_format_are_read(tmp_path: Path) -> None:
    saves = Saves(tmp_path / "it.ckpt", "on_train_batch_start")
    run(whole := Plain(), saves, averaging(decay=0.5))
    checkpoint = torch.load(tmp_path / "it.ckpt", weights_only=True)
    checkpoint[KEY]["version"] = 3
    names = checkpoint["current_model_state"]
    checkpoint["current_model_state"] = {f"module.{name}": tensor for name, tensor in names.items()}
    torch.save(checkpoint, tmp_path / "it.ckpt")
    run(resumed := Plain(), averaging(decay=0.5), ckpt=tmp_path / "it.ckpt")
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
