"""Content of a dashboard about workers: their values in the last evaluation, and their data."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from lightning_fed._lightning import pl
from lightning_fed.callbacks.dashboard.labels import Label, draws_all, label_counts
from lightning_fed.module import FederatedModule
from lightning_fed.population import Population
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.evaluation.log import drawn_name


def shows_workers(fed: FederatedModule) -> bool:
    """Whether metrics of workers may be shown: there is no promise, or it releases them.

    Args:
        fed: The module.
    """
    return fed.privacy is None or fed.privacy.release_metrics


def values_of_workers(trainer: pl.Trainer, fed: FederatedModule) -> dict[str, dict[str, float]]:
    """Return the finite values of the last evaluation by metric and worker, if loggers draw them.

    Args:
        trainer: The Trainer, whose loggers draw.
        fed: The module.
    """
    if not shows_workers(fed):
        return {}
    found: dict[str, dict[str, float]] = {}
    for worker, metrics in fed.last_evaluation.workers.items():
        for metric, value in metrics.items():
            if math.isfinite(value):
                found.setdefault(metric, {})[worker] = value
    return {metric: own for metric, own in found.items() if drawn_name(metric, trainer.logged_metrics) is not None}


def curves_of_all(trainer: pl.Trainer, fed: FederatedModule, of_workers: Collection[str]) -> dict[str, str]:
    """Return the curves of the last evaluation over all data, by the names of the metrics.

    Args:
        trainer: The Trainer, whose loggers draw.
        fed: The module.
        of_workers: Metrics of which workers have values; they come first.
    """
    logged = trainer.logged_metrics
    names = [*of_workers, *fed.last_evaluation.metrics]
    curves = {name: curve for name in names if (curve := drawn_name(name, logged)) is not None}
    first: dict[str, str] = {}
    for name, curve in curves.items():
        if curve not in first.values():
            first[name] = curve
    return first


def logged_in_training(fed: FederatedModule) -> dict[str, str]:
    """Return the curves of the last cohort's metrics, by the names of the metrics.

    Args:
        fed: The module.
    """
    logged = fed.last_report.logged()
    curves = {
        name: shown.step_name if shown.on_step else shown.epoch_name
        for name, (shown, _) in logged.items()
        if shown.logger
    }
    return curves if logged else {"loss": "loss"}


def held(data: FederatedDataModule) -> tuple[dict[str, Mapping[Label, int]], dict[str, int]]:
    """Return the numbers of training examples of each worker, by label and in total.

    If the labels of one worker are unknown, no labels are returned: a mixture of divided and plain bars would suggest
    that some workers have no labels.

    No user code is run: workers whose data are not yet set up in this process are left out.

    Args:
        data: The workers' data.
    """
    at_hand = isinstance(data.workers, Population) and data.workers.draws_nothing
    counts: dict[str, Mapping[Label, int]] = {}
    sizes: dict[str, int] = {}
    for name in () if data.lies_elsewhere else data.names:
        worker = data.pool[name]
        if not (at_hand or worker.is_set_up):
            continue
        batches = worker.batches
        # A user's sampler may draw only some of the examples, or some of them twice.
        size = batches.num_rows if draws_all(batches.loader) else batches.num_examples or batches.num_rows
        if size is None:
            continue
        sizes[name] = size
        own = label_counts(batches.loader)
        if own is not None:
            counts[name] = own
    one_kind = len({type(label) for own in counts.values() for label in own}) == 1
    return (counts if counts.keys() == sizes.keys() and one_kind else {}), sizes
