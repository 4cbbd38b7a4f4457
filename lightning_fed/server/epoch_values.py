"""Values that workers have logged in an epoch of the Trainer, reduced over its rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from lightning_fed.wire.logged import Logged, Part, Shown, merged


@final
@dataclass(frozen=True)
class EpochValues:
    """The values of the rounds of an epoch that are over. A mean over rounds is weighted by their numbers of examples.

    Args:
        epoch: The number of the epoch.
        values: What is shown at its end, and torchmetrics objects.
    """

    epoch: int = 0
    values: Mapping[str, Logged] = field(default_factory=dict)

    def after(self, epoch: int, logged: Mapping[str, Logged]) -> EpochValues:
        """Return the values with those of one more round.

        Args:
            epoch: Its epoch.
            logged: What its cohort logged.
        """
        earlier = self.values if epoch == self.epoch else {}
        kept = {name: own for name, own in logged.items() if own.shown.on_epoch or own.shown.metric is not None}
        return EpochValues(epoch, merged([earlier, kept]) if kept else earlier)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "epoch": self.epoch,
            "values": {name: [list(own.shown), list(own.part)] for name, own in self.values.items()},
        }

    @staticmethod
    def of(state: Mapping[str, Any]) -> EpochValues:
        """Return what a checkpoint keeps.

        Args:
            state: The result of :meth:`state_dict`; empty: of a checkpoint without one.
        """
        values = {name: Logged(Shown(*shown), Part(*part)) for name, (shown, part) in state.get("values", {}).items()}
        return EpochValues(state.get("epoch", 0), values)
