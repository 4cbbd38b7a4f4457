"""Differential privacy: what releases cost, and how much noise a budget asks for."""

from lightning_fed.privacy.accounting import Accountant
from lightning_fed.privacy.calibration import analytic_gaussian_sigma, noise_for, rounds_for
from lightning_fed.privacy.mechanisms import (
    FixedSizeGaussian,
    Gaussian,
    LocalGaussian,
    Mechanism,
    Relation,
    SubsampledGaussian,
    TreeAggregation,
)

__all__ = [
    "Accountant",
    "FixedSizeGaussian",
    "Gaussian",
    "LocalGaussian",
    "Mechanism",
    "Relation",
    "SubsampledGaussian",
    "TreeAggregation",
    "analytic_gaussian_sigma",
    "noise_for",
    "rounds_for",
]
