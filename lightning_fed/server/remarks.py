"""Messages at the start of a fit: the size of the module, and options of the Trainer that act on whole rounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.nn.parameter import is_lazy

from lightning_fed._lightning import StochasticWeightAveraging, pl, rank_zero_info, rank_zero_warn
from lightning_fed.aggregation import Aggregator
from lightning_fed.hooks import overrides
from lightning_fed.server.own_callbacks import callbacks_of


def size_of(module: pl.LightningModule) -> str:
    """Return the number of a module's parameters in words.

    Args:
        module: The user's module; parameters whose shape the first batch decides are not counted.
    """
    parameters = [parameter for parameter in module.parameters() if not is_lazy(parameter)]
    count = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    frozen = f", {trained:,} of them trained" if trained < count else ""
    return f"{type(module).__name__} has {count:,} parameter{'s' if count != 1 else ''}{frozen}"


def say_what_acts_on_rounds(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Log that clipping and learning rates for averaged weights act on the server, and how to set the workers' own.

    Args:
        trainer: The Trainer, with the server's optimizer.
        module: The user's module.
    """
    if trainer.gradient_clip_val:
        rank_zero_info(_of_clipping(trainer, module))
    for remark in _of_averaging(trainer):
        rank_zero_warn(remark)


def say_what_is_unproven(aggregator: Aggregator[Any], cohort_size: int) -> None:
    """Warn of an aggregator that is used outside the conditions of its proof.

    Args:
        aggregator: The aggregator of the run.
        cohort_size: The number of workers in a round.
    """
    remark = aggregator.beyond_proof(cohort_size)
    if remark is not None:
        rank_zero_warn(remark)


def _of_clipping(trainer: pl.Trainer, module: pl.LightningModule) -> str:
    name, value, kind = type(module).__name__, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
    algorithm = "norm" if kind is None else kind.value
    call = f"self.clip_gradients(optimizer, gradient_clip_val={value}, gradient_clip_algorithm={algorithm!r})"
    says = f"Trainer(gradient_clip_val={value}) clips the aggregated update of each round, and no local step"
    if not module.automatic_optimization:
        return f"{says}; to clip those, call {call} in {name}.training_step()"
    if overrides(module, "configure_gradient_clipping"):
        return f"{says}: a worker's {name}.configure_gradient_clipping() is given None; let it call {call}"
    return f"{says}; to clip those, let {name}.configure_gradient_clipping() call {call}"


def _of_averaging(trainer: pl.Trainer) -> Iterator[str]:
    servers = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
    for callback in callbacks_of(trainer):
        if isinstance(callback, StochasticWeightAveraging):
            given = callback._swa_lrs
            rates = [float(rate) for rate in given] if isinstance(given, list) else [float(given)] * len(servers)
            if rates != servers:
                yield (
                    f"StochasticWeightAveraging(swa_lrs={given}) anneals the server's learning rate, which is "
                    f"{servers[0]:g}, and not the workers' own; swa_lrs={servers[0]} keeps the size of rounds"
                )
