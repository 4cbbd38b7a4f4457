"""The invariants of the design that one process can show; processes and interruptions have files of their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, assert_equal, fit
from spy import Spy, length, tensor_bytes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule, Population
from lightning_fed.algorithms import Cyclic, FedAvg
from lightning_fed.datasets import ToyDataModule
from lightning_fed.models import LinearRegression
from lightning_fed.wire import decode_job, wide


def parameters(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def toy() -> FederatedDataModule:
    return FederatedDataModule({"bob": ToyDataModule(rows=[0, 1]), "alice": ToyDataModule(rows=[2, 3])})


class Net(pl.LightningModule):
    """A classifier of random points with whatever parts a test wants to see."""

    def __init__(self, *parts: nn.Module, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters("lr")
        self.net = nn.Sequential(nn.Linear(6, 8), *parts, nn.Linear(8, 3))
        self.lr = lr

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        logits = self.net(batch[0].to(self.net[0].weight.dtype))
        loss = nn.functional.cross_entropy(logits.to(wide(logits.dtype)), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr)


class Points(pl.LightningDataModule):
    def __init__(self, seed: int, n: int = 20, batch_size: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator)
        self.set, self.batch_size = TensorDataset(x, y), batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.set, batch_size=self.batch_size, shuffle=True)


def points(workers: int, **options: Any) -> FederatedDataModule:
    return FederatedDataModule({f"w{i}": Points(i, n=10 + 5 * i) for i in range(workers)}, **options)


# ---- 1. one worker, one full-batch step, SGD(lr=1) is plain SGD ----------------------------------------------------


@pytest.mark.usefixtures("double")
def test_one_worker_with_one_full_batch_step_is_plain_sgd() -> None:
    pl.seed_everything(0, verbose=False)
    model = LinearRegression(2, 1)
    plain = copy.deepcopy(model)
    fit(FederatedModule(model), FederatedDataModule({"all": ToyDataModule()}), max_epochs=7, precision="64-true")
    x, y = torch.tensor([[1.0, 1], [0, 1], [1, 0], [0, 0]]), torch.tensor([[1.0], [1], [0], [0]])
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(7):
        optimizer.zero_grad()
        ((plain(x) - y) ** 2).sum().backward()
        optimizer.step()
    assert_equal(parameters(model), parameters(plain))


def test_a_round_of_fedavg_by_hand() -> None:
    """x = 0; a holds [2], b holds [4, 4]; one step of lr 0.5 on (x − d)²/2 gives 1 and 2; the mean by rows is 5/3."""
    model = Scalar(lr=0.5)
    fit(FederatedModule(model), FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0, 4.0])}), max_epochs=1)
    assert model.x.item() == pytest.approx(5 / 3)


def test_a_round_of_cyclic_by_hand() -> None:
    """From 0 the model goes half the way to 2, which is 1, then half the way to 4, which is 2.5."""
    model = Scalar(lr=0.5)
    data = FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0, 4.0])})
    fit(FederatedModule(model, algorithm=Cyclic()), data, max_epochs=1)
    assert model.x.item() == pytest.approx(2.5)


@pytest.mark.usefixtures("double")
def test_cyclic_is_the_notebooks_loop() -> None:
    pl.seed_everything(1, verbose=False)
    model = LinearRegression(2, 1)
    plain = copy.deepcopy(model)
    trainer = fit(FederatedModule(model, algorithm=Cyclic()), toy(), max_epochs=20, precision="64-true")
    rows = [
        (torch.tensor([[1.0, 1], [0, 1]]), torch.tensor([[1.0], [1]])),
        (torch.tensor([[1.0, 0], [0, 0]]), torch.tensor([[0.0], [0]])),
    ]
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        losses = []
        for x, y in rows:
            loss = ((plain(x) - y) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert_equal(parameters(model), parameters(plain))
    assert_equal(trainer.callback_metrics["train_loss"].item(), sum(losses) / 2)


@pytest.mark.usefixtures("double")
def test_cyclic_with_a_cohort_of_one_is_fedavg() -> None:
    results = []
    for algorithm in (FedAvg(), Cyclic()):
        pl.seed_everything(0, verbose=False)
        model = Net()
        fit(FederatedModule(model, algorithm=algorithm), points(5, cohort_size=1), max_steps=6, max_epochs=-1)
        results.append(parameters(model))
    assert_equal(*results)


# ---- 2. randomness is a function of (seed, cohort, worker) ---------------------------------------------------------


@pytest.mark.usefixtures("double")
def test_the_order_of_the_workers_does_not_matter() -> None:
    results = []
    for order in (1, -1):
        pl.seed_everything(0, verbose=False)
        model = Net(nn.Dropout(0.5))
        workers = {f"w{i}": Points(i) for i in range(4)}
        fit(FederatedModule(model), FederatedDataModule(dict(list(workers.items())[::order])), max_epochs=3)
        results.append(parameters(model))
    assert_equal(*results)


def test_what_ran_before_does_not_matter_but_the_seed_does() -> None:
    results = []
    for noise, seed in ((0, 0), (99, 0), (0, 1)):
        pl.seed_everything(0, verbose=False)
        model = Net(nn.Dropout(0.5))
        torch.manual_seed(noise)
        fit(FederatedModule(model), points(4, cohort_size=2, seed=seed), max_steps=4, max_epochs=-1)
        results.append(parameters(model))
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2])


def test_training_leaves_the_programs_own_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(FederatedModule(Scalar()), FederatedDataModule({"a": Rows([1.0, 2.0], shuffle=True)}), max_epochs=2)
    assert torch.equal(torch.rand(3), expected)


# ---- 5. what travels -----------------------------------------------------------------------------------------------


def test_only_what_requires_grad_travels_and_changes() -> None:
    model = Net()
    model.net[0].requires_grad_(False)
    before = model.net[0].weight.clone()
    spy = Spy()
    federated = FederatedModule(model, aggregator=spy)
    fit(federated, points(2), max_epochs=2)
    assert torch.equal(model.net[0].weight, before)
    travels = 4 * (8 * 3 + 3)
    for worker, job in spy.jobs(1).items():
        assert list(decode_job(job).model.parameters) == ["net.1.weight", "net.1.bias"]
        assert tensor_bytes(job) == travels + 8  # the learning rate's factor
        assert tensor_bytes(spy.updates(1)[worker]) == travels + 8 * 6  # four numbers, the metric, the learning rate
    assert federated.last_report.bytes_down == length(spy.jobs(1))
    assert federated.last_report.bytes_up == length(spy.updates(1))


def test_buffers_are_averaged_by_examples_and_counters_take_the_maximum() -> None:
    """Batch means of 10 for one row of worker a and 40 for three of b: momentum 1 gives (1·10 + 3·40)/4."""

    class Norm(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1, momentum=1.0)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.norm(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    model = Norm()
    workers = {"a": Rows([[9.0], [11.0]]), "b": Rows([[39.0], [41.0], [40.0], [40.0], [40.0], [40.0]], batch_size=3)}
    fit(FederatedModule(model, server_optimizer=lambda p: torch.optim.Adam(p, lr=0.5)), FederatedDataModule(workers))
    assert model.norm.running_mean is not None
    assert model.norm.running_mean.item() == pytest.approx((2 * 10 + 6 * 40) / 8)
    assert model.norm.num_batches_tracked is not None
    assert model.norm.num_batches_tracked.item() == 2
    assert model.norm.weight.item() == 1.0, "no gradient, so the server optimizer moved nothing"


# ---- 6. the server never sees a batch ------------------------------------------------------------------------------


def test_nothing_but_updates_leaves_local_training() -> None:
    """A module that keeps its last batch keeps it for as long as the worker trains; the server's module has none."""

    class Keeps(Scalar):
        kept: Any = None
        found: list[Any] = []  # noqa: RUF012

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.found.append(self.kept)
            self.kept = batch
            return super().training_step(batch, batch_idx)

    class Watch(pl.Callback):
        batches: list[Any] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.batches.append((outputs, batch))

    model, watch = Keeps(), Watch()
    with pytest.warns(UserWarning, match="local training changes the module's attribute 'kept', which is set back"):
        fit(FederatedModule(model), FederatedDataModule({"a": Rows([3.0])}), max_epochs=2, callbacks=[watch])
    assert model.kept is None
    assert Keeps.found == [None] * len(Keeps.found), "nor does the worker find it in the next round"
    for outputs, cohort in watch.batches:
        assert set(outputs) == {"loss"}
        assert outputs["loss"].numel() == 1
        assert cohort.workers == ("a",)


# ---- 7. accumulation in at least float32 ---------------------------------------------------------------------------


def test_a_bf16_model_accumulates_in_float32() -> None:
    """300 workers each move x by 1: a running sum in bfloat16 would stick at 256."""
    model = Scalar(lr=1.0)
    workers = {f"w{i}": Rows([1.0]) for i in range(300)}
    federated = FederatedModule(model, aggregator=None)
    fit(federated, FederatedDataModule(workers), max_epochs=1, precision="bf16-true")
    assert model.x.dtype == torch.bfloat16
    assert model.x.item() == pytest.approx(1.0), "a bfloat16 sum of ones ends at 256, and 256/300 is 0.85"


# ---- 8. cost depends on the cohort, not on the population ----------------------------------------------------------


def test_a_worker_is_built_only_when_first_sampled() -> None:
    class Lazy(Population):
        built: list[str] = []  # noqa: RUF012

        def __getitem__(self, name: str) -> Rows:
            self.built.append(name)
            return Rows([float(name[1:])])

        def name(self, position: int) -> str:
            return f"w{position}"

        def __len__(self) -> int:
            return 1000

        def num_examples(self, name: str) -> int:
            return 1

        def has_loader(self, kind: str) -> bool:
            return False

    population = Lazy()
    data = FederatedDataModule(population, cohort_size=3, rounds_per_epoch=4)
    seen: set[str] = set()

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.update(batch.workers)

    fit(FederatedModule(Scalar()), data, max_epochs=1, callbacks=[Watch()])
    assert sorted(population.built) == sorted(seen)


# ---- the Trainer's own features act on rounds ----------------------------------------------------------------------


def test_any_torch_optimizer_serves_as_server_optimizer_and_its_scheduler_steps_once_a_round() -> None:
    """Updates of size 1 (lr 1, from any x to x − 1): SGD with 1, 1/2, 1/4 moves by 1.75 in three rounds."""

    class Down(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.x * 1.0

    model = Down(lr=1.0)
    federated = FederatedModule(
        model,
        server_optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        server_lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5),
    )
    fit(federated, FederatedDataModule({"a": Rows([0.0])}), max_epochs=3)
    assert model.x.item() == pytest.approx(-1.75)


@pytest.mark.parametrize(("options", "moved"), [({"gradient_clip_val": 0.25}, 0.25 / (1 + 1e-6)), ({}, 1.0)])
def test_gradient_clipping_acts_on_the_pseudo_gradient(options: dict[str, float], moved: float) -> None:
    """torch adds 1e-6 to the norm that it clips by."""
    model = Scalar(lr=1.0)
    fit(FederatedModule(model), FederatedDataModule({"a": Rows([1.0])}), max_epochs=1, **options)
    assert model.x.item() == pytest.approx(moved)


def test_accumulate_grad_batches_makes_one_round_of_two_cohorts() -> None:
    """Cohorts {a}, {b} move x by 1 and by 3; their mean is 2. Both start from the same global model."""
    model = Scalar(lr=1.0)
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}, cohort_size=1, sampler=InTurn())
    trainer = fit(FederatedModule(model), data, max_epochs=1, accumulate_grad_batches=2)
    assert trainer.global_step == 1
    assert model.x.item() == pytest.approx(2.0)


from lightning_fed import CohortSampler  # noqa: E402


class InTurn(CohortSampler):
    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return [(number * cohort_size + i) % population for i in range(cohort_size)]


def test_max_steps_counts_rounds_and_fast_dev_run_runs_one() -> None:
    trainer = fit(FederatedModule(Scalar()), points_of_scalars(5, cohort_size=2), max_steps=7, max_epochs=-1)
    assert trainer.global_step == 7
    trainer = fit(FederatedModule(Scalar()), points_of_scalars(5, cohort_size=2), fast_dev_run=True)
    assert trainer.global_step == 1


def points_of_scalars(workers: int, **options: Any) -> FederatedDataModule:
    return FederatedDataModule({f"w{i}": Rows([float(i)]) for i in range(workers)}, **options)


def test_early_stopping_and_the_best_checkpoint_follow_the_users_own_metric(tmp_path: Any) -> None:
    stop = pl.callbacks.EarlyStopping(monitor="train_loss", patience=1, check_on_train_epoch_end=True, min_delta=10.0)
    best = pl.callbacks.ModelCheckpoint(tmp_path, monitor="train_loss", filename="{train_loss:.3f}")
    trainer = fit(
        FederatedModule(LinearRegression(2, 1)),
        toy(),
        max_epochs=50,
        callbacks=[stop, best],
        enable_checkpointing=True,
        limit_val_batches=0,
    )
    assert trainer.global_step == 2
    assert best.best_model_score == trainer.callback_metrics["train_loss"]
    assert len(list(tmp_path.glob("train_loss=*.ckpt"))) == 1


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
def test_precision(precision: Any) -> None:
    """In mixed precision the master weights stay float32 and the result stays close to full precision."""
    pl.seed_everything(0, verbose=False)
    model = Net(nn.ReLU())
    full = copy.deepcopy(model)
    fit(FederatedModule(model), points(3), max_epochs=2, precision=precision)
    fit(FederatedModule(full), points(3), max_epochs=2)
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert model.net[0].weight.dtype == dtype
    # Eight steps, each with one or two roundings, of 0.004 of a number in bfloat16 and of 6e-8 in float32
    tolerance = 0.05 if "bf16" in precision else 1e-5
    torch.testing.assert_close(parameters(model).float(), parameters(full), rtol=tolerance, atol=tolerance)
    if precision == "bf16-mixed":
        assert not torch.equal(parameters(model), parameters(full)), "autocast did nothing"


class Autocasting(Net):
    """Enters an autocast of its own in each step."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.net(batch[0])
        return nn.functional.cross_entropy(logits.float(), batch[1])


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.parametrize(("kind", "precision"), [(Net, "bf16-mixed"), (Autocasting, "32-true")])
def test_mixed_precision_equals_a_hand_written_autocast_loop(kind: type[Net], precision: Any, engine: Any) -> None:
    """Weights change between steps; a cache of their bfloat16 copies that outlived a step would show here."""
    pl.seed_everything(0, verbose=False)
    model = kind(nn.ReLU())
    plain = copy.deepcopy(model)
    worker = Points(0, n=24, batch_size=24)
    data = FederatedDataModule({"a": worker})
    fit(FederatedModule(model, local_epochs=5, engine=engine), data, max_epochs=1, precision=precision)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    x, y = worker.set.tensors
    for _ in range(5):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = plain.net(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.float(), y).backward()
        optimizer.step()
    # Five steps of lr 0.1 along gradients below 1, which are bfloat16 on the way and round by 0.004
    torch.testing.assert_close(parameters(model), parameters(plain), rtol=0, atol=2e-3)
