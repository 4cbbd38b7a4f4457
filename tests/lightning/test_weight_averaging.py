"""Callbacks that average weights or accumulate gradients: they act on rounds as they do on a plain Trainer's steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, averaging, fit, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.server import remarks

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Examples(pl.LightningDataModule):
    """Rows of three numbers and what to predict of them."""

    def __init__(self, seed: int = 0, batches: int = 1) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.rows = torch.randn(4 * batches, 4, generator=draw, dtype=torch.float64)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.rows[:, :3], self.rows[:, 3:]), batch_size=4)


class Normed(pl.LightningModule):
    """A net with BatchNorm, which begins with the same numbers every time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return ((self.net(batch[0]) - batch[1]) ** 2).mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def swa(lr: Any) -> pl.callbacks.StochasticWeightAveraging:
    return pl.callbacks.StochasticWeightAveraging(lr, swa_epoch_start=2, annealing_epochs=1)


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_buffers())


# ---- StochasticWeightAveraging ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_the_average_is_that_of_plain_lightning(engine: Any) -> None:
    """With the server's rate at 1, that of plain averaging, and the workers' as it is without the callback."""
    plain, module = Normed(), Normed()
    trainer(max_epochs=5, callbacks=[swa(0.1)]).fit(plain, Examples())
    fed = FederatedModule(module, engine=engine)
    fit(fed, FederatedDataModule({"a": Examples()}), max_epochs=5, callbacks=[swa(1.0)])
    assert_equal(module.state_dict(), plain.state_dict())


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_statistics_are_those_of_the_average_over_all_batches(engine: Any) -> None:
    """No worker moves between the batches of the last pass.

    The weights are compared with one batch alone: when the pass is over, Lightning steps once more, on the gradient of
    the step before the pass (2.6), which is a batch's there and a round's here.
    """
    plain, module = Normed(), Normed()
    trainer(max_epochs=5, callbacks=[swa(0.1)]).fit(plain, Examples(batches=3))
    fed = FederatedModule(module, engine=engine)
    fit(fed, FederatedDataModule({"a": Examples(batches=3)}), max_epochs=5, callbacks=[swa(1.0)])
    assert_equal(statistics(module), statistics(plain))


def test_statistics_of_several_workers_are_their_mean() -> None:
    workers = {"a": Examples(0), "b": Examples(1)}
    module = Normed()
    fit(FederatedModule(module), FederatedDataModule(workers), max_epochs=5, callbacks=[swa(1.0), Average()])
    average = Average.net
    assert average is not None
    expected = []
    for examples in workers.values():
        hidden = average[0](examples.rows[:, :3])
        expected.append((hidden.mean(0), hidden.var(0)))
    for name, values in zip(("running_mean", "running_var"), zip(*expected, strict=True), strict=True):
        assert_equal(getattr(module.net[1], name), torch.stack(values).mean(0))


class Average(pl.Callback):
    """Keeps the net that the pass for the statistics is about."""

    net: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        type(self).net = nn.Sequential(nn.Linear(3, 4)).double()
        self.net[0].load_state_dict(pl_module.net[0].state_dict())


@pytest.mark.parametrize("lrs", [0.5, [0.5]])
def test_that_the_rate_is_the_servers_is_said_if_it_is_another(lrs: Any) -> None:
    says = r"anneals the server's learning rate, which is 1, and not the workers' own; swa_lrs=1\.0 keeps"
    with pytest.warns(UserWarning, match=says):
        fit(FederatedModule(Scalar()), FederatedDataModule({"a": Rows([1.0])}), max_epochs=3, callbacks=[swa(lrs)])


# ---- WeightAveraging, EMAWeightAveraging -----------------------------------------------------------------------------


class Evaluated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("x", self.x.clone(), batch_size=len(batch[0]))


def mean_of_last() -> pl.Callback:
    """Average evenly, from the second step on."""
    kind: Any = type(averaging("WeightAveraging"))

    class MeanOfLast(kind):  # type: ignore[misc]
        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            return step_idx is not None and step_idx >= 1

    return MeanOfLast()  # type: ignore[no-any-return]


AVERAGES: dict[str, Callable[[], pl.Callback]] = {"EMA": lambda: averaging(decay=0.5), "mean": mean_of_last}


class Notes(pl.Callback):
    def __init__(self) -> None:
        self.xs: list[float] = []

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.xs.append(float(trainer.callback_metrics["x"]))


@pytest.mark.parametrize("name", AVERAGES)
def test_the_average_is_evaluated_kept_and_left_as_in_plain_lightning(name: str, tmp_path: Path) -> None:
    def run(module: Any, data: Any, path: str, ckpt: Path | None = None, epochs: int = 4) -> list[float]:
        notes = Notes()
        save = pl.callbacks.ModelCheckpoint(tmp_path / path, save_last=True)
        options: dict[str, Any] = {"callbacks": [AVERAGES[name](), notes, save], "enable_checkpointing": True}
        trainer(max_epochs=epochs, **options).fit(module, data, ckpt_path=ckpt)
        return notes.xs

    plain, module, resumed = Evaluated(0.5), Evaluated(0.5), Evaluated(0.5)
    rows = EvaluatedRows([8.0])
    expected = run(plain, rows, "plain")
    assert_equal(run(FederatedModule(module), FederatedDataModule({"a": rows}), "ours"), expected)
    assert_equal(module.x.item(), plain.x.item())
    for mine, theirs in zip(*(sorted((tmp_path / p).iterdir()) for p in ("ours", "plain")), strict=True):
        opened = [torch.load(path, weights_only=True) for path in (mine, theirs)]
        for key in ("state_dict", "current_model_state", "averaging_state"):
            assert_equal(dict(opened[0][key]), dict(opened[1][key]))
    run(FederatedModule(Evaluated(0.5)), FederatedDataModule({"a": rows}), "half", epochs=2)
    last = tmp_path / "half" / "last.ckpt"
    assert_equal(run(FederatedModule(resumed), FederatedDataModule({"a": rows}), "rest", last), expected[2:])
    assert resumed.x.item() == module.x.item()


# ---- accumulation and clipping ---------------------------------------------------------------------------------------


def test_accumulation_is_scheduled_over_cohorts() -> None:
    """Two rounds alone, and then one step on the mean of two; each worker by itself moves x to its own value."""
    values, seen = {"a": 2.0, "b": 6.0}, []

    class Cohorts(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append((*batch.workers, pl_module.x.item()))

    schedule = pl.callbacks.GradientAccumulationScheduler(scheduling={1: 2})
    workers = {name: Rows([value]) for name, value in values.items()}
    data = FederatedDataModule(workers, cohort_size=1, rounds_per_epoch=2, seed=1)
    run = fit(FederatedModule(Scalar()), data, max_epochs=2, callbacks=[schedule, Cohorts()])
    assert run.global_step == 3
    names = [name for name, _ in seen]
    assert [x for _, x in seen] == [0.0, values[names[0]], values[names[1]], values[names[1]]]
    assert run.lightning_module.x.item() == (values[names[2]] + values[names[3]]) / 2


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(remarks, "rank_zero_info", lines.append)
    return lines


class Clips(Scalar):
    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        assert gradient_clip_val is None
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="value")


class Manual(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="value")
        optimizer.step()


CLIPS: list[tuple[type[Scalar], float, str]] = [
    (Scalar, 2.0, "no local step; to clip those, let Scalar.configure_gradient_clipping() call self.clip_gradients("),
    (Clips, 1.0, "no local step: a worker's Clips.configure_gradient_clipping() is given None; let it call"),
    (Manual, 1.0, "in Manual.training_step()"),
]


@pytest.mark.parametrize(("module", "x", "says"), CLIPS)
def test_what_the_trainer_clips_is_said(module: type[Scalar], x: float, says: str, said: list[str]) -> None:
    """Local steps go from 0 to 8, or by 0.5 each; the server moves by at most 2."""
    fed = FederatedModule(module(), local_steps=2)
    data = FederatedDataModule({"a": Rows([8.0])})
    fit(fed, data, gradient_clip_val=2.0, gradient_clip_algorithm="value")
    assert_equal(fed.module.x.item(), x)
    (line,) = said
    assert line.startswith("Trainer(gradient_clip_val=2.0) clips the aggregated update of each round")
    assert says in line
    assert "gradient_clip_val=2.0, gradient_clip_algorithm='value')" in line
    fit(fed, data)
    assert len(said) == 1
