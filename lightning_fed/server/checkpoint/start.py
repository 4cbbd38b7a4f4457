"""Start of a new federated run with the weights of a checkpoint; the checkpoint's run is not resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_fed._lightning import is_overridden, pl, refuse_foreign
from lightning_fed.server.checkpoint.io import read_checkpoint


def module_of(
    path: str | Path, module: type[pl.LightningModule] | pl.LightningModule, weights_only: bool | None
) -> pl.LightningModule:
    """Return the user's module with the weights of a checkpoint.

    Args:
        path: The checkpoint, of a plain Trainer or of a federated one.
        module: The user's class, to be built with the hyperparameters in the checkpoint; or a module, which is changed
            in place.
        weights_only: Whether to refuse content that may execute code when it is read; None: torch's default.

    Raises:
        TypeError: If ``module`` is neither.
        ValueError: If the file is damaged, or no checkpoint.
        RuntimeError: If the weights do not fit the module.
    """
    checkpoint = read_checkpoint(path, weights_only=weights_only)
    if isinstance(module, type):
        if not issubclass(module, pl.LightningModule):
            raise TypeError(
                f"module={module.__qualname__} must be a {pl.__name__}.LightningModule, or the class of one"
            )
        # Lightning 2.5 has no such argument
        given: dict[str, Any] = {} if weights_only is None else {"weights_only": weights_only}
        return module.load_from_checkpoint(path, map_location="cpu", **given)
    refuse_foreign(module, "LightningModule", "module")
    if is_overridden("configure_model", module):
        module.configure_model()
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
    return module
