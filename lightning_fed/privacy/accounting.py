"""What the releases of a run cost together, by dp-accounting."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, TypeAlias, final, get_args

from lightning_fed.core.arguments import number, one_of, whole
from lightning_fed.privacy.extra import import_extra
from lightning_fed.privacy.mechanisms import (
    RELATIONS,
    FixedSizeGaussian,
    Gaussian,
    LocalGaussian,
    Mechanism,
    Relation,
    SubsampledGaussian,
    TreeAggregation,
)

Kind: TypeAlias = Literal["pld", "rdp"]

GRID = 1e-4
"""dp-accounting's own step of a privacy loss distribution."""

_MECHANISMS = {m.__name__: m for m in (SubsampledGaussian, Gaussian, FixedSizeGaussian, LocalGaussian, TreeAggregation)}


@final
class Accountant:
    """Counts releases, and says for which ε they are (ε, δ)-differentially private together.

    Its state is how often each mechanism was charged and nothing else, so a run that was interrupted ten times ends
    with the same ε, bit for bit, as one that was not.

    Asking is the expensive part: with ``pld`` and subsampling 0.1 s after each charge (the same question asked again is
    free), with ``rdp`` 0.1 ms. To stop in time ask :func:`~lightning_fed.privacy.rounds_for` once; for a curve
    of every round take a coarser ``grid``.

    Args:
        kind: ``pld``: privacy loss distributions, tight (Doroshenko et al. 2022); ``rdp``: Rényi differential privacy
            (Mironov 2017), some 10 % higher, cheap, and the only one that knows cohorts of fixed size.

    Raises:
        ValueError: If there is no such kind.
        ImportError: If dp-accounting is not installed.

    >>> accountant = Accountant("rdp")
    >>> accountant.charge(SubsampledGaussian(noise_multiplier=1.0, sampling_rate=0.01), count=1000)
    >>> round(accountant.epsilon(delta=1e-5), 4)
    2.1014
    """

    def __init__(self, kind: Kind = "pld") -> None:
        one_of("kind", kind, get_args(Kind), owner=self, says=' must be "pld" or "rdp"')
        import_extra("dp_accounting")  # at the start of a run rather than when ε is first asked for
        self.kind: Kind = kind
        self._counts: dict[Mechanism, int] = {}

    @property
    def history(self) -> tuple[tuple[Mechanism, int], ...]:
        """The mechanisms that were charged, each once, in the order of their first charge, with how often."""
        return tuple(self._counts.items())

    @property
    def relation(self) -> Relation:
        """For which neighbours the guarantee holds; see :mod:`lightning_fed.privacy.mechanisms`."""
        return _common_relation(self._counts)

    def charge(self, mechanism: Mechanism, count: int = 1) -> None:
        """Record releases; to be called before they are made.

        Args:
            mechanism: What is released.
            count: How many times.

        Raises:
            ValueError: If the count is not a positive integer, or this accountant cannot count the mechanism beside
                what was charged before. Nothing is recorded then.
        """
        self._counts = self._counts_with(mechanism, count)

    def epsilon(self, delta: float, grid: float = GRID) -> float:
        """Give the ε of everything that was charged. Changes nothing.

        Args:
            delta: δ; above 0 and below 1, as a rule below 1/population.
            grid: For ``pld``: the step to which privacy losses are rounded, always so that ε comes out larger. 1e-3
                takes a tenth of the time and adds about 1e-6 a round.

        Returns:
            ε; 0 if nothing was charged, infinity if no ε holds.

        Raises:
            ValueError: If δ is out of range or the grid is not positive.
        """
        delta = check_delta(delta)
        grid = number("grid", grid, above=0, says=f" must be positive; dp-accounting's own is {GRID}")
        return _epsilon_of(self.kind, self.history, float(delta), float(grid))

    def epsilon_with(self, mechanism: Mechanism, delta: float, count: int = 1, grid: float = GRID) -> float:
        """Give the ε that there would be after further releases. Changes nothing.

        Args:
            mechanism: What would be released.
            delta: δ.
            count: How many times.
            grid: As for :meth:`epsilon`.

        Raises:
            ValueError: As :meth:`charge` and :meth:`epsilon` do.
        """
        further = Accountant(self.kind)
        further._counts = self._counts_with(mechanism, count)
        return further.epsilon(delta, grid)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: strings and numbers, one entry for each mechanism."""
        return {
            "history": [
                {
                    "mechanism": type(mechanism).__name__,
                    # numpy's float64 is a float, but nothing that torch.load(weights_only=True) takes
                    "parameters": {k: float(v) if isinstance(v, float) else v for k, v in vars(mechanism).items()},
                    "count": count,
                }
                for mechanism, count in self.history
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; what was charged before is forgotten. The kind of accountant may differ.

        Args:
            state: What :meth:`state_dict` gave.

        Raises:
            ValueError: If that is not what it is. Nothing is changed then.
        """
        loaded = Accountant(self.kind)
        try:
            for entry in state["history"]:
                loaded.charge(_MECHANISMS[entry["mechanism"]](**entry["parameters"]), entry["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no state of a privacy accountant ({error!r}): {state!r}") from error
        self._counts = loaded._counts

    def _counts_with(self, mechanism: Mechanism, count: int) -> dict[Mechanism, int]:
        says = f" must be a positive integer: how many times {mechanism} is released"
        count = whole("count", count, least=1, says=says)
        if self.kind == "pld" and isinstance(mechanism, FixedSizeGaussian):
            raise ValueError('FixedSizeGaussian has no privacy loss distribution: take Accountant(kind="rdp")')
        counts = {**self._counts, mechanism: self._counts.get(mechanism, 0) + count}
        if mechanism not in self._counts:
            for each, _, relation in _releases(counts.items()):
                each.event(relation)  # raises if the mechanisms have no relation in common
        return counts


def check_delta(delta: object) -> float:
    """Return δ, if it is one."""
    says = " must be above 0 and below 1; take less than 1 / population"
    return number("delta", delta, above=0, below=1, says=says)


def dp_accountant(kind: Kind, relation: Relation, grid: float) -> Any:
    """Give a fresh accountant of dp-accounting's for the events of our mechanisms.

    Args:
        kind: Which.
        relation: The neighbouring relation of the events.
        grid: The step of a privacy loss distribution.
    """
    if kind == "pld":
        return import_extra("dp_accounting.pld").PLDAccountant(value_discretization_interval=grid)
    # The events have the noise in units of the sensitivity: this only admits sampling without replacement.
    relations = import_extra("dp_accounting").NeighboringRelation
    neighbours = relations.REPLACE_ONE if relation == "replace-one" else relations.ADD_OR_REMOVE_ONE
    return import_extra("dp_accounting.rdp").RdpAccountant(neighboring_relation=neighbours)


@lru_cache(maxsize=64)
def _epsilon_of(kind: Kind, history: tuple[tuple[Mechanism, int], ...], delta: float, grid: float) -> float:
    """The ε of a history; kept, because what is asked before a round is asked again after it."""
    if not history:
        return 0.0
    if kind == "rdp":
        rdp = import_extra("dp_accounting.rdp.rdp_privacy_accountant")
        total = sum(count * _rdp_of(each, relation) for each, count, relation in _releases(history))
        return float(rdp.compute_epsilon(rdp.DEFAULT_RDP_ORDERS, total, delta)[0])
    distribution = import_extra("dp_accounting.pld.privacy_loss_distribution").identity(grid)
    for each, count, relation in _releases(history):
        distribution = distribution.compose(_pld_of(each, relation, count, grid))
    return float(distribution.get_epsilon_for_delta(delta))


def _releases(history: Iterable[tuple[Mechanism, int]]) -> Iterator[tuple[Mechanism, int, Relation]]:
    """The mechanisms, how often each was charged, and the relation that all have in common."""
    history = tuple(history)
    common = _common_relation(mechanism for mechanism, _ in history)
    for mechanism, count in history:
        yield mechanism, count, common


def _common_relation(mechanisms: Iterable[Mechanism]) -> Relation:
    return max((mechanism.relation for mechanism in mechanisms), key=RELATIONS.index, default="add/remove")


@lru_cache(maxsize=64)
def _rdp_of(mechanism: Mechanism, relation: Relation) -> Any:
    """The Rényi divergences of one release at dp-accounting's default orders; numpy float64 ``[orders]``, read only."""
    with without_remarks_about_orders():
        return dp_accountant("rdp", relation, GRID).compose(mechanism.event(relation)).rdp


def _pld_of(mechanism: Mechanism, relation: Relation, count: int, grid: float) -> Any:
    """What dp-accounting's PLDAccountant composes for a number of releases, without making the first one each time."""
    event = mechanism.event(relation)
    if isinstance(mechanism, SubsampledGaussian) and mechanism.sampling_rate < 1:
        return _subsampled_pld(event.event.noise_multiplier, event.sampling_probability, grid).self_compose(count)
    # Gaussians compose to a Gaussian.
    make = import_extra("dp_accounting.pld.privacy_loss_distribution").from_gaussian_mechanism
    return make(event.noise_multiplier / math.sqrt(count), value_discretization_interval=grid)


@lru_cache(maxsize=8)
def _subsampled_pld(noise_multiplier: float, sampling_rate: float, grid: float) -> Any:
    make = import_extra("dp_accounting.pld.privacy_loss_distribution").from_gaussian_mechanism
    return make(noise_multiplier, sampling_prob=sampling_rate, value_discretization_interval=grid)


@contextmanager
def without_remarks_about_orders() -> Iterator[None]:
    """Let dp-accounting's RDP leave out orders whose series does not converge without a line on stderr for each."""

    def is_another(record: logging.LogRecord) -> bool:
        return "_compute_log_a_frac" not in str(record.msg)

    logger = logging.getLogger("absl")
    logger.addFilter(is_another)
    try:
        yield
    finally:
        logger.removeFilter(is_another)
