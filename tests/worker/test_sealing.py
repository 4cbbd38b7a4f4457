"""What a worker seals, and what the sum of it says: numbers by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_fed.privacy import DPFTRL, CentralDP, DistributedDP, LocalDP, Privacy, RecordDP
from lightning_fed.secure import SecureAggregation, scalars
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates
from lightning_fed.wire.codec import decode_updates, encode_updates
from lightning_fed.wire.logged import Shown
from lightning_fed.worker.sealing import Sealing, are_names

MODEL = GlobalModel(
    {"w": torch.zeros(1, 2), "b": torch.zeros(1)},
    {"mean": torch.tensor([1.0, 2.0]), "num_batches_tracked": torch.tensor(3)},
)
JOB = Job(0, 0, 0, MODEL, LocalTraining())


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def updates(**others: Any) -> Updates:
    """Of bob with two examples, and of alice with one."""
    return replace(
        Updates(
            0,
            ("bob", "alice"),
            torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.5, -0.25]]),
            {"mean": MODEL.buffers["mean"].expand(2, 2), "num_batches_tracked": torch.tensor([4, 9])},
            double(2, 1),
            double(2, 1),
            double(0.5, 2.0),
            double(10, 20),
            metrics={"accuracy": double(1.0, 0.25)},
            rates={"lr": double(0.1, 0.3)},
        ),
        **others,
    )


def added(sealing: Sealing, sent: Updates, job: Job = JOB) -> tuple[Tensor, dict[str, float]]:
    """What secure aggregation shows of some updates."""
    sealed = sealing.sealed(sent, job).sealed
    assert sealed is not None
    total = sealed.words.sum(dim=0, dtype=torch.int64).to(torch.int32)
    return total, {name: scalars.decode(int(numbers.sum())) for name, numbers in sealed.scalars.items()}


def summed(sealing: Sealing, sent: Updates, job: Job = JOB) -> Any:
    return sealing.opened(*added(sealing, sent, job), job, sent.stays)


def numbers(sealing: Sealing, sent: Updates) -> dict[str, float]:
    return added(sealing, sent)[1]


LONG = Sealing(SecureAggregation(clip=10.0), cohort=2)


def test_workers_that_count_equally() -> None:
    found = summed(LONG, updates())
    assert torch.allclose(found.delta, double(3.0, 4.5, -0.25), atol=1e-7)
    assert (found.weight, found.workers, found.within) == (2.0, 2, 2.0)
    assert not found.buffers


def test_workers_that_count_by_their_examples_up_to_a_cap() -> None:
    """Caps of 4 and 1: bob counts ½ and alice ¼; then both count fully."""
    for cap, weights in ((4, (0.5, 0.25)), (1, (1.0, 1.0))):
        sealing = Sealing(SecureAggregation(clip=10.0, weight_cap=cap), cohort=2, equally=False)
        found = summed(sealing, updates())
        assert found.weight == pytest.approx(sum(weights), abs=1e-7)
        expected = weights[0] * double(3.0, 4.0, 0.0) + weights[1] * double(0.0, 0.5, -0.25)
        assert torch.allclose(found.delta, expected, atol=1e-7)


def test_an_update_that_is_too_long_is_shortened_and_counted() -> None:
    """bob's has a norm of 5."""
    found = summed(Sealing(SecureAggregation(clip=1.0), cohort=2), updates())
    assert torch.allclose(found.delta, double(0.6, 0.8 + 0.5, -0.25), atol=1e-7)
    assert found.within == 1.0


def test_single_numbers() -> None:
    assert numbers(LONG, updates()) == pytest.approx(
        {
            "workers": 2,
            "within": 2,
            "weight": 2,
            "examples": 3,
            "steps": 30,
            "loss": 2.5,
            "weight of loss": 2,
            "metric/accuracy": 1.25,
            "weight of metric/accuracy": 2,
            "rate/lr": 0.4,
            "weight of rate/lr": 2,
            "left out": 0,
        },
        abs=1e-6,
    )


def test_numbers_that_cannot_be_added_are_left_out_and_counted() -> None:
    """A NaN says that there is nothing; one that is too large or infinite is counted."""
    odd = updates(loss=double(float("nan"), 2.0), metrics={"a": double(1e9, 1.0), "b": double(float("inf"), 3.0)})
    found = numbers(LONG, odd)
    assert (found["loss"], found["weight of loss"]) == (2.0, 1.0)
    assert (found["metric/a"], found["weight of metric/a"]) == (1.0, 1.0)
    assert (found["metric/b"], found["weight of metric/b"]) == (3.0, 1.0)
    assert found["left out"] == 2.0


def test_what_is_no_mean_does_not_leave_but_its_name_does() -> None:
    shown = {
        "number": Shown("number", "sum"),
        "largest": Shown("largest", "max"),
        "accuracy": Shown("accuracy", "mean"),
    }
    metrics = {"number": double(2, 1), "largest": double(5, 7), "accuracy": double(1.0, 0.25), "other": double(1, 1)}
    sealed = LONG.sealed(updates(metrics=metrics, shown=shown), JOB)
    assert sealed.sealed is not None
    assert {name for name in sealed.sealed.scalars if name.startswith("metric/")} == {"metric/accuracy", "metric/other"}
    alone = sealed.rows(torch.tensor([True, False]))
    assert decode_updates(encode_updates(alone, JOB), JOB, sealer=LONG).shown == shown


def test_a_worker_that_weighs_nothing_adds_nothing() -> None:
    found = summed(LONG, updates(weight=double(0, 1)))
    assert torch.allclose(found.delta, double(0.0, 0.5, -0.25), atol=1e-7)
    assert found.weight == 1.0


def test_layers_that_stay_are_no_words() -> None:
    personal = updates(stays=frozenset({"w"}))
    sealed = LONG.sealed(personal, JOB).sealed
    assert sealed is not None
    assert sealed.words.shape == (2, 1) == (2, LONG.size(JOB, personal.stays))
    assert torch.allclose(summed(LONG, personal).delta, double(0.0, 0.0, -0.25), atol=1e-7)


def test_buffers_are_added_as_changes_if_there_is_a_bound() -> None:
    sealing = Sealing(SecureAggregation(clip=10.0, buffer_clip=1.0), cohort=2)
    moved = updates(
        buffers={"mean": torch.tensor([[1.5, 2.0], [1.0, 5.0]]), "num_batches_tracked": torch.tensor([4, 9])}
    )
    found = summed(sealing, moved)
    assert torch.allclose(found.buffers["mean"], double(0.5, 1.0), atol=1e-7), "alice's change is shortened to 1"
    assert list(found.buffers) == ["mean"], "an integer one has no sum"


def test_buffers_that_move_without_a_bound_are_refused() -> None:
    moved = updates(
        buffers={"mean": torch.tensor([[1.5, 2.0], [1.0, 2.0]]), "num_batches_tracked": torch.tensor([4, 9])}
    )
    with pytest.raises(ValueError, match=r"local training moves 'mean', and nothing says how far; give buffer_clip="):
        LONG.sealed(moved, JOB)
    new = updates(buffers={**updates().buffers, "late": torch.zeros(2, 1)})
    with pytest.raises(ValueError, match="moves 'late'"):
        LONG.sealed(new, JOB)


def test_what_an_algorithm_sends_besides_has_a_ring_of_its_own() -> None:
    job = replace(JOB, extra=("control",))
    sealing = Sealing(SecureAggregation(clip={"delta": 10.0, "control": 100.0}), cohort=2)
    sent = updates(extra={"control": torch.tensor([[50.0, 0.0, 1.0], [0.0, -60.0, 1.0]])})
    found = summed(sealing, sent, job)
    assert torch.allclose(found.extra["control"], double(50.0, -60.0, 2.0), atol=1e-5)
    assert torch.allclose(found.delta, double(3.0, 4.5, -0.25), atol=1e-7)


def test_nothing_is_left_beside_what_is_sealed() -> None:
    left = LONG.sealed(updates(), JOB)
    assert not left.delta.any()
    assert left.loss.isnan().all()
    assert not left.metrics
    assert not left.rates
    assert left.examples.tolist() == left.weight.tolist() == left.steps.tolist() == [1.0, 1.0]
    assert left.buffers["mean"].tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_a_worker_alone_seals_what_it_seals_beside_others() -> None:
    together = LONG.sealed(updates(), JOB).sealed
    alone = LONG.sealed(updates().rows(torch.tensor([False, True])), JOB).sealed
    assert together is not None
    assert alone is not None
    assert torch.equal(together.words[1:], alone.words)
    assert {k: v[1:].tolist() for k, v in together.scalars.items()} == {k: v.tolist() for k, v in alone.scalars.items()}


# ---- under a promise -------------------------------------------------------------------------------------------------

SECURE = SecureAggregation()


def promised(promise: Privacy, job: Job = JOB, noise_multiplier: float = 1.0) -> Job:
    return replace(job, promise={"bound": promise.bound(), "noise_multiplier": noise_multiplier})


def test_all_that_a_worker_sends_is_clipped_together() -> None:
    """bob sends (3, 0, 0) and (0, 4, 0), of norm 5 together, and alice half of it; C = 2.5."""
    promise = CentralDP(clip=2.5, noise_multiplier=1.0)
    job = promised(promise, replace(JOB, extra=("control",)))
    delta = torch.tensor([[3.0, 0.0, 0.0], [1.5, 0.0, 0.0]])
    control = torch.tensor([[0.0, 4.0, 0.0], [0.0, 2.0, 0.0]])
    found = summed(Sealing(SECURE, 2, promise=promise), updates(delta=delta, extra={"control": control}), job)
    assert torch.allclose(found.delta, double(3.0, 0.0, 0.0), atol=1e-6)
    assert torch.allclose(found.extra["control"], double(0.0, 4.0, 0.0), atol=1e-6)
    assert (found.weight, found.workers, found.within) == (2.0, 2, 1.0)
    assert found.step == 2.0**-28  # of 2³⁰ − 2 units, 2.5 · 2²⁸ are C
    assert not (torch.cat([found.delta, found.extra["control"]]) / found.step).frac().any()


@pytest.mark.parametrize("bits", [16, 32])
def test_no_worker_is_longer_than_the_bound_once_it_is_rounded(bits: int) -> None:
    promise = CentralDP(clip=1.5, noise_multiplier=1.0)
    model = GlobalModel({"w": torch.zeros(100)})
    job = promised(promise, replace(JOB, model=model, extra=("control",)))
    rows = torch.randn(50, 200, generator=torch.Generator().manual_seed(0)) * 10
    rows[0] = float("nan")  # what a transform of a user's may make
    numbers = torch.ones(50, dtype=torch.float64)
    names = tuple(f"w{i}" for i in range(50))
    sent = Updates(0, names, rows[:, :100], {}, numbers, numbers, numbers, numbers, extra={"control": rows[:, 100:]})
    sealing = Sealing(replace(SECURE, bits=bits), 50, promise=promise)
    sealed = sealing.sealed(sent, job).sealed
    assert sealed is not None
    norms = sealed.words.double().norm(dim=1) * summed(sealing, sent, job).step
    assert float(norms.max()) <= 1.5
    assert float(norms[1:].min()) > 1.5 * (0.75 if bits == 16 else 0.9999)
    assert norms[0] == 0


def test_weights_are_those_of_the_promise_whatever_is_claimed() -> None:
    promise = CentralDP(clip=10.0, noise_multiplier=1.0, weight_cap=4)
    sent = updates(examples=double(2, 1e9), weight=double(1, 1))
    found = summed(Sealing(SECURE, 2, promise=promise), sent, promised(promise))
    assert torch.allclose(found.delta, 0.5 * double(3.0, 4.0, 0.0) + double(0.0, 0.5, -0.25), atol=1e-6)
    assert found.weight == 1.5


@pytest.mark.parametrize("bits", [20, 32])
def test_integers_with_noise_are_added_as_they_are(bits: int) -> None:
    """Also those of a norm far beyond C, and of more than a ring of few bits has room for in one's own."""
    promise = DistributedDP(clip=1.0, survivors=2, noise_multiplier=1.0)
    step = 2.0**-13
    sent = updates(delta=torch.tensor([[9.0, -7.0 * step, 0.0], [-8.0, step, 3.0]]))
    found = summed(Sealing(replace(SECURE, bits=bits), 2, promise=promise), sent, promised(promise))
    assert found.delta.tolist() == [1.0, -6.0 * step, 3.0]
    assert found.step == step


@pytest.mark.parametrize(
    ("secure", "promise", "message"),
    [
        (
            SecureAggregation(clip=1.0),
            CentralDP(1.0, 1.0),
            r"clip=1\.0\): .* CentralDP .* leave clip= out",
        ),
        (SecureAggregation(weight_cap=3), DPFTRL(1.0, 1.0), r"weight_cap=3\): .* DPFTRL .* leave weight_cap= out"),
    ],
)
def test_what_settings_and_promise_both_say_is_refused(secure: Any, promise: Privacy, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sealing(secure, 2, promise=promise)


@pytest.mark.parametrize(
    ("sealing", "message"),
    [
        (
            Sealing(SECURE, 2, promise=LocalDP(1.0, 1.0)),
            "LocalDP does not go with secure_aggregation=: .* Distr",
        ),
        (Sealing(SECURE, 2, promise=RecordDP(1.0, 0.1, 1e-5, 1.0)), "SecureAggregation needs clip="),
        (
            Sealing(replace(SECURE, bits=8), 50, promise=CentralDP(1.0, 1.0)),
            r"bits=8\): in sums of 50 .* take more",
        ),
        (Sealing(replace(SECURE, bits=8), 50, promise=DPFTRL(1.0, 1.0)), r"bits=8\): in sums of 50 .* take more"),
        (
            Sealing(replace(SECURE, bits=16), 50, promise=DistributedDP(1.0, 2, 1.0)),
            "cohort_size=50: .* raise bits=",
        ),
    ],
)
def test_what_cannot_be_sealed_is_refused_before_anyone_trains(sealing: Sealing, message: str) -> None:
    assert sealing.promise is not None
    with pytest.raises(ValueError, match=message):
        sealing.check(promised(sealing.promise))


def test_what_can_be_is_not() -> None:
    for promise in (CentralDP(1.0, 1.0), DPFTRL(1.0, 1.0), DistributedDP(1.0, 2, 1.0)):
        Sealing(SECURE, 1000, promise=promise).check(promised(promise))
    Sealing(SecureAggregation(clip=1.0), 2, promise=RecordDP(1.0, 0.1, 1e-5, 1.0)).check(JOB)


def test_no_sum_has_fewer_shares_of_noise_than_is_promised() -> None:
    shared = DistributedDP(1.0, survivors=5, noise_multiplier=1.0)
    assert Sealing(SecureAggregation(least=2), 10, promise=shared).parameters.least == 5
    assert Sealing(SecureAggregation(least=6), 10, promise=shared).parameters.least == 6
    assert Sealing(SecureAggregation(least=2), 10, promise=CentralDP(1.0, 1.0)).parameters.least == 2


def test_what_a_transform_has_made_of_an_update_is_no_number() -> None:
    sent = updates(delta=torch.tensor([[1.0, float("nan"), 0.0], [1.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match="'delta' has NaN or Inf in it after the transforms"):
        Sealing(SecureAggregation(clip=10.0), 2).sealed(sent, JOB)


def test_a_buffer_that_never_was_finite_is_left_as_it_is() -> None:
    """The mask of attention, whose -inf minus -inf is no number."""
    model = GlobalModel(dict(MODEL.parameters), {"mean": torch.tensor([float("-inf"), 2.0]), "count": torch.tensor(3)})
    sent = updates(
        buffers={"mean": torch.tensor([[float("-inf"), 3.0], [float("-inf"), 2.0]]), "count": torch.tensor([3, 3])}
    )
    sealing, job = Sealing(SecureAggregation(clip=50.0, buffer_clip=10.0), 2), replace(JOB, model=model)
    sums = summed(sealing, sent, job)
    assert sums.within == 2.0
    assert sums.buffers["mean"].tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def test_a_learning_rate_that_has_no_room_is_left_out() -> None:
    found = numbers(Sealing(SecureAggregation(clip=10.0), 2), updates(rates={"lr": double(1e300, 0.5)}))
    assert found["rate/lr"] == 0.5
    assert found["weight of rate/lr"] == 1.0


def test_so_many_examples_that_a_sum_has_no_room_for_them() -> None:
    """2³⁰ examples, at each of 2048 workers, are 2⁴¹; a sum ends at 2³⁹."""
    sealed = Sealing(SecureAggregation(clip=10.0), 2048).sealed(updates(examples=double(2.0**30, 1.0)), JOB).sealed
    assert sealed is not None
    assert 0 < 2048 * int(sealed.scalars["examples"][0]) < 2**63


def test_metrics_that_have_no_room_in_a_sum_are_refused() -> None:
    with pytest.raises(ValueError, match="metrics of 100 workers have no room in a sum"):
        SecureAggregation(clip=1.0, metric_range=1e10).parameters(100)
    SecureAggregation(clip=1.0, metric_range=5e9).parameters(100)


GOOD = {"workers", "within", "weight", "examples", "steps", "left out", "loss", "weight of loss"}


@pytest.mark.parametrize(
    ("more", "good"),
    [
        (set(), True),
        ({"metric/größe", "weight of metric/größe", "rate/lr", "weight of rate/lr"}, True),
        ({"metric/seen"}, False),
        ({"weight of metric/seen"}, False),
        ({"other"}, False),
        ({"metric/\ud800", "weight of metric/\ud800"}, False),
        ({"metric/" + 1000 * "x", "weight of metric/" + 1000 * "x"}, False),
    ],
)
def test_names_of_single_numbers(more: set[str], good: bool) -> None:
    assert are_names(GOOD | more) is good
    assert not are_names((GOOD | more) - {"loss"})


def test_each_worker_rounds_by_chances_of_its_own_in_each_cohort() -> None:
    """Parts of a step: what is alike is rounded alike by nobody else, and not again."""
    model = GlobalModel({"w": torch.zeros(100)})
    sealing, one = Sealing(SecureAggregation(clip=1.0, bits=8), 2), torch.ones(2, dtype=torch.float64)

    def words(cohort: int) -> Tensor:
        job = replace(JOB, model=model, cohort=cohort)
        rows = torch.linspace(0.0, 0.015, 100).expand(2, 100)
        sealed = sealing.sealed(Updates(cohort, ("bob", "alice"), rows, {}, one, one, one, one), job).sealed
        assert sealed is not None
        return sealed.words

    assert torch.equal(words(0), words(0))
    assert not torch.equal(words(0)[0], words(0)[1])
    assert not torch.equal(words(0)[0], words(1)[0])
