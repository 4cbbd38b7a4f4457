"""The handwritten digits that come with scikit-learn: a real data set with no download."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import number
from lightning_fed.core.shown import Shown
from lightning_fed.datasets._dealing import check_count, check_seed


@final
class DigitsDataModule(Shown, pl.LightningDataModule):
    """1797 digits of 8 × 8 pixels, split by class into a part to train on and a held-out part.

    Batches are ``(x, label)``: float32 ``[n, 64]`` in [0, 1] and int64 ``[n]`` from 0 to 9. Training is shuffled;
    validation and test both return the held-out part, in order. Requires the extra ``examples`` (scikit-learn).

    Args:
        test_fraction: The share held out, above 0 and below 1; each class keeps its share.
        batch_size: The number of examples in a batch.
        seed: The seed of the split; None: use the seed of ``pl.seed_everything``.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    Example::

        >>> data = DigitsDataModule()
        >>> data.setup("fit")
        >>> len(data.train_dataloader().dataset), len(data.test_dataloader().dataset)
        (1437, 360)

    References:
        Alpaydin and Kaynak, 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.
    """

    def __init__(self, test_fraction: float = 0.2, batch_size: int = 256, seed: int | None = 0) -> None:
        super().__init__()
        says = ": give a share above 0 and below 1"
        self._test_fraction = number("test_fraction", test_fraction, above=0, below=1, says=says)
        self._batch_size = check_count("batch_size", batch_size)
        self._seed = check_seed(seed)
        self._parts: tuple[TensorDataset, TensorDataset] | None = None

    @override
    def setup(self, stage: str) -> None:
        """Load and split the digits, once.

        Raises:
            ImportError: If scikit-learn is not installed.
        """
        if self._parts is not None:
            return
        try:
            from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
            from sklearn.model_selection import train_test_split  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise ImportError(
                'DigitsDataModule needs scikit-learn: pip install "lightning_fed[examples]"', name=error.name
            ) from error
        pixels, labels = load_digits(return_X_y=True)
        split = train_test_split(
            pixels, labels, test_size=self._test_fraction, random_state=self._seed, stratify=labels
        )
        train_x, test_x = (torch.as_tensor(part, dtype=torch.float32) / 16 for part in split[:2])
        train_label, test_label = (torch.as_tensor(part, dtype=torch.int64) for part in split[2:])
        self._parts = TensorDataset(train_x, train_label), TensorDataset(test_x, test_label)

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the training part, shuffled."""
        return DataLoader(self._loaded()[0], batch_size=self._batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the held-out part."""
        return DataLoader(self._loaded()[1], batch_size=self._batch_size)

    @override
    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the held-out part."""
        return self.val_dataloader()

    def _loaded(self) -> tuple[TensorDataset, TensorDataset]:
        if self._parts is None:
            raise RuntimeError('DigitsDataModule is not set up: call setup("fit") first, as a Trainer does')
        return self._parts
