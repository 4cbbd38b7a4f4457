"""Mechanisms: releases as an accountant sees them, with plain numbers and their event of dp-accounting.

A noise multiplier z is the standard deviation of the noise divided by C, the largest norm that one worker's
contribution can have. It has no unit.

The neighbouring relation of a guarantee defines which two populations must be hard to distinguish:

=============== ==================================================================================================
``add/remove``  one worker more or fewer. It moves a sum by up to C.
``zero-out``    one worker's contributions are replaced by zeros (Kairouz et al. 2021, definition 1.1). C as well.
``replace-one`` one worker is replaced by another. It moves a sum by up to 2C.
=============== ==================================================================================================

Each mechanism declares the relation of its analysis. It can also be counted under any relation further down, with that
relation's larger sensitivity.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias, final

from typing_extensions import Self

from lightning_fed.core.arguments import number, settle, whole
from lightning_fed.privacy.extra import import_extra

Relation: TypeAlias = Literal["add/remove", "zero-out", "replace-one"]
RELATIONS: tuple[Relation, ...] = ("add/remove", "zero-out", "replace-one")
"""The relations; a mechanism of one can be counted under those that follow it."""


Stored: TypeAlias = bool | int | float | str | list[bool | int | float | str]
"""One setting, as a checkpoint stores it."""


class Mechanism(ABC):
    """One release: the extension point for the accounting of a round.

    A mechanism is a frozen dataclass of numbers, so equal releases can be counted together and stored. An event of
    dp-accounting defines its cost, and the accountants of dp-accounting count or refuse the event; there is no list of
    known classes here.
    """

    relation: ClassVar[Relation]
    """The first of ``RELATIONS`` under which the analysis holds."""

    has_losses: ClassVar[bool] = False
    """Whether :meth:`losses` makes the privacy loss distribution, in place of dp-accounting from :meth:`event`."""

    whole_orders: ClassVar[bool] = False
    """Whether the analysis covers Rényi divergences of integer orders only; other orders use the next integer."""

    noise_multiplier: float

    @property
    def participation(self) -> str:
        """Description of how contributions enter a release, for statements of privacy.

        It begins with "no sampling" if the guarantee holds with public participation. Empty: unknown; no statement of
        privacy is then written for a run with this mechanism.
        """
        return ""

    @abstractmethod
    def event(self, relation: Relation) -> Any:
        """Return dp-accounting's event for one release.

        The unit of its noise is the distance of two neighbours: C for ``add/remove`` and ``zero-out``, and 2C for
        ``replace-one``.

        Args:
            relation: This mechanism's relation, or one that follows it.

        Raises:
            ValueError: If there is no analysis for that relation.
        """

    def losses(self, relation: Relation, count: int, grid: float) -> Any:
        """Return dp-accounting's ``PrivacyLossDistribution`` of releases; called if :attr:`has_losses` is set.

        Override it for mechanisms with a faster computation, or whose event ``PLDAccountant`` does not count.

        Args:
            relation: As for :meth:`event`.
            count: The number of releases.
            grid: The step to which privacy losses are rounded up.
        """
        raise NotImplementedError(f"{type(self).__name__}.has_losses is set, so it needs a method losses()")

    def settings(self) -> dict[str, Stored]:
        """Return the state that a checkpoint stores: the fields, by name.

        Raises:
            ValueError: If it is not a dataclass of numbers, strings and tuples of those.
        """
        if not dataclasses.is_dataclass(self):
            raise ValueError(f"{type(self).__name__} cannot be stored: make it a frozen dataclass of numbers")
        return {field.name: _stored(self, field.name) for field in dataclasses.fields(self) if field.init}

    @classmethod
    def of(cls, settings: Mapping[str, Stored]) -> Self:
        """Return the mechanism with some :meth:`settings`.

        Args:
            settings: The stored settings.

        Raises:
            TypeError: If the settings are not those of this class.
            ValueError: If an argument is out of range.
        """
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})


def _stored(mechanism: Mechanism, name: str) -> Stored:
    def plain(value: object) -> bool | int | float | str:
        # numpy's float64 is a float, but torch.load(weights_only=True) refuses it.
        if isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return float(value)
        raise ValueError(
            f"{type(mechanism).__name__}({name}={value!r}) cannot be stored: a mechanism's fields are numbers, "
            "strings, or tuples of those"
        )

    value = getattr(mechanism, name)
    return [plain(each) for each in value] if isinstance(value, tuple) else plain(value)


@final
@dataclass(frozen=True)
class SubsampledGaussian(Mechanism):
    """A noisy sum over a Poisson sample, in which each worker takes part independently (Mironov et al. 2019).

    Args:
        noise_multiplier: z.
        sampling_rate: q, each worker's probability of taking part.

    Raises:
        ValueError: If z is not positive, or q is not in (0, 1].
    """

    relation: ClassVar[Relation] = "add/remove"
    has_losses: ClassVar[bool] = True

    noise_multiplier: float
    sampling_rate: float

    def __post_init__(self) -> None:
        check_noise(self)
        settle(self, sampling_rate=number("sampling_rate", self.sampling_rate, above=0, most=1, owner=self))

    @property
    def participation(self) -> str:
        return f"Poisson sampling: each by a coin of its own, with probability {self.sampling_rate:.6g}"

    def event(self, relation: Relation) -> Any:
        if relation == "replace-one":
            raise ValueError(
                "SubsampledGaussian is accounted for workers that join or leave and cannot be combined with mechanisms "
                "that are accounted for workers that are replaced: sample by Poisson, or with a fixed size, in all "
                "rounds"
            )
        if self.sampling_rate == 1:
            return gaussian_event(self.noise_multiplier, relation)
        sampled = import_extra("dp_accounting").PoissonSampledDpEvent
        return sampled(float(self.sampling_rate), gaussian_event(self.noise_multiplier, relation))

    def losses(self, relation: Relation, count: int, grid: float) -> Any:
        self.event(relation)  # raises if the relation is not supported
        if self.sampling_rate == 1:
            return gaussian_losses(self.noise_multiplier, relation, count, grid)
        return repeated(_sampled_losses(self.noise_multiplier, self.sampling_rate, grid), count)


@final
@dataclass(frozen=True)
class Gaussian(Mechanism):
    """A noisy sum without amplification by sampling: all workers take part, or cohorts are of any kind.

    If all workers take part, the same numbers hold for a worker that joins or leaves. If cohorts are drawn, an
    additional worker changes the cohorts, so the guarantee is for a worker whose contributions are zeros.

    Args:
        noise_multiplier: z.

    Raises:
        ValueError: If z is not positive.
    """

    relation: ClassVar[Relation] = "zero-out"
    has_losses: ClassVar[bool] = True

    noise_multiplier: float

    def __post_init__(self) -> None:
        check_noise(self)

    @property
    def participation(self) -> str:
        return "no sampling: as if everyone took part in every release"

    def event(self, relation: Relation) -> Any:
        return gaussian_event(self.noise_multiplier, relation)

    def losses(self, relation: Relation, count: int, grid: float) -> Any:
        return gaussian_losses(self.noise_multiplier, relation, count, grid)


@final
@dataclass(frozen=True)
class FixedSizeGaussian(Mechanism):
    """A noisy sum over a cohort of fixed size, drawn without replacement (Wang et al. 2019, theorem 27). RDP only.

    The amplification is weaker than Poisson's at the same rate: ε is 20.99 in place of 2.10 for 1000 rounds of 10 out
    of 1000 workers, z = 1, δ = 1e-5.

    Args:
        noise_multiplier: z; as everywhere, in units of C. The mechanism accounts for the distance 2C of two workers.
        cohort_size: The number of workers in each cohort.
        population: The number of all workers. It is public.

    Raises:
        ValueError: If z is not positive, or the cohort is empty or larger than the population.
    """

    relation: ClassVar[Relation] = "replace-one"

    noise_multiplier: float
    cohort_size: int
    population: int

    def __post_init__(self) -> None:
        check_noise(self)
        check_whole(self, "cohort_size", "population")
        if self.cohort_size > self.population:
            raise ValueError(
                f"FixedSizeGaussian(cohort_size={self.cohort_size}) must be at most population={self.population}"
            )

    @property
    def participation(self) -> str:
        return f"cohorts of a fixed size, {self.cohort_size} of {self.population}, drawn without replacement"

    def event(self, relation: Relation) -> Any:
        sampled = import_extra("dp_accounting").SampledWithoutReplacementDpEvent
        return sampled(self.population, self.cohort_size, gaussian_event(self.noise_multiplier, relation))


@final
@dataclass(frozen=True)
class LocalGaussian(Mechanism):
    """A contribution with a worker's own noise, added before it leaves: local differential privacy, no sampling.

    Charge it at most once for each round in which a worker takes part. The distance of two contributions is up to 2C.

    Args:
        noise_multiplier: z.

    Raises:
        ValueError: If z is not positive.
    """

    relation: ClassVar[Relation] = "replace-one"
    has_losses: ClassVar[bool] = True

    noise_multiplier: float

    def __post_init__(self) -> None:
        check_noise(self)

    @property
    def participation(self) -> str:
        return "no sampling: for a worker that takes part in every round"

    def event(self, relation: Relation) -> Any:
        return gaussian_event(self.noise_multiplier, relation)

    def losses(self, relation: Relation, count: int, grid: float) -> Any:
        return gaussian_losses(self.noise_multiplier, relation, count, grid)


def gaussian_event(noise_multiplier: float, relation: Relation) -> Any:
    """Return dp-accounting's event of a Gaussian release.

    Args:
        noise_multiplier: z, in units of C.
        relation: Decides how far two neighbours are apart.
    """
    return import_extra("dp_accounting").GaussianDpEvent(float(noise_multiplier) / distance(relation))


def gaussian_losses(noise_multiplier: float, relation: Relation, count: int, grid: float) -> Any:
    """Return the privacy loss distribution of Gaussian releases.

    Args:
        noise_multiplier: z, in units of C.
        relation: Decides how far two neighbours are apart.
        count: The number of releases.
        grid: The step to which privacy losses are rounded.
    """
    # Gaussians compose to a Gaussian: 1/z² add up.
    make = import_extra("dp_accounting.pld.privacy_loss_distribution").from_gaussian_mechanism
    std = float(noise_multiplier) / distance(relation) / math.sqrt(count)
    return make(std, value_discretization_interval=grid)


@lru_cache(maxsize=8)
def _sampled_losses(noise_multiplier: float, sampling_rate: float, grid: float) -> Any:
    make = import_extra("dp_accounting.pld.privacy_loss_distribution").from_gaussian_mechanism
    return make(float(noise_multiplier), sampling_prob=float(sampling_rate), value_discretization_interval=grid)


def repeated(losses: Any, count: int) -> Any:
    """Return the privacy loss distribution of a number of releases.

    Args:
        losses: The distribution of one release, of dp-accounting.
        count: The number of releases.
    """
    few = 16
    if count < few * 1000:
        return losses.self_compose(count)
    # For a small distribution dp-accounting computes size ** count, an integer of millions of digits.
    most = losses.self_compose(few).self_compose(count // few)
    return most.compose(losses.self_compose(count % few)) if count % few else most


def distance(relation: Relation) -> float:
    """Return the distance of neighbours' sums in units of C: a replaced worker moves it by C one way and by C back.

    Args:
        relation: The neighbouring relation.
    """
    return 2.0 if relation == "replace-one" else 1.0


def check_noise(mechanism: Mechanism) -> None:
    """Check the noise multiplier of a mechanism.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not positive and finite.
    """
    says = " must be positive and finite: without noise there is no guarantee"
    z = number("noise_multiplier", mechanism.noise_multiplier, above=0, owner=mechanism, says=says)
    settle(mechanism, noise_multiplier=z)


def check_whole(mechanism: Mechanism, *names: str) -> None:
    """Check fields of a mechanism that are positive integers.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is not whole, or less than 1.
    """
    for name in names:
        says = " must be a positive integer"
        settle(mechanism, **{name: whole(name, getattr(mechanism, name), least=1, owner=mechanism, says=says)})
