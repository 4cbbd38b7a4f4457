"""MNIST and Fashion-MNIST, from IDX files in a folder."""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import flag, one_of, text
from lightning_fed.core.extras import import_extra
from lightning_fed.core.shown import Shown
from lightning_fed.datasets._dealing import check_count
from lightning_fed.datasets.idx import read_idx

_PARTS = {"train": "train", "test": "t10k"}


class IdxDataModule(Shown, pl.LightningDataModule, ABC):
    """Pictures of one channel and their labels in four IDX files; see :class:`MNIST` and :class:`FashionMNIST`."""

    mean: ClassVar[float]
    """The mean of all pixels of the training part, scaled to [0, 1]."""

    std: ClassVar[float]
    """The standard deviation of these pixels."""

    def __init__(
        self,
        folder: str | Path,
        flatten: bool = False,
        normalize: bool = False,
        batch_size: int = 256,
        download: bool = False,
    ) -> None:
        super().__init__()
        folder = text("folder", str(folder) if isinstance(folder, Path) else folder)
        self._folder = str(Path(folder).expanduser())
        self._flatten, self._normalize = flag("flatten", flatten), flag("normalize", normalize)
        self._batch_size = check_count("batch_size", batch_size)
        self._download = flag("download", download)
        self._loaded: dict[str, TensorDataset] = {}

    @override
    def prepare_data(self) -> None:
        """Download missing files, if ``download`` is set.

        Raises:
            ImportError: If a download is required, and torchvision is not installed.
        """
        if self._download and any(self._found(name) is None for name in self._names()):
            what = f"{type(self).__name__}(download=True)"
            datasets = import_extra("torchvision.datasets", what, "vision")
            getattr(datasets, type(self).__name__)(self._folder, download=True)

    @override
    def setup(self, stage: str) -> None:
        """Read the files, once.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is damaged, or images and labels do not match.
        """
        if not self._loaded:
            self._loaded = {part: self._read(part) for part in _PARTS}

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the training part, shuffled."""
        return DataLoader(self.examples("train"), batch_size=self._batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the test part, in order."""
        return DataLoader(self.examples("test"), batch_size=self._batch_size)

    @override
    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the test part, in order."""
        return self.val_dataloader()

    def examples(self, part: str) -> TensorDataset:
        """Return examples as tensors.

        Args:
            part: ``"train"`` or ``"test"``.

        Raises:
            TypeError: If ``part`` is not a string.
            ValueError: If there is no such part.
            RuntimeError: If ``setup`` was not called.
        """
        one_of("part", part, [*_PARTS])
        if not self._loaded:
            raise RuntimeError(f'{type(self).__name__} is not set up: call setup("fit") first, as a Trainer does')
        return self._loaded[part]

    def _read(self, part: str) -> TensorDataset:
        images, labels = (read_idx(self._file(name)) for name in self._names(part))
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise ValueError(
                f"{self._folder}: images of shape {images.shape} and labels of shape {labels.shape} do not go together "
                f"as the {part} part of {type(self).__name__}; it has images [n, 28, 28] and labels [n]"
            )
        x = torch.as_tensor(images).to(torch.float32).div_(255).unsqueeze(1)
        if self._normalize:
            x.sub_(self.mean).div_(self.std)
        return TensorDataset(x.flatten(1) if self._flatten else x, torch.as_tensor(labels).to(torch.int64))

    def _file(self, name: str) -> Path:
        path = self._found(name)
        if path is None:
            kind = type(self).__name__
            raise FileNotFoundError(
                f"{kind}: there is no {name} (or {name}.gz) in {self._folder}, nor in its folders {kind}/raw and raw: "
                "put the four IDX files there, or give download=True"
            )
        return path

    def _found(self, name: str) -> Path | None:
        # torchvision downloads into NAME/raw; some copies have a dot in place of the last hyphen but one.
        folder = Path(self._folder)
        for place in (folder, folder / type(self).__name__ / "raw", folder / "raw"):
            for spelling in (name, name.replace("-idx", ".idx")):
                for path in (place / spelling, place / f"{spelling}.gz"):
                    if path.is_file():
                        return path
        return None

    @staticmethod
    def _names(part: str | None = None) -> list[str]:
        prefixes = _PARTS.values() if part is None else [_PARTS[part]]
        return [f"{prefix}-{kind}" for prefix in prefixes for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


@final
class MNIST(IdxDataModule):
    """Handwritten digits of 28 × 28 pixels: 60,000 to train on and 10,000 to test on.

    Batches are ``(x, label)``: float32 ``[n, 1, 28, 28]`` in [0, 1] and int64 ``[n]`` from 0 to 9. Training is
    shuffled; validation and test both return the test part, in order. The files are
    ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``,
    plain or with ``.gz``, in the folder itself or where torchvision puts them.

    Args:
        folder: Where the files are.
        flatten: Whether an example is a vector of 784 numbers.
        normalize: Whether the training part's mean is subtracted from every pixel, which is then divided by the
            standard deviation.
        batch_size: The number of examples in a batch.
        download: Whether missing files are downloaded; needs the extra ``vision`` (torchvision).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the batch size is out of range.

    Example::

        workers = PartitionedPopulation(MNIST("data", download=True), Shards(workers=100))

    References:
        LeCun, Bottou, Bengio and Haffner, 1998, "Gradient-Based Learning Applied to Document Recognition".
    """

    mean: ClassVar[float] = 0.1307
    std: ClassVar[float] = 0.3081


@final
class FashionMNIST(IdxDataModule):
    """Pictures of clothes in the format of :class:`MNIST`: 60,000 to train on and 10,000 to test on, of 10 classes.

    Args:
        folder: Where the files are.
        flatten: Whether an example is a vector of 784 numbers.
        normalize: Whether the training part's mean is subtracted from every pixel, which is then divided by the
            standard deviation.
        batch_size: The number of examples in a batch.
        download: Whether missing files are downloaded; needs the extra ``vision`` (torchvision).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the batch size is out of range.

    Example::

        workers = PartitionedPopulation(FashionMNIST("data", download=True), Dirichlet(workers=10, alpha=0.5))

    References:
        Xiao, Rasul and Vollgraf, 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
        Algorithms".
    """

    mean: ClassVar[float] = 0.2860
    std: ClassVar[float] = 0.3530
