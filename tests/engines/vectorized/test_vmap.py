"""One worker's step for n workers: what ``torch.func`` gives, in less time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_equal
from torch import Tensor, nn
from torch.func import functional_call

from lightning_fed._lightning import pl
from lightning_fed.core.tree import Tensors
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.vectorized.recorder import StackedRecorder
from lightning_fed.engines.vectorized.vmap import differentiated
from lightning_fed.worker.module_copy import ModuleCopy

N = 3

pytestmark = pytest.mark.usefixtures("double")


def state_of(module: nn.Module) -> Tensors:
    """N different copies of a module's parameters and buffers."""
    torch.manual_seed(1)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return {
        name: torch.stack([t.detach() + i + torch.rand(t.shape) if t.is_floating_point() else t for i in range(N)])
        for name, t in tensors.items()
    }


@pytest.mark.parametrize(
    "batch",
    [
        lambda x, y: [x, y],
        lambda x, y: (x, y),
        lambda x, y: {"x": x, "rest": [y]},
    ],
)
def test_it_is_vmap_of_grad(batch: Callable[[Tensor, Tensor], Any]) -> None:
    parameters, others = {"w": torch.randn(N, 4), "idle": torch.randn(N, 2)}, {"count": torch.arange(N)}

    def step(own: Tensors, given: Any) -> tuple[Tensor, list[Tensor], Tensors]:
        x, y = (given["x"], given["rest"][0]) if isinstance(given, dict) else given
        loss = nn.functional.cross_entropy((x * own["w"]), y)
        return loss, [x.sum(), torch.tensor(7.0)], {"count": own["count"] + 1}

    data = batch(torch.randn(N, 2, 4), torch.randint(4, (N, 2)))
    loss, (total, constant), after, (gradient, none) = differentiated(step, N, parameters, others, data)
    expected, (expected_total, _), expected_after = torch.vmap(step)(parameters | others, data)
    assert_equal(loss, expected)
    assert_equal(total, expected_total)
    assert constant.tolist() == [7.0] * N
    assert after["count"].tolist() == expected_after["count"].tolist() == [1, 2, 3]
    assert none is None
    weights = parameters["w"].requires_grad_()
    (expected_gradient,) = torch.autograd.grad(torch.vmap(step)(parameters | others, data)[0].sum(), weights)
    assert_equal(gradient, expected_gradient)


def test_a_padding_row_of_an_embedding_has_no_gradient_in_any_worker() -> None:
    """Two rows of two numbers, of which each worker looks up both: the gradient of a sum is 1, and 0 for padding."""

    def step(own: Tensors, given: Any) -> tuple[Tensor, list[Tensor], Tensors]:
        return nn.functional.embedding(given[0], own["w"], padding_idx=0).sum(), [], {}

    gradients = differentiated(step, N, {"w": torch.ones(N, 2, 2)}, {}, [torch.tensor([[0, 1]] * N)])[3]
    assert gradients[0] is not None
    assert gradients[0].tolist() == [[[0.0, 0.0], [1.0, 1.0]]] * N


def test_a_parameter_of_the_step_is_one_and_requires_a_gradient() -> None:
    def step(own: Tensors, given: Any) -> tuple[Tensor, list[Tensor], Tensors]:
        assert isinstance(own["w"], nn.Parameter)
        assert own["w"].requires_grad
        assert own["w"].is_leaf
        assert (own["w"] * 2).requires_grad
        assert not given[0].requires_grad
        with pytest.raises(UnvectorizableError, match="from the step before"):
            own["w"].grad  # noqa: B018
        return own["w"].sum(), [], {}

    stack = torch.ones(N, 2)
    differentiated(step, N, {"w": stack}, {}, [torch.ones(N)])
    assert type(stack) is Tensor
    assert not stack.requires_grad


def test_a_step_that_fails_leaves_no_level_of_vmap_or_grad_behind() -> None:
    def step(own: Tensors, given: Any) -> Any:
        raise RuntimeError("the user's")

    with pytest.raises(RuntimeError, match="the user's"):
        differentiated(step, N, {"w": torch.ones(N)}, {}, [])
    assert torch._C._functorch.maybe_current_level() is None
    assert torch.is_grad_enabled()
    assert not torch._C._functorch.get_inplace_requires_grad_allowed()


class Tied(pl.LightningModule):
    """One weight in two places, a BatchNorm, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.norm, self.decoder = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.norm(self.encoder(self.frozen(x))))


def test_other_tensors_in_place_are_functional_call() -> None:
    module = Tied()
    local = ModuleCopy(module, pl.Trainer(accelerator="cpu", logger=False), StackedRecorder())
    own = {name: t[1] for name, t in state_of(module).items() if not name.startswith("frozen")}
    x = torch.randn(5, 4)
    expected = functional_call(module, {k: v.clone() for k, v in own.items()}, (x,))
    before = {name: id(t) for name, t in (*local.module.named_parameters(), *local.module.named_buffers())}
    with local.in_place(own):
        assert_equal(local.module(x), expected)
        assert local.module.decoder.weight is local.module.encoder.weight is own["encoder.weight"]
        assert local.buffers["norm.running_mean"] is own["norm.running_mean"]
    after = {name: id(t) for name, t in (*local.module.named_parameters(), *local.module.named_buffers())}
    assert after == before


def test_the_modules_own_tensors_come_back_after_an_error() -> None:
    module = Tied()
    local = ModuleCopy(module, pl.Trainer(accelerator="cpu", logger=False), StackedRecorder())
    own = local.module.encoder.weight
    with pytest.raises(ZeroDivisionError), local.in_place({"encoder.weight": torch.zeros(4, 4)}):
        1 / 0  # noqa: B018
    assert local.module.encoder.weight is local.module.decoder.weight is own
