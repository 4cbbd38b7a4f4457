"""Views of the Trainer's loops on a worker: what user code finds as ``self.trainer.fit_loop`` and its like."""

from __future__ import annotations

from typing import Any, NoReturn, final

from lightning_fed._lightning import pl


@final
class LoopView:
    """A loop of the server's Trainer, or its progress, to be read only: to set something would change the server's run.

    Of the limits of the fit it says what the worker's ``self.trainer`` says of them, and of the batches in a pass.
    Indices of batches are refused, and other counters are the server's.

    Args:
        trainer: The worker's view of the Trainer.
        loop: The server's loop, which answers everything else.
        path: Where the user's code has found it, such as ``"fit_loop.epoch_loop"``.
    """

    def __init__(self, trainer: Any, loop: Any, path: str) -> None:
        vars(self).update(_trainer=trainer, _loop=loop, _path=path)

    def __getattr__(self, name: str) -> Any:
        if name == "_loop":  # it is being copied
            raise AttributeError(name)
        if name in _INDICES:
            raise AttributeError(
                f"self.trainer.{self._path}.{name} on a worker would count the server's rounds, and not the worker's "
                "batches; take batch_idx from the arguments of training_step or of the hook"
            )
        if name in _LIMITS:
            return getattr(self._trainer, name)
        if name == "max_batches" and self._path == "fit_loop":  # an evaluation's are the server's
            return self._trainer.num_training_batches
        return seen(self._trainer, getattr(self._loop, name), f"{self._path}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_to_set(f"{self._path}.{name}")


_LIMITS = ("max_epochs", "max_steps", "min_epochs", "min_steps")
_INDICES = ("batch_idx", "total_batch_idx", "batch_progress")


def seen(trainer: Any, value: Any, path: str) -> Any:
    """Return what a worker sees of the server's Trainer: its loops and their progress to be read only.

    Args:
        trainer: The worker's view of the Trainer.
        value: An attribute of the Trainer, or of one of its loops.
        path: Where it is.
    """
    is_loops = isinstance(value, (pl.loops.loop._Loop, pl.loops.progress._BaseProgress))
    return LoopView(trainer, value, path) if is_loops else value


def refuse_to_set(path: str) -> NoReturn:
    """Refuse to set an attribute of the server's loops or strategy.

    Args:
        path: The attribute that was to be set, from ``self.trainer`` on.

    Raises:
        AttributeError: In any case.
    """
    raise AttributeError(
        f"self.trainer.{path} = ... on a worker would reach the server's run: set it there, in a callback; to end a "
        "worker's training, set self.trainer.should_stop = True"
    )
