"""Differential privacy: promises, their enforcement in a round, and their cost."""

from lightning_fed.privacy.accounting import Accountant
from lightning_fed.privacy.auditing import Audit, audit, audit_fits
from lightning_fed.privacy.base import AUDIENCES, Privacy
from lightning_fed.privacy.calibration import analytic_gaussian_sigma, noise_for, rounds_for
from lightning_fed.privacy.central import CentralDP
from lightning_fed.privacy.clipping import AdaptiveClip
from lightning_fed.privacy.correlated import CorrelatedGaussian, TreeAggregation
from lightning_fed.privacy.distributed import DistributedDP
from lightning_fed.privacy.factorization import BandedToeplitz, BufferedToeplitz, Factorization, prefix_errors
from lightning_fed.privacy.ftrl import DPFTRL
from lightning_fed.privacy.local import LocalDP
from lightning_fed.privacy.mechanisms import (
    FixedSizeGaussian,
    Gaussian,
    LocalGaussian,
    Mechanism,
    Relation,
    SubsampledGaussian,
)
from lightning_fed.privacy.noise import Noise
from lightning_fed.privacy.record import RecordDP
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.privacy.skellam import LocalSkellam, SkellamSum

__all__ = [
    "AUDIENCES",
    "DPFTRL",
    "Accountant",
    "AdaptiveClip",
    "Audit",
    "BandedToeplitz",
    "BufferedToeplitz",
    "CentralDP",
    "CorrelatedGaussian",
    "DistributedDP",
    "Factorization",
    "FixedSizeGaussian",
    "Gaussian",
    "LocalDP",
    "LocalGaussian",
    "LocalSkellam",
    "Mechanism",
    "Noise",
    "Privacy",
    "PrivateRun",
    "RecordDP",
    "Relation",
    "Setting",
    "SkellamSum",
    "SubsampledGaussian",
    "TreeAggregation",
    "analytic_gaussian_sigma",
    "audit",
    "audit_fits",
    "noise_for",
    "prefix_errors",
    "rounds_for",
]
