from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_fed.datasets import Synthetic
from lightning_fed.datasets.synthetic import CLASSES, FEATURES, draw_truths


def by_worker(population: Synthetic) -> list[tuple[Tensor, Tensor]]:
    """Each worker's inputs and labels, those held out included."""
    x, label = population.dealt.dataset.tensors  # type: ignore[attr-defined]
    return [(x[rows], label[rows]) for rows in map(torch.tensor, population.dealt.partition)]


def test_thirty_workers_of_lognormal_sizes_a_tenth_held_out() -> None:
    workers = Synthetic(1, 1)
    sizes = workers.dealt.partition.sizes()
    # The first numbers that the generator gives, as the paper's code turns them into sizes.
    expected = np.random.default_rng(np.random.SeedSequence(0)).lognormal(4, 2, 30).astype(int) + 50
    assert sizes.tolist() == expected.tolist()
    assert (len(sizes), sizes.min(), sizes.max()) == (30, 50, 889)
    for name, size in zip(workers, sizes.tolist(), strict=True):
        worker = workers[name]
        assert workers.num_examples(name) == len(worker.train_set) == size - size // 10
        assert sum(len(x) for x, _ in worker.val_dataloader()) == size // 10
    assert workers.has_loader("val")
    x, label = next(iter(workers["worker_00"].train_dataloader()))
    assert (x.shape, x.dtype, label.shape, label.dtype) == ((10, 60), torch.float32, (10,), torch.int64)


def test_sizes_follow_the_log_normal_distribution() -> None:
    logs = np.log(Synthetic(0, 0, workers=400).dealt.partition.sizes() - 49.5)
    # Of 400 draws: the mean with a standard deviation of 2/20, the standard deviation with one of about 2/28.
    assert abs(logs.mean() - 4) < 0.4
    assert abs(logs.std() - 2) < 0.3


def test_inputs_vary_about_the_workers_center_with_variance_j_to_the_minus_1_2() -> None:
    big = max(by_worker(Synthetic(1, 1, seed=2)), key=len_of)[0]
    assert len(big) > 3000
    j = torch.arange(1, FEATURES + 1)
    # The variance of n numbers has a relative standard deviation of sqrt(2/n), here 0.025.
    torch.testing.assert_close(big.var(dim=0) / j**-1.2, torch.ones(FEATURES), atol=0.1, rtol=0)


def len_of(worker: tuple[Tensor, Tensor]) -> int:
    return len(worker[0])


@pytest.mark.parametrize(("alpha", "beta"), [(3.0, 0.0), (0.0, 3.0), (0.5, 0.5)])
def test_alpha_and_beta_are_standard_deviations(alpha: float, beta: float) -> None:
    truths = draw_truths(np.random.default_rng(0), 2000, alpha, beta, iid=False)
    # A worker's mean over n entries of N(mean, 1) varies with the variance of the mean + 1/n.
    models = np.array([truth.weight.mean() for truth in truths])
    biases = np.array([truth.bias.mean() for truth in truths])
    centers = np.array([truth.center.mean() for truth in truths])
    assert models.std() == pytest.approx(np.sqrt(alpha**2 + 1 / (FEATURES * CLASSES)), rel=0.07)
    assert biases.std() == pytest.approx(np.sqrt(alpha**2 + 1 / CLASSES), rel=0.07)
    assert centers.std() == pytest.approx(np.sqrt(beta**2 + 1 / FEATURES), rel=0.07)
    if alpha:
        assert np.corrcoef(models, biases)[0, 1] > 0.8, "W and b share their mean"
    within = np.mean([truth.weight.std() for truth in truths])
    assert within == pytest.approx(1, rel=0.01)


def test_labels_are_the_largest_score_of_the_workers_own_model() -> None:
    rng = np.random.default_rng(np.random.SeedSequence(0))
    rng.lognormal(4, 2, 30)
    truths = draw_truths(rng, 30, 1.0, 1.0, iid=False)
    for (x, label), (_, weight, bias) in zip(by_worker(Synthetic(1, 1)), truths, strict=True):
        best = (x.double().numpy() @ weight + bias).argmax(axis=1)
        assert (best == label.numpy()).mean() > 0.999  # inputs were rounded to float32 after they were labelled


def test_alpha_adds_the_same_to_all_scores_so_it_changes_no_label() -> None:
    ours, theirs = by_worker(Synthetic(0, 1)), by_worker(Synthetic(5, 1))
    for (x, label), (same_x, same_label) in zip(ours, theirs, strict=True):
        assert torch.equal(x, same_x)
        assert (label == same_label).float().mean() > 0.999


def test_iid_workers_share_one_model_and_inputs_around_0() -> None:
    truths = draw_truths(np.random.default_rng(0), 5, 0, 0, iid=True)
    assert all(truth is truths[0] for truth in truths)
    assert not truths[0].center.any()
    workers = by_worker(Synthetic(0, 0, iid=True))
    everything = torch.cat([x for x, _ in workers])
    # The standard error of the mean of 5385 numbers is 1/73 for the first feature, and smaller for the others.
    assert everything.mean(dim=0).abs().max() < 0.06


def test_a_function_of_the_seed() -> None:
    first, again, other = (torch.cat([x for x, _ in by_worker(Synthetic(1, 1, seed=seed))]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.shape != other.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1}, "alpha=-1"),
        ({"beta": float("inf")}, "beta=inf"),
        ({"iid": True}, "alpha=0 and beta=0"),
        ({"workers": 0}, "workers=0"),
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Synthetic(**arguments)
