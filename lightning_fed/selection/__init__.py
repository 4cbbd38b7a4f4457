"""Selection of the workers that take part in a round, and models of their availability."""

from lightning_fed.selection.availability import Availability, RandomAvailability, Response
from lightning_fed.selection.samplers import (
    CohortSampler,
    Drawn,
    MinSeparation,
    Poisson,
    RoundRobin,
    Sizes,
    Uniform,
    WeightedBySize,
)

__all__ = [
    "Availability",
    "CohortSampler",
    "Drawn",
    "MinSeparation",
    "Poisson",
    "RandomAvailability",
    "Response",
    "RoundRobin",
    "Sizes",
    "Uniform",
    "WeightedBySize",
]
