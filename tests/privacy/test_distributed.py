"""Integer noise that workers add together: by hand, exact, of the right size, and accounted as the table says."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import dp_accounting
import pytest
import torch
from dp_accounting.rdp import RdpAccountant
from helpers import Rows, Scalar, fit
from private import Net, began, job, people, released, sent, updates, weights
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.privacy import CentralDP, DistributedDP, LocalSkellam, Noise, Setting, SkellamSum
from lightning_fed.privacy.distributed import check_exact
from lightning_fed.privacy.stochastic_rounding import rounded_norm
from lightning_fed.selection import Availability, Response
from lightning_fed.wire import GlobalModel


class Drawn:
    """Noise of integers that is as large as a number, and what it was drawn for."""

    def __init__(self, patch: pytest.MonkeyPatch, value: int = 0) -> None:
        self.draws: list[tuple[int, float, tuple[int | str, ...]]] = []

        def skellam(_: Noise, size: int, variance: float, *keys: int | str) -> Any:
            self.draws.append((size, variance, keys))
            return torch.full((size,), value, dtype=torch.int32).numpy()

        patch.setattr(Noise, "skellam", skellam)


# ---- at the worker ---------------------------------------------------------------------------------------------------


def test_integers_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """z = 1024 and t = 4: of 8192 · 2 / 1024 = 16 units, C = 3 is cut into 12 of ¼; (1, -2, ½) is 4, -8 and 2 of them,
    and noise of 5 makes it 9, -3 and 7."""
    drawn = Drawn(monkeypatch, 5)
    promise = DistributedDP(clip=3.0, survivors=4, noise_multiplier=1024.0)
    left = sent(promise, began(promise), updates([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]))
    assert left.delta.tolist() == [[2.25, -0.75, 1.75], [1.25, 1.25, 1.25]]
    assert left.delta.dtype == torch.float32
    assert drawn.draws == [(3, 1024.0**2 * 144 / 4, (0, "w0")), (3, 1024.0**2 * 144 / 4, (0, "w1"))]


def test_all_that_a_worker_sends_is_clipped_and_rounded_within_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 numbers in each of two vectors, all half a unit, so that ‖·‖ = 16. Rounded without a condition the square of
    the norm is 512 ± 16, and Δ₂² is 544: of 200 workers some would be beyond it."""
    drawn = Drawn(monkeypatch)
    promise = DistributedDP(clip=16.0, survivors=1, noise_multiplier=512.0, insecure_deterministic_noise=True)
    run = began(promise)
    rows = torch.full((200, 512), 100.0)
    left = sent(promise, run, updates(rows, extra={"control": -rows}))
    together = torch.cat([left.delta, left.extra["control"]], dim=1).double()
    units = run.mechanism.units  # type: ignore[attr-defined]
    assert units == 16, "one of them is 1"
    assert not together.frac().any()
    norms = together.norm(dim=1)
    assert rounded_norm(16, 1024) ** 2 == pytest.approx(544)
    assert 540 < float(norms.max()) ** 2 <= 544
    assert {size for size, _, _ in drawn.draws} == {1024}


def test_rounding_is_right_on_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    Drawn(monkeypatch)
    promise = DistributedDP(clip=4.0, survivors=1, noise_multiplier=1024.0)  # 8 units of ½
    rows = torch.tensor([[0.1, -0.3, 0.7, 0.0]]).expand(4000, 4)
    left = sent(promise, began(promise), updates(rows)).delta
    assert set(left.unique().tolist()) == {-0.5, 0.0, 0.5, 1.0}
    # four standard deviations of the mean of coins, at most ½ · ½ / √4000
    torch.testing.assert_close(left.mean(dim=0), rows[0], rtol=0, atol=4 * 0.25 / math.sqrt(4000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("z", [0.01, 1.0, 100.0])
def test_what_leaves_are_integers_times_a_power_of_two(z: float, dtype: torch.dtype) -> None:
    """And neither a float32 nor the sum of many rounds anything of it away."""
    promise = DistributedDP(clip=3.0, survivors=4, noise_multiplier=z, delta=1e-5)
    run = began(promise)
    rows = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    to = promise.job(replace(job(), model=GlobalModel({"w": torch.zeros(1000, dtype=dtype)})), run)
    left = promise.at_worker(replace(updates(rows), delta=rows), to).delta
    assert left.dtype == dtype
    step = 3.0 / run.mechanism.units  # type: ignore[attr-defined]
    assert math.frexp(step)[0] == 0.5
    integers = left.double() / step
    assert not integers.frac().any()
    assert float(integers.abs().max()) < 2**24


def test_a_row_depends_on_itself_alone_and_noise_on_the_cohort() -> None:
    promise = DistributedDP(1.0, 2, 1.0, insecure_deterministic_noise=True)

    def first_row(second: list[float], cohort: int = 0) -> Tensor:
        run = began(promise)
        return promise.at_worker(updates([[0.1, 0.2], second]), promise.job(replace(job(2), cohort=cohort), run)).delta[
            0
        ]

    assert torch.equal(first_row([0.0, 0.0]), first_row([1e20, -3.0]))
    assert not torch.equal(first_row([0.0, 0.0]), first_row([0.0, 0.0], cohort=1))


@pytest.mark.parametrize("clip", [1e-42, 1e38])
def test_what_a_dtype_cannot_hold_exactly_is_refused_with_the_fix(clip: float) -> None:
    promise = DistributedDP(clip=clip, survivors=1, noise_multiplier=1.0)
    with pytest.raises(ValueError, match=r"float32 cannot hold integers of .* exactly.* neither tiny nor huge, or"):
        sent(promise, began(promise), updates(torch.zeros(1, 4)))


def test_of_how_many_digits_a_dtype_has_by_hand() -> None:
    for dtype, digits in ((torch.float64, 53), (torch.float32, 24), (torch.float16, 11)):
        check_exact(1.0, 2.0**digits - 1, dtype) if dtype != torch.float16 else check_exact(1.0, 2047, dtype)
        with pytest.raises(ValueError, match="cannot hold"):
            check_exact(1.0, 2.0**digits, dtype)


# ---- the noise of the sum --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replies", [4, 5, 9])
def test_replies_together_have_at_least_the_noise_that_is_claimed(replies: int) -> None:
    """With t replies exactly z²C², with more of them more."""
    promise = DistributedDP(clip=3.0, survivors=4, noise_multiplier=2.0, insecure_deterministic_noise=True)
    run = began(promise)
    size = 20_000
    total = released(promise, run, sent(promise, run, updates(torch.zeros(replies, size)))).delta * 10
    expected = (2.0 * 3.0) ** 2 * replies / 4
    assert expected >= (2.0 * 3.0) ** 2
    assert abs(float(total.var()) / expected - 1) < 4 * (2 / size) ** 0.5


def test_noise_is_added_once_by_the_workers_and_not_again_by_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """z = 2 and t = 4: C = 3 is 6144 units, 2048 are 1, and the share's variance is (2 · 6144)² / 4. Each adds 1."""
    drawn = Drawn(monkeypatch, 2048)
    module = Scalar()
    fed = FederatedModule(module, privacy=DistributedDP(clip=3.0, survivors=4, noise_multiplier=2.0))
    fit(fed, FederatedDataModule({f"w{i}": Rows([2.0]) for i in range(4)}))
    assert [variance for _, variance, _ in drawn.draws] == [6144.0**2] * 4
    assert module.x.item() == 2.0 - 1.0


class Absent(Availability):
    """Some workers never reply."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def respond(self, worker: str, number: int, seed: int) -> Response:
        return Response("absent" if worker in self.names else "replies")


def history(fed: FederatedModule) -> Any:
    assert fed.private_run is not None
    return fed.private_run.accountant.history


@pytest.mark.parametrize(("absent", "moves"), [(("w3",), True), (("w2", "w3"), False)])
def test_with_fewer_replies_than_survivors_nothing_is_released(absent: tuple[str, ...], moves: bool) -> None:
    """A net of 4 · 3 + 4 and 4 + 1 parameters; of 8192 √3 units, 8192."""
    module = Net()
    before = weights(module)
    fed = FederatedModule(module, privacy=DistributedDP(clip=1.0, survivors=3, noise_multiplier=1.0))
    fit(fed, FederatedDataModule(people(4), availability=Absent(*absent)))
    assert bool((weights(module) != before).any()) is moves
    assert history(fed) == ((SkellamSum(1.0, 8192, 21), 1),), "charged all the same"


def test_no_amplification_is_claimed_by_sampling() -> None:
    """The server knows whom it asks, and the noise grows with every reply, so that its sum tells how many came."""
    fed = FederatedModule(Net(), privacy=DistributedDP(clip=1.0, survivors=2, noise_multiplier=1.0))
    fit(fed, FederatedDataModule(people(10), cohort_size=4), max_steps=3)
    assert history(fed) == ((SkellamSum(1.0, 8192, 21), 3),)
    assert fed.private_run is not None
    assert fed.private_run.accountant.relation == "zero-out"


def test_survivors_that_no_cohort_has_are_refused() -> None:
    fed = FederatedModule(Net(), privacy=DistributedDP(clip=1.0, survivors=5, noise_multiplier=1.0))
    with pytest.raises(ValueError, match=r"survivors=5\) can never be met by a cohort of 4; lower it or raise"):
        fit(fed, FederatedDataModule(people(10), cohort_size=4))
    with pytest.raises(ValueError, match="at least one worker"):
        DistributedDP(clip=1.0, survivors=0, noise_multiplier=1.0)


# ---- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("survivors", "z", "size", "units", "once", "often", "strict"),
    [  # ε for δ = 1e-5, at dp-accounting's orders, once and 100 times; and at whole orders, which a run claims
        (100, 1.0, 10**6, 2**16, 4.72871, 96.12183, 4.75291),
        (1024, 2.0, 25 * 10**6, 2**17, 2.16616, 35.09058, 2.16616),
    ],
)
def test_known_answers(
    survivors: int, z: float, size: int, units: int, once: float, often: float, strict: float
) -> None:
    promise = DistributedDP(clip=4.0, survivors=survivors, noise_multiplier=z, delta=1e-5)
    run = promise.start(Setting(2000, 1500, None, rounds=None, seed=0, dimension=size))
    assert run.mechanism == SkellamSum(z, units, size)
    for count, epsilon in ((1, once), (100, often)):
        accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
        found = accountant.compose(run.mechanism.event("zero-out"), count).get_epsilon(1e-5)
        assert found == pytest.approx(epsilon, abs=6e-6)
    run.charge()
    assert run.spent == pytest.approx(strict, rel=2e-3)
    assert run.spent >= once - 6e-6


def test_it_is_counted_by_renyi_divergences_and_by_nothing_else() -> None:
    assert began(DistributedDP(1.0, 2, 1.0)).accountant.kind == "rdp"
    assert began(DistributedDP(1.0, 2, 1.0, accountant="rdp")).accountant.kind == "rdp"
    with pytest.raises(ValueError, match=r'DistributedDP\(accountant="pld"\): .* leave accountant= out, or say "rdp"'):
        DistributedDP(1.0, 2, 1.0, accountant="pld")


def test_noise_is_found_for_a_budget() -> None:
    run = began(DistributedDP(1.0, 8, epsilon=2.0, delta=1e-5), rounds=10)
    assert 1.99 < run.accountant.after(run.mechanism, 10).epsilon(1e-5) <= 2.0


def test_a_share_by_itself_is_counted_in_the_units_of_the_sum() -> None:
    promise = DistributedDP(clip=1.0, survivors=4, noise_multiplier=4.0)
    setting = Setting(10, 5, None, rounds=None, seed=0, dimension=50)
    assert promise.mechanism_alone(4.0, setting) == LocalSkellam(2.0, units=4096, dimension=50)


def test_how_many_numbers_are_sent_has_to_be_known() -> None:
    promise = DistributedDP(1.0, 2, 1.0)
    with pytest.raises(ValueError, match=r"needs the number of trained parameters, .* give --parameters, or in Py"):
        promise.start(Setting(10, 5, None, rounds=None, seed=0))
    run = began(promise, dimension=10)
    promise.job(job(10), run)
    for more in (job(11), job(6, extra=("control",))):
        with pytest.raises(ValueError, match=r"10 numbers were accounted for .* there are 1[12], which cost more"):
            promise.job(more, run)


class Thaw(pl.Callback):
    """Unfreezes the body after the first round."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        module.module.body.requires_grad_(True)


@pytest.mark.parametrize("promise", [DistributedDP(1.0, 2, 1.0, delta=1e-5), CentralDP(1.0, 1.0, delta=1e-5)])
def test_layers_that_are_unfrozen_in_a_fit_would_cost_more_than_is_charged(promise: Any) -> None:
    module = Net()
    module.body.requires_grad_(False)
    fed = FederatedModule(module, privacy=promise)
    data = FederatedDataModule(people(4))
    if isinstance(promise, CentralDP):
        fit(fed, data, max_steps=2, callbacks=[Thaw()])
        return
    with pytest.raises(ValueError, match=r"5 numbers were accounted for when the run began, and now there are 21"):
        fit(fed, data, max_steps=2, callbacks=[Thaw()])
