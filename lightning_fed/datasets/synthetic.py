"""Synthetic(α, β): workers whose inputs, sizes and true models all differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset
from typing_extensions import override

from lightning_fed.core.arguments import flag, number
from lightning_fed.datasets._dealing import check_count, check_seed, generator
from lightning_fed.datasets._drawn import DrawnPopulation

FEATURES, CLASSES = 60, 10
FEWEST = 50
"""The minimum number of examples of a worker."""


class Truth(NamedTuple):
    """Parameters of the distribution of one worker's examples.

    Args:
        center: The mean v of its inputs, ``[60]``.
        weight: Its true model W, ``[60, 10]``.
        bias: b, ``[10]``.
    """

    center: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


@final
class Synthetic(DrawnPopulation):
    """Multinomial logistic regression in which each worker k has its own inputs and its own true model.

    ``x ~ N(v_k, diag(j^-1.2))`` in 60 dimensions j and ``y = argmax(x W_k + b_k)`` of 10 classes, where every entry of
    ``v_k`` is drawn from ``N(B_k, 1)`` with ``B_k ~ N(0, beta)``, and every entry of ``W_k`` and ``b_k`` from
    ``N(u_k, 1)`` with ``u_k ~ N(0, alpha)``. Sizes are ``floor(LogNormal(4, 2)) + 50``. Each worker holds out a tenth
    of its examples as validation data. Batches are ``(x, label)``: float32 ``[n, 60]`` and int64 ``[n]``.

    .. note::
        ``u_k`` adds the same to all ten scores of an example, so ``alpha`` changes no label; the authors' code has the
        same property. The true models differ because ``W_k`` and ``b_k`` are drawn for each worker.

    Args:
        alpha: The standard deviation of ``u_k``.
        beta: The standard deviation of ``B_k``; inputs differ more between workers for larger values.
        iid: Whether all workers have one true model, entries from N(0, 1), and inputs around 0; alpha and beta must
            then be 0.
        workers: The number of workers.
        seed: The seed of all draws; None: use the seed of ``pl.seed_everything``. Seed 0 draws sizes from
            50 to 889; they have a long tail, and with another seed one worker may hold thousands.
        batch_size: The number of examples in a batch.

    Raises:
        TypeError: If an argument is not a number, or ``iid`` is not a bool.
        ValueError: If an argument is out of range.

    Example::

        >>> workers = Synthetic(alpha=1, beta=1)
        >>> len(workers), [workers.num_examples(name) for name in list(workers)[:3]]
        (30, [108, 82, 222])

    References:
        Li et al., 2020, "Federated Optimization in Heterogeneous Networks" (FedProx), section 5.1 and its code, by
        which alpha and beta are standard deviations.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        iid: bool = False,
        workers: int = 30,
        seed: int | None = 0,
        batch_size: int = 10,
    ) -> None:
        says = ": give a finite number of at least 0, such as 1.0"
        self._alpha = number("alpha", alpha, least=0, says=says)
        self._beta = number("beta", beta, least=0, says=says)
        self._iid = flag("iid", iid)
        if iid and (alpha or beta):
            raise ValueError(f"iid=True: all workers are alike, so give alpha=0 and beta=0, not {alpha} and {beta}")
        self._workers = check_count("workers", workers)
        self.seed = check_seed(seed)
        super().__init__(batch_size, val_fraction=0.1)

    @override
    def draw(self) -> tuple[TensorDataset, Sequence[int]]:
        rng = generator(self.seed)
        sizes = np.floor(rng.lognormal(4, 2, self._workers)).astype(np.int64) + FEWEST
        truths = draw_truths(rng, self._workers, self._alpha, self._beta, self._iid)
        deviations = np.arange(1, FEATURES + 1) ** -0.6  # the square roots of j^-1.2
        inputs, labels = [], []
        for size, (center, weight, bias) in zip(sizes.tolist(), truths, strict=True):
            x = center + deviations * rng.standard_normal((size, FEATURES))
            inputs.append(torch.as_tensor(x, dtype=torch.float32))
            labels.append(torch.as_tensor(np.argmax(x @ weight + bias, axis=1)))
        return TensorDataset(torch.cat(inputs), torch.cat(labels)), sizes.tolist()


def draw_truths(rng: np.random.Generator, workers: int, alpha: float, beta: float, iid: bool) -> list[Truth]:
    """Draw the parameters of each worker's distribution; see :class:`Synthetic`."""
    shape = (FEATURES, CLASSES)
    if iid:
        one = Truth(np.zeros(FEATURES), rng.standard_normal(shape), rng.standard_normal(CLASSES))
        return [one] * workers
    u, b = alpha * rng.standard_normal(workers), beta * rng.standard_normal(workers)
    return [
        Truth(b_k + rng.standard_normal(FEATURES), u_k + rng.standard_normal(shape), u_k + rng.standard_normal(CLASSES))
        for u_k, b_k in zip(u, b, strict=True)
    ]
