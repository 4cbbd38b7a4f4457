"""Server optimizers that torch does not have, and how the workers' learning rate changes over rounds.

FedAvgM is ``torch.optim.SGD(momentum=...)``. torch's Adagrad and Adam are not quite FedAdagrad and FedAdam of their
paper: docs/algorithms.md has the differences.
"""

from lightning_fed.optim.adaptive import FedAdagrad, FedAdam, Yogi
from lightning_fed.optim.local_lr import CosineDecay, ExponentialDecay, LocalLRSchedule, StepDecay

__all__ = [
    "CosineDecay",
    "ExponentialDecay",
    "FedAdagrad",
    "FedAdam",
    "LocalLRSchedule",
    "StepDecay",
    "Yogi",
]
