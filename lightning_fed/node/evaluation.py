"""Evaluation of a worker on the machine of its data, for a server elsewhere."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_fed._lightning import pl
from lightning_fed.algorithms import Algorithm
from lightning_fed.callbacks.prediction_writer import PredictionWriter
from lightning_fed.core.rng import derive, restored, seed_generators
from lightning_fed.core.tree import copy_
from lightning_fed.module import FederatedModule
from lightning_fed.population import EvaluationKind, has_loader
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.loaders import what_failed
from lightning_fed.state import OwnState
from lightning_fed.wire import Job, Share, WorkerError, encode_share
from lightning_fed.worker.attributes import set_attributes
from lightning_fed.worker.copying import deep_copy
from lightning_fed.worker.far_trainer import FarTrainer
from lightning_fed.worker.metric_states import metrics_of
from lightning_fed.worker.module_tensors import put

_log = logging.getLogger(__name__)

_QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def evaluate(
    module: pl.LightningModule,
    workers: Mapping[str, pl.LightningDataModule],
    worker: str,
    job: Job,
    kind: EvaluationKind,
    algorithm: Algorithm,
    own_state: OwnState,
    trainer_options: Mapping[str, Any],
    limit: int | float | None = None,
    folder: str | Path | None = None,
    hides: bool = False,
    hides_failures: bool = False,
) -> bytes:
    """Evaluate one worker with the user's own steps, and return its share as bytes.

    The steps run on copies of the module and of the datamodule, so an evaluation leaves no trace in either.

    Args:
        module: The user's module, as it was built; it is not changed.
        workers: The datamodules of the node's workers, by name.
        worker: The name of the evaluated worker.
        job: The global model, and the rounds that have succeeded: own state staged in those is kept.
        kind: The kind of loaders.
        algorithm: The algorithm of the run, under which the worker may have a model of its own.
        own_state: The own state of the node's workers.
        trainer_options: Arguments of a Trainer, such as ``accelerator`` and ``precision``.
        limit: The number of batches of each loader; a float: the fraction of its batches; None: all.
        folder: The worker's own folder, for its predictions (``predictions.pt``).
        hides: Whether a promise hides the workers' results, whatever the job contains.
        hides_failures: Whether a promise also hides the failure of a prediction.

    Returns:
        A :class:`~lightning_fed.wire.Share`: an empty one if the worker has no such loader, or a promise of privacy
        hides the numbers of a prediction; one that holds the error if its data or the user's code has failed.

    Raises:
        KeyError: If the node has no such worker.
        ValueError: If no result may leave, as no noise covers it; or if predictions have no folder.
    """
    is_hidden = hides or (bool(job.promise) and not job.promise.get("release_metrics"))
    if is_hidden and kind != "predict":
        raise ValueError(
            "evaluating workers' own data would release what no noise covers: evaluate central data at the server, or "
            "accept it with release_metrics=True"
        )
    if kind == "predict" and folder is None:
        raise ValueError("predictions are written where the data are: give the folder for them")
    datamodule = workers[worker]
    if not has_loader(datamodule, kind):
        return encode_share(Share(loaders=0))
    try:
        own = _with_model(module, job, worker, algorithm, own_state)
        with restored():
            seed_generators(derive(job.seed, "evaluation", job.cohort, worker))
            options = {
                **_QUIET,
                "devices": 1,
                **trainer_options,
                f"limit_{kind}_batches": 1.0 if limit is None else limit,
            }
            if folder is not None and kind == "predict":
                options["callbacks"] = [PredictionWriter(Path(folder) / "predictions.pt")]
            share = _evaluated(own, {worker: copy.copy(datamodule)}, job, kind, options)
            return encode_share(Share() if is_hidden else share)
    except WorkerError as error:
        failure = error
    except Exception as error:
        failure = WorkerError(worker, job.round, what_failed("its evaluation", error))
        failure.__cause__ = error
    _log.warning("%s", failure, exc_info=failure.__cause__ or failure)
    if is_hidden and hides_failures:  # which it does depends on data, and the server chooses the model
        return encode_share(Share())
    if is_hidden:
        failure = WorkerError(worker, job.round, "it has failed to predict, and a promise of privacy hides why")
    return encode_share(Share(failures=(failure,)))


def _evaluated(
    module: pl.LightningModule,
    workers: dict[str, pl.LightningDataModule],
    job: Job,
    kind: EvaluationKind,
    options: dict[str, Any],
) -> Share:
    shares: list[Share] = []
    fed = FederatedModule(module)
    fed.pass_on_evaluations(shares.append)
    data = FederatedDataModule(workers, seed=job.seed)
    trainer = FarTrainer(**options)
    trainer.job = job
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.processed = job.epoch  # by which some loaders order their batches
    if kind == "predict":
        trainer.predict(fed, data, return_predictions=False)
        loaders = trainer.predict_loop.max_batches
    elif kind == "test":
        trainer.test(fed, data, verbose=False)
        loaders = trainer.test_loop.max_batches
    else:
        trainer.validate(fed, data, verbose=False)
        loaders = trainer.validate_loop.max_batches
    return shares[0]._replace(loaders=len(loaders)) if shares else Share(loaders=0)


def _with_model(
    module: pl.LightningModule, job: Job, worker: str, algorithm: Algorithm, own_state: OwnState
) -> pl.LightningModule:
    """Return a copy of a module that holds the global model, or the worker's own, with empty torchmetrics objects."""
    module = deep_copy(module)
    set_attributes(module, job.attributes)
    model = job.model
    tensors, buffers = dict(model.parameters), dict(model.buffers)
    for number in job.failed:
        own_state.drop(number)
    own_state.settle(job.last)
    own = algorithm.model_of(model, worker, own_state.scope()) if algorithm.tables else None
    if own is not None:
        tensors, buffers = dict(model.layout.unflatten(own.parameters)), {**buffers, **own.buffers}
    with torch.no_grad():
        copy_({name: dict(module.named_parameters())[name] for name in tensors}, tensors)
    put(module, buffers)
    for metric in metrics_of(module).values():
        metric.reset()
    return module
