"""LG-FedAvg: Liang et al., *Think Locally, Act Globally*, 2020, algorithm 1.

FedPer the other way round: the first layers stay, so that each worker learns a representation of its own data, and one
head, which is averaged, works on all of them. Which layers stay is an argument, so both are one class: an experiment is
logged under the name FedPer.
"""

from lightning_fed.algorithms.fedper import FedPer

LGFedAvg = FedPer
"""FedAvg on the head; the encoder stays with each worker: ``LGFedAvg(["encoder.*"])``."""
