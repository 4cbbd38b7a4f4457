"""Selection of the workers that take part in a round, and their availability when they are asked."""

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
