"""The four rows of the notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import listed, whole
from lightning_fed.core.shown import Shown

INPUTS = ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0))
TARGETS = ((1.0,), (1.0,), (0.0,), (0.0,))


@final
class ToyDataModule(Shown, pl.LightningDataModule):
    """The notebook's rows ``[[1, 1], [0, 1], [1, 0], [0, 0]]`` -> ``[[1], [1], [0], [0]]``, float32, in order.

    Training, validation and test see the same rows as ``(x, target)``; prediction sees ``x``, float32 ``[n, 2]``.

    Args:
        rows: The rows to hold, from 0 to 3, in this order; ``None`` for all four.
        batch_size: The number of rows in a batch; ``None`` for one batch of all rows.

    Raises:
        TypeError: If ``rows`` is not a list of numbers, or ``batch_size`` no number.
        ValueError: If ``rows`` is empty or names a row that does not exist, or if ``batch_size`` is below 1.

    Example::

        >>> bob = ToyDataModule(rows=[0, 1])
        >>> x, target = next(iter(bob.train_dataloader()))
        >>> x.tolist(), target.tolist()
        ([[1.0, 1.0], [0.0, 1.0]], [[1.0], [1.0]])
    """

    def __init__(self, rows: Sequence[int] | None = None, batch_size: int | None = None) -> None:
        super().__init__()
        given = range(len(INPUTS)) if rows is None else listed("rows", rows, what="numbers of rows, such as [0, 1]")
        chosen = [whole(f"rows[{i}]", row) for i, row in enumerate(given)]
        if not chosen or not set(chosen) <= set(range(len(INPUTS))):
            raise ValueError(f"rows={chosen!r}: give at least one row, each from 0 to {len(INPUTS) - 1}")
        if batch_size is not None:
            says = ": give at least 1, or None for all rows in one batch"
            batch_size = whole("batch_size", batch_size, least=1, says=says)
        self._rows = None if rows is None else chosen
        self._x = torch.tensor(INPUTS, dtype=torch.float32)[chosen]
        self._target = torch.tensor(TARGETS, dtype=torch.float32)[chosen]
        self._batch_size = batch_size or len(chosen)

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the rows as ``(x, target)``, unshuffled."""
        return DataLoader(TensorDataset(self._x, self._target), batch_size=self._batch_size)

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return what ``train_dataloader`` gives."""
        return self.train_dataloader()

    @override
    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return what ``train_dataloader`` gives."""
        return self.train_dataloader()

    @override
    def predict_dataloader(self) -> DataLoader[Tensor]:
        """Return the rows as ``x`` alone."""
        # A DataLoader accepts a tensor as a dataset; a TensorDataset would wrap every batch in a list.
        return DataLoader(cast("Dataset[Tensor]", self._x), batch_size=self._batch_size)
