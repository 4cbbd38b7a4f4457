"""Partitioners that ignore labels: into even parts, into sizes that differ, or by natural ids.

All are vectorised over examples and workers and draw from ``numpy.random.default_rng(SeedSequence(seed))``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_fed.core.arguments import number, settle, text
from lightning_fed.datasets._dealing import (
    HOPELESS,
    check_count,
    check_enough,
    check_seed,
    even_offsets,
    flat,
    generator,
    offsets,
    proportional,
    read_only,
)
from lightning_fed.datasets.partition import Partition, Partitioner

SIZE_DRAWS = 1000
"""The number of draws of :class:`DirichletSizes` before it raises the sizes of workers that are still too small."""


@final
@dataclass(frozen=True)
class IID(Partitioner):
    """IID: the shuffled examples are cut into equal parts; sizes differ by at most one.

    Args:
        workers: The number of workers.
        seed: The seed of the shuffle; None: use the seed of ``pl.seed_everything``.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If ``workers`` or ``seed`` is out of range, or, when called, if a worker would hold nothing.

    Example::

        >>> import numpy as np
        >>> IID(workers=3)(np.zeros(10)).sizes().tolist()
        [3, 3, 4]

    References:
        McMahan et al., 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", section 3.
    """

    workers: int
    seed: int | None = 0

    def __post_init__(self) -> None:
        settle(self, workers=check_count("workers", self.workers), seed=check_seed(self.seed))

    @property
    @override
    def needs_labels(self) -> bool:
        return False

    @override
    def __call__(self, labels: NDArray[Any]) -> Partition:
        check_enough(len(labels), workers=self.workers)
        shuffled = generator(self.seed).permutation(len(labels))
        return Partition(read_only(shuffled), even_offsets(len(labels), self.workers))


@final
@dataclass(frozen=True, eq=False)
class NaturalIds(Partitioner):
    """One worker per natural id, such as the writer of a letter or the author of a post.

    The workers stand in the sorted order of the ids (numbers as numbers), are named ``str(id)``, and hold their
    examples in the order of the dataset.

    Args:
        ids: The id of every example, ``[n]``, parallel to the labels; or the name of the column that holds the ids, if
            the source of the population is a table, such as a ``FrameDataModule``; ``None``: the labels are the ids.

    Raises:
        TypeError: If ``ids`` is neither.
        ValueError: When called, if there are no ids, or not as many as labels.

    Example::

        >>> import numpy as np
        >>> partition = NaturalIds(["bob", "alice", "bob"])(np.zeros(3))
        >>> {name: partition[i].tolist() for i, name in enumerate(partition.iter_names())}
        {'alice': [1], 'bob': [0, 2]}

    References:
        Caldas et al., 2018, "LEAF: A Benchmark for Federated Settings".
    """

    ids: str | Sequence[int] | Sequence[str] | NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.ids, str):
            text("ids", self.ids)
        elif self.ids is not None and np.ndim(self.ids) not in (1, 2):
            raise TypeError(
                f"ids={self.ids!r} must be a list or an array with the id of every example, or the name of a column"
            )

    @property
    @override
    def needs_labels(self) -> bool:
        return self.ids is None or isinstance(self.ids, str)

    @property
    @override
    def column(self) -> str | None:
        return self.ids if isinstance(self.ids, str) else None

    @override
    def __call__(self, labels: NDArray[Any]) -> Partition:
        ids = flat(labels if self.ids is None or isinstance(self.ids, str) else self.ids)
        if len(ids) != len(labels) or not len(ids):
            raise ValueError(f"ids: {len(ids)} for {len(labels)} examples; give one id per example, and at least one")
        order = np.argsort(ids, kind="stable")  # by id, and within an id as in the dataset
        ordered = ids[order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        return Partition(read_only(order), np.append(begins, len(ids)), [str(name) for name in ordered[begins]])


@final
@dataclass(frozen=True)
class LogNormal(Partitioner):
    """Quantity skew: sizes in proportion to log-normal draws, contents IID.

    Workers whose share is below ``min_size`` receive ``min_size``, and all others keep their proportions. Sizes are
    rounded by largest remainder.

    Args:
        workers: The number of workers.
        sigma: The standard deviation of the logarithm of a size, at least 0; 0 gives equal sizes.
        min_size: The minimum number of examples of a worker, at least 1.
        seed: The seed of the sizes and of the dealing; None: use the seed of ``pl.seed_everything``.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range, or, when called, if ``workers * min_size`` exceeds the examples.

    Example::

        >>> import numpy as np
        >>> LogNormal(workers=4, sigma=1.0)(np.zeros(100)).sizes().tolist()
        [23, 17, 38, 22]

    References:
        Li et al., 2020, "Federated Optimization in Heterogeneous Networks": its synthetic data draw the size of a
        worker from a log-normal distribution with sigma 2.
    """

    workers: int
    sigma: float
    min_size: int = 1
    seed: int | None = 0

    def __post_init__(self) -> None:
        says = ": give a finite number of at least 0, such as 1.0"
        settle(
            self,
            workers=check_count("workers", self.workers),
            sigma=number("sigma", self.sigma, least=0, says=says),
            min_size=check_count("min_size", self.min_size),
            seed=check_seed(self.seed),
        )

    @property
    @override
    def needs_labels(self) -> bool:
        return False

    @override
    def __call__(self, labels: NDArray[Any]) -> Partition:
        n = len(labels)
        check_enough(n, workers=self.workers, min_size=self.min_size)
        rng = generator(self.seed)
        logs = self.sigma * rng.standard_normal(self.workers)
        sizes = proportional(np.exp(logs - logs.max()), n, self.min_size)
        return Partition(read_only(rng.permutation(n)), offsets(sizes))


@final
@dataclass(frozen=True)
class DirichletSizes(Partitioner):
    """Quantity skew: sizes in proportions drawn from ``Dirichlet(alpha)``, contents IID.

    If some worker's share is below ``min_size`` examples, all shares are drawn again, at most a thousand times, and not
    if this holds for more than twenty workers, since a new draw would hardly succeed. Afterwards these workers receive
    ``min_size``, and all others keep their proportions. Sizes are rounded by largest remainder.

    Args:
        workers: The number of workers.
        alpha: The concentration, above 0; sizes differ more for smaller values.
        min_size: The minimum number of examples of a worker, at least 1.
        seed: The seed of the sizes and of the dealing; None: use the seed of ``pl.seed_everything``.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range, or, when called, if ``workers * min_size`` exceeds the examples.

    Example::

        >>> import numpy as np
        >>> DirichletSizes(workers=4, alpha=0.5)(np.zeros(1000)).sizes().tolist()
        [92, 310, 395, 203]

    References:
        Li et al., 2022, "Federated Learning on Non-IID Data Silos: An Experimental Study" (NIID-Bench),
        "q ~ Dir(β)" (``iid-diff-quantity``). Deviation: its code rounds the ends of the parts down, and draws until all
        are large enough.
    """

    workers: int
    alpha: float
    min_size: int = 10
    seed: int | None = 0

    def __post_init__(self) -> None:
        says = ": give a finite number above 0, such as 0.5; for equal sizes use IID"
        settle(
            self,
            workers=check_count("workers", self.workers),
            alpha=number("alpha", self.alpha, above=0, says=says),
            min_size=check_count("min_size", self.min_size),
            seed=check_seed(self.seed),
        )

    @property
    @override
    def needs_labels(self) -> bool:
        return False

    @override
    def __call__(self, labels: NDArray[Any]) -> Partition:
        n = len(labels)
        check_enough(n, workers=self.workers, min_size=self.min_size)
        rng = generator(self.seed)
        for _ in range(SIZE_DRAWS):
            shares = rng.dirichlet(np.full(self.workers, self.alpha))
            if not 0 < np.count_nonzero(shares * n < self.min_size) <= HOPELESS:
                break
        sizes = proportional(shares / shares.max(), n, self.min_size)
        return Partition(read_only(rng.permutation(n)), offsets(sizes))
