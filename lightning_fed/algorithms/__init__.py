"""Algorithms: what a round computes. One file per paper."""

from lightning_fed.algorithms.base import Algorithm, Result, Send, Train
from lightning_fed.algorithms.cyclic import Cyclic
from lightning_fed.algorithms.ditto import Ditto
from lightning_fed.algorithms.fedavg import FedAvg
from lightning_fed.algorithms.fedbn import FedBN
from lightning_fed.algorithms.feddyn import FedDyn
from lightning_fed.algorithms.fednova import FedNova
from lightning_fed.algorithms.fedper import FedPer
from lightning_fed.algorithms.fedprox import FedProx
from lightning_fed.algorithms.fedrep import FedRep
from lightning_fed.algorithms.lgfedavg import LGFedAvg
from lightning_fed.algorithms.qfedavg import QFedAvg
from lightning_fed.algorithms.scaffold import Scaffold

__all__ = [
    "Algorithm",
    "Cyclic",
    "Ditto",
    "FedAvg",
    "FedBN",
    "FedDyn",
    "FedNova",
    "FedPer",
    "FedProx",
    "FedRep",
    "LGFedAvg",
    "QFedAvg",
    "Result",
    "Scaffold",
    "Send",
    "Train",
]
