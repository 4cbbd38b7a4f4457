"""Momentum that workers keep from round to round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cohorts import AwayInRound1
from helpers import Rows, Scalar, assert_equal, fit, trainer
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule, RoundRobin
from lightning_fed.privacy import CentralDP
from lightning_fed.testing import check_transform
from lightning_fed.transforms import ClipNorm, Compressed, KBit, UpdateTransform, WorkerMomentum


def run(transforms: list[UpdateTransform], rounds: int, lr: float = 1.0, **options: Any) -> FederatedModule:
    """Two workers whose data are 1 and 3; at lr 1 a local step takes x to a worker's data."""
    federated = FederatedModule(Scalar(lr), transforms=transforms, **options.pop("federated", {}))
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}, **options.pop("data", {}))
    trainer(max_steps=rounds, **options.pop("trainer", {})).fit(federated, data, **options)
    return federated


def place(federated: FederatedModule) -> float:
    return float(federated.module.x.detach())


def remembered(federated: FederatedModule) -> dict[str, float]:
    return {worker: row.item() for worker, row in federated.own_state["transforms.0.momentum"].items()}


def test_the_contract() -> None:
    check_transform(WorkerMomentum)
    check_transform(lambda: WorkerMomentum(0.5, dampening=0))


@pytest.mark.usefixtures("double")
def test_rounds_by_hand() -> None:
    """Round 1 from 0: m = -1 and -3, so x = 2. Round 2: Δ = 1 and -1, m = 0 and -2, so x = 3. Round 3: Δ = 2 and 0."""
    assert [place(run([WorkerMomentum(0.5)], rounds)) for rounds in (1, 2, 3)] == [2.0, 3.0, 3.0]
    assert remembered(run([WorkerMomentum(0.5)], 3)) == {"a": 1.0, "b": -1.0}


@pytest.mark.usefixtures("double")
def test_without_dampening_by_hand() -> None:
    """Round 2: m = -0.5 + 1 and -1.5 - 1, so x = 2 + 1."""
    assert remembered(run([WorkerMomentum(0.5, dampening=0)], 2)) == {"a": 0.5, "b": -2.5}
    assert place(run([WorkerMomentum(0.5, dampening=0)], 2)) == 3.0


@pytest.mark.usefixtures("double")
def test_it_is_that_of_torch_where_workers_take_one_step_of_all_their_data() -> None:
    """Momentum is linear, so the mean of the workers' is that of one optimizer on all data."""
    x = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([x], lr=0.1, momentum=0.9, dampening=0.9)
    for _ in range(5):
        x.grad = x.detach() - 2.0
        optimizer.step()
    assert_equal(torch.tensor(place(run([WorkerMomentum(0.9)], 5, lr=0.1))), x.detach())


def test_no_momentum_is_no_transform_bit_for_bit() -> None:
    assert place(run([WorkerMomentum(0.0)], 3, lr=0.3)) == place(run([], 3, lr=0.3))


@pytest.mark.usefixtures("double")
def test_a_worker_that_comes_later_begins_with_its_update() -> None:
    """One worker a round: a goes to 1, b from there to 3 (Δ = -2), a from there: m = -0.5 + 1, so x = 2.5."""
    data = {"cohort_size": 1, "sampler": RoundRobin()}
    order = [run([WorkerMomentum(0.5)], rounds, data=data) for rounds in (1, 2, 3)]
    first, second = (list(remembered(federated)) for federated in order[:2])
    assert len(first) == 1
    assert len(second) == 2
    assert [place(federated) for federated in order] in ([1.0, 3.0, 2.5], [3.0, 1.0, 1.5])


def test_a_round_that_is_given_up_leaves_what_is_remembered() -> None:
    once, twice = (
        run([WorkerMomentum(0.5)], n, data={"availability": AwayInRound1("b")}, federated={"min_workers": 2})
        for n in (1, 2)
    )
    assert remembered(twice) == remembered(once) == {"a": -1.0, "b": -3.0}
    assert remembered(run([WorkerMomentum(0.5)], 2, data={"availability": AwayInRound1("b")})) == {"a": 0.0, "b": -3.0}


@pytest.mark.usefixtures("double")
def test_a_clip_behind_it_acts_on_the_momentum_and_one_before_it_on_the_update() -> None:
    behind = run([WorkerMomentum(0.5), ClipNorm(0.5)], 1)
    assert place(behind) == pytest.approx(0.5)
    assert remembered(behind) == {"a": -1.0, "b": -3.0}
    before = run([ClipNorm(0.5), WorkerMomentum(0.5)], 1)
    assert place(before) == pytest.approx(0.5)
    rows = before.own_state["transforms.1.momentum"]
    assert [row.item() for row in rows.values()] == pytest.approx([-0.5, -0.5])


@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore:CentralDP")
def test_a_promise_clips_what_leaves() -> None:
    """Undamped momentum of three rounds is longer than any update, and still each round moves by the clip at most."""
    promise = CentralDP(clip=0.25, noise_multiplier=1e-6, delta=1e-5, insecure_deterministic_noise=True)
    momentum = WorkerMomentum(0.9, dampening=0)
    places = [place(run([momentum], n, lr=0.5, federated={"privacy": promise})) for n in (1, 2, 3)]
    assert places == pytest.approx([0.25, 0.5, 0.75], abs=1e-4)


def test_compression_comes_last() -> None:
    with pytest.raises(ValueError, match="transforms has WorkerMomentum behind Compressed"):
        FederatedModule(Scalar(), transforms=[Compressed(KBit()), WorkerMomentum()])


def test_resuming_is_bit_for_bit(tmp_path: Path) -> None:
    def go(rounds: int, **options: Any) -> dict[str, Tensor]:
        federated = FederatedModule(Scalar(0.3), transforms=[WorkerMomentum()])
        one = trainer(max_steps=rounds)
        one.fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}), **options)
        one.save_checkpoint(tmp_path / f"{rounds}.ckpt")
        return {"x": federated.module.x.detach(), **federated.own_state["transforms.0.momentum"]}

    go(2)
    torch.testing.assert_close(go(5, ckpt_path=tmp_path / "2.ckpt"), go(5), rtol=0, atol=0)


def test_layers_that_are_frozen_later_are_refused_in_its_name() -> None:
    class Two(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.y = torch.nn.Parameter(torch.zeros(()))

    federated, data = FederatedModule(Two(), transforms=[WorkerMomentum()]), FederatedDataModule({"a": Rows([1.0])})
    fit(federated, data, max_steps=1)
    federated.module.y.requires_grad_(False)
    with pytest.raises(ValueError, match=r"WorkerMomentum remembers .*, and 'y' was .*; leave it out of transforms"):
        fit(federated, data, max_steps=1)


def test_what_stays_with_a_worker_is_accounted_for() -> None:
    federated = FederatedModule(Scalar(), transforms=[WorkerMomentum()])
    fit(federated, FederatedDataModule({"a": Rows([1.0])}), max_steps=1)
    assert federated.leaves is not None
    why = {row.name: row.why for row in federated.leaves.stays}
    assert why["own state: transforms.0.momentum"].startswith("what WorkerMomentum remembers")
