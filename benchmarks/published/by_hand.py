"""Federated averaging by hand: plain PyTorch, and nothing of lightning_fed.

The loop of McMahan et al. 2017, algorithm 1, with places for what the studies vary: who takes part, how a worker
trains, and how the workers' updates become one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from study import Curve
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

Share: TypeAlias = tuple[Tensor, Tensor]
"""A worker's examples: inputs and labels."""

Batches: TypeAlias = Callable[[int], Iterator[Tensor]]
"""From a number of examples to the numbers of those in each batch of a round."""

Cohorts: TypeAlias = Callable[[int], Sequence[int]]
"""From the number of a round to the workers that take part in it."""

Combine: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From updates, global minus local, ``[n, size]`` and the workers' numbers of examples ``[n]`` to one, ``[size]``."""


def weighted_mean(updates: Tensor, sizes: Tensor) -> Tensor:
    return (sizes / sizes.sum()).to(updates) @ updates


def uniform_mean(updates: Tensor, sizes: Tensor) -> Tensor:
    return updates.mean(dim=0)


def shuffled(batch_size: int, epochs: int, seed: int) -> Batches:
    """Batches of some passes over a worker's examples, each in an order of its own."""
    generator = torch.Generator().manual_seed(seed)

    def batches(size: int) -> Iterator[Tensor]:
        for _ in range(epochs):
            yield from torch.randperm(size, generator=generator).split(batch_size)

    return batches


def in_order(batch_size: int, epochs: int) -> Batches:
    """The same, in the order of the data."""

    def batches(size: int) -> Iterator[Tensor]:
        for _ in range(epochs):
            yield from torch.arange(size).split(batch_size)

    return batches


def some(batches: Batches, count: int) -> Batches:
    """The first so many batches of a round."""

    def first(size: int) -> Iterator[Tensor]:
        for _, batch in zip(range(count), batches(size), strict=False):
            yield batch

    return first


def uniformly(workers: int, cohort: int, seed: int) -> Cohorts:
    """Draw a cohort for each round, without replacement."""
    generator = torch.Generator().manual_seed(seed)
    return lambda round: torch.randperm(workers, generator=generator)[:cohort].tolist()


def federated_averaging(
    network: nn.Module,
    shares: Sequence[Share],
    test: Share,
    *,
    rounds: int,
    cohort: Cohorts,
    batches: Batches,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    mu: float = 0.0,
    combine: Combine = weighted_mean,
    every: int = 1,
    target: float | None = None,
) -> Curve:
    """Train a network, which is changed, and return its accuracies in % on the test data.

    Args:
        network: The network, with its initial parameters.
        shares: Each worker's examples.
        test: The test data.
        rounds: The largest number of rounds.
        cohort: The workers of each round.
        batches: The batches of a worker's round.
        lr: The learning rate of the workers' SGD, which begins each round anew.
        momentum: Its momentum.
        weight_decay: Its weight decay.
        mu: The weight of FedProx's term.
        combine: How updates become one.
        every: The number of rounds from one evaluation to the next.
        target: The accuracy in % at which training ends; None: it goes on.
    """
    curve: Curve = []
    for round in range(rounds):
        start = parameters_to_vector(network.parameters()).detach().clone()
        chosen = cohort(round)
        updates = []
        network.train()
        for worker in chosen:
            vector_to_parameters(start.clone(), network.parameters())
            train(network, shares[worker], batches, lr, momentum, weight_decay, mu)
            updates.append(start - parameters_to_vector(network.parameters()).detach())
        sizes = torch.tensor([len(shares[worker][1]) for worker in chosen], dtype=torch.float64)
        vector_to_parameters(start - combine(torch.stack(updates), sizes), network.parameters())
        if (round + 1) % every == 0:
            curve.append((round + 1, accuracy(network, test)))
            if target is not None and curve[-1][1] >= target:
                break
    return curve


def train(
    network: nn.Module, share: Share, batches: Batches, lr: float, momentum: float, weight_decay: float, mu: float
) -> None:
    """Train a network on one worker's examples."""
    x, label = share
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum, weight_decay=weight_decay)
    start = [parameter.detach().clone() for parameter in network.parameters()]
    for batch in batches(len(label)):
        optimizer.zero_grad()
        cross_entropy(network(x[batch]), label[batch]).backward()
        if mu:
            for parameter, before in zip(network.parameters(), start, strict=True):
                parameter.grad.add_(parameter.detach() - before, alpha=mu)
        optimizer.step()


@torch.no_grad()
def accuracy(network: nn.Module, test: Share) -> float:
    """The share of examples that a network classifies rightly, in %."""
    network.eval()
    x, label = test
    predicted = torch.cat([network(part).argmax(dim=1) for part in x.split(1000)])
    return 100 * int((predicted == label).sum()) / len(label)
