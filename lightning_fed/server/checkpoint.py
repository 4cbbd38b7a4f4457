"""What a ``.ckpt`` holds: the user's module as if it had been trained alone, and one key of ours.

``TheirModule.load_from_checkpoint(path)`` works because the state dict and the hyperparameters are those of the user's
module. What only federated training needs lies under :data:`KEY`. Where the next cohort starts is kept by Lightning,
with the position of every other loader, under ``loops``.
"""

from __future__ import annotations

from typing import Any, cast

from lightning_fed._lightning import rank_zero_warn

KEY = "lightning_fed"
VERSION = 1
_PREFIX = "module."


def unwrap(checkpoint: dict[str, Any]) -> None:
    """Turn the wrapper's state dict into that of the user's module, in place."""
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name.removeprefix(_PREFIX): value for name, value in state.items()}


def wrap(checkpoint: dict[str, Any]) -> None:
    """Turn the state dict of the user's module into that of the wrapper, in place."""
    checkpoint["state_dict"] = {_PREFIX + name: value for name, value in checkpoint["state_dict"].items()}


def add(
    checkpoint: dict[str, Any],
    algorithm: str,
    engine: str | None,
    state: dict[str, Any],
    privacy: dict[str, Any] | None,
) -> None:
    """Write the federated part.

    Args:
        checkpoint: The checkpoint to write to.
        algorithm: The name of the algorithm's class.
        engine: What the engine decided about how to run.
        state: What the algorithm remembers.
        privacy: What was spent of privacy.
    """
    checkpoint[KEY] = {"version": VERSION, "algorithm": algorithm, "engine": engine, "state": state}
    if privacy is not None:
        checkpoint[KEY]["privacy"] = privacy


def check(checkpoint: dict[str, Any], algorithm: str) -> dict[str, Any]:
    """Compare the federated part with the run that loads it; warn where the run would not go on as it began.

    Args:
        checkpoint: The checkpoint that is being loaded; one of the user's module alone has no federated part.
        algorithm: The name of the algorithm's class.

    Returns:
        The federated part; empty if there is none.

    Raises:
        ValueError: If a newer lightning_fed wrote it.
    """
    part = checkpoint.get(KEY)
    if part is None:
        return {}
    if part["version"] > VERSION:
        raise ValueError(
            f"the checkpoint was written by a newer lightning_fed (format {part['version']}, this one reads "
            f"{VERSION}); upgrade lightning_fed"
        )
    if part["algorithm"] != algorithm:
        rank_zero_warn(f"the checkpoint was written by a run with {part['algorithm']}, and this one uses {algorithm}")
    return cast(dict[str, Any], part)
