"""Aggregators: rules that combine the updates of a cohort into one."""

from lightning_fed.aggregation.base import Aggregator
from lightning_fed.aggregation.bucketing import Bucketing
from lightning_fed.aggregation.bulyan import Bulyan
from lightning_fed.aggregation.centered_clipping import CenteredClipping
from lightning_fed.aggregation.geometric_median import GeometricMedian
from lightning_fed.aggregation.krum import Krum, MultiKrum
from lightning_fed.aggregation.majority_vote import MajorityVote
from lightning_fed.aggregation.mean import UniformMean, WeightedMean
from lightning_fed.aggregation.median import Median, TrimmedMean
from lightning_fed.aggregation.nearest_neighbor_mixing import NearestNeighborMixing
from lightning_fed.aggregation.normalized import NormalizedMean
from lightning_fed.aggregation.robust import CohortAggregator, RobustAggregator

__all__ = [
    "Aggregator",
    "Bucketing",
    "Bulyan",
    "CenteredClipping",
    "CohortAggregator",
    "GeometricMedian",
    "Krum",
    "MajorityVote",
    "Median",
    "MultiKrum",
    "NearestNeighborMixing",
    "NormalizedMean",
    "RobustAggregator",
    "TrimmedMean",
    "UniformMean",
    "WeightedMean",
]
