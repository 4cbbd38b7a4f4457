"""SCAFFOLD, FedDyn, Ditto, FedRep and FedBN by hand: plain PyTorch from the papers' pseudocode.

The first two train one network, which is changed, and return its accuracies. The others return those of the workers'
own networks on the workers' own held-out examples, pooled, and the networks' states, worker by worker. Local training
is plain SGD throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from by_hand import Batches, Cohorts, Share, accuracy
from study import Curve
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

State: TypeAlias = dict[str, Tensor]
"""The parameters and buffers of a network by name."""


def scaffold(
    network: nn.Module,
    shares: Sequence[Share],
    test: Share,
    *,
    rounds: int,
    cohort: Cohorts,
    batches: Batches,
    lr: float,
    target: float | None = None,
) -> Curve:
    """Karimireddy et al. 2020, algorithm 1 with option II and a global step size of 1."""
    x = flat(network)
    c, controls = torch.zeros_like(x), [torch.zeros_like(x) for _ in shares]
    curve: Curve = []
    for round in range(rounds):
        chosen = cohort(round)
        ways, changes = [], []
        for i in chosen:
            correction = c - controls[i]
            y, steps = descend(network, x, shares[i], batches, lr, lambda _, added=correction: added)
            new = controls[i] - c + (x - y) / (steps * lr)
            ways.append(y - x)
            changes.append(new - controls[i])
            controls[i] = new
        x = x + torch.stack(ways).mean(dim=0)
        c = c + torch.stack(changes).sum(dim=0) / len(shares)
        if note(curve, round, network, x, test, target):
            break
    return curve


def feddyn(
    network: nn.Module,
    shares: Sequence[Share],
    test: Share,
    *,
    rounds: int,
    cohort: Cohorts,
    batches: Batches,
    lr: float,
    alpha: float,
    target: float | None = None,
) -> Curve:
    """Acar et al. 2021, algorithm 1."""
    theta = flat(network)
    h, gradients = torch.zeros_like(theta), [torch.zeros_like(theta) for _ in shares]
    curve: Curve = []
    for round in range(rounds):
        chosen = cohort(round)
        models = []
        for k in chosen:

            def penalty(mine: Tensor, linear: Tensor = gradients[k], center: Tensor = theta) -> Tensor:
                return alpha * (mine - center) - linear

            mine, _ = descend(network, theta, shares[k], batches, lr, penalty)
            gradients[k] = gradients[k] - alpha * (mine - theta)
            models.append(mine)
        h = h - alpha * sum(mine - theta for mine in models) / len(shares)
        theta = torch.stack(models).mean(dim=0) - h / alpha
        if note(curve, round, network, theta, test, target):
            break
    return curve


def ditto(
    network: nn.Module,
    shares: Sequence[Share],
    held_out: Sequence[Share],
    *,
    rounds: int,
    cohort: Cohorts,
    batches: Batches,
    lr: float,
    lam: float,
    every: int = 1,
) -> tuple[Curve, list[State]]:
    """Li et al. 2021, algorithm 1, with federated averaging for the global model; for networks without buffers."""
    w = flat(network)
    personal = [w.clone() for _ in shares]
    curve: Curve = []
    for round in range(rounds):
        chosen = cohort(round)
        locals_ = []
        for k in chosen:

            def pull(v: Tensor, center: Tensor = w) -> Tensor:
                return lam * (v - center)

            personal[k], _ = descend(network, personal[k], shares[k], batches, lr, pull)
            locals_.append(descend(network, w, shares[k], batches, lr)[0])
        w = by_sizes([shares[k] for k in chosen]) @ torch.stack(locals_)
        if (round + 1) % every == 0:
            curve.append((round + 1, pooled(network, [state_at(network, v) for v in personal], held_out)))
    return curve, [state_at(network, v) for v in personal]


def partly_averaged(
    network: nn.Module,
    shares: Sequence[Share],
    held_out: Sequence[Share],
    *,
    rounds: int,
    cohort: Cohorts,
    batches: Batches,
    lr: float,
    stays: Sequence[str] = (),
    head_first: Batches | None = None,
    every: int = 1,
) -> tuple[Curve, list[State]]:
    """Federated averaging of all but the layers that stay with the workers.

    Without any it is FedAvg; with the normalisation layers FedBN, Li et al. 2021, algorithm 1; with the last layer and
    ``head_first`` FedRep, Collins et al. 2021, algorithm 1.

    Args:
        network: The network, with its initial parameters.
        shares: Each worker's examples to train on.
        held_out: Each worker's examples to test on.
        rounds: The number of rounds.
        cohort: The workers of each round.
        batches: The batches of a worker's round.
        lr: The learning rate.
        stays: The beginnings of the names of what stays.
        head_first: The batches on which what stays is trained before, alone; on ``batches`` the rest is trained alone,
            then. None: all is trained together.
        every: The number of rounds from one evaluation to the next.
    """
    shared = copy_of(network)
    initial = {name: value for name, value in shared.items() if name.startswith(tuple(stays))}
    own: list[State] = [initial for _ in shares]
    curve: Curve = []
    for round in range(rounds):
        chosen = cohort(round)
        states = []
        for k in chosen:
            network.load_state_dict({**shared, **own[k]})
            if head_first is None:
                train_some(network, shares[k], batches, lr, list(shared))
            else:
                train_some(network, shares[k], head_first, lr, list(own[k]))
                train_some(network, shares[k], batches, lr, [name for name in shared if name not in own[k]])
            states.append(copy_of(network))
            own[k] = {name: states[-1][name] for name in own[k]}
        shared = {**shared, **averaged(states, by_sizes([shares[k] for k in chosen]))}
        if (round + 1) % every == 0:
            curve.append((round + 1, pooled(network, [{**shared, **mine} for mine in own], held_out)))
    return curve, [{**shared, **mine} for mine in own]


def descend(
    network: nn.Module,
    start: Tensor,
    share: Share,
    batches: Batches,
    lr: float,
    added: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, int]:
    """Go down from a point, along the gradient and what is added to it; return the end and the number of steps."""
    x, label = share
    point, steps = start, 0
    network.train()
    for batch in batches(len(label)):
        vector_to_parameters(point, network.parameters())
        loss = cross_entropy(network(x[batch]), label[batch])
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])
        point = point - lr * (gradient if added is None else gradient + added(point))
        steps += 1
    return point, steps


def train_some(network: nn.Module, share: Share, batches: Batches, lr: float, names: Sequence[str]) -> None:
    """Train the parameters of some names, and leave the others as they are."""
    x, label = share
    trained = [parameter for name, parameter in network.named_parameters() if name in names]
    network.train()
    for batch in batches(len(label)):
        gradients = torch.autograd.grad(cross_entropy(network(x[batch]), label[batch]), trained)
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter -= lr * gradient


def flat(network: nn.Module) -> Tensor:
    return parameters_to_vector(network.parameters()).detach().clone()


def copy_of(network: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def state_at(network: nn.Module, point: Tensor) -> State:
    vector_to_parameters(point, network.parameters())
    return copy_of(network)


def by_sizes(shares: Sequence[Share]) -> Tensor:
    """The weights of workers: their shares of all examples."""
    sizes = torch.tensor([len(label) for _, label in shares], dtype=torch.get_default_dtype())
    return sizes / sizes.sum()


def averaged(states: Sequence[State], weights: Tensor) -> State:
    """The weighted mean of floats; of integers, which count batches, the largest."""
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    return {
        name: torch.einsum("n,n...->...", weights, rows) if rows.is_floating_point() else rows.amax(dim=0)
        for name, rows in stacked.items()
    }


def note(curve: Curve, round: int, network: nn.Module, point: Tensor, test: Share, target: float | None) -> bool:
    """Append the accuracy at a point, where the network is left, and say whether it reaches the target."""
    vector_to_parameters(point, network.parameters())
    curve.append((round + 1, accuracy(network, test)))
    return target is not None and curve[-1][1] >= target


def pooled(network: nn.Module, states: Sequence[State], held_out: Sequence[Share]) -> float:
    """The share of all workers' examples that each one's own network classifies rightly, in %."""
    right = examples = 0.0
    for state, test in zip(states, held_out, strict=True):
        network.load_state_dict(state)
        right += accuracy(network, test) * len(test[1])
        examples += len(test[1])
    return right / examples
