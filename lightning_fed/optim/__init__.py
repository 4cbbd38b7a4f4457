"""Server optimizers that torch does not have, and how the workers' learning rate changes over rounds.

FedAvgM is ``torch.optim.SGD(momentum=...)``, FedAdagrad ``torch.optim.Adagrad``, FedAdam ``torch.optim.Adam``.
"""

from lightning_fed.optim.local_lr import CosineDecay, ExponentialDecay, LocalLRSchedule, StepDecay
from lightning_fed.optim.yogi import Yogi

__all__ = ["CosineDecay", "ExponentialDecay", "LocalLRSchedule", "StepDecay", "Yogi"]
