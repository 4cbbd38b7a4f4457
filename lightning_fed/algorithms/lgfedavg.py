"""LG-FedAvg: Liang et al., *Think Locally, Act Globally*, 2020, algorithm 1.

The mirror image of FedPer: the first layers stay, and the head is averaged. Each worker learns a representation of its
own data; one head serves all workers. The layers that stay are an argument, so both algorithms are one class, and
loggers show the name FedPer.
"""

from lightning_fed.algorithms.fedper import FedPer

LGFedAvg = FedPer
"""FedAvg on the head; the encoder stays with each worker: ``LGFedAvg(["encoder.*"])``. It is :class:`FedPer` by another
name, and logged as that: the patterns name the layers that stay."""
