"""Label skew: partitioners by which the distribution of labels differs between workers.

All are vectorised over examples and workers and draw from ``numpy.random.default_rng(SeedSequence(seed))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_fed.core.arguments import flag, number, settle
from lightning_fed.datasets._dealing import (
    HOPELESS,
    check_count,
    check_enough,
    check_seed,
    cut,
    cut_down,
    even_offsets,
    flat,
    generator,
    group,
    moved,
    offsets,
    read_only,
)
from lightning_fed.datasets.partition import Partition, Partitioner

DIRICHLET_DRAWS = 10
"""The number of draws of :class:`Dirichlet` before it moves examples to workers that are still too small."""

CAPPED_DRAWS = 100
"""The number of draws with ``capped``; the authors' code draws until it succeeds."""


@final
@dataclass(frozen=True)
class Dirichlet(Partitioner):
    """Label skew: each class is cut among the workers in proportions drawn from ``Dirichlet(alpha)``.

    A small ``alpha`` assigns few classes to a worker, and the sizes differ widely; a large one is close to IID. If some
    worker receives fewer than ``min_size`` examples, all proportions are drawn again, at most ten times in total, and
    not if this holds for more than twenty workers, since a new draw would hardly succeed. Missing examples are then
    moved from the largest workers, whose sizes are reduced to one common level.

    With ``capped`` the classes are cut in their order, and a worker that already holds its even share of the examples,
    ``n / workers``, receives none of the next class, so sizes differ less. Numbers are rounded down, the remainder goes
    to the last worker, and proportions are drawn up to a hundred times.

    Args:
        workers: The number of workers.
        alpha: The concentration, above 0; 0.1 to 1 is usual.
        min_size: The minimum number of examples of a worker, at least 1.
        seed: The seed of the proportions and of the dealing; None: use the seed of ``pl.seed_everything``.
        capped: Whether a worker with its even share receives no examples of further classes.

    Raises:
        TypeError: If an argument is not a number, or ``capped`` is not a bool.
        ValueError: If an argument is out of range, or, when called, if ``workers * min_size`` exceeds the examples.

    Example::

        >>> import numpy as np
        >>> labels = np.repeat([0, 1], 50)
        >>> partition = Dirichlet(workers=4, alpha=0.5, min_size=5)(labels)
        >>> bool(partition.sizes().min() >= 5), int(partition.sizes().sum())
        (True, 100)

    References:
        Hsu et al., 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
        Classification" (which draws proportions of classes per worker); Li et al., 2022, "Federated Learning on
        Non-IID Data Silos: An Experimental Study", NIID-Bench (per class, as here). Deviation from the latter's code
        without ``capped``: it assigns no more examples to a worker that has its share, rounds down, and draws
        until all are large enough. ``capped=True, min_size=10`` is its rule (``noniid-labeldir``).
    """

    workers: int
    alpha: float
    min_size: int = 1
    seed: int | None = 0
    capped: bool = False

    def __post_init__(self) -> None:
        says = ": give a finite number above 0, such as 0.5; for no skew use IID"
        settle(
            self,
            workers=check_count("workers", self.workers),
            alpha=number("alpha", self.alpha, above=0, says=says),
            min_size=check_count("min_size", self.min_size),
            seed=check_seed(self.seed),
            capped=flag("capped", self.capped),
        )

    @override
    def __call__(self, labels: NDArray[Any]) -> Partition:
        n = len(labels)
        check_enough(n, workers=self.workers, min_size=self.min_size)
        rng = generator(self.seed)
        order = rng.permutation(n)
        _, classes, class_sizes = np.unique(flat(labels), return_inverse=True, return_counts=True)
        draw, draws = (self._draw_capped, CAPPED_DRAWS) if self.capped else (self._draw, DIRICHLET_DRAWS)
        for _ in range(draws):
            drawn = draw(class_sizes, rng)
            too_small = np.count_nonzero(np.bincount(drawn, minlength=self.workers) < self.min_size)
            if not 0 < too_small <= HOPELESS:
                break
        owners = np.empty(n, dtype=np.int64)
        owners[order[np.argsort(classes[order], kind="stable")]] = drawn
        indices, sizes = group(order, owners[order], self.workers)
        owners = moved(np.repeat(np.arange(self.workers), sizes), sizes, self.min_size)
        indices, sizes = group(indices, owners, self.workers)
        return Partition(read_only(indices), offsets(sizes))

    def _draw(self, class_sizes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the worker of each example, class by class: ``[n]``."""
        # Not as one table: a table of classes by workers may be far larger than the data.
        return np.concatenate(
            [
                np.repeat(np.arange(self.workers), cut(self._shares(rng), size, rng.random()))
                for size in class_sizes.tolist()
            ]
        )

    def _draw_capped(self, class_sizes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the same, but assign nothing to workers that have their even share of all examples."""
        held, owners = np.zeros(self.workers, dtype=np.int64), []
        for size in class_sizes.tolist():
            has_room = held < class_sizes.sum() / self.workers
            shares = self._shares(rng) * has_room
            # With a tiny alpha all workers with room may have share 0; the authors' code then divides by zero.
            shares = shares / shares.sum() if shares.any() else has_room / has_room.sum()
            counts = cut_down(shares, size)
            held += counts
            owners.append(np.repeat(np.arange(self.workers), counts))
        return np.concatenate(owners)

    def _shares(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.dirichlet(np.full(self.workers, self.alpha))


@final
@dataclass(frozen=True)
class Shards(Partitioner):
    """Pathological label skew: examples sorted by label are cut into equal shards, of which each worker gets a few.

    With two shards most workers see examples of at most two classes. Shard sizes differ by at most one.

    Args:
        workers: The number of workers.
        shards_per_worker: The number of shards of each worker.
        seed: The seed of the dealing; None: use the seed of ``pl.seed_everything``.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range, or, when called, if there are more shards than examples.

    Example::

        >>> import numpy as np
        >>> labels = np.array([1, 0, 1, 0])
        >>> sorted(labels[part].tolist() for part in Shards(workers=2, shards_per_worker=1)(labels))
        [[0, 0], [1, 1]]

    References:
        McMahan et al., 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", section 3
        (there 100 workers, two shards each).
    """

    workers: int
    shards_per_worker: int = 2
    seed: int | None = 0

    def __post_init__(self) -> None:
        settle(
            self,
            workers=check_count("workers", self.workers),
            shards_per_worker=check_count("shards_per_worker", self.shards_per_worker),
            seed=check_seed(self.seed),
        )

    @override
    def __call__(self, labels: NDArray[Any]) -> Partition:
        check_enough(len(labels), workers=self.workers, shards_per_worker=self.shards_per_worker)
        shards = self.workers * self.shards_per_worker
        dealt_to = generator(self.seed).permutation(shards) % self.workers
        owners = np.repeat(dealt_to, np.diff(even_offsets(len(labels), shards)))
        indices, sizes = group(np.argsort(flat(labels), kind="stable"), owners, self.workers)
        return Partition(read_only(indices), offsets(sizes))


@final
@dataclass(frozen=True)
class LabelsPerWorker(Partitioner):
    """Label skew: every worker holds examples of a fixed number of labels.

    Worker ``i`` of a data set with ``C`` labels holds the label at position ``i mod C`` of the sorted labels, and
    others that are drawn at random without repetition. Each label's examples are shuffled and cut among its holders;
    their numbers differ by at most one, and the first holders have the larger parts. Sizes differ, since some labels
    have more holders than others.

    Args:
        workers: The number of workers.
        labels: The number of labels of each worker.
        seed: The seed of the labels and of the dealing; None: use the seed of ``pl.seed_everything``.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range, or, when called, if there are fewer labels than a worker is to
            hold, if no worker holds some label (which happens only with fewer workers than labels), or if a label has
            fewer examples than holders.

    Example::

        >>> import numpy as np
        >>> labels = np.repeat(["cat", "dog", "hen"], 4)
        >>> [np.unique(labels[part]).tolist() for part in LabelsPerWorker(workers=3, labels=2)(labels)]
        [['cat', 'hen'], ['cat', 'dog'], ['dog', 'hen']]

    References:
        Li et al., 2022, "Federated Learning on Non-IID Data Silos: An Experimental Study" (NIID-Bench), "#C = k", as
        in its code (``noniid-#label<k>``), by which the first label of a worker is not drawn: the numbers of workers
        that are certain to hold a label differ by at most one.
    """

    workers: int
    labels: int = 2
    seed: int | None = 0

    def __post_init__(self) -> None:
        settle(
            self,
            workers=check_count("workers", self.workers),
            labels=check_count("labels", self.labels),
            seed=check_seed(self.seed),
        )

    @override
    def __call__(self, labels: NDArray[Any]) -> Partition:
        check_enough(len(labels), workers=self.workers, labels=self.labels)
        known, classes, class_sizes = np.unique(flat(labels), return_inverse=True, return_counts=True)
        if self.labels > len(known):
            raise ValueError(f"labels={self.labels}: there are {len(known)} different ones only; lower labels")
        rng = generator(self.seed)
        held = self._draw(len(known), rng).reshape(-1)
        holders = np.bincount(held, minlength=len(known))
        self._refuse(known, class_sizes, holders)
        by_label = np.argsort(held, kind="stable")  # pairs of a worker and a label of its own; workers ascending
        label = held[by_label]
        place = np.arange(len(held)) - offsets(holders)[label]  # the worker's position among the label's holders
        sizes = class_sizes[label] // holders[label] + (place < class_sizes[label] % holders[label])
        order = rng.permutation(len(classes))
        owners = np.repeat(by_label // self.labels, sizes)
        indices, sizes = group(order[np.argsort(classes[order], kind="stable")], owners, self.workers)
        return Partition(read_only(indices), offsets(sizes))

    def _draw(self, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the classes of each worker, ``[workers, labels]``, by Floyd's algorithm for all workers at once."""
        own = np.arange(self.workers)[:, None] % classes
        others = np.empty((self.workers, self.labels - 1), dtype=np.int64)
        for column, last in enumerate(range(classes - self.labels, classes - 1)):
            drawn = rng.integers(last + 1, size=self.workers)
            is_taken = (others[:, :column] == drawn[:, None]).any(axis=1)
            others[:, column] = np.where(is_taken, last, drawn)
        return np.concatenate([own, (own + 1 + others) % classes], axis=1)

    def _refuse(self, known: NDArray[Any], class_sizes: NDArray[np.int64], holders: NDArray[np.int64]) -> None:
        """Refuse a draw that leaves a label out, or cuts one into more parts than it has examples."""
        if not holders.all():
            raise ValueError(
                f"workers={self.workers} of labels={self.labels} each leave out the label {known[holders == 0][0]!s}: "
                f"give workers of at least {len(known)}, of which each label has one for certain, or more labels"
            )
        if (holders > class_sizes).any():
            scarce = int(np.argmax(holders > class_sizes))
            raise ValueError(
                f"the label {known[scarce]!s} has {class_sizes[scarce]} examples for {holders[scarce]} workers: lower "
                "workers or labels"
            )
