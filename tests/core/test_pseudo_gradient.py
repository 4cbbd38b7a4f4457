from __future__ import annotations

import torch

from lightning_fed.core.pseudo_gradient import pseudo_gradient


def test_value_and_gradients_are_those_given() -> None:
    a, b = torch.zeros(2, requires_grad=True), torch.zeros((), requires_grad=True)
    loss = pseudo_gradient(torch.tensor(3.0), [a, b], [torch.tensor([1.0, -2.0]), torch.tensor(5.0)])
    assert loss.item() == 3.0
    loss.backward()
    assert (a.grad.tolist(), b.grad.item()) == ([1.0, -2.0], 5.0)


def test_gradients_scale_with_the_loss_and_add_up() -> None:
    w = torch.zeros(1, requires_grad=True)
    for delta in (2.0, 6.0):
        (pseudo_gradient(torch.tensor(0.0), [w], [torch.tensor([delta])]) / 2).backward()
    assert w.grad.item() == 4.0


def test_gradients_take_the_parameters_dtype() -> None:
    w = torch.zeros(1, dtype=torch.bfloat16, requires_grad=True)
    pseudo_gradient(torch.tensor(0.0), [w], [torch.tensor([1.0])]).backward()
    assert w.grad.dtype == torch.bfloat16


def test_a_loss_that_is_not_a_number_leaves_the_gradient_alone() -> None:
    w = torch.zeros(1, requires_grad=True)
    pseudo_gradient(torch.tensor(float("nan")), [w], [torch.tensor([1.0])]).backward()
    assert w.grad.item() == 1.0
