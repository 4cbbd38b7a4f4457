"""What holds of every library: its modules train unchanged, and come back in their own class.

Imported after a recipe, which decides between ``pytorch_lightning`` and ``lightning.pytorch``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from page import engine
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl


def trainer(**options: Any) -> pl.Trainer:
    """A Trainer on the CPU that writes nothing."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, **quiet, **options}
    return pl.Trainer(**options)


def seeded(make: Callable[[], Any]) -> Any:
    """The same at every call: weights are drawn anew, from the same seed."""
    pl.seed_everything(1, verbose=False)
    return make()


def differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference of each tensor of two models, as a part of its largest number where that is above 1."""
    assert one.keys() == other.keys()
    found = {}
    for name, tensor in one.items():
        if tensor.numel():
            difference = (tensor.double() - other[name].double()).abs().max()
            found[name] = float(difference / tensor.double().abs().max().clamp(min=1.0))
    return found


def is_a_plain_epoch(
    module: Callable[[], Any],
    worker: Callable[[], Any],
    tolerance: float = 1e-6,
    length: Mapping[str, int] = {"max_epochs": 1},
    **federated: Any,
) -> None:
    """One worker and one round give what a plain Trainer's epoch on the worker's data gives, and are evaluated alike.

    Args:
        module: Makes the module.
        worker: Makes the worker's datamodule.
        tolerance: For rounding: the round takes global minus local, and subtracts it.
        length: How long the plain Trainer trains.
        federated: Arguments of the federated module.
    """
    plain, datamodule = seeded(module), seeded(worker)
    before = {name: tensor.detach().clone() for name, tensor in plain.state_dict().items()}
    trainer(limit_val_batches=0, num_sanity_val_steps=0, **length).fit(plain, datamodule)
    wrapped = seeded(module)
    data = FederatedDataModule({"alone": seeded(worker)})
    trainer(max_epochs=1, limit_val_batches=0, num_sanity_val_steps=0).fit(FederatedModule(wrapped, **federated), data)
    moved = differences(before, {name: plain.state_dict()[name] for name in before})  # setup() may have added some
    assert max(moved.values()) > 100 * tolerance, f"nothing was trained: {moved}"
    found = differences(wrapped.state_dict(), plain.state_dict())
    worst = max(found, key=lambda name: found[name])
    assert found[worst] <= tolerance, f"{worst} differs by {found[worst]}"
    # From here on both hold the same model; what draws in evaluation draws the same.
    wrapped.load_state_dict(plain.state_dict(), strict=plain.strict_loading)
    (expected,) = seeded(lambda: trainer().validate(plain, seeded(worker), verbose=False))
    (metrics,) = seeded(lambda: trainer().validate(FederatedModule(wrapped, **federated), data, verbose=False))
    assert expected
    assert {name: metrics.get(name) for name in expected} == pytest.approx(expected, rel=1e-5)


def learns(
    heading: str,
    module: Callable[[], Any],
    workers: Mapping[str, Any],
    caplog: pytest.LogCaptureFixture,
    rounds: int = 4,
    **federated: Any,
) -> tuple[FederatedModule, pl.Trainer]:
    """Several workers train for several rounds and are evaluated on their own data; the loss falls.

    Args:
        heading: Of the library's section, which says what ``"auto"`` chooses, and why.
        module: Makes the module.
        workers: The workers' datamodules.
        caplog: Holds what was said.
        rounds: How many.
        federated: Arguments of the federated module.

    Returns:
        The federated module and its Trainer.
    """
    fed = FederatedModule(seeded(module), **federated)
    losses: list[float] = []
    note = pl.callbacks.LambdaCallback(on_train_batch_end=lambda *_: losses.append(fed.last_report.loss))
    run = trainer(max_epochs=rounds, callbacks=[note])
    with caplog.at_level(logging.INFO):
        run.fit(fed, FederatedDataModule(dict(workers), cohort_size=len(workers)))
    assert len(losses) == rounds
    assert losses[-1] < losses[0], losses
    said = [message for message in caplog.messages if message.startswith('engine="auto"')]
    choice, reason = engine(heading)
    assert fed.engine.choice == choice
    assert said
    assert reason in said[-1], said[-1]
    return fed, run


def opens(fed: FederatedModule, run: pl.Trainer, folder: Path, **arguments: Any) -> Any:
    """Our checkpoint opens with the module's own class and holds the global model; returns the module in it."""
    path = folder / "federated.ckpt"
    run.save_checkpoint(path)
    opened = type(fed.module).load_from_checkpoint(path, **arguments)
    found = differences(opened.state_dict(), fed.module.state_dict())
    assert not any(found.values()), found
    return opened
