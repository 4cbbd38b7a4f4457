"""Server state from round to round besides the model: the tensors of algorithm and aggregator."""

from __future__ import annotations

from typing import NamedTuple

import torch

from lightning_fed.core.tree import Tensors

OF_AGGREGATOR = "aggregator."
"""Beginning of the names of the aggregator's tensors where both lie together."""


class Memory(NamedTuple):
    """Tensors of the server in one round.

    Args:
        algorithm: Those of the algorithm, by name.
        aggregator: Those of the aggregator, by name.
    """

    algorithm: Tensors
    aggregator: Tensors

    @staticmethod
    def of(tensors: Tensors, device: torch.device) -> Memory:
        """Return the memory with which a round begins.

        Args:
            tensors: Both together, as they lie in a checkpoint; only read.
            device: Where they are to be.
        """
        memory = Memory({}, {})
        for name, tensor in tensors.items():
            if name.startswith(OF_AGGREGATOR):
                memory.aggregator[name.removeprefix(OF_AGGREGATOR)] = tensor.to(device)
            else:
                memory.algorithm[name] = tensor.to(device)
        return memory

    @property
    def tensors(self) -> Tensors:
        """Both together, by names that differ."""
        return {**self.algorithm, **{OF_AGGREGATOR + name: tensor for name, tensor in self.aggregator.items()}}
