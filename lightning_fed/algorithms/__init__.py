"""Algorithms: what a round computes. One file per paper."""

from lightning_fed.algorithms.base import Algorithm, Train
from lightning_fed.algorithms.cyclic import Cyclic
from lightning_fed.algorithms.fedavg import FedAvg
from lightning_fed.algorithms.fednova import FedNova
from lightning_fed.algorithms.fedprox import FedProx

__all__ = ["Algorithm", "Cyclic", "FedAvg", "FedNova", "FedProx", "Train"]
