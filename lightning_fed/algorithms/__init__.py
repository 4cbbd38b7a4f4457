"""Algorithms: what a round computes. One file per paper."""

from lightning_fed.algorithms.base import Algorithm, Train
from lightning_fed.algorithms.cyclic import Cyclic
from lightning_fed.algorithms.fedavg import FedAvg

__all__ = ["Algorithm", "Cyclic", "FedAvg", "Train"]
