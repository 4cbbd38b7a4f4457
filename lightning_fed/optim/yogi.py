"""FedYogi's optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_fed.core.arguments import listed, number


@final
class Yogi(Optimizer):
    """FedYogi's step: Reddi et al., *Adaptive Federated Optimization*, 2021, algorithm 2; Zaheer et al. 2018.

    ``m = β₁m + (1 - β₁)g``, ``v = v - (1 - β₂)g² sign(v - g²)``, ``x = x - lr · m / (√v + τ)``; ``v`` starts at τ², and
    there is no correction of bias. Where Adam's ``v`` follows g² at once, Yogi's moves by at most ``(1 - β₂)g²``.

    Args:
        params: Parameters or parameter groups.
        lr: The learning rate.
        betas: β₁ and β₂.
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
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
        tau: float = 1e-3,
    ) -> None:
        pair = listed("betas", betas, what="two numbers, such as (0.9, 0.99)")
        if len(pair) != 2:
            raise ValueError(f"betas={betas!r} must be two numbers, such as (0.9, 0.99)")
        says = " is out of range: lr must be at least 0, tau positive, and both of betas lie in [0, 1)"
        settings = {
            "lr": number("lr", lr, least=0, says=says),
            "betas": tuple(number(f"betas[{i}]", beta, least=0, below=1, says=says) for i, beta in enumerate(pair)),
            "tau": number("tau", tau, above=0, says=says),
        }
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure: Evaluates the loss and its gradients again, if given.
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
        beta1, beta2 = group["betas"]
        state = self.state[parameter]
        if not state:
            state["m"] = torch.zeros_like(parameter)
            state["v"] = torch.full_like(parameter, group["tau"] ** 2)
        square = gradient * gradient
        state["m"].lerp_(gradient, 1 - beta1)
        state["v"].addcmul_(square, torch.sign(state["v"] - square), value=beta2 - 1)
        parameter.addcdiv_(state["m"], state["v"].sqrt().add_(group["tau"]), value=-group["lr"])
