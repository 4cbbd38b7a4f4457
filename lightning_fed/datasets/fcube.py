"""FCUBE: points of a cube, labelled by its two halves; each worker sees two octants only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.core.rng import derive
from lightning_fed.core.shown import Shown
from lightning_fed.datasets._dealing import check_count, check_seed, generator
from lightning_fed.datasets._drawn import DrawnPopulation

CORNERS = ((1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1))
"""The corner of each worker's octant with the label 1; the worker's other octant lies opposite."""

POINTS = 1000
"""The number of points of each worker, half in either octant, and of the test data."""


@final
class FCUBE(DrawnPopulation):
    """4 workers with 1000 points each of the cube [-1, 1]³; the label is 1 where the first coordinate is positive.

    The three coordinate planes cut the cube into eight octants. Each worker holds 500 points in each of two that lie
    opposite each other, so its labels are balanced, but no two workers see the same inputs. Batches are
    ``(x, label)``: float32 ``[n, 3]`` and int64 ``[n]``.

    Args:
        seed: The seed of the points; None: use the seed of ``pl.seed_everything``.
        batch_size: The number of points in a batch.
        val_fraction: The share of each worker's points that is held out as its own validation data.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    Example::

        >>> workers = FCUBE(seed=0)
        >>> list(workers), workers.num_examples("worker_0")
        (['worker_0', 'worker_1', 'worker_2', 'worker_3'], 1000)
        >>> x, label = next(iter(workers["worker_0"].train_dataloader()))
        >>> x.shape, torch.equal(label, (x[:, 0] > 0).long())
        (torch.Size([64, 3]), True)
        >>> len(workers.test.test_dataloader().dataset)
        1000

    References:
        Li et al., 2022, "Federated Learning on Non-IID Data Silos: An Experimental Study" (NIID-Bench).
    """

    def __init__(self, seed: int | None = 0, batch_size: int = 64, val_fraction: float = 0.0) -> None:
        self.seed = check_seed(seed)
        super().__init__(batch_size, val_fraction)

    @property
    def test(self) -> FCUBETest:
        """The central test data of the same distribution."""
        return FCUBETest(self.seed)

    @override
    def draw(self) -> tuple[TensorDataset, Sequence[int]]:
        inside = generator(self.seed).uniform(size=(len(CORNERS), 2, POINTS // 2, 3))
        signs = np.array([[corner, np.negative(corner)] for corner in CORNERS])
        points = torch.as_tensor(inside * signs[:, :, None], dtype=torch.float32).reshape(-1, 3)
        return _labelled(points), [POINTS] * len(CORNERS)


@final
class FCUBETest(Shown, pl.LightningDataModule):
    """1000 points of the whole cube of :class:`FCUBE`, in the same order for validation and test.

    Args:
        seed: The seed of the points, which differ from the workers' points of the same seed; None: use the seed of
            ``pl.seed_everything``.
        batch_size: The number of points in a batch.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, seed: int | None = 0, batch_size: int = POINTS) -> None:
        super().__init__()
        self._batch_size = check_count("batch_size", batch_size)
        points = generator(derive(check_seed(seed), "test")).uniform(-1, 1, size=(POINTS, 3))
        self._points = _labelled(torch.as_tensor(points, dtype=torch.float32))

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return all points."""
        return DataLoader(self._points, batch_size=self._batch_size)

    @override
    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return all points."""
        return self.val_dataloader()


def _labelled(points: Tensor) -> TensorDataset:
    return TensorDataset(points, (points[:, 0] > 0).long())
