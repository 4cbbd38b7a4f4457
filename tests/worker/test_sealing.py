"""What a worker seals, and what the sum of it says: numbers by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_fed.secure import SecureAggregation, scalars
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates
from lightning_fed.wire.codec import decode_updates, encode_updates
from lightning_fed.wire.logged import Shown
from lightning_fed.worker.sealing import Sealing

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


def added(sealing: Sealing, sent: Updates) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What secure aggregation shows of some updates."""
    sealed = sealing.sealed(sent, JOB).sealed
    assert sealed is not None
    total = sealed.words.sum(dim=0, dtype=torch.int64).to(torch.int32)
    return total, {name: numbers.sum() for name, numbers in sealed.scalars.items()}


def summed(sealing: Sealing, sent: Updates) -> Any:
    return sealing.opened(*added(sealing, sent), JOB, sent.stays)


def numbers(sealing: Sealing, sent: Updates) -> dict[str, float]:
    return {name: scalars.decode(total) for name, total in added(sealing, sent)[1].items()}


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
    sealed = sealing.sealed(sent, job).sealed
    assert sealed is not None
    total = sealed.words.sum(dim=0, dtype=torch.int64).to(torch.int32)
    found = sealing.opened(total, {k: v.sum() for k, v in sealed.scalars.items()}, job, sent.stays)
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
