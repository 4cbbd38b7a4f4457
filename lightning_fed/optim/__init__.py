"""Server optimizers that torch lacks, and schedules of the workers' learning rate over rounds.

FedAvgM is ``torch.optim.SGD(momentum=...)``. torch's Adagrad and Adam differ from the paper's FedAdagrad and FedAdam:
see docs/algorithms.md.
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
