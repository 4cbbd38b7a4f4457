"""What a ``.ckpt`` holds: the user's module as if it had been trained alone, and one key of ours.

``TheirModule.load_from_checkpoint(path)`` works because the state dict and the hyperparameters are those of the user's
module. What only federated training needs lies under :data:`KEY`: what the algorithm remembers, the number of the next
cohort, and the states of the server's optimizer and scheduler, which would otherwise become those of the user's own in
``Trainer.fit(their_module, ckpt_path=path)``.
"""

from __future__ import annotations

from typing import Any, cast

from lightning_fed._lightning import rank_zero_warn

KEY = "lightning_fed"
VERSION = 2
_PREFIX = "module."
_OF_THE_SERVER = ("optimizer_states", "lr_schedulers")


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
    account: dict[str, Any],
    cohort: int,
    unfinished: int,
) -> None:
    """Write the federated part.

    Args:
        checkpoint: The checkpoint to write to.
        algorithm: The name of the algorithm's class.
        engine: What the engine decided about how to run.
        state: What the algorithm remembers.
        privacy: What was spent of privacy.
        account: Of that the account, stretch by stretch.
        cohort: The number of the next cohort.
        unfinished: How many cohorts the Trainer has taken whose round is not over.
    """
    part = {"version": VERSION, "algorithm": algorithm, "engine": engine, "state": state, "cohort": cohort}
    part |= {name: checkpoint.pop(name) for name in _OF_THE_SERVER if name in checkpoint}
    if privacy is not None:
        part |= {"privacy": privacy, "account": account}
    checkpoint[KEY] = part
    _loaders(checkpoint)
    _go_back_to_the_round(checkpoint["loops"]["fit_loop"], unfinished)


def check(checkpoint: dict[str, Any], algorithm: str, fitting: bool) -> dict[str, Any]:
    """Compare the federated part with the run that loads it; warn where the run would not go on as it began.

    The states of the server's optimizer and scheduler return to where Lightning looks for them.

    Args:
        checkpoint: The checkpoint that is being loaded; one of the user's module alone has no federated part.
        algorithm: The name of the algorithm's class.
        fitting: Whether training is to go on.

    Returns:
        The federated part; empty if there is none.

    Raises:
        ValueError: If a newer lightning_fed wrote it, or training cannot go on from it.
    """
    loaders = _loaders(checkpoint)
    part = checkpoint.get(KEY)
    if part is None:
        if fitting:
            raise ValueError(
                "the checkpoint is one of the module alone: its optimizer is a worker's and not the server's, and it "
                "holds no rounds to go on from. To begin with its weights, fit "
                "FederatedModule(TheModule.load_from_checkpoint(path)) without ckpt_path"
            )
        return {}
    if part["version"] > VERSION:
        raise ValueError(
            f"the checkpoint was written by a newer lightning_fed (format {part['version']}, this one reads "
            f"{VERSION}); upgrade lightning_fed"
        )
    if part["algorithm"] != algorithm:
        rank_zero_warn(f"the checkpoint was written by a run with {part['algorithm']}, and this one uses {algorithm}")
    if part["version"] == 1 and fitting:
        part = {**part, "cohort": _cohort_of_version_1(checkpoint, loaders)}
    checkpoint.update({name: part[name] for name in _OF_THE_SERVER if name in part})
    return cast(dict[str, Any], part)


def _loaders(checkpoint: dict[str, Any]) -> list[Any]:
    """Take out what Lightning stores about loaders: nothing of ours, but a Trainer with other loaders would stumble."""
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
            "next. To begin with its weights, fit FederatedModule(TheModule.load_from_checkpoint(path)) without "
            "ckpt_path"
        ) from None


def _go_back_to_the_round(loop: dict[str, Any], unfinished: int) -> None:
    """Let Lightning go on with the first cohort of a round that is not over, or of the next epoch.

    A checkpoint may be written when gradients have been accumulated over some of a round's cohorts. It does not hold
    them, so these cohorts are to be trained again; Lightning would go on with the next one. Between two epochs it still
    counts the batches of the last, and from such a checkpoint would skip an epoch, or take one cohort too many.

    Args:
        loop: The state of Lightning's ``_FitLoop``, changed in place.
        unfinished: How many cohorts the Trainer has taken whose round is not over.
    """
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    epoch, batch = epochs["current"], batches["current"]
    is_over = epoch["processed"] == epoch["ready"] and batches["is_last_batch"]
    if is_over:
        _set(epochs, completed=epoch["processed"])
    if is_over or epoch["ready"] > epoch["started"]:
        batches.update(current=dict.fromkeys(batch, 0), is_last_batch=False)
        return
    has_ended = batch["ready"] == batch["started"] == batch["processed"] == batch["completed"] + 1
    over = batch["ready"] - unfinished
    # Lightning takes a batch back by itself if it has not ended. Less than none: it was another Trainer that took them.
    if 0 <= over < batch["completed"] + has_ended:
        # As if the checkpoint had been written while the first of them was trained.
        _set(batches, ready=over + 1, started=over + 1, processed=over, completed=over)
        batches["is_last_batch"] = False


def _set(progress: dict[str, Any], **counts: int) -> None:
    """Set counts of the current epoch or run, and let the total follow."""
    for name, count in counts.items():
        progress["total"][name] += count - progress["current"][name]
        progress["current"][name] = count
