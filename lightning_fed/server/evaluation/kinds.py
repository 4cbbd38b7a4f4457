"""Kinds of loaders that an evaluation goes through, and whether a worker has some."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lightning_fed._lightning import MisconfigurationException, is_overridden, pl
from lightning_fed.population import EvaluationKind, Population, has_loader

_KINDS: dict[str, EvaluationKind] = {"fit": "val", "validate": "val", "test": "test", "predict": "predict"}
_STEP_OF = {"val": "validation_step", "test": "test_step"}


def kind_to_come(trainer: pl.Trainer | None, module: pl.LightningModule) -> EvaluationKind | None:
    """Return which loaders a run that starts evaluates on; None: it evaluates nothing.

    Args:
        trainer: The Trainer; None: there is none.
        module: The user's module.
    """
    if trainer is None or trainer.state.fn is None:
        return None
    kind = _KINDS[trainer.state.fn]
    has_step = kind == "predict" or is_overridden(_STEP_OF[kind], module)
    return kind if has_step and getattr(trainer, f"limit_{kind}_batches") != 0 else None


def workers_have(kind: EvaluationKind, workers: Mapping[str, pl.LightningDataModule]) -> bool:
    """Whether some worker has loaders of a kind; True if that shows only when each is looked up.

    Args:
        kind: Which loaders.
        workers: Every worker's datamodule by name.
    """
    if isinstance(workers, Population):
        return workers.has_loader(kind)
    if isinstance(workers, dict):
        return any(has_loader(datamodule, kind) for datamodule in workers.values())
    return True


def refuse_nothing_to_evaluate(stage: str, lacking: Collection[EvaluationKind]) -> None:
    """Refuse an evaluation for which neither the workers nor the server have data.

    Args:
        stage: That of the run.
        lacking: The kinds of loaders that nobody has.

    Raises:
        MisconfigurationException: As Lightning raises, whose own words know no workers.
    """
    kind = None if stage == "fit" else _KINDS.get(stage)
    if kind in lacking:
        raise MisconfigurationException(
            f"no worker has data for '{kind}': give each some, such as workers={{'bob': {{'train': (x, y), {kind!r}: "
            f"(x, y)}}}} or a {kind}_dataloader of its datamodule, or all data together: "
            "FederatedDataModule(..., val=(x, y))"
        )
