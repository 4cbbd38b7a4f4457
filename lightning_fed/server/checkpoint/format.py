"""The content of a ``.ckpt``: the user's module as if it had been trained alone, and one key of lightning_fed.

``TheirModule.load_from_checkpoint(path)`` works because the state dict and the hyperparameters are those of the user's
module. The federated part lies under :data:`KEY`: the state of the algorithm, the number of the next cohort, the
settings of the run, and the states of the server's optimizer and scheduler. Lightning's own keys for those two are
empty: ``Trainer.fit(their_module, ckpt_path=path)`` begins with a fresh optimizer of the module.
"""

from __future__ import annotations

from typing import Any, cast

from lightning_fed.server.checkpoint.progress import go_back_to_the_round

KEY = "lightning_fed"
# 1: the number of the next cohort lies in the loaders' states. 2: it lies here. 3: files of the state folder have
# checksums. 4: averaged weights have the names of the user's module. All four can be read.
VERSION = 4
AVERAGED = "current_model_state"
"""Where Lightning's callbacks for averaged weights put the model that is trained; ``state_dict`` holds the average."""
INSTEAD = "To begin with its weights, fit FederatedModule(TheModule.load_from_checkpoint(path)) without ckpt_path"
_OF_THE_SERVER = ("optimizer_states", "lr_schedulers")


def write(checkpoint: dict[str, Any], part: dict[str, Any], unfinished: int) -> None:
    """Write the federated part.

    Args:
        checkpoint: The checkpoint to write to.
        part: The federated part.
        unfinished: The number of cohorts that the Trainer has taken and whose round is not over.
    """
    part = {"version": VERSION, **part}
    for name in _OF_THE_SERVER:
        if name in checkpoint:  # else only weights are to be saved
            part[name], checkpoint[name] = checkpoint[name], []
    checkpoint[KEY] = part
    _loaders(checkpoint)
    go_back_to_the_round(checkpoint["loops"]["fit_loop"], unfinished)


def read(checkpoint: dict[str, Any], fitting: bool) -> dict[str, Any]:
    """Return the federated part.

    The states of the server's optimizer and scheduler are moved back to Lightning's own keys.

    Args:
        checkpoint: The checkpoint that is being loaded; one of the user's module alone has no federated part.
        fitting: Whether training resumes.

    Returns:
        The federated part; empty if there is none.

    Raises:
        ValueError: If a newer lightning_fed wrote it, or training cannot resume from it.
    """
    loaders = _loaders(checkpoint)
    part = checkpoint.get(KEY)
    if part is None:
        if fitting:
            raise ValueError(
                "the checkpoint is one of the module alone: its optimizer is a worker's and not the server's, and it "
                f"holds no rounds to go on from. {INSTEAD}"
            )
        return {}
    if not isinstance(part, dict) or "version" not in part or "algorithm" not in part:
        raise ValueError(f"the checkpoint's part of {KEY} is damaged: it does not say what wrote it. {INSTEAD}")
    if part["version"] > VERSION:
        raise ValueError(
            f"the checkpoint was written by a newer lightning_fed (format {part['version']}, this one reads "
            f"{VERSION}); upgrade lightning_fed"
        )
    if fitting and "state" not in part:
        raise ValueError(f"the checkpoint does not say what the server and the workers remember. {INSTEAD}")
    if part["version"] == 1 and fitting:
        part = {**part, "cohort": _cohort_of_version_1(checkpoint, loaders)}
    if part["version"] < 4 and AVERAGED in checkpoint:
        checkpoint[AVERAGED] = {name.removeprefix("module."): value for name, value in checkpoint[AVERAGED].items()}
    checkpoint.update({name: part[name] for name in _OF_THE_SERVER if name in part})
    return cast(dict[str, Any], part)


def _loaders(checkpoint: dict[str, Any]) -> list[Any]:
    """Remove Lightning's states of loaders: ours have none, and a Trainer with other loaders fails on them."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    return cast(list[Any], loop.get("state_dict", {}).pop("combined_loader", []))


def _cohort_of_version_1(checkpoint: dict[str, Any], loaders: list[Any]) -> int:
    if checkpoint["global_step"] == 0:
        return 0
    try:
        return int(loaders[0]["completed"])
    except (IndexError, KeyError, TypeError):
        raise ValueError(
            "the checkpoint was written by an older lightning_fed (format 1) and does not say which cohort is the "
            f"next. {INSTEAD}"
        ) from None
