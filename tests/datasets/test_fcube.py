from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_fed.datasets import FCUBE, FCUBETest


def points(population: FCUBE, name: str) -> tuple[Tensor, Tensor]:
    """A worker's points and labels, in the order of the dataset."""
    rows = population[name].train_set.indices
    x, label = population.dealt.dataset.tensors  # type: ignore[attr-defined]
    return x[rows], label[rows]


def test_four_workers_with_a_thousand_points_each() -> None:
    workers = FCUBE()
    assert dict.fromkeys(workers, 1000) == {name: workers.num_examples(name) for name in workers}
    assert (len(workers), "worker_3" in workers, "worker_4" in workers) == (4, True, False)
    x, label = points(workers, "worker_0")
    assert (x.shape, x.dtype, label.shape, label.dtype) == ((1000, 3), torch.float32, (1000,), torch.int64)
    assert [len(x) for x, _ in workers["worker_0"].train_dataloader()] == [64] * 15 + [40]


def test_each_worker_holds_two_opposite_octants_and_together_they_hold_all_eight() -> None:
    workers, seen = FCUBE(seed=3), set()
    for name in workers:
        x, label = points(workers, name)
        assert x.abs().max() <= 1
        octants = {tuple(signs) for signs in x.sign().int().tolist()}
        first, second = octants
        assert first == tuple(-sign for sign in second), name
        assert not octants & seen
        seen |= octants
        assert torch.equal(label, (x[:, 0] > 0).long())
        assert label.sum() == 500, "half of a worker's points lie in either octant"
    assert len(seen) == 8


def test_points_are_uniform_within_an_octant() -> None:
    x = FCUBE().dealt.dataset.tensors[0].abs()  # type: ignore[attr-defined]
    # The mean of 4000 uniform numbers: 1/2 with a standard deviation of sqrt(1/12/4000) = 0.0046.
    torch.testing.assert_close(x.mean(dim=0), torch.full((3,), 0.5), atol=0.018, rtol=0)
    torch.testing.assert_close(x.var(dim=0), torch.full((3,), 1 / 12), atol=0.006, rtol=0)


def test_the_test_data_are_of_the_whole_cube() -> None:
    test = FCUBE(seed=1).test
    x, label = test.test_dataloader().dataset.tensors  # type: ignore[attr-defined]
    assert x.shape == (1000, 3)
    assert torch.equal(label, (x[:, 0] > 0).long())
    _, counts = x.sign().unique(dim=0, return_counts=True)
    assert len(counts) == 8
    # Binomial(1000, 1/8): 125 with a standard deviation of 10.5.
    assert (counts - 125).abs().max() < 42
    # Not the workers' random numbers once more, which made |x| there and 2u - 1 here.
    train = FCUBE(seed=1).dealt.dataset.tensors[0]  # type: ignore[attr-defined]
    assert torch.cdist((x + 1) / 2, train.abs()).min() > 1e-5
    ((same, _),) = test.val_dataloader()
    assert torch.equal(same, x)


def test_a_function_of_the_seed() -> None:
    first, again, other = (FCUBE(seed).dealt.dataset.tensors[0] for seed in (1, 1, 2))  # type: ignore[attr-defined]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first, again, other = (FCUBETest(seed).val_dataloader().dataset.tensors[0] for seed in (1, 1, 2))  # type: ignore[attr-defined]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_holds_out_validation_data_if_asked() -> None:
    workers = FCUBE(val_fraction=0.2)
    assert (workers.num_examples("worker_1"), FCUBE().has_loader("val"), workers.has_loader("val")) == (
        800,
        False,
        True,
    )
    assert sum(len(x) for x, _ in workers["worker_1"].val_dataloader()) == 200


def test_equal_only_to_itself_and_pickles() -> None:
    workers = FCUBE()
    assert workers == workers != FCUBE()
    again = pickle.loads(pickle.dumps(workers))
    assert torch.equal(points(again, "worker_2")[0], points(workers, "worker_2")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"val_fraction": 1.0}, r"val_fraction=1\.0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FCUBE(**arguments)


def test_bad_arguments_of_the_test_data_are_named() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        FCUBETest(batch_size=0)


def test_an_unknown_worker() -> None:
    with pytest.raises(KeyError, match="worker_0"):
        FCUBE()["bob"]
