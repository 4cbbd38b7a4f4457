"""The settings of a run as one flat table, which differs between runs with different settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from lightning_fed._lightning import pl
from lightning_fed.engines import EngineOfNodes
from lightning_fed.population import Population
from lightning_fed.population.given import GivenData
from lightning_fed.record.arguments import PLAIN, Scalar, arguments_of
from lightning_fed.record.checksum import checksum
from lightning_fed.record.described import described
from lightning_fed.record.trainers import of_the_trainer
from lightning_fed.server.checkpoint.settings import options_of
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.guard import Guard
from lightning_fed.server.hyperparameters import with_lists, with_ours
from lightning_fed.server.readable import Readable

_OF_A_SCHEDULER = ("optimizer", "last_epoch", "verbose")
_ROWS_OF_THEIR_OWN = ("module", "privacy", "engine")
_LOOKED_AT = 200
"""The number of workers of a dict with separate datamodules that are compared."""
_READ = 20
"""The number of these workers that are described in full."""
_NO_SETTINGS = ("state_dir",)
"""Arguments about the places of files, which do not affect results."""
_AT_THE_START = ("privacy/noise_multiplier", "privacy/delta", "privacy/accountant")
"""The settings that a promise may determine at the start of a fit."""


def settings(fed: Readable, data: FederatedDataModule | None) -> dict[str, Scalar]:
    """Return the settings of a run, flat: ``{"algorithm": "FedProx(mu=0.1)", "algorithm/mu": 0.1, ...}``.

    Names are the arguments of FederatedModule and FederatedDataModule; ``name/part`` is an argument of the object that
    is given for one. After the start of a fit, ``server_optimizer`` is the actual optimizer, ``engine`` the chosen one,
    and ``privacy/...`` the actual promise; before, they are the configured values.

    Args:
        fed: The FederatedModule.
        data: Its FederatedDataModule; None: there is none.
    """
    given = {**fed._given, **{name: value for name, value in vars(fed).items() if name in fed._given}}
    trainer = fed._trainer if fed._trainer is not None and fed._trainer.state.fn == "fit" else None
    hides = not fed._guard.shows_metrics
    rows: dict[str, Scalar] = {}
    for name, value in given.items():
        if name not in (*_ROWS_OF_THEIR_OWN, *_NO_SETTINGS):
            rows |= described(name, value, hides=hides)
    rows |= _engine(given["engine"], hides)
    if trainer is not None and trainer.optimizers:
        real = _optimizers(trainer, hides)  # replaces the function that makes it, and its arguments
        rows = {name: value for name, value in rows.items() if not name.startswith("server_optimizer/") or name in real}
        rows |= real
    rows |= _promise(fed._guard)
    rows |= _model(fed.module, hides, _names(data) if hides else frozenset())
    rows |= {} if data is None else _data(data, hides)
    return rows if trainer is None else {**rows, **of_the_trainer(trainer, hides)}


def hyperparameters(fed: Readable, data: FederatedDataModule | None) -> dict[str, Any]:
    """Return the hyperparameters for loggers: those of the user's module, and the settings.

    Lightning logs them before a fit has chosen its engine, and before a promise has determined its noise. Undecided
    settings are omitted, since a logger may refuse to change a value later (MLflow).

    Args:
        fed: The FederatedModule.
        data: Its FederatedDataModule; None: there is none.
    """
    saved = fed.module.hparams_initial if fed.module._log_hyperparams else {}
    if not fed._guard.shows_metrics:
        names = _names(data)
        saved = {name: value for name, value in saved.items() if not _names_one(value, names)}
    theirs = with_lists(saved)
    left_out = {f"model/{name}" for name in theirs}
    ours = settings(fed, data)
    if fed._training is None:
        left_out |= {"engine"} | {name for name in _AT_THE_START if ours.get(name) is None or fed._guard.run is None}
    ours = {name: value for name, value in ours.items() if name not in left_out}
    return with_ours(theirs, ours, () if data is None else data.hparams_initial)


def seeds_of(table: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the rows of a table of settings that are seeds.

    Args:
        table: The result of :func:`settings`.

    >>> seeds_of({"seed": 1, "cohort_size": 2, "partition/seed": 3})
    {'seed': 1, 'partition/seed': 3}
    """
    return {name: value for name, value in table.items() if name.rpartition("/")[2] == "seed"}


def _engine(engine: Any, hides: bool) -> dict[str, Scalar]:
    """Return the engine that trains the workers, and the configured one, which may choose another."""
    rows = described("engine", engine, hides=hides)
    chosen = None if isinstance(engine, EngineOfNodes) else engine.choice  # theirs is a choice of workers
    return {**rows, "engine": chosen or type(engine).__name__.lower(), "engine/asked": rows["engine"]}


def _optimizers(trainer: pl.Trainer, hides: bool) -> dict[str, Scalar]:
    """Return the actual server optimizer and scheduler, for any function that makes them."""
    (optimizer,) = trainer.optimizers
    options = options_of(optimizer)
    lr = f"(lr={options['lr']})" if "lr" in options else ""
    rows: dict[str, Scalar] = {"server_optimizer": f"{type(optimizer).__name__}{lr}"}
    for name, value in options.items():
        rows |= described(f"server_optimizer/{name}", value)
    for config in trainer.lr_scheduler_configs:
        rows |= described("server_lr_scheduler", config.scheduler, _OF_A_SCHEDULER, hides)
    return rows


def _promise(guard: Guard) -> dict[str, Scalar]:
    if guard.promise is None:
        return {"privacy": None}
    rows = guard.hyperparameters() | described("privacy", guard.promise, hides=not guard.shows_metrics)
    if guard.promise.insecure_deterministic_noise:
        rows["privacy"] = f"{rows['privacy']} WITH SEEDED NOISE: NOT PRIVATE"
    run = guard.run
    if run is not None:
        rows |= {
            "privacy/clip": guard.promise.bound(),
            "privacy/noise_multiplier": run.noise_multiplier,
            "privacy/delta": run.delta,
            "privacy/accountant": run.accountant.kind,
            "privacy/neighbours": run.relation,
        }
    return rows


def _model(module: pl.LightningModule, hides: bool, workers: Set[str]) -> dict[str, Scalar]:
    """Return the user's module: its class, its size and its hyperparameters, unless it hides them from loggers.

    A checksum represents unsaved arguments, submodules, and hyperparameters that are hidden from loggers.
    """
    rows: dict[str, Scalar] = {"model": type(module).__name__}
    rows["model/parameters"] = sum(parameter.numel() for parameter in module.parameters())
    saved = module.hparams_initial if module._log_hyperparams else {} if module.hparams else arguments_of(module)
    for name, value in saved.items():
        if not (hides and _names_one(value, workers)):
            rows |= described(f"model/{name}", value, hides=hides)
    return {**rows, "model/checksum": checksum(module, hides)}


def _names(data: FederatedDataModule | None) -> frozenset[str]:
    return frozenset(() if data is None else data.names)


def _names_one(value: Any, workers: Set[str]) -> bool:
    """Whether a text or a collection names a worker."""
    if isinstance(value, str):
        return value in workers
    if isinstance(value, Mapping):
        return any(_names_one(part, workers) for pair in value.items() for part in pair)
    return isinstance(value, (Sequence, Set)) and any(_names_one(part, workers) for part in value)


def _data(data: FederatedDataModule, hides: bool) -> dict[str, Scalar]:
    rows = data.hyperparameters() | {"population": len(data.names)}
    for name, value in arguments_of(data).items():
        if name not in ("workers", "seed") and not (name == "batch_size" and not data.makes_batches):
            rows |= described(name, value, hides=hides)
    seeds = data.seeds
    rows |= {"seed": seeds.everything, "data/seed": seeds.training}
    rows["population/class"] = type(data.workers).__name__
    if isinstance(data.workers, Population):
        for name, value in arguments_of(data.workers, only_arguments=hides).items():
            name = name if name == "partition" else f"population/{name}"
            rows |= _numbers(name, value) if hides else described(name, value)
    elif isinstance(data.workers, dict) and not hides:
        workers = list(data.workers.values())
        step = -(-len(workers) // _LOOKED_AT)
        rows |= _alike(workers[::step])
    return rows if seeds.partition is None else {**rows, "partition/seed": seeds.partition}


def _alike(datamodules: Sequence[pl.LightningDataModule]) -> dict[str, Scalar]:
    """Return the arguments that workers' datamodules have in common, and a checksum of the others.

    Only plain values enter the checksum: other attributes of a datamodule may be data, which follow from seeds.
    """
    tables = [_of_a_worker(datamodule) for datamodule in datamodules[:_READ]]
    first, *others = tables
    alike = {name: value for name, value in first.items() if all(other.get(name, ...) == value for other in others)}
    plain = [_plain_of_a_worker(datamodule) for datamodule in datamodules]
    if all(one == plain[0] for one in plain):
        return alike
    return {**alike, "population/worker/checksum": checksum(plain)}


def _plain_of_a_worker(datamodule: pl.LightningDataModule) -> dict[str, Scalar]:
    if isinstance(datamodule, GivenData):
        return dict(datamodule.batches)
    return {name: value for name, value in arguments_of(datamodule).items() if isinstance(value, PLAIN)}


def _of_a_worker(datamodule: pl.LightningDataModule) -> dict[str, Scalar]:
    name = "population/worker"
    if not isinstance(datamodule, GivenData):
        return described(name, datamodule)
    rows: dict[str, Scalar] = {name: type(datamodule).__name__}
    return rows | {f"{name}/{key}": value for key, value in datamodule.batches.items()}


def _numbers(name: str, thing: Any) -> dict[str, Scalar]:
    """Describe an argument of a population under a promise: texts and lists may be about single workers."""
    if thing is None or isinstance(thing, (bool, int, float)):
        return {name: thing}
    if isinstance(thing, (str, Sequence, Set, Mapping)):
        return {}
    parts = arguments_of(thing, only_arguments=True).items()
    numbers = {f"{name}/{part}": value for part, value in parts if isinstance(value, (bool, int, float))}
    return {name: type(thing).__name__, **numbers}
