"""The contract of promises of privacy."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from lightning_fed._lightning import pl
from lightning_fed.aggregation import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.module import FederatedModule
from lightning_fed.privacy import Mechanism, Privacy, PrivateRun, Setting
from lightning_fed.selection import Uniform
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.testing.mechanisms import DELTA, check_mechanism, refused
from lightning_fed.testing.workload import FEATURES, LR, TARGETS, fit, workers
from lightning_fed.wire import Aggregate, GlobalModel, Job, LocalTraining, Updates

MakePromise: TypeAlias = Callable[[], Privacy]

_ROUNDS = 6
_SIZE = 4000  # parameters; twice as many numbers have noise, so its standard deviation is estimated to 0.8 %
_NOT_LESS = 0.96


def check_promise(make: MakePromise) -> None:
    """Check a promise against its contract: all of :data:`PROMISE_CHECKS`.

    The checks use cohorts of 5 workers, with synthetic numbers and a small net. Of a promise about examples they check
    the job that is sent to the workers, not the training.

    Args:
        make: Makes the promise.

    Raises:
        AssertionError: With the part of the contract that fails.
    """
    for check in PROMISE_CHECKS:
        check(make)


def settings_are_checked(make: MakePromise) -> None:
    """A promise is a frozen dataclass of settings, and refuses settings without a guarantee."""
    promise = make()
    name = type(promise).__name__
    assert dataclasses.is_dataclass(promise), f"{name} is no dataclass, so nobody can see its settings"
    assert type(promise).__dataclass_params__.frozen, f"{name} is not frozen: a run could change what was promised"
    no_number: tuple[Any, ...] = (0.0, -1.0, math.nan, math.inf, True, "1")
    wrong = [(setting, value) for setting in ("noise_multiplier", "epsilon", "delta") for value in no_number]
    wrong += [("delta", 1.0), ("accountant", "gdp")]
    if isinstance(getattr(promise, "clip", None), float):
        wrong += [("clip", value) for value in no_number]
    for setting, value in wrong:
        assert refused(partial(replace, promise, **{setting: value})), f"{name}({setting}={value!r}) is taken"
    neither: Any = {"noise_multiplier": None, "epsilon": None}
    assert refused(lambda: replace(promise, **neither)), f"{name} is taken without noise_multiplier and epsilon"


def the_mechanism_holds(make: MakePromise) -> None:
    """A round's mechanism satisfies :func:`check_mechanism`, for any sampling."""
    for setting in (_everyone(), _sampled(make())):
        promise = make()
        check_mechanism(partial(_mechanism, promise, setting))
        run = _started(make, setting)
        assert run.mechanism == make().mechanism(run.noise_multiplier, setting), "start() accounts another mechanism"


def _mechanism(promise: Privacy, setting: Setting, noise_multiplier: float) -> Mechanism:
    return promise.mechanism(noise_multiplier, setting)


def what_is_spent_survives(make: MakePromise) -> None:
    """A resumed run has spent the ε of its checkpoint, bit for bit."""
    run, resumed = _started(make), _started(make)
    for cohort in range(3):
        run.cohort = cohort
        run.charge()
    resumed.load_state_dict(run.state_dict())
    assert resumed.spent == run.spent > 0, f"ε = {run.spent} was spent, and {resumed.spent} after a checkpoint"
    assert resumed.accountant.history == run.accountant.history


def one_worker_moves_no_more_than_the_bound(make: MakePromise) -> None:
    """With the same noise, a worker that sends 1e6 in place of zeros moves the release by at most C."""
    if make().unit != "worker":
        return
    plain = _rows(60)
    for huge in (1e6, -1e6, 1e-3, 1e30):
        with_zeros, with_it = plain.clone(), plain.clone()
        with_zeros[0], with_it[0] = 0.0, huge
        releases = []
        for rows in (with_zeros, with_it):
            run = _started(make)
            releases.append(_released(make, run, rows))
            bound = run.bound if not run.moving else make().bound()
        apart = float(torch.linalg.vector_norm(releases[0] - releases[1]))
        assert apart <= bound * (1 + 1e-3), (
            f"a worker that sends {huge:g} moves the sum by {apart:g}, and the bound is {bound:g}: clip all that a "
            "worker sends together, its update and `extra`"
        )


def the_noise_is_what_the_mechanism_says(make: MakePromise) -> None:
    """Each released number has noise of at least z·C, independent in each round, and independent of seeds."""
    promise, run = _insecure(make), _started(make)
    if promise.unit != "worker":
        job = promise.job(_job(60), run)
        told = job.record_privacy
        assert told is not None, "the job tells the workers nothing of how to hide examples"
        wanted = (run.mechanism.noise_multiplier, run.bound)
        assert (told.noise_multiplier, told.clip) == wanted, (
            f"workers train with {told}, and the account is of {wanted}"
        )
        return
    least = run.mechanism.noise_multiplier * run.bound
    first = _released(make, run, torch.zeros(5, _SIZE))
    std = float(first.std())
    assert std >= _NOT_LESS * least, f"the noise's standard deviation is {std:g}, and {least:g} is accounted"
    second = _released(make, run, torch.zeros(5, _SIZE), cohort=1)
    likeness = float(torch.corrcoef(torch.stack([first.flatten(), (second - first).flatten()]))[0, 1])
    assert not torch.equal(first, second), "two rounds have the same noise, so their difference has none"
    assert likeness < 0.5, "the noise of a round is in the next one's"
    open_ = []
    for _ in range(2):
        torch.manual_seed(0)
        open_.append(_released(make, _started(make, insecure=False), torch.zeros(5, 60), insecure=False))
    assert not torch.equal(*open_), "noise follows from a seed: draw it by lightning_fed.privacy.Noise"


def nothing_else_leaves(make: MakePromise) -> None:
    """No losses, metrics, numbers of steps or examples, or buffers leave a worker."""
    promise, run = _insecure(make), _started(make)
    job = promise.job(_job(60), run)
    left = promise.at_worker(_updates(_rows(60), job), job)
    assert bool(left.loss.isnan().all()), "losses leave the workers"
    assert not left.metrics, f"the metrics {sorted(left.metrics)} leave the workers"
    assert not left.shown, f"how the metrics {sorted(left.shown)} are shown leaves the workers"
    assert not left.rates, f"the learning rates {sorted(left.rates)} leave the workers"
    assert not left.metric_states, "states of torchmetrics objects leave the workers"
    for name in ("steps", "weight", *(() if promise.needs_examples else ("examples",))):
        assert bool((getattr(left, name) == 1).all()), f"{name} leave the workers"
    for name, buffer in job.model.buffers.items():
        assert torch.equal(left.buffers[name], buffer.expand_as(left.buffers[name])), f"buffer {name!r} leaves them"
    moved = replace(_updates(_rows(60), job), buffers={"frozen": torch.ones(5, 2)})
    assert refused(lambda: promise.at_worker(moved, job)), "what moves and is not trained leaves the workers"


def no_reply_is_no_secret_told(make: MakePromise) -> None:
    """The sum is divided by a public number, and a round without replies releases the same noise."""
    promise, run = _insecure(make), _started(make)
    aggregator = promise.aggregator(run)
    if aggregator is None:
        return
    count = aggregator.count(0)
    assert aggregator.count(5) == count > 0, "the release is divided by the number of replies, which it then tells"
    if aggregator.always:
        std = float((_finished(aggregator, [], promise.job(_job(_SIZE), run)) * count).std())
        least = run.mechanism.noise_multiplier * run.bound
        assert std >= _NOT_LESS * least, f"a round that nobody answers has noise of {std:g}, and {least:g} is accounted"
    assert promise.least_replies() >= 1 or aggregator.always, (
        "a round that nobody answers releases nothing, and says so"
    )


def every_release_is_charged(make: MakePromise) -> None:
    """In a run every round is charged as declared, and values logged by workers are not shown."""
    promise = _settled(make)
    federated = FederatedModule(_Line(), privacy=promise)
    with tempfile.TemporaryDirectory() as folder:  # for the ledger
        data = FederatedDataModule(workers(10), cohort_size=5)
        trainer = fit(federated, data, rounds=3, default_root_dir=folder)
    run = federated.private_run
    assert run is not None, "nothing was charged"
    charges = math.ceil(3 / promise.period(run.setting)) * promise.releases(run.setting.local)
    charged = run.accountant.history
    assert charged == ((run.mechanism, charges),), f"three rounds were charged as {charged}, not {charges} releases"
    assert run.mechanism == promise.mechanism(run.noise_multiplier, run.setting)
    shown = sorted(name for name in trainer.callback_metrics if "train_loss" in name)
    assert not shown, f"what workers log is shown: {shown}"


PROMISE_CHECKS: tuple[Callable[[MakePromise], None], ...] = (
    settings_are_checked,
    the_mechanism_holds,
    what_is_spent_survives,
    one_worker_moves_no_more_than_the_bound,
    the_noise_is_what_the_mechanism_says,
    nothing_else_leaves,
    no_reply_is_no_secret_told,
    every_release_is_charged,
)
"""The parts of :func:`check_promise`; each takes what makes the promise."""


@final
class _Line(pl.LightningModule):
    """One linear layer, without buffers and with a loss that is a mean over examples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, TARGETS)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss: Tensor = ((self.layer(x) - y) ** 2).mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR)


def _everyone() -> Setting:
    return Setting(population=5, cohort_size=5, sampling=None, rounds=_ROUNDS, seed=1, dimension=2 * _SIZE)


def _sampled(promise: Privacy) -> Setting:
    sampler = promise.sampler or Uniform
    separation = sampler().separation(20, 5)
    return Setting(20, 5, sampler, rounds=_ROUNDS, seed=1, separation=separation, dimension=2 * _SIZE)


def _settled(make: MakePromise, **changes: Any) -> Any:
    """Return the promise with z = 1 and no budget, so three rounds are always possible."""
    settings: Any = {"noise_multiplier": 1.0, "epsilon": None, "delta": DELTA, "release_metrics": False, **changes}
    promise: Any = make()
    return replace(promise, **settings)


def _insecure(make: MakePromise) -> Privacy:
    promise: Privacy = _settled(make, insecure_deterministic_noise=True)
    return promise


def _started(make: MakePromise, setting: Setting | None = None, insecure: bool = True) -> PrivateRun:
    promise: Privacy = _settled(make, insecure_deterministic_noise=insecure)
    return promise.start(setting or _everyone())


def _job(size: int, cohort: int = 0) -> Job:
    model = GlobalModel({"w": torch.zeros(size)}, {"mean": torch.zeros(2)})
    return Job(cohort, cohort, 1, model, LocalTraining(), population=5, extra=("besides",))


def _rows(size: int) -> Tensor:
    return torch.randn(5, size, generator=torch.Generator().manual_seed(0))


def _updates(rows: Tensor, job: Job) -> Updates:
    """Return updates of five workers with all fields set."""
    n = len(rows)
    counts = torch.arange(2, 2 + n, dtype=torch.float64)
    return Updates(
        cohort=job.cohort,
        workers=tuple(f"w{i}" for i in range(n)),
        delta=rows,
        buffers={name: buffer.expand(n, *buffer.shape) + 1 for name, buffer in job.model.buffers.items()},
        examples=counts,
        weight=counts.clone(),
        loss=counts.clone(),
        steps=counts.clone(),
        extra=dict.fromkeys(job.extra, -rows),
    )


def _released(make: MakePromise, run: PrivateRun, rows: Tensor, cohort: int = 0, insecure: bool = True) -> Tensor:
    """Return all visible numbers of a cohort: the sum, or each worker's row ``[n, 2 size]`` if it is private."""
    promise: Privacy = _settled(make, insecure_deterministic_noise=insecure)
    run.cohort = cohort
    run.charge()
    job = promise.job(_job(rows.shape[1], cohort), run)
    left = promise.at_worker(_updates(rows, job), job)
    if promise.any_aggregator:
        return torch.cat([left.delta, *left.extra.values()], dim=1).double()
    aggregator = promise.aggregator(run)
    assert aggregator is not None, "updates leave without noise, so aggregator() has to add it"
    return _finished(aggregator, [left], job) * aggregator.count(len(rows))


def _finished(aggregator: Aggregator[Any], stacks: Sequence[Updates], job: Job) -> Tensor:
    with torch.no_grad():
        aggregate: Aggregate = aggregator.finish(aggregator.fold(iter(stacks), job), Processes())
    return torch.cat([aggregate.delta, *aggregate.extra.values()]).double()
