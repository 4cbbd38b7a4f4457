from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit, trainer
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.optim import FedAdagrad, FedAdam, Yogi

KINDS: list[Callable[..., torch.optim.Optimizer]] = [FedAdagrad, FedAdam, Yogi]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)

EXACT = {"rel": 1e-12, "abs": 1e-15}
"""Some roundings of doubles of about 1, of 2e-16 each."""

GRADIENTS = (2.0, -0.1, 0.03, -1.5, 0.0, 0.4)


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def steps(optimizer: torch.optim.Optimizer, x: nn.Parameter, gradients: Sequence[Any]) -> list[list[float]]:
    """Where x is after each step."""
    ends = []
    for gradient in gradients:
        x.grad = torch.as_tensor(gradient, dtype=x.dtype).expand(x.shape)
        optimizer.step()
        ends.append(x.tolist())
    return ends


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_fedadagrad_by_hand() -> None:
    """τ = 3: v = 9, 25, 25, 169; m = 2, 1, -5½; steps of m / (√v + 3)."""
    x = parameter(0.0)
    ends = steps(FedAdagrad([x], lr=1.0, beta1=0.5, tau=3.0), x, [4.0, 0.0, -12.0])
    assert ends == [[-2 / 8], [-2 / 8 - 1 / 8], [-2 / 8 - 1 / 8 + 5.5 / 16]]


def test_fedadam_by_hand() -> None:
    """τ = 3, and v is ¾ of the last one and ¼ of g²: 9, 9, 49, 49; m = 1½, 7¼, 7⅛."""
    x = parameter(0.0)
    ends = steps(FedAdam([x], lr=1.0, betas=(0.5, 0.75), tau=3.0), x, [3.0, 13.0, 7.0])
    assert ends[0] == [-1.5 / 6]
    assert ends[1] == pytest.approx([-0.25 - 7.25 / 10], **EXACT)
    assert ends[2] == pytest.approx([-0.25 - 0.725 - 7.125 / 10], **EXACT)


def test_yogi_by_hand() -> None:
    """τ = 3, and v goes up and down by g²: 9, 25, 16, 16; m = 2, 2½, 1¼."""
    x = parameter(0.0)
    ends = steps(Yogi([x], lr=1.0, betas=(0.5, 0.0), tau=3.0), x, [4.0, 3.0, 0.0])
    assert ends[0] == [-2 / 8]
    assert ends[1] == pytest.approx([-0.25 - 2.5 / 7], **EXACT)
    assert ends[2] == pytest.approx([-0.25 - 2.5 / 7 - 1.25 / 7], **EXACT)


FOLLOWS: dict[str, Callable[[float, float, float], float]] = {
    "FedAdagrad": lambda v, g, beta2: v + g**2,
    "FedAdam": lambda v, g, beta2: beta2 * v + (1 - beta2) * g**2,
    "Yogi": lambda v, g, beta2: v - (1 - beta2) * g**2 * math.copysign(1, v - g**2),
}


@pytest.mark.parametrize("tau", [1e-3, 0.5])
@each
def test_the_papers_recursion(kind: Any, tau: float) -> None:
    x = parameter(1.0)
    optimizer = kind([x], lr=0.1, tau=tau)
    beta1 = 0.0 if kind is FedAdagrad else 0.9
    m, v, at = 0.0, tau**2, 1.0
    for gradient, end in zip(GRADIENTS, steps(optimizer, x, GRADIENTS), strict=True):
        m = beta1 * m + (1 - beta1) * gradient
        v = FOLLOWS[kind.__name__](v, gradient, 0.99)
        at -= 0.1 * m / (math.sqrt(v) + tau)
        assert end == pytest.approx([at], **EXACT)


# ---- beside others ---------------------------------------------------------------------------------------------------


def test_fedadagrad_is_torchs_from_where_the_paper_starts() -> None:
    ours, theirs = parameter(1.0), parameter(1.0)
    adagrad = torch.optim.Adagrad([theirs], lr=0.1, initial_accumulator_value=0.5**2, eps=0.5, foreach=False)
    assert steps(FedAdagrad([ours], lr=0.1, tau=0.5), ours, GRADIENTS) == steps(adagrad, theirs, GRADIENTS)


@pytest.mark.parametrize(("round", "times"), [(1, 1.0), (10, 2.106), (13, 2.131), (100, 1.256), (500, 1.003)])
def test_steps_beside_torchs_adam_that_corrects_bias(round: int, times: float) -> None:
    """The same gradients, far above τ: the paper's steps are longer by (1 - β₁ᵗ) / √(1 - β₂ᵗ)."""
    ours, theirs = parameter(0.0), parameter(0.0)
    gradients = torch.randn(round, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e9
    at = steps(FedAdam([ours], lr=0.1), ours, gradients)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-3)
    torchs = steps(adam, theirs, gradients)
    last, torchs_last = (ends[-1][0] - (ends[-2][0] if round > 1 else 0.0) for ends in (at, torchs))
    assert last / torchs_last == pytest.approx((1 - 0.9**round) / math.sqrt(1 - 0.99**round), rel=1e-9)
    assert last / torchs_last == pytest.approx(times, abs=5e-4)


def test_steps_beside_torchs_adam_where_gradients_are_small() -> None:
    """Gradients of a tenth of τ: v is τ² at first, and m is short, so that the paper's steps are the shorter ones."""
    ours, theirs = parameter(0.0), parameter(0.0)
    ((at,),) = steps(FedAdam([ours], lr=0.1, tau=1e-3), ours, [1e-4])
    ((torchs,),) = steps(torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-3), theirs, [1e-4])
    root = math.sqrt(0.99 * 1e-6 + 0.01 * 1e-8)
    assert at == pytest.approx(-0.1 * 1e-5 / (root + 1e-3), **EXACT)
    assert torchs == pytest.approx(-0.1 * 1e-4 / (1e-4 + 1e-3), **EXACT)
    assert torchs / at == pytest.approx(18.1, abs=0.05)


FLOWERS = {
    "FedAdagrad": [
        [1.099009900990099, -2.066666666666667],
        [1.0546849954476598, -2.0357649672291727],
        [1.0763179565063874, -2.0357649672291727],
        [0.9899206176643114, -2.0990339838470327],
    ],
    "FedAdam": [
        [1.0674963444003152, -2.0123743298067245],
        [1.0884576115831555, -2.0165351846373922],
        [1.1169487983745117, -2.019937256242506],
        [1.0842269403361176, -2.0343080572313035],
    ],
    "Yogi": [
        [1.0909090909090908, -2.0166666666666666],
        [1.1237488969977971, -2.0232047146856145],
        [1.1727195529272225, -2.0290889579026676],
        [1.1123840554848277, -2.0556359740108636],
    ],
}
"""Models after rounds 1 to 4 that ``aggregate_train`` of FedAdagrad, FedAdam and FedYogi returned, in Flower 1.42.0
(``flwr.serverapp.strategy``, ``eta=0.1``, ``tau=0.01``), from the model (1, -2), where in each round the mean of the
clients' models is the model less a row of ``OF_FLOWER``."""
OF_FLOWER = torch.tensor([[-1.0, 0.02], [0.5, -0.01], [-0.25, 0.0], [2.0, 0.03]], dtype=torch.float64)


def from_zero(optimizer: torch.optim.Optimizer, x: nn.Parameter) -> torch.optim.Optimizer:
    """Let v start at 0, which the paper does not."""
    optimizer.state[x] = {"m": torch.zeros_like(x), "v": torch.zeros_like(x)}
    return optimizer


@pytest.mark.parametrize("kind", [FedAdagrad, Yogi], ids=lambda kind: kind.__name__)
def test_flowers_numbers_where_v_starts_at_zero(kind: Any) -> None:
    x = parameter(1.0, -2.0)
    ends = steps(from_zero(kind([x], lr=0.1, tau=0.01), x), x, OF_FLOWER)
    assert ends == [pytest.approx(end, **EXACT) for end in FLOWERS[kind.__name__]]
    started = parameter(1.0, -2.0)
    assert steps(kind([started], lr=0.1, tau=0.01), started, OF_FLOWER)[0][1] != pytest.approx(ends[0][1], rel=1e-3)


def test_flowers_fedadam_corrects_the_rate_by_one_round_more() -> None:
    """v starts at 0, and round t has η √(1 - β₂ᵗ⁺¹) / (1 - β₁ᵗ⁺¹)."""
    x = parameter(1.0, -2.0)
    optimizer = from_zero(FedAdam([x], tau=0.01), x)
    for round, (gradient, end) in enumerate(zip(OF_FLOWER, FLOWERS["FedAdam"], strict=True), start=1):
        optimizer.param_groups[0]["lr"] = 0.1 * math.sqrt(1 - 0.99 ** (round + 1)) / (1 - 0.9 ** (round + 1))
        assert steps(optimizer, x, [gradient]) == [pytest.approx(end, **EXACT)]


# ---- as an optimizer of torch ----------------------------------------------------------------------------------------


@each
def test_its_state_is_saved_and_loaded(kind: Any) -> None:
    whole, half = parameter(3.0), parameter(3.0)
    steps(kind([whole]), whole, GRADIENTS)
    first = kind([half])
    steps(first, half, GRADIENTS[:3])
    second = kind([half], lr=9.0)  # which the state has, too
    second.load_state_dict(first.state_dict())
    steps(second, half, GRADIENTS[3:])
    assert half.item() == whole.item()


@each
def test_each_group_has_settings_of_its_own(kind: Any) -> None:
    a, b, alone = parameter(1.0), parameter(1.0), parameter(1.0)
    both = kind([{"params": [a]}, {"params": [b], "lr": 0.5, "tau": 0.25}], lr=0.1)
    for gradient in GRADIENTS:
        a.grad = b.grad = torch.full_like(a, gradient)
        both.step()
    steps(kind([alone], lr=0.5, tau=0.25), alone, GRADIENTS)
    assert b.item() == alone.item() != a.item()


@each
def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned(kind: Any) -> None:
    x, given = parameter(2.0), parameter(2.0)
    optimizer = kind([x])

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (x**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert steps(kind([given]), given, [4.0]) == [x.tolist()]


@each
def test_a_parameter_without_a_gradient_stays(kind: Any) -> None:
    x, other = parameter(1.0), parameter(1.0)
    optimizer = kind([x, other])
    steps(optimizer, x, [1.0])
    assert (x.item() != 1.0, other.item()) == (True, 1.0)
    assert other not in optimizer.state


@each
def test_a_complex_number_is_two_real_ones(kind: Any) -> None:
    z, pair = nn.Parameter(torch.tensor(1 + 2j, dtype=torch.complex128)), parameter(1.0, 2.0)
    whole = kind([z], lr=0.1)
    first = torch.tensor(0.5 - 3j, dtype=torch.complex128)
    z.grad = first.conj().resolve_conj().conj()  # lazily conjugated, as a gradient may be
    whole.step()
    after = kind([z], lr=0.1)
    after.load_state_dict(whole.state_dict())
    z.grad = torch.tensor(-1 + 0.1j, dtype=torch.complex128)
    after.step()
    steps(kind([pair], lr=0.1), pair, torch.tensor([[0.5, -3.0], [-1.0, 0.1]], dtype=torch.float64))
    assert torch.view_as_real(z.detach()).tolist() == pair.tolist()


@each
def test_a_sparse_gradient_is_refused(kind: Any) -> None:
    table = nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=rf"{kind.__name__} takes no sparse gradients; .*sparse=False"):
        kind(table.parameters()).step()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FedAdam, {"lr": -1.0}, "lr=-1.0 must be at least 0"),
        (Yogi, {"tau": 0.0}, "tau=0.0 must be positive"),
        (FedAdam, {"betas": (0.9, 1.0)}, r"betas\[1\]=1.0 must be at least 0 and below 1"),
        (Yogi, {"betas": (0.9,)}, r"betas=\(0.9,\) must be two numbers"),
        (FedAdagrad, {"beta1": 1.0}, "beta1=1.0 must be at least 0 and below 1"),
    ],
)
def test_out_of_range(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind([parameter(0.0)], **options)


# ---- as server optimizer ---------------------------------------------------------------------------------------------


@each
def test_it_finds_the_mean_of_the_workers(kind: Any) -> None:
    module = Scalar(lr=0.5)
    federated = FederatedModule(module, server_optimizer=lambda p: kind(p, lr=0.3))
    fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}), max_steps=100)
    assert module.x.item() == pytest.approx(2.0, abs=0.1)


@pytest.mark.usefixtures("double")
@each
def test_the_aggregate_is_its_gradient(kind: Any) -> None:
    """Two rounds: each worker moves halfway to its value, so that the aggregate is ½ (x - 2)."""
    module = Scalar(lr=0.5)
    federated = FederatedModule(module, server_optimizer=lambda p: kind(p, lr=0.3))
    fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}), max_steps=2)
    x = parameter(0.0)
    optimizer = kind([x], lr=0.3)
    for _ in range(2):
        steps(optimizer, x, [(x.item() - 2) / 2])
    assert module.x.item() == pytest.approx(x.item(), **EXACT)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@each
def test_a_run_is_resumed_bit_for_bit(kind: Any, tmp_path: Path) -> None:
    def run(rounds: int, **options: Any) -> tuple[float, Any]:
        module = Scalar(lr=0.3)
        federated = FederatedModule(module, server_optimizer=lambda p: kind(p, lr=0.2))
        workers = {f"w{i}": Rows([i, i + 1.0], batch_size=1, shuffle=True) for i in range(5)}
        run = trainer(max_steps=rounds, max_epochs=-1)
        run.fit(federated, FederatedDataModule(workers, cohort_size=2), **options)
        run.save_checkpoint(tmp_path / f"{rounds}.ckpt")
        return module.x.item(), run.optimizers[0].state_dict()

    whole = run(6)
    run(3)
    assert run(6, ckpt_path=tmp_path / "3.ckpt") == whole
