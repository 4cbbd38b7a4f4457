"""Refusals of transforms and compressions that cannot be right with the other parts of a run, with the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_fed._lightning import rank_zero_warn
from lightning_fed.aggregation import Aggregator, CohortAggregator
from lightning_fed.algorithms import Algorithm
from lightning_fed.privacy import AUDIENCES, Privacy
from lightning_fed.transforms import Compressed, Compressor, UpdateTransform, WorkerMomentum


def refuse_compression(
    transforms: Sequence[UpdateTransform], algorithm: Algorithm, aggregator: Aggregator[Any], privacy: Privacy | None
) -> None:
    """Refuse a compression of updates that cannot be right, and warn of one that drowns what is compared.

    Args:
        transforms: Steps on updates, in order.
        algorithm: What a round computes.
        aggregator: How updates become one.
        privacy: What is promised, if anything.

    Raises:
        ValueError: If updates are compressed twice or not last, or what comes of it is cut or means nothing.
    """
    compressed = [transform for transform in transforms if isinstance(transform, Compressed)]
    if not compressed:
        return
    if len(compressed) > 1:
        raise ValueError(f"transforms has Compressed {len(compressed)} times: codes are not compressed again, keep one")
    if transforms[-1] is not compressed[0]:
        raise ValueError(
            f"transforms has {type(transforms[-1]).__name__} behind Compressed, whose codes leave the worker as they "
            "are: put Compressed last"
        )
    compressor = compressed[0].compressor
    if not algorithm.divisible:
        raise ValueError(
            f"Compressed({compressor}): with {type(algorithm).__name__} each worker goes on from what the one before "
            "it has sent, so that errors add up on the way and do not average out; leave it out"
        )
    if compressor.stretches and privacy is not None and privacy.audience == AUDIENCES[0] and privacy.unit == "worker":
        raise ValueError(
            f"Compressed({compressor}) makes updates longer, and {type(privacy).__name__} clips them at the server, "
            "where little would be left; take another compressor, such as EDEN(bits=1)"
        )
    if compressor.stretches and isinstance(aggregator.rule, CohortAggregator):
        rank_zero_warn(
            f"Compressed({compressor}) makes updates longer at random, so that {type(aggregator).__name__} compares "
            "noise; take another compressor, such as EDEN(bits=2)"
        )


def refuse_worker_momentum(
    transforms: Sequence[UpdateTransform], algorithm: Algorithm, aggregator: Aggregator[Any]
) -> None:
    """Refuse momentum of workers' updates where an update is not what it is taken for.

    Args:
        transforms: Steps on updates, in order.
        algorithm: What a round computes.
        aggregator: How updates become one.

    Raises:
        ValueError: If workers have momentum, and a worker goes on from what another has sent, or an update is divided
            by the local steps of its own round.
    """
    if not any(isinstance(transform, WorkerMomentum) for transform in transforms):
        return
    if not algorithm.divisible:
        raise ValueError(
            f"WorkerMomentum: with {type(algorithm).__name__} each worker goes on from what the one before it has "
            "sent, which would be a mean of earlier rounds and no model that was trained; leave it out"
        )
    if aggregator.counts_steps:
        raise ValueError(
            f"WorkerMomentum sends a mean over rounds, and {type(aggregator).__name__} (FedNova's) divides it by the "
            "local steps of one; use another algorithm, such as FedAvg() or FedProx(mu), or leave it out"
        )


def refuse_broadcast(compressor: Compressor | None, algorithm: Algorithm) -> None:
    """Refuse a compression of the model from which workers would start at another model.

    Args:
        compressor: How the model is compressed on its way to the workers, if it is.
        algorithm: What a round computes.

    Raises:
        ValueError: If its error is no noise about the model, is larger than that, or a round sends several models.
    """
    if compressor is None:
        return
    if not compressor.unbiased or compressor.stretches:
        raise ValueError(
            f"broadcast={compressor}: it leaves numbers of a model out, or sends another one in its place, which no "
            "later round makes up for; take KBit(bits=8)"
        )
    if not algorithm.divisible:
        raise ValueError(
            f"broadcast={compressor}: with {type(algorithm).__name__} each worker goes on from what the one before it "
            "has sent, and only the first one is sent the server's model; leave it out"
        )
