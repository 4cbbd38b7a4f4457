"""The sites of :mod:`sites`, each with a fault."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sites import Data, Net
from torch import Tensor

from lightning_fed.node import Node


class Slow(Net):
    """Takes very long to train in one round."""

    def __init__(self, round: int, seconds: float, mark: str) -> None:
        super().__init__()
        self.round, self.seconds, self.mark = round, seconds, mark

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == self.round:
            Path(self.mark).touch()
            time.sleep(self.seconds)
        return super().training_step(batch, batch_idx)


def slow(config: Mapping[str, str]) -> Node:
    """A node that sleeps in each step of one round: ``round``, ``seconds``, and ``mark``, a file that is made then."""
    module = Slow(int(config["round"]), float(config["seconds"]), config["mark"])
    return Node(module, {site: Data(site) for site in config["sites"].split(",")}, threads=1)
