"""A private run: its budget, what it remembers, what it refuses, and that nothing leaves beside the noise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from helpers import fit, trainer
from private import Net, Points, ValidatedNet, ValidatedPoints, people, weights
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger
from runs import assert_same, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import Median, UniformMean, WeightedMean
from lightning_fed.algorithms import Cyclic, FedBN, FedNova, FedPer, QFedAvg, Scaffold
from lightning_fed.privacy import (
    Accountant,
    AdaptiveClip,
    CentralDP,
    DistributedDP,
    LocalDP,
    Privacy,
    SubsampledGaussian,
)
from lightning_fed.selection import Poisson, RoundRobin, Uniform
from lightning_fed.server import privacy_guard
from lightning_fed.wire import BudgetError

pytestmark = pytest.mark.filterwarnings(
    # Lightning's, about files that lie where a test wants them, and callbacks that it leaves out
    "ignore:Checkpoint directory",
    "ignore:The dirpath has changed",
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:You passed in a `val_dataloader`",
)
SECRET = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5)
SEEDED = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, insecure_deterministic_noise=True)
not_private = pytest.mark.filterwarnings("ignore:.*NOT private")


def private_run(fed: FederatedModule) -> Any:
    assert fed.private_run is not None
    return fed.private_run


def data(n: int = 10, cohort_size: int | None = 2, **options: Any) -> FederatedDataModule:
    return FederatedDataModule(people(n), cohort_size=cohort_size, **options)


def cost(rounds: int, kind: str = "pld", rate: float = 0.2) -> float:
    accountant = Accountant(kind)  # type: ignore[arg-type]
    accountant.charge(SubsampledGaussian(1.0, rate), rounds)
    return accountant.epsilon(1e-5)


# ---- the budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rdp", "pld"])
@pytest.mark.parametrize("fitting", [1, 4])
def test_training_stops_after_exactly_the_rounds_that_fit(kind: Any, fitting: int) -> None:
    """A budget of what n rounds cost, to the last bit, and one that is a little less."""
    exact = cost(fitting, kind)
    for budget, rounds in ((exact, fitting), (exact - 1e-6, fitting - 1), (exact + 1e-6, fitting)):
        promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, accountant=kind, epsilon=budget)
        fed = FederatedModule(Net(), privacy=promise)
        before = weights(fed)
        stopped = fit(fed, data(), max_steps=50)
        assert stopped.global_step == rounds
        assert private_run(fed).spent == (cost(rounds, kind) if rounds else 0.0) <= budget
        assert bool((weights(fed) != before).any()) is (rounds > 0)
        assert stopped.state.finished


def test_a_budget_counts_every_cohort_of_a_step() -> None:
    """Three cohorts fit; a step takes two, so the third one is trained in vain and never released."""
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, accountant="rdp", epsilon=cost(3, "rdp"))
    fed = FederatedModule(Net(), privacy=promise)
    stopped = fit(fed, data(rounds_per_epoch=20), max_steps=10, accumulate_grad_batches=2)
    assert stopped.global_step == 1
    assert private_run(fed).accountant.history[0][1] <= 3


def test_a_second_fit_goes_on_with_what_is_left() -> None:
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, accountant="rdp", epsilon=cost(5, "rdp"))
    fed = FederatedModule(Net(), privacy=promise)
    assert fit(fed, data(), max_steps=3).global_step == 3
    assert fit(fed, data(), max_steps=50).global_step == 2
    assert private_run(fed).spent == cost(5, "rdp")
    assert fit(fed, data(), max_steps=50).global_step == 0


def test_a_trainer_that_must_go_on_is_an_error() -> None:
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, accountant="rdp", epsilon=cost(2, "rdp"))
    with pytest.raises(BudgetError, match=r"ε = .* is spent, .* has min_epochs or min_steps; leave them out"):
        fit(FederatedModule(Net(), privacy=promise), data(), max_steps=50, min_steps=10)


@pytest.mark.parametrize(
    ("length", "kind"),
    [
        ({"max_steps": 6}, "rdp"),
        ({"max_epochs": 2}, "rdp"),
        pytest.param({"max_epochs": 2}, "pld", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_budget_alone_decides_the_noise(length: dict[str, int], kind: Any) -> None:
    """All rounds are run, with hardly anything left over."""
    promise = CentralDP(clip=1.0, epsilon=4.0, delta=1e-5, accountant=kind)
    fed = FederatedModule(Net(), privacy=promise)
    assert fit(fed, data(rounds_per_epoch=3), **length).global_step == 6
    assert 4.0 - 1e-3 < private_run(fed).spent <= 4.0
    assert not private_run(fed).affords_another()


def test_accumulated_cohorts_are_calibrated_for() -> None:
    fed = FederatedModule(Net(), privacy=CentralDP(clip=1.0, epsilon=4.0, delta=1e-5, accountant="rdp"))
    fit(fed, data(rounds_per_epoch=6), max_epochs=1, accumulate_grad_batches=2)
    assert private_run(fed).accountant.history[0][1] == 6
    assert 3.99 < private_run(fed).spent <= 4.0


def test_a_budget_for_no_number_of_rounds_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="needs to know for how many rounds: give the Trainer max_steps or max_epochs"):
        fit(
            FederatedModule(Net(), privacy=CentralDP(clip=1.0, epsilon=4.0)),
            data(),
            max_epochs=-1,
            max_time="00:00:01:00",
        )


def test_the_charge_comes_before_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that fails in its middle is paid for all the same."""
    monkeypatch.setattr(Net, "training_step", lambda *_: torch.full((), torch.nan, requires_grad=True))
    fed = FederatedModule(Net(), privacy=SECRET)
    monkeypatch.setattr(fed.engine, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(fed, data(cohort_size=None), max_steps=1)
    assert private_run(fed).accountant.history[0][1] == 1


def test_asking_changes_nothing() -> None:
    fed = FederatedModule(Net(), privacy=SECRET)
    fit(fed, data(), max_steps=2)
    before = private_run(fed).accountant.history
    assert private_run(fed).spent == private_run(fed).spent == cost(2)
    assert private_run(fed).accountant.history == before


# ---- where ε is shown ------------------------------------------------------------------------------------------------


def test_epsilon_is_in_tensorboard_on_the_bar_and_in_the_checkpoint(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path))
    keeper = ModelCheckpoint(tmp_path, save_last=True)
    fed = FederatedModule(Net(), privacy=SECRET)
    done = fit(fed, data(), max_steps=3, logger=logger, callbacks=[keeper], enable_checkpointing=True)
    logger.finalize("success")
    accumulator = EventAccumulator(logger.log_dir)
    accumulator.Reload()
    drawn = {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}
    assert drawn["privacy/epsilon"] == [(step, pytest.approx(cost(step + 1))) for step in range(3)]
    assert drawn["privacy/clip"] == [(step, 1.0) for step in range(3)]
    assert done.progress_bar_metrics["epsilon"] == pytest.approx(cost(3))
    assert done.callback_metrics["epsilon"].item() == pytest.approx(cost(3))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["lightning_fed"]["privacy"]
    assert saved["epsilon"] == cost(3)
    assert saved["accountant"]["history"][0]["count"] == 3
    assert saved["insecure"] is False


def test_the_last_round_tells_what_the_run_has_cost() -> None:
    """Also where no curve is due."""
    done = fit(FederatedModule(Net(), privacy=SECRET), data(rounds_per_epoch=100), max_steps=3, log_every_n_steps=50)
    assert done.callback_metrics["epsilon"].item() == pytest.approx(cost(3))


class Epsilons(pl.Callback):
    """What a callback reads of ε, and what it is."""

    def __init__(self) -> None:
        self.read: list[tuple[float, float]] = []

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.on_train_batch_end(trainer, module)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.read.append((float(trainer.callback_metrics["epsilon"]), module.private_run.spent))


@pytest.mark.parametrize("kind", ["rdp", "pld"])
def test_a_callback_reads_the_epsilon_of_every_round(kind: Any) -> None:
    """Where no curve is due too, and before the first round."""
    notes = Epsilons()
    fed = FederatedModule(Net(), privacy=CentralDP(1.0, 1.0, delta=1e-5, accountant=kind))
    fit(fed, data(rounds_per_epoch=100), max_steps=3, log_every_n_steps=50, callbacks=[notes])
    assert notes.read == [(pytest.approx(spent), spent) for spent in (cost(n, kind) if n else 0.0 for n in range(4))]


def test_an_epsilon_that_nobody_reads_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By "pld" it takes a tenth of a second. The last round's is drawn, and signed off."""
    computed: list[int] = []
    epsilon = Accountant.epsilon

    def counted(self: Accountant, *arguments: Any) -> float:
        if self.kind == "pld":
            computed.append(sum(count for _, count in self.history))
        return epsilon(self, *arguments)

    monkeypatch.setattr(Accountant, "epsilon", counted)
    fit(FederatedModule(Net(), privacy=SECRET), data(rounds_per_epoch=100), max_steps=5, log_every_n_steps=50)
    assert set(computed) == {5}


def test_what_is_promised_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a worker is there is no secret: δ, cohorts and denominators depend on their number."""
    lines: list[str] = []
    monkeypatch.setattr(privacy_guard, "rank_zero_info", lines.append)
    fit(FederatedModule(Net(), privacy=SECRET), data(), max_steps=1)
    assert lines == [
        "CentralDP: SubsampledGaussian(noise_multiplier=1.0, sampling_rate=0.2), clipping at 1, δ = 1e-05; neighbours: "
        "a worker's contributions or zeros in their place; how many workers there are is public"
    ]
    lines.clear()
    fit(FederatedModule(Net(), privacy=LocalDP(clip=1.0, noise_multiplier=1.0)), data(), max_steps=1)
    assert "neighbours: one worker or another in its place; how many workers there are is public" in lines[0]


# ---- resuming --------------------------------------------------------------------------------------------------------


def keeping(folder: Path) -> dict[str, Any]:
    keeper = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    return {"callbacks": [keeper], "enable_checkpointing": True}


@not_private
@pytest.mark.parametrize("kind", ["rdp", "pld"])
def test_resuming_spends_what_an_uninterrupted_run_spends_bit_for_bit(tmp_path: Path, kind: Any) -> None:
    """And with noise from a seed the weights are the same as well."""
    promise = CentralDP(1.0, 1.0, delta=1e-5, accountant=kind, insecure_deterministic_noise=True)
    whole = FederatedModule(Net(), privacy=promise)
    fit(whole, data(), max_steps=6, **keeping(tmp_path / "whole"))
    part: Path | None = None
    for rounds in (1, 2, 5, 6):  # interrupted three times
        resumed = FederatedModule(Net(), privacy=promise)
        run = trainer(max_steps=rounds, **keeping(tmp_path / str(rounds)))
        run.fit(resumed, data(), ckpt_path=part)
        part = tmp_path / str(rounds) / f"step={rounds}.ckpt"
    assert private_run(resumed).spent == private_run(whole).spent == cost(6, kind)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    history = torch.load(tmp_path / "6" / "step=6.ckpt", weights_only=True)["lightning_fed"]["privacy"]
    assert history == torch.load(tmp_path / "whole" / "step=6.ckpt", weights_only=True)["lightning_fed"]["privacy"]


def test_a_budget_is_kept_across_a_resume(tmp_path: Path) -> None:
    """The noise that was calibrated for the first run stays, whatever the second one's length."""
    promise = CentralDP(clip=1.0, epsilon=4.0, delta=1e-5, accountant="rdp")
    first = FederatedModule(Net(), privacy=promise)
    fit(first, data(), max_steps=6, **keeping(tmp_path))
    second = FederatedModule(Net(), privacy=promise)
    run = trainer(max_steps=100)
    run.fit(second, data(), ckpt_path=tmp_path / "step=4.ckpt")
    assert run.global_step == 6
    assert private_run(second).noise_multiplier == private_run(first).noise_multiplier
    assert private_run(second).spent == private_run(first).spent <= 4.0


@not_private
def test_a_run_whose_bound_moves_goes_on_with_it(tmp_path: Path) -> None:
    clip = AdaptiveClip(initial=1e-3, count_std=2.0)
    promise = CentralDP(clip, 1.0, delta=1e-5, accountant="rdp", insecure_deterministic_noise=True)
    whole, resumed = FederatedModule(Net(), privacy=promise), FederatedModule(Net(), privacy=promise)
    fit(whole, data(), max_steps=5, **keeping(tmp_path))
    trainer(max_steps=5).fit(resumed, data(), ckpt_path=tmp_path / "step=3.ckpt")
    assert private_run(resumed).bound == private_run(whole).bound != 1e-3


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("privacy", r"does not say how much privacy was spent .* begin a new run, or go on with"),
        ("lightning_fed", r"is one of the module alone.* without ckpt_path"),
    ],
)
def test_resuming_without_what_was_spent_is_an_error(tmp_path: Path, lost: str, message: str) -> None:
    fit(FederatedModule(Net(), privacy=SECRET), data(), max_steps=1, **keeping(tmp_path))
    path = tmp_path / "step=1.ckpt"
    saved = torch.load(path, weights_only=True)
    (saved if lost == "lightning_fed" else saved["lightning_fed"]).pop(lost)
    torch.save(saved, path)
    with pytest.raises(ValueError, match=message):
        trainer(max_steps=2).fit(FederatedModule(Net(), privacy=SECRET), data(), ckpt_path=path)


def test_a_checkpoint_of_a_plain_run_cannot_become_private(tmp_path: Path) -> None:
    fit(FederatedModule(Net()), data(), max_steps=1, **keeping(tmp_path))
    with pytest.raises(ValueError, match="does not say how much privacy was spent"):
        trainer(max_steps=2).fit(FederatedModule(Net(), privacy=SECRET), data(), ckpt_path=tmp_path / "step=1.ckpt")


def test_a_private_run_that_goes_on_without_a_promise_is_told_so(tmp_path: Path) -> None:
    fit(FederatedModule(Net(), privacy=SECRET), data(), max_steps=1, **keeping(tmp_path))
    with pytest.warns(UserWarning, match=r"no privacy=\.\.\.: from here on nothing is promised"):
        trainer(max_steps=2).fit(FederatedModule(Net()), data(), ckpt_path=tmp_path / "step=1.ckpt")


def test_evaluating_a_checkpoint_needs_no_account(tmp_path: Path) -> None:
    fit(FederatedModule(ValidatedNet()), data(val=ValidatedPoints(99)), max_steps=1, **keeping(tmp_path))
    fed = FederatedModule(ValidatedNet(), privacy=SECRET)
    central = data(val=ValidatedPoints(99))
    (metrics,) = trainer().test(fed, central, ckpt_path=tmp_path / "step=1.ckpt", verbose=False)
    assert set(metrics) == {"val_loss"}


@not_private
def test_what_was_not_private_once_stays_marked(tmp_path: Path) -> None:
    fit(FederatedModule(Net(), privacy=SEEDED), data(), max_steps=1, **keeping(tmp_path / "a"))
    fed = FederatedModule(Net(), privacy=SECRET)
    run = trainer(max_steps=2, **keeping(tmp_path / "b"))
    with pytest.warns(UserWarning, match="NOT private"):
        run.fit(fed, data(), ckpt_path=tmp_path / "a" / "step=1.ckpt")
    assert torch.load(tmp_path / "b" / "step=2.ckpt", weights_only=True)["lightning_fed"]["privacy"]["insecure"] is True


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [FedNova(), QFedAvg(q=1.0, lr=0.1), Cyclic()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("privacy", [SECRET, LocalDP(1.0, 1.0)], ids=lambda p: type(p).__name__)
def test_algorithms_that_release_more_than_a_mean(algorithm: Any, privacy: Privacy) -> None:
    with pytest.raises(ValueError, match=rf"{type(algorithm).__name__} cannot be made private .* Use FedAvg, FedProx"):
        FederatedModule(Net(), algorithm=algorithm, privacy=privacy)


def test_a_sampler_is_named_by_its_class() -> None:
    class Named(LocalDP):  # type: ignore[misc]
        sampler: ClassVar[Any] = "WeightedBySize"

    with pytest.raises(ValueError, match=r"Named\.sampler is 'WeightedBySize'; it must be the class of a sampler"):
        FederatedModule(Net(), privacy=Named(clip=1.0, noise_multiplier=1.0))


@pytest.mark.parametrize("aggregator", [WeightedMean(), UniformMean(), Median()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("privacy", [SECRET, DistributedDP(1.0, 2, 1.0)], ids=lambda p: type(p).__name__)
def test_other_aggregators_than_the_noised_sum(aggregator: Any, privacy: Privacy) -> None:
    with pytest.raises(ValueError, match=r"does not go with .*uniform weights; leave aggregator out .*see weight_cap"):
        FederatedModule(Net(), aggregator=aggregator, privacy=privacy)


@pytest.mark.parametrize("privacy", [SECRET, LocalDP(1.0, 1.0)], ids=lambda p: type(p).__name__)
def test_averaged_statistics(privacy: Privacy) -> None:
    with pytest.raises(
        ValueError, match=r"BatchNorm statistics \(norm.running_mean\), .* use GroupNorm .* algorithm=FedBN\(\)"
    ):
        FederatedModule(Net(norm=True), privacy=privacy)


@pytest.mark.filterwarnings("ignore:.*remembers about each worker")
def test_statistics_that_stay_with_the_workers_are_fine() -> None:
    module = Net(norm=True)
    fit(FederatedModule(module, privacy=SECRET, algorithm=FedBN()), data(), max_steps=2)
    assert isinstance(module.norm, nn.BatchNorm1d)
    assert module.norm.num_batches_tracked == 0


def own(**options: Any) -> FederatedDataModule:
    return FederatedDataModule(people(6, ValidatedPoints), cohort_size=2, **options)


def test_evaluation_on_the_workers_own_data() -> None:
    fed = FederatedModule(ValidatedNet(), privacy=SECRET)
    with pytest.raises(ValueError, match=r"own data would release .*val=.*limit_val_batches=0.*release_metrics=True"):
        fit(fed, own(), max_steps=1)
    for stage in ("validate", "test"):
        with pytest.raises(ValueError, match=r"own data would release .*\(val=\.\.\.\)\), or accept it with release_"):
            getattr(trainer(), stage)(fed, own(), verbose=False)


def test_each_fix_of_evaluation_works() -> None:
    fit(FederatedModule(ValidatedNet(), privacy=SECRET), own(), max_steps=1, limit_val_batches=0)
    fit(FederatedModule(Net(), privacy=SECRET), own(), max_steps=1)  # nothing to evaluate by
    central = fit(FederatedModule(ValidatedNet(), privacy=SECRET), own(val=ValidatedPoints(9)), max_epochs=1)
    assert "val_loss" in central.callback_metrics
    shown = FederatedModule(ValidatedNet(), privacy=CentralDP(1.0, 1.0, release_metrics=True))
    with pytest.warns(UserWarning, match="the guarantee does not cover them"):
        run = fit(shown, own(), max_epochs=1)
    assert "val_loss" in run.callback_metrics


# ---- who takes part is secret ----------------------------------------------------------------------------------------


class Notes(pl.Callback):
    """Everything that a callback can see of rounds."""

    def __init__(self) -> None:
        self.cohorts: list[tuple[str, ...]] = []
        self.outputs: list[Any] = []
        self.bar: set[str] = set()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.cohorts.append(batch.workers)
        self.outputs.append(outputs)
        self.bar |= set(trainer.progress_bar_metrics)


def cohorts(privacy: Privacy | None, **options: Any) -> list[tuple[str, ...]]:
    notes = Notes()
    fit(FederatedModule(Net(), privacy=privacy), data(40, 10, **options), max_steps=4, callbacks=[notes])
    return notes.cohorts


@not_private
def test_cohorts_are_poisson_and_no_seed_tells_who_they_are() -> None:
    first, second = cohorts(SECRET), cohorts(SECRET)
    assert first != second
    assert {len(cohort) for cohort in first + second} != {10}
    assert cohorts(SEEDED) == cohorts(SEEDED)
    assert cohorts(SECRET, sampler=Uniform()) != cohorts(SECRET, sampler=Uniform())


def test_the_users_own_sampler_stays_and_a_default_comes_back() -> None:
    own_choice = data(sampler=RoundRobin())
    fit(FederatedModule(Net(), privacy=SECRET), own_choice, max_steps=1)
    assert isinstance(own_choice.sampler, RoundRobin)
    default = data()
    fit(FederatedModule(Net(), privacy=SECRET), default, max_steps=1)
    assert isinstance(default.sampler, Poisson)
    notes = [Notes(), Notes()]
    for note, of in zip(notes, (default, data()), strict=True):  # one has been through a private run, one has not
        fit(FederatedModule(Net()), of, max_steps=3, callbacks=[note])
    assert notes[0].cohorts == notes[1].cohorts


@not_private
def test_noise_from_a_seed_repeats_and_is_marked_everywhere(tmp_path: Path) -> None:
    ends = []
    for folder in ("a", "b"):
        fed = FederatedModule(Net(), privacy=SEEDED)
        logger = TensorBoardLogger(str(tmp_path / folder), default_hp_metric=False)
        with pytest.warns(UserWarning, match="noise comes from the seed of the run, so this run is NOT private"):
            fit(fed, data(), max_steps=3, logger=logger, **keeping(tmp_path / folder))
        ends.append(weights(fed))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    saved = torch.load(tmp_path / "a" / "step=3.ckpt", weights_only=True)
    assert saved["lightning_fed"]["privacy"]["insecure"] is True
    assert "NOT PRIVATE" in (tmp_path / "a" / "lightning_logs" / "version_0" / "hparams.yaml").read_text()


def test_noise_from_the_system_does_not_repeat() -> None:
    ends = []
    for _ in range(2):
        pl.seed_everything(0, verbose=False)
        fed = FederatedModule(Net(), privacy=SECRET)
        fit(fed, data(4, None), max_steps=1)
        ends.append(weights(fed))
    assert (ends[0] != ends[1]).all()


# ---- nothing leaves beside the noise ---------------------------------------------------------------------------------


class Everything(DummyLogger):
    """Keeps all names and values that are logged, and hyperparameters."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, float] = {}
        self.hparams: dict[str, Any] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.metrics |= metrics

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.hparams |= dict(params)


class Counting(ValidatedNet):
    """Tells all about the examples that it sees, in every way that a module can."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("told", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.told = self.told + batch[0].sum()
        self.log("first_number", batch[0][0, 0], prog_bar=True)
        return super().training_step(batch, batch_idx)


SETTINGS = {
    *("algorithm", "aggregator", "transforms", "server_optimizer", "server_lr_scheduler", "engine"),
    *("local_epochs", "local_steps", "local_lr_schedule", "local_optimizer_state", "local_schedule"),
    *("on_worker_error", "min_workers", "worker_timeout", "log_workers_up_to", "state_memory_mb"),
    *("privacy", "secure_aggregation", "broadcast", "noise_multiplier", "epsilon_budget"),
    # of the data: what the user has set for all, and the central data's
    *("workers", "population", "population/class", "cohort_size", "rounds_per_epoch", "sampler", "availability"),
    *("seed", "data/seed", "eval_cohort_size", "cached_workers", "val", "val/batch_size"),
}
"""All hyperparameters of a private run that are single ones; nothing of a worker's own is among them."""
PROMISED = (
    *("clip", "noise_multiplier", "epsilon", "delta", "accountant", "neighbours", "release_metrics"),
    "insecure_deterministic_noise",
)
OF_SGD = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
OF_THE_TRAINER = (
    *("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("limit_train_batches", "overfit_batches", "precision", "deterministic", "min_epochs", "min_steps"),
    *("limit_val_batches", "limit_test_batches", "limit_predict_batches", "val_check_interval"),
    *("check_val_every_n_epoch", "reload_dataloaders_every_n_epochs", "callbacks/Notes"),
)

PROMISES = [
    SECRET,
    CentralDP(1.0, 1.0, delta=1e-5, weight_cap=5),
    LocalDP(1.0, 1.0, delta=1e-5, accountant="rdp"),
    DistributedDP(1.0, 1, 1.0, delta=1e-5),
]


def leaves(thing: Any) -> Iterator[Any]:
    if isinstance(thing, dict):
        for key, value in thing.items():
            yield key
            yield from leaves(value)
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            yield from leaves(value)
    else:
        yield thing


@pytest.mark.parametrize("privacy", PROMISES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_all_that_is_shown_and_kept_stands_on_this_list(tmp_path: Path, privacy: Privacy, engine: Any) -> None:
    logger, notes, module = Everything(), Notes(), Counting()
    fed = FederatedModule(module, privacy=privacy, engine=engine)
    central = FederatedDataModule(people(6), cohort_size=3, val=ValidatedPoints(99), rounds_per_epoch=2)
    done = fit(
        fed,
        central,
        max_epochs=2,
        logger=logger,
        **(keeping(tmp_path) | {"callbacks": [notes, *keeping(tmp_path)["callbacks"]]}),
    )
    shown = {"privacy/epsilon", "privacy/clip", "server/update_norm", "val_loss", "epoch", "server/lr"}
    shown |= {"comm/megabytes_down_total", "comm/megabytes_up_total"}  # as planned
    shown |= {"privacy/epsilon_budget", "privacy/rounds_left", "time/evaluate"}
    assert set(logger.metrics) <= shown
    assert set(done.callback_metrics) <= {"val_loss", "epsilon"}
    assert notes.bar <= {"val_loss", "epsilon"}
    own = {"channels_last"} if engine == "sequential" else {"chunk_size"}
    own_of_promise = {"CentralDP": {"weight_cap"}, "DistributedDP": {"survivors"}}.get(type(privacy).__name__, set())
    assert set(logger.hparams) == {
        *SETTINGS,
        *("hidden", "lr", "norm", "model", "model/parameters", "model/checksum"),
        *(f"engine/{name}" for name in ("asked", "compile", *own)),
        *(f"privacy/{name}" for name in (*PROMISED, *own_of_promise)),
        *(
            f"server_optimizer/{name}"
            for name in ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
        ),
        *(f"trainer/{name}" for name in OF_THE_TRAINER),
    }
    texts = [str(leaf) for leaf in leaves(logger.hparams)]
    assert not [text for text in texts if any(re.search(rf"\b{worker}\b", text) for worker in people(6))]
    for outputs in notes.outputs:  # what callbacks are given: a loss that is no number
        assert set(outputs) == {"loss"}
        assert outputs["loss"].isnan()
    report = fed.last_report
    assert (report.workers, report.failures, report.dropped, report.stragglers) == ({}, [], (), ())
    assert (report.bytes_down, report.bytes_up, report.examples) == (0, 0, 0)
    assert module.told == 0

    saved = torch.load(max(tmp_path.glob("*.ckpt"), key=lambda p: p.stat().st_mtime), weights_only=True)
    part = saved["lightning_fed"]
    assert set(part) == {
        *("version", "algorithm", "engine", "state", "settings", "privacy", "account"),
        *("cohort", "record", "optimizer_states", "lr_schedulers"),
    }
    names = [name for name, _ in module.named_parameters()]
    assert part["state"].pop("validated").keys() == {"val_loss"}  # of central data
    down, up = part["state"].pop("traffic")  # of 4 rounds with 3 workers each as planned, whoever has replied
    assert up == 4 * 3 * 4 * sum(parameter.numel() for parameter in module.parameters()) < down
    assert part["state"] == {
        **{"server": {}, "workers": {}, "last_cohort": 3, "failed_cohorts": [], "moved": []},
        "trained": names,
    }
    assert set(part["privacy"]) == {"accountant", "noise_multiplier", "bound", "epsilon", "delta", "insecure"}
    assert set(part["account"]) == {
        *("run", "promise", "unit", "audience", "kind", "stretches", "release_metrics", "ledger"),
    }
    assert set(saved["state_dict"]) == set(module.state_dict())
    names = {leaf for leaf in leaves(saved) if isinstance(leaf, str)}
    assert not names & set(central.names)
    assert not [leaf for leaf in leaves(saved) if isinstance(leaf, float) and leaf != leaf]


def test_without_a_promise_the_same_run_shows_it_all() -> None:
    """So that the list above is known to be looked at."""
    logger, notes, module = Everything(), Notes(), Counting()
    fed = FederatedModule(module)
    fit(fed, FederatedDataModule(people(6), cohort_size=3, val=ValidatedPoints(99)), logger=logger, callbacks=[notes])
    assert {"first_number", "train_loss", "round/cohort_size", "comm/bytes_up", "round/examples"} <= set(logger.metrics)
    assert "first_number" in notes.bar
    assert not notes.outputs[0]["loss"].isnan()
    assert len(fed.last_report.workers) == 3
    assert module.told != 0


def test_metrics_are_released_if_asked_for_and_then_it_is_said() -> None:
    logger = Everything()
    fed = FederatedModule(Net(), privacy=CentralDP(1.0, 1.0, release_metrics=True))
    with pytest.warns(UserWarning, match=r"shown as they are \(release_metrics=True\); the guarantee does not cover"):
        fit(fed, data(4, None), logger=logger)
    assert {"train_loss", "worker/w0/train_loss", "round/cohort_size"} <= set(logger.metrics)


@pytest.mark.parametrize("algorithm", [Scaffold(), FedPer(["head.*"])], ids=lambda a: type(a).__name__)
def test_what_is_remembered_about_workers_is_warned_about(algorithm: Any) -> None:
    fed = FederatedModule(Net(), algorithm=algorithm, privacy=SECRET)
    with pytest.warns(UserWarning, match=r"remembers about each worker, without noise; .* do not give these check"):
        fit(fed, data(4, None))


def test_workers_that_fail_are_named_only_in_the_error() -> None:
    """An update that diverged is refused, and a round without it has the same denominator and noise."""
    workers: dict[str, Points] = people(3)
    workers["w1"].set.tensors[0][0] = float("nan")
    logger = Everything()
    fed = FederatedModule(Net(), privacy=SECRET, on_worker_error="drop")
    fit(fed, FederatedDataModule(workers), logger=logger)
    assert not fed.last_report.failures
    planned = {"comm/megabytes_down_total", "comm/megabytes_up_total"}
    servers = {"server/update_norm", "server/lr", "epoch"}
    assert set(logger.metrics) <= {"privacy/epsilon", "privacy/clip", *servers, *planned}


# ---- two processes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """The noise once, the count's noise once, the same bound on both, and the same ε."""
    promise = "CentralDP(AdaptiveClip(0.5, count_std=2.0), 1.0, accountant='rdp', insecure_deterministic_noise=True)"
    options = ("--privacy", promise, "--central", "--double")
    one = run(tmp_path / "one.pt", *options)
    two = run(tmp_path / "two.pt", *options, "--devices", "2", "--strategy", "ddp")
    assert_same(one, two, rounding=True)
    assert one["metrics"]["epsilon"] == two["metrics"]["epsilon"] > 0
