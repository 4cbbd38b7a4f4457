"""Results of an evaluation of several loaders: a dict for each of them, as from a plain Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from lightning_fed._lightning import pl


@final
class LoaderResults:
    """Removes from each loader's results those of the others.

    What is logged when all batches are over is about no loader, as far as Lightning can see, and goes to all of them.
    """

    def __init__(self) -> None:
        self._outputs: list[dict[str, Any]] = []
        self._loaders: dict[str, int] = {}

    def note(self, trainer: pl.Trainer, loaders: Mapping[str, int | None]) -> None:
        """Note what the Trainer is going to give back, before it does.

        Args:
            trainer: The Trainer.
            loaders: The number of the loader that each value is about, if there are several.
        """
        self._outputs = list(trainer._evaluation_loop._logged_outputs)
        self._loaders = {name: number for name, number in loaders.items() if number is not None}
        for name, number in list(self._loaders.items()):
            base, suffix, index = name.partition("/dataloader_idx_")
            self._loaders[f"{base}_epoch{suffix}{index}"] = number  # if it is logged in each step as well

    def divide(self) -> None:
        """Keep for each loader only its own results."""
        for number, outputs in enumerate(self._outputs):
            for name in [name for name in outputs if self._loaders.get(name, number) != number]:
                del outputs[name]
        self._outputs = []
