from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from spy import tensor_bytes

from lightning_fed.wire import (
    Aggregate,
    GlobalModel,
    Job,
    LocalTraining,
    Model,
    Penalty,
    Updates,
    WorkerError,
    describe,
    encode_job,
    encode_updates,
    job_bytes,
    updates_bytes,
)


def updates() -> Updates:
    return Updates(
        cohort=0,
        workers=("a", "b", "c"),
        delta=torch.arange(6.0).reshape(3, 2),
        buffers={"n": torch.tensor([1, 2, 3])},
        examples=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        loss=torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64),
        steps=torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64),
        metrics={"acc": torch.tensor([0.5, 0.6, 0.7], dtype=torch.float64)},
    )


def test_rows_picks_from_every_field() -> None:
    kept = updates().rows(torch.tensor([True, False, True]))
    assert kept.workers == ("a", "c")
    assert kept.delta.tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert kept.buffers["n"].tolist() == [1, 3]
    assert (kept.weight.tolist(), kept.loss.tolist(), kept.metrics["acc"].tolist()) == ([1, 3], [0.1, 0.3], [0.5, 0.7])
    assert kept.steps.tolist() == [4, 6]
    none = updates().rows(torch.zeros(3, dtype=torch.bool))
    assert none.workers == ()
    assert none.delta.shape == (0, 2)


def test_bytes_are_counted() -> None:
    half = torch.zeros(5, dtype=torch.bfloat16)
    job = Job(0, 0, 0, GlobalModel({"w": half}, {"n": torch.tensor(1)}), LocalTraining())
    message = encode_job(job)
    assert job_bytes(job) == len(message)
    assert tensor_bytes(message) == 5 * 2 + 8 + 8  # the factor of the learning rate
    job = Job(0, 0, 0, GlobalModel({"w": torch.zeros(2)}, {"n": torch.tensor(1)}), LocalTraining())
    rows = torch.eye(3, dtype=torch.bool)
    messages = [encode_updates(updates().rows(row), job) for row in rows]
    assert updates_bytes(updates(), job) == list(map(len, messages))
    # Of each worker two numbers of a delta, a buffer, and examples, weight, loss, steps and a metric.
    assert list(map(tensor_bytes, messages)) == [2 * 4 + 8 + 5 * 8] * 3


def test_what_was_computed_from_a_job_is_not_pickled_with_it() -> None:
    job = Job(0, 0, 0, GlobalModel({"w": torch.zeros(1000)}), LocalTraining())
    fresh = len(pickle.dumps(job))
    assert fresh < 1000 * 4 + 2000
    assert (job.model.vector.shape, list(job.model.wide_parameters), job.model.finite_buffers) == ((1000,), ["w"], ())
    assert len(pickle.dumps(job)) == fresh
    assert replace(job, penalty=Penalty(proximal=0.1)).model is job.model


def test_a_worker_is_sent_nothing_of_the_others() -> None:
    model = GlobalModel({"w": torch.zeros(1000)})
    rows = {name: torch.full((1000,), float(i)) for i, name in enumerate("abcdefghij")}
    cohort = Job(
        *(0, 0, 0, model, LocalTraining()),
        work=dict.fromkeys(rows, 0.5),
        penalty=Penalty(linear=rows),
        start={name: Model(row) for name, row in rows.items()},
    )
    one = cohort.of("d")
    assert list(one.work) == list(one.start) == ["d"]
    assert one.penalty is not None
    assert one.penalty.linear == {"d": rows["d"]}
    assert job_bytes(one) < 3 * 1000 * 4 + 1000
    assert cohort.of("nobody").start == {}


def test_norm_is_over_all_parameters() -> None:
    assert Aggregate(torch.tensor([2.0, 3.0, 6.0]), {}).norm == 7.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "local_epochs=0"), ((-1,), "local_epochs=-1"), ((1, 0), "local_steps=0"), ((1, -3), "local_steps=-3")],
)
def test_local_training_refuses_nothing_to_do(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalTraining(*arguments)


def test_a_worker_error_says_who_when_and_why_and_can_be_pickled() -> None:
    error = WorkerError("bob", 3, describe(ValueError("no rows")))
    assert str(error) == "worker 'bob' failed in round 3: ValueError: no rows"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.worker, again.round) == (str(error), "bob", 3)
