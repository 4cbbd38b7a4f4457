"""FedAvg: McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, 2017.

Every worker of the cohort trains from the same global model, and the global model becomes the mean of the results,
weighted by the workers' numbers of examples (algorithm 1). With one full-batch local step this is FedSGD. Here the mean
goes through the server optimizer: SGD with learning rate 1 gives the paper, another optimizer the family of Reddi et
al. 2021.
"""

from __future__ import annotations

from typing import final

from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms.base import Algorithm


@final
class FedAvg(Algorithm):
    """Every worker trains from the global model; the results are averaged by numbers of examples."""

    def aggregator(self) -> WeightedMean:
        return WeightedMean()
