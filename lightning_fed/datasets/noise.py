"""Feature skew by noise: each worker's inputs are noisier than the previous worker's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset
from typing_extensions import override

from lightning_fed.core.arguments import instance, number
from lightning_fed.core.rng import derive
from lightning_fed.core.shown import text_of
from lightning_fed.datasets._dealing import check_seed
from lightning_fed.datasets.partitioned import PartitionedPopulation, SplitSubsetDataModule, SubsetDataModule
from lightning_fed.datasets.pictures import LabelCounts
from lightning_fed.population import WrappedPopulation
from lightning_fed.population.batches.rows import rows_of, with_part

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
class NoiseByWorker(WrappedPopulation):
    """Adds Gaussian noise to the inputs of a dataset dealt out to workers, increasing from worker to worker.

    The noise of worker ``i`` of ``n``, counted from 0, has the standard deviation ``std * (i + 1) / n``; held-out
    examples receive it, too. An example's noise is a function of the seed and of its number in the dataset, so it is
    the same in every epoch. It is added when a worker is built, or, if the dataset does not consist of tensors, when an
    example is read. Two of these populations are equal only if they are the same object.

    Args:
        population: A dataset dealt out to workers. The first part of each example is its input, a tensor of floats.
        std: The standard deviation at the last worker, at least 0.
        seed: The seed of the noise; None: use the seed of ``pl.seed_everything``.

    Raises:
        TypeError: If ``population`` is none, or another argument no number; when a worker is built or its examples are
            read, if its inputs are no tensors of floats.
        ValueError: If an argument is out of range.

    Example::

        >>> from lightning_fed.datasets import IID
        >>> population = PartitionedPopulation((torch.zeros(4, 3), torch.zeros(4)), IID(workers=2))
        >>> noisy = NoiseByWorker(population, std=0.1)
        >>> x, label = noisy["worker_1"].train_set[0]
        >>> bool((x != 0).all()), float(label), noisy.num_examples("worker_1")
        (True, 0.0, 2)

    References:
        Li et al., 2022, "Federated Learning on Non-IID Data Silos: An Experimental Study" (NIID-Bench),
        noise-based feature imbalance. Deviations: its code (``noise``) has the standard deviation
        ``std * i / (n - 1)``, and draws anew whenever an example is read.
    """

    draws_nothing: ClassVar[bool] = True
    gives_datamodules: ClassVar[bool] = True

    def __init__(self, population: PartitionedPopulation, std: float = 0.1, seed: int | None = 0) -> None:
        example = "PartitionedPopulation(source, IID(workers=10))"
        self._population = instance("population", population, PartitionedPopulation, example)
        self._std = number("std", std, least=0, says=": give a finite number of at least 0, such as 0.1")
        self._noise_seed = check_seed(seed)
        self.seed = population.seed

    @property
    @override
    def inner(self) -> PartitionedPopulation:
        return self._population

    def __getitem__(self, name: str) -> SubsetDataModule | SplitSubsetDataModule:
        """Build the datamodule of one worker.

        Raises:
            KeyError: If there is no such worker; the message names an existing one.
        """
        std = self._std * (self._population.partition.position(name) + 1) / len(self)
        return self._population[name].changed(partial(_noisy, std=std, seed=self._noise_seed))

    def label_counts(self) -> LabelCounts:
        """Count the examples of each label at each worker; see :meth:`PartitionedPopulation.label_counts`."""
        return self._population.label_counts()

    def plot(self) -> Figure:
        """Plot the numbers of examples by worker and label; see :meth:`PartitionedPopulation.plot`."""
        return self._population.plot()

    @override
    def __repr__(self) -> str:
        """Show the population without dealing it out, and the arguments."""
        seed = f", seed={self._noise_seed}" if self._noise_seed else ""
        return f"{type(self).__name__}({text_of(self._population)}, std={self._std}{seed})"


@final
class NoisyDataset(Dataset[Any]):
    """Examples of a dataset with noise on their inputs, added when one is read.

    Args:
        share: The examples.
        std: The noise's standard deviation.
        seed: The seed of the noise, together with an example's number in the whole dataset.
    """

    def __init__(self, share: Subset[Any], std: float, seed: int) -> None:
        self._share, self._std, self._seed = share, std, seed

    def __len__(self) -> int:
        return len(self._share)

    def __getitem__(self, index: int) -> Sequence[Any]:
        example = self._share[index]
        if not isinstance(example, (tuple, list)):
            raise TypeError(f"source: noise is added to the first part of an example (x, ...), not {text_of(example)}")
        return _with_noise(example, _noise(self._seed, self._share.indices[index], _floats(example[0])), self._std)


def _noisy(share: Subset[Any], std: float, seed: int) -> Dataset[Any]:
    """Return examples with noise; tensors stay tensors, so engines can index whole batches."""
    rows = rows_of(share)
    if rows is None:
        return NoisyDataset(share, std, seed)
    inputs = _floats(rows[0])
    noise = torch.stack([_noise(seed, number, row) for number, row in zip(share.indices, inputs, strict=True)])
    return TensorDataset(*_with_noise(rows, noise, std))


def _with_noise(parts: Sequence[Any], noise: Tensor, std: float) -> Sequence[Any]:
    return with_part(parts, 0, parts[0] + std * noise)


def _noise(seed: int, number: int, like: Tensor) -> Tensor:
    """Draw the noise of one example, of standard deviation 1."""
    generator = torch.Generator().manual_seed(derive(seed, "noise", number))
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _floats(inputs: object) -> Tensor:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"source: its inputs are {kind}, and noise is added to tensors of floats: convert them")
    return inputs
