"""The graph of shared masks: complete, or with neighbours on a ring as in SecAgg+.

J. H. Bell, K. A. Bonawitz, A. Gascón, T. Lepoint, M. Raykova, *Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead* (2020). On a Harary graph of degree k a worker's neighbours are those at a distance of at most k/2 on a ring.
The positions on the ring follow from the session and the names, not from keys, so a simulation without keys has the
same graph.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

COMPLETE = 64
"""The largest number of workers for which the default graph is complete."""
COLLUDING, AWAY = 0.1, 0.1
"""The parts of a cohort that may collude with the server, and that may drop out, for the default degree."""
_SECURITY, _CORRECTNESS = 40, 20


class Degree(NamedTuple):
    """The number of neighbours of a worker, and the number of share holders that must stay.

    Args:
        neighbours: The degree k.
        threshold: The number t of shares that reveal a secret, among the k neighbours' and the worker's own.
    """

    neighbours: int
    threshold: int


def degree(workers: int, threshold: float, neighbours: int | None = None) -> Degree:
    """Return the degree of a cohort's graph, and the threshold ``⌈τ (k + 1)⌉``.

    In an incomplete graph the threshold is at least ``k/2 + 2``: a worker beside a gap of k/2 lost workers has k/2
    neighbours left, and must then refuse. Otherwise two such gaps would divide the survivors into groups without common
    masks, and the server would see the sum of each group.

    Args:
        workers: The number n of workers that take part.
        threshold: The part τ of the holders of a secret's shares that must stay.
        neighbours: The degree k; None: complete up to 64 workers, and :func:`least_degree` beyond, with at least its
            threshold. A cohort of ``k + 1`` or fewer is complete.

    >>> degree(10, 0.7)
    Degree(neighbours=9, threshold=7)
    >>> degree(1000, 0.7)
    Degree(neighbours=96, threshold=68)
    """
    least = 1
    if neighbours is None:
        neighbours, least = (workers - 1, 1) if workers <= COMPLETE else least_degree(workers, COLLUDING, AWAY)
    neighbours = min(neighbours, workers - 1)
    if neighbours < workers - 1:
        least = max(least, neighbours // 2 + 2)
    return Degree(neighbours, max(math.ceil(threshold * (neighbours + 1) - 1e-9), least))


@lru_cache(maxsize=4)  # as for a roster
def order(names: tuple[str, ...], session: bytes) -> tuple[int, ...]:
    """Return the indices of workers in the order in which they lie on the ring.

    Args:
        names: The names, in the order of the roster.
        session: The session's bytes.
    """
    keys = [hashlib.sha256(session + name.encode()).digest() for name in names]
    return tuple(sorted(range(len(names)), key=keys.__getitem__))


def neighbours_of(worker: int, ring: Sequence[int], neighbours: int) -> list[int]:
    """Return the indices of a worker's neighbours, in ascending order.

    Args:
        worker: Its index.
        ring: The result of :func:`order`.
        neighbours: The degree.
    """
    return sorted(_around(ring.index(worker), ring, neighbours))


def all_neighbours(ring: Sequence[int], neighbours: int) -> list[list[int]]:
    """Return the neighbours of every worker, by its index; see :func:`neighbours_of`."""
    rows: list[list[int]] = [[] for _ in ring]
    for place, worker in enumerate(ring):
        rows[worker] = sorted(_around(place, ring, neighbours))
    return rows


def _around(place: int, ring: Sequence[int], neighbours: int) -> Iterator[int]:
    n = len(ring)
    if neighbours >= n - 1:
        yield from (other for other in ring if other != ring[place])
        return
    for distance in range(1, neighbours // 2 + 1):
        yield ring[(place + distance) % n]
        yield ring[(place - distance) % n]


@lru_cache(maxsize=64)
def least_degree(workers: int, colluding: float, away: float, semi_malicious: bool = True) -> Degree:
    """Return the least even degree for which a cohort is safe but for a chance of 2⁻⁴⁰, and comes to its sum but for
    2⁻²⁰.

    Bell et al. 2020, theorems 3.10 and 4.11, with the bounds that Google's ``graph_parameter_finder`` takes: the graph
    stays connected without those that collude or are away (a union bound over pairs of gaps on the ring), nobody has as
    many neighbours that collude as the threshold, and everyone has as many that stay.

    Args:
        workers: The number n of workers.
        colluding: The part of them that collude with the server.
        away: The part that drop out.
        semi_malicious: Whether the server may tell different workers different survivors.

    Raises:
        ValueError: If no degree below n - 1 does.

    >>> least_degree(1000, 0.05, 0.33, semi_malicious=False)
    Degree(neighbours=72, threshold=24)
    """
    tiny = 1e-14
    bad, gone = math.floor((colluding + tiny) * workers), math.floor((away + tiny) * workers)
    staying = math.ceil((1 - away - tiny) * workers)
    for k in range(2, workers - 1, 2):
        if _log_cut(workers, k, bad + gone) >= -(_SECURITY + 1) * math.log(2):
            continue
        least = _least_exceeded(workers, bad, k, 2.0 ** -(_SECURITY + 1) / workers)
        most = _most_reached(workers, staying, k, 2.0**-_CORRECTNESS / workers)
        if semi_malicious:
            least = math.ceil((least + k - 1.25) / 2)
        if least < most:
            return Degree(k, max(least + 1, 2))
    raise ValueError(
        f"no graph keeps {workers} workers safe if {colluding:.0%} collude and {away:.0%} are away: give neighbours="
    )


def _log_cut(n: int, k: int, bad: int) -> float:
    """The logarithm of a bound on the chance that bad workers cut the graph."""
    if k > bad:
        return -math.inf
    pairs = math.log(n) + math.log(n - k - 1) - math.log(2)
    return pairs + math.lgamma(bad + 1) + math.lgamma(n - k + 1) - math.lgamma(n + 1) - math.lgamma(bad - k + 1)


def _least_exceeded(n: int, bad: int, k: int, chance: float) -> int:
    """The smallest number that the bad ones among k neighbours exceed with no more than a chance."""
    tail, least = 0.0, min(bad, k)
    while least > 0:
        tail += _hypergeometric(least, n, bad, k)
        if tail > chance:
            break
        least -= 1
    return least


def _most_reached(n: int, staying: int, k: int, chance: float) -> int:
    """The largest number that those who stay of k neighbours fall short of with less than a chance."""
    below, most = 0.0, max(0, k - (n - staying))
    while most < min(staying, k):
        below += _hypergeometric(most, n, staying, k)
        if below >= chance:
            break
        most += 1
    return most


def _hypergeometric(found: int, n: int, marked: int, drawn: int) -> float:
    """The chance that of so many drawn so many are marked."""
    return math.exp(_log_choose(marked, found) + _log_choose(n - marked, drawn - found) - _log_choose(n, drawn))


def _log_choose(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
