"""Refusals of what cannot work where the server sees sums only, at the start of a run and with the fix."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.aggregation import Aggregator
from lightning_fed.algorithms import Algorithm
from lightning_fed.privacy import AUDIENCES, Privacy, PrivateRun
from lightning_fed.secure import SecureAggregation
from lightning_fed.secure.ring import Ring
from lightning_fed.secure.settings import DELTA
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.evaluation.kinds import kind_to_come
from lightning_fed.transforms import Compressed, UpdateTransform
from lightning_fed.wire import GlobalModel, Job
from lightning_fed.worker.sealing import Sealing

_LARGEST_ERROR = 0.01
"""The rounding error of one update, as a part of its square, from which on it is warned of."""


def refuse_single_updates(
    secure: SecureAggregation | None,
    algorithm: Algorithm,
    aggregator: Aggregator[Any] | None,
    transforms: Sequence[UpdateTransform],
) -> None:
    """Refuse what needs each worker's update.

    Args:
        secure: What is said of secure aggregation; None: single updates are seen.
        algorithm: What a round computes.
        aggregator: How updates become one; None: the promise's own way.
        transforms: Steps on updates, in order.

    Raises:
        ValueError: If a part of the run cannot be had from sums.
    """
    if secure is None:
        return
    name = type(algorithm).__name__
    if not algorithm.divisible:
        raise ValueError(
            f"{name} hands what one worker has trained to the next, and secure_aggregation shows sums of a cohort "
            "only; use FedAvg()"
        )
    if algorithm.weighs:
        raise ValueError(
            f"{name} lets workers count by numbers of their own, which have no largest one, and secure_aggregation "
            "adds numbers of a known range; use FedAvg()"
        )
    if aggregator is not None and not aggregator.takes_sums():
        instead = "algorithm=FedProx(mu) or Scaffold()" if algorithm.lies_in_its_mean else "aggregator=UniformMean()"
        raise ValueError(
            f"{type(aggregator).__name__} needs each worker's update, and secure_aggregation shows sums only; use "
            f"{instead}"
        )
    if not algorithm.is_mean:
        raise ValueError(
            f"{name} computes more than a mean of updates (is_mean = False), and secure_aggregation shows sums only; "
            "use FedAvg()"
        )
    if aggregator is not None:
        _refuse_weights(secure, aggregator)
    for transform in transforms:
        if isinstance(transform, Compressed):
            raise ValueError(
                f"Compressed({transform.compressor}) makes codes of each worker's own, the sum of which means nothing, "
                "and secure_aggregation adds what leaves a worker; take SecureAggregation(bits=16) in its place, which "
                "halves what is sent"
            )


def _refuse_weights(secure: SecureAggregation, aggregator: Aggregator[Any]) -> None:
    name = type(aggregator).__name__
    if not aggregator.counts_equally and secure.weight_cap is None:
        raise ValueError(
            f"{name} counts workers by their numbers of examples, the largest of which is nobody's to know: give "
            "SecureAggregation(weight_cap=...), the number from which on a worker counts fully, or let all count the "
            "same with aggregator=UniformMean()"
        )
    if aggregator.counts_equally and secure.weight_cap is not None:
        raise ValueError(
            f"SecureAggregation(weight_cap={secure.weight_cap}) says from how many examples on a worker counts fully, "
            f"and with {name} all count the same; leave one of them out"
        )


def refuse_cohort(secure: SecureAggregation | None, cohort_size: int) -> None:
    """Refuse a cohort in which no update would be hidden, or no worker has so many neighbours.

    Args:
        secure: What is said of secure aggregation, if anything.
        cohort_size: The number of workers in a round.

    Raises:
        ValueError: Stating the inequality that does not hold.
    """
    if secure is None:
        return
    secure.parameters(cohort_size)  # for what it refuses
    if secure.neighbours is not None and secure.neighbours >= cohort_size:
        raise ValueError(
            f"SecureAggregation(neighbours={secure.neighbours}): in a cohort of {cohort_size} a worker has "
            f"{cohort_size - 1} others; leave neighbours out, and it shares a mask with all of them"
        )


def refuse_model(
    secure: SecureAggregation | None,
    algorithm: Algorithm,
    model: GlobalModel,
    module: nn.Module,
    cohort_size: int,
) -> None:
    """Refuse bounds that do not go with what is sent, and layers that cannot be added; nothing else bounds them.

    That bits are so few that little is left of an update is warned of.

    Args:
        secure: What is said of secure aggregation, if anything.
        algorithm: What a round computes.
        model: The global model.
        module: The user's module, with the layers as the Trainer has placed them.
        cohort_size: The number of workers in a round.

    Raises:
        ValueError: If a vector has no bound, a bound no vector, or a layer statistics that have no sum.
    """
    if secure is None:
        return
    sent = (DELTA, *algorithm.extra)
    if isinstance(secure.clip, dict):
        unknown = sorted(secure.clip.keys() - set(sent))
        if unknown:
            raise ValueError(
                f"SecureAggregation(clip={secure.clip}): with {type(algorithm).__name__} nothing is sent by the name "
                f"{unknown[0]!r}; there is {' and '.join(map(repr, sent))}"
            )
    for name in sent:
        secure.clip_of(name)
    error = Ring(1.0, cohort_size, secure.bits).error(model.layout.size)
    if error > _LARGEST_ERROR:
        rank_zero_warn(
            f"SecureAggregation(bits={secure.bits}): rounding moves an update of {model.layout.size} numbers by "
            f"{error**0.5:.0%} of clip where {cohort_size} workers share the range; take more bits (32 loses nothing)"
        )
    _refuse_statistics(secure, algorithm, model, module)


def _refuse_statistics(secure: SecureAggregation, algorithm: Algorithm, model: GlobalModel, module: nn.Module) -> None:
    for path, layer in _with_moving_statistics(module, algorithm.stays_local(model), model):
        if layer.momentum is None:
            raise ValueError(
                f"{path} is a {type(layer).__name__}(momentum=None), which goes by the number of batches that it has "
                "seen, and secure_aggregation has no sum for that; give it a momentum such as 0.1, or keep it with the "
                "workers: algorithm=FedBN()"
            )
        if secure.buffer_clip is None:
            raise ValueError(
                f"local training moves the statistics of {path}, and secure_aggregation has no bound for them: give "
                "SecureAggregation(buffer_clip=...), the largest norm of the change of one buffer, keep them with the "
                "workers (algorithm=FedBN()), or use GroupNorm"
            )


def _with_moving_statistics(
    module: nn.Module, stays: Collection[str], model: GlobalModel
) -> Iterator[tuple[str, _NormBase]]:
    for path, layer in module.named_modules():
        name = f"{path}.running_mean" if path else "running_mean"
        if isinstance(layer, _NormBase) and layer.training and name in model.buffers and name not in stays:
            yield path, layer


def sealing_of(
    secure: SecureAggregation | None, data: FederatedDataModule, promise: Privacy | None, aggregator: Aggregator[Any]
) -> Sealing | None:
    """Return how workers seal what they send, with room for as many of them as a round can have; None: they do not.

    Args:
        secure: What is said of secure aggregation, if anything.
        data: The workers' data, by whose sampler the size of cohorts is a number or left to coins.
        promise: What is promised to the workers, if anything.
        aggregator: The run's own.

    Raises:
        ValueError: If so many workers have no room, or a promise says the same as ``secure``.
    """
    if secure is None:
        return None
    most = data.cohort_size
    if data.sampler is not None and data.sampler.drawn == "by coins":
        hides_who = promise is not None and promise.audience == AUDIENCES[0]
        secure, most = secure.by_coins(len(data.names), most, hides_who)
    return Sealing(secure, most, promise is not None or aggregator.counts_equally, promise)


def check_sealing(sealing: Sealing, job: Job, run: PrivateRun | None) -> None:
    """Refuse before the first round what could not be sealed.

    Args:
        sealing: How workers seal what they send.
        job: One such as workers will be sent, without the numbers of a promise.
        run: The private run, if there is one.

    Raises:
        ValueError: Naming what does not fit, and the fix.
    """
    sealing.check(job if run is None or sealing.promise is None else sealing.promise.job(job, run))


def refuse_workers_data(
    secure: SecureAggregation | None, data: FederatedDataModule, trainer: pl.Trainer, module: pl.LightningModule
) -> None:
    """Refuse evaluation that would show what single workers' data give.

    Args:
        secure: What is said of secure aggregation, if anything.
        data: The workers' data.
        trainer: The Trainer that is about to run.
        module: The user's module.

    Raises:
        ValueError: If the workers' own data would be evaluated, in training or apart from it.
    """
    kind = None if secure is None else kind_to_come(trainer, module)
    if kind not in ("val", "test") or not data.evaluates_workers(kind):
        return
    off = ", or switch it off: Trainer(limit_val_batches=0)" if trainer.state.fn == "fit" else ""
    raise ValueError(
        "secure_aggregation: evaluating the workers' own data would show what each of them gives; give central data "
        f"(FederatedDataModule(val=...)){off}"
    )
