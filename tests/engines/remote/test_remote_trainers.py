"""What a Trainer does to a run over nodes, it does as in the simulation: accumulation, cohorts, callbacks, a record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, trainer
from oracle import assert_bits
from over_nodes import connected
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedNova, FedPer, Scaffold
from lightning_fed.engines import Engine, Sequential
from lightning_fed.node import Node
from lightning_fed.privacy import LocalDP


class Net(pl.LightningModule):
    """Two layers that fit the rows' mean, with momentum and a schedule."""

    def __init__(self, first: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head = first(1, 4), nn.Linear(4, 1)

    def loss(self, batch: Any) -> Tensor:
        values = batch[0].unsqueeze(1)
        difference: Tensor = self.head(self.body(torch.ones_like(values)).tanh()) - values
        return difference.square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("fit", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def people() -> dict[str, EvaluatedRows]:
    return {f"p{number}": EvaluatedRows([float(number), number + 1.0], batch_size=1) for number in range(6)}


def left_by(engine: Engine, workers: Any, options: dict[str, Any], data: dict[str, Any], **trainers: Any) -> Any:
    """What a run leaves: the model, the server's state, and all metrics but seconds."""
    fed = FederatedModule(module := Net(), engine=engine, local_schedule="continue", **options)
    run = trainer(max_epochs=-1, **{"max_steps": 6, **trainers})
    run.fit(fed, FederatedDataModule(workers, **data))
    metrics = {name: float(value) for name, value in run.callback_metrics.items() if "time" not in name}
    return dict(module.state_dict()), dict(fed.server_state), metrics, run.global_step


RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "accumulated": ({}, {}, {"accumulate_grad_batches": 2, "max_steps": 3}),
    "a cohort of Scaffold": ({"algorithm": Scaffold()}, {"cohort_size": 2}, {"max_steps": 12}),
    "a cohort of FedPer": ({"algorithm": FedPer(["head.*"])}, {"cohort_size": 2}, {"max_steps": 12}),
    "a cohort of FedNova": ({"algorithm": FedNova()}, {"cohort_size": 3}, {}),
    "kept optimizers": ({"local_optimizer_state": "kept"}, {"cohort_size": 2}, {"max_steps": 12}),
    "half precision": ({}, {}, {"precision": "bf16-mixed"}),
    "steps": ({"local_steps": 3}, {}, {}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_equals_the_simulation(name: str, tmp_path: Path) -> None:
    options, data, trainers = RUNS[name]
    there = left_by(*connected(Net, people(), tmp_path), options, data, **trainers)
    assert_bits(there, left_by(Sequential(), people(), options, data, **trainers))


def watched(engine: Engine, workers: Any, folder: Path) -> Any:
    """What callbacks that monitor an evaluation of the workers make of a run."""
    best = ModelCheckpoint(folder, monitor="val_loss", filename="{step}", save_top_k=2)
    stop = EarlyStopping("val_loss", patience=0, min_delta=1.0)
    run = trainer(max_steps=8, max_epochs=-1, callbacks=[best, stop], enable_checkpointing=True)
    fed = FederatedModule(Net(), engine=engine, local_schedule="continue")
    run.fit(fed, FederatedDataModule(workers))
    return run.global_step, sorted(Path(path).name for path in best.best_k_models), float(best.best_model_score or 0)


def test_callbacks_that_monitor_an_evaluation_do_as_in_the_simulation(tmp_path: Path) -> None:
    there = watched(*connected(Net, people(), tmp_path / "nodes"), tmp_path / "there")
    here = watched(Sequential(), people(), tmp_path / "here")
    assert there == here
    assert 1 < there[0] < 8, "it stopped early"


def test_a_record_of_the_run_is_written(tmp_path: Path) -> None:
    engine, workers = connected(Net, people(), tmp_path / "nodes")
    logger = pl.loggers.CSVLogger(tmp_path, name="run")
    run = trainer(max_steps=2, max_epochs=-1, logger=logger)
    run.fit(FederatedModule(Net(), engine=engine, local_schedule="continue"), FederatedDataModule(workers))
    (record,) = tmp_path.glob("run/**/run.json")
    settings = json.loads(record.read_text())["settings"]
    assert settings["engine"] == "overloopback"
    assert settings["engine/asked"].startswith("OverLoopback(")
    assert not any("link" in name for name in settings), "it may hold a secret"
    rounds = [json.loads(line) for line in (record.parent / "rounds.jsonl").read_text().splitlines()]
    assert len(rounds) == 2


def test_a_promise_keeps_the_workers_names_out_of_all_that_is_written(tmp_path: Path) -> None:
    data = {f"Zq{name}": rows for name, rows in people().items()}
    engine, workers = connected(Net, data, tmp_path / "nodes")
    logger = pl.loggers.TensorBoardLogger(tmp_path / "logs", "run")
    run = trainer(max_steps=2, max_epochs=-1, logger=logger, limit_val_batches=0)
    fed = FederatedModule(Net(), engine=engine, privacy=LocalDP(clip=1.0, noise_multiplier=1.0, delta=0.01))
    run.fit(fed, FederatedDataModule(workers))
    written = [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    assert {"run.json", "rounds.jsonl", "hparams.yaml"} <= {path.name for path in written}
    assert not [path for path in written if b"Zq" in path.read_bytes()]


def test_nodes_are_told_that_a_run_is_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the Trainer would leave it behind
    engine, workers = connected(Net, people(), tmp_path)
    try:
        left_by(engine, workers, {}, {}, max_steps=1, deterministic=True)
        left_by(engine, workers, {}, {}, max_steps=1, deterministic=False)
    finally:
        torch.use_deterministic_algorithms(False)
    told = [asked["terms"]["deterministic"] for asked in engine.link.asked if asked["ask"] == "train"]
    assert told == [True] * 6 + [False] * 6


def test_a_lazy_module_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'body\.weight' of Net has no shape before a first batch"):
        Node(Net(lambda _, width: nn.LazyLinear(width)), people(), home=tmp_path)
