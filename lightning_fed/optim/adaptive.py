"""FedAdagrad, FedAdam and FedYogi: Reddi et al., *Adaptive Federated Optimization*, 2021, algorithm 2.

With the aggregate of a round as gradient g, which is the paper's −Δ, so that torch's optimizers descend on it::

    m ← β₁ m + (1 − β₁) g
    v ← v + g²                              FedAdagrad
    v ← β₂ v + (1 − β₂) g²                  FedAdam
    v ← v − (1 − β₂) g² sign(v − g²)        FedYogi
    x ← x − η m / (√v + τ)

m starts at 0, and v at τ²; in the paper at τ² or above. Nothing is corrected for bias:
m is short in the first rounds, and so is √v.
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
    """The step that the three have in common. They differ in how v follows g².

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate η.
        tau: τ.
        decays: The rates at which m and v forget, by the names of their arguments.
    """

    def __init__(self, params: Iterable[Any], lr: float, tau: float, **decays: Any) -> None:
        super().__init__(params, {"lr": number("lr", lr, least=0), **decays, "tau": number("tau", tau, above=0)})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure: Evaluates the loss and its gradients again, if given.

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
        if parameter.is_complex():  # real and imaginary part adapt by themselves, as in torch's optimizers
            parameter, gradient = torch.view_as_real(parameter), torch.view_as_real(gradient.resolve_conj())
        if not state:
            state["m"] = torch.zeros_like(parameter)
            state["v"] = torch.full_like(parameter, group["tau"] ** 2)
        self._follow(gradient, state["m"], state["v"], group)
        parameter.addcdiv_(state["m"], state["v"].sqrt().add_(group["tau"]), value=-group["lr"])

    @abstractmethod
    def _follow(self, gradient: Tensor, m: Tensor, v: Tensor, group: dict[str, Any]) -> None:
        """Change m and v in place.

        Args:
            gradient: Of one parameter.
            m: The mean of gradients, of the same shape.
            v: What stands for their squares, of the same shape.
            group: The settings of the parameter's group.
        """


@final
class FedAdagrad(Adaptive):
    """FedAdagrad's step: v adds up g², so that steps get shorter and shorter (Reddi et al. 2021, algorithm 2).

    The paper's algorithm has β₁ here, too; its authors' code has none, hence 0. Without it this is
    ``torch.optim.Adagrad(initial_accumulator_value=τ², eps=τ)``.

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate η.
        beta1: β₁, in [0, 1).
        tau: τ, how little adaptive it is; 1e-3 in the paper.

    Raises:
        TypeError: If one of them is no number.
        ValueError: If one of them is out of range.

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
    """FedAdam's step: v is a moving average of g², without Adam's correction of bias (Reddi et al. 2021, algorithm 2).

    ``torch.optim.Adam`` corrects it, which makes steps another length in the first hundred rounds.

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate η.
        betas: β₁ and β₂, both in [0, 1).
        tau: τ, how little adaptive it is; 1e-3 in the paper.

    Raises:
        TypeError: If one of them is no number.
        ValueError: If one of them is out of range.

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
    """FedYogi's step (Reddi et al. 2021, algorithm 2; Zaheer et al. 2018), also without a correction of bias.

    Where Adam's ``v`` follows g² at once, Yogi's moves by at most ``(1 - β₂)g²``.

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate η.
        betas: β₁ and β₂, both in [0, 1).
        tau: τ, how little adaptive it is; 1e-3 in the paper.

    Raises:
        TypeError: If one of them is no number.
        ValueError: If one of them is out of range.

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
