"""FedAdagrad, FedAdam and FedYogi: Reddi et al., *Adaptive Federated Optimization*, 2021, algorithm 2.

The aggregate of a round is the gradient g, the paper's −Δ, on which torch's optimizers descend::

    m ← β₁ m + (1 − β₁) g
    v ← v + g²                              FedAdagrad
    v ← β₂ v + (1 − β₂) g²                  FedAdam
    v ← v − (1 − β₂) g² sign(v − g²)        FedYogi
    x ← x − η m / (√v + τ)

m starts at 0, and v at τ²; in the paper v starts at τ² or above. There is no bias correction:
m and √v are small in the first rounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_fed.core.arguments import listed, number


class Adaptive(Optimizer, ABC):
    """Base of the three optimizers, with their common step. They differ in the update of v.

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate η.
        tau: τ.
        decays: The decay rates of m and v, by the names of their arguments.
    """

    def __init__(self, params: Iterable[Any], lr: float, tau: float, **decays: Any) -> None:
        super().__init__(params, {"lr": number("lr", lr, least=0), **decays, "tau": number("tau", tau, above=0)})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one optimization step.

        Args:
            closure: Reevaluates the loss and its gradients, if given.

        Returns:
            The loss of the closure; None without one.

        Raises:
            RuntimeError: If a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if gradient.layout != torch.strided:
            raise RuntimeError(
                f"{type(self).__name__} takes no sparse gradients; make them dense, as by nn.Embedding(sparse=False)"
            )
        state = self.state[parameter]
        if parameter.is_complex():  # real and imaginary parts adapt separately, as in torch's optimizers
            parameter, gradient = torch.view_as_real(parameter), torch.view_as_real(gradient.resolve_conj())
        if not state:
            state["m"] = torch.zeros_like(parameter)
            state["v"] = torch.full_like(parameter, group["tau"] ** 2)
        self._follow(gradient, state["m"], state["v"], group)
        parameter.addcdiv_(state["m"], state["v"].sqrt().add_(group["tau"]), value=-group["lr"])

    @abstractmethod
    def _follow(self, gradient: Tensor, m: Tensor, v: Tensor, group: dict[str, Any]) -> None:
        """Update m and v in place.

        Args:
            gradient: The gradient of one parameter.
            m: The mean of gradients, of the same shape.
            v: The accumulator of squared gradients, of the same shape.
            group: The settings of the parameter's group.
        """


@final
class FedAdagrad(Adaptive):
    """FedAdagrad's step: v is the sum of g², so steps become shorter over rounds (Reddi et al. 2021, algorithm 2).

    The paper's algorithm has β₁ here, too; its authors' code does not, hence the default 0. With β₁ = 0 the step equals
    ``torch.optim.Adagrad(initial_accumulator_value=τ², eps=τ)``.

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate η.
        beta1: β₁, in [0, 1).
        tau: τ; larger values are less adaptive. 1e-3 in the paper.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> w.grad = torch.tensor([2.0])
    >>> FedAdagrad([w], lr=0.1, tau=1.0).step()  # v = 1 + 4
    >>> round(w.item(), 4)  # 1 - 0.1 · 2 / (√5 + 1)
    0.9382
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.01, beta1: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(params, lr, tau, beta1=number("beta1", beta1, least=0, below=1))

    def _follow(self, gradient: Tensor, m: Tensor, v: Tensor, group: dict[str, Any]) -> None:
        m.lerp_(gradient, 1 - group["beta1"])
        v.addcmul_(gradient, gradient)


@final
class FedAdam(Adaptive):
    """FedAdam's step: v is a moving average of g², without Adam's bias correction (Reddi et al. 2021, algorithm 2).

    ``torch.optim.Adam`` has the correction, which changes the length of steps in the first hundred rounds.

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate η.
        betas: β₁ and β₂, both in [0, 1).
        tau: τ; larger values are less adaptive. 1e-3 in the paper.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> w.grad = torch.tensor([2.0])
    >>> FedAdam([w], lr=0.1, betas=(0.0, 0.5), tau=2.0).step()  # v = ½ · 4 + ½ · 4
    >>> round(w.item(), 4)  # 1 - 0.1 · 2 / (√4 + 2)
    0.95
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99), tau: float = 1e-3
    ) -> None:
        super().__init__(params, lr, tau, betas=_two(betas))

    def _follow(self, gradient: Tensor, m: Tensor, v: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)


@final
class Yogi(Adaptive):
    """FedYogi's step (Reddi et al. 2021, algorithm 2; Zaheer et al. 2018), also without bias correction.

    Yogi's ``v`` changes by at most ``(1 - β₂)g²`` in a step; Adam's has no such bound.

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate η.
        betas: β₁ and β₂, both in [0, 1).
        tau: τ; larger values are less adaptive. 1e-3 in the paper.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> w.grad = torch.tensor([2.0])
    >>> Yogi([w], lr=0.1, betas=(0.0, 0.0), tau=1.0).step()  # v = 1 - 4 · sign(1 - 4) = 5
    >>> round(w.item(), 4)  # 1 - 0.1 · 2 / (√5 + 1)
    0.9382
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99), tau: float = 1e-3
    ) -> None:
        super().__init__(params, lr, tau, betas=_two(betas))

    def _follow(self, gradient: Tensor, m: Tensor, v: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        square = gradient * gradient
        m.lerp_(gradient, 1 - beta1)
        v.addcmul_(square, torch.sign(v - square), value=beta2 - 1)


def _two(betas: object) -> tuple[float, ...]:
    pair = listed("betas", betas, what="two numbers, such as (0.9, 0.99)")
    if len(pair) != 2:
        raise ValueError(f"betas={betas!r} must be two numbers, such as (0.9, 0.99)")
    return tuple(number(f"betas[{i}]", beta, least=0, below=1) for i, beta in enumerate(pair))
