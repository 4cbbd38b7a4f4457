"""Random numbers of a worker's data and of its training, each from a stream of its own.

In one stream, whether a batch is drawn before or after a step would decide what dropout draws in that step, and engines
that draw all batches beforehand would give other results than one that draws them in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar, final

import torch

T = TypeVar("T")

_TRAINING = 0x5851F42D4C957F2D


def training_seed(seed: int) -> int:
    """Return the seed of torch's generator for a worker's training.

    Args:
        seed: The seed of all its randomness in this round, in [0, 2**63).
    """
    return seed ^ _TRAINING


@final
class Streams:
    """Two streams of torch's generator on the CPU, which has just been seeded for the data.

    Args:
        seed: The seed of the worker's randomness in this round.
    """

    def __init__(self, seed: int) -> None:
        self._of_data = torch.default_generator.get_state()
        torch.default_generator.manual_seed(training_seed(seed))

    def apart(self, batches: Iterable[T], at_once: bool) -> Iterator[T]:
        """Go through a pass of batches, which are drawn from the data's stream.

        Args:
            batches: The batches.
            at_once: Whether all that is drawn in a pass is drawn before its first batch.
        """
        generator, iterator = torch.default_generator, iter(batches)
        while True:
            of_training = generator.get_state()
            generator.set_state(self._of_data)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._of_data = generator.get_state()
                generator.set_state(of_training)
            yield batch
            if at_once:
                yield from iterator
                return
