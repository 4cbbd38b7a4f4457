"""What an aggregator remembers from round to round lies at the server, in checkpoints, beside the algorithm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cohorts import AwayInRound1, HalfOfBefore
from helpers import Rows, Scalar, fit, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Median
from lightning_fed.algorithms import FedDyn
from lightning_fed.secure import SecureAggregation
from lightning_fed.testing import check_aggregator


def run(rounds: int, resume: Path | None = None) -> tuple[FederatedModule, pl.Trainer]:
    """Train from 0 towards 1 with a local step that reaches it."""
    federated = FederatedModule(Scalar(), aggregator=HalfOfBefore())
    one = trainer(max_steps=rounds)
    one.fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([1.0])}), ckpt_path=resume)
    return federated, one


def place(federated: FederatedModule) -> float:
    return float(federated.module.x.detach())


def test_it_passes_the_suite() -> None:
    check_aggregator(HalfOfBefore)


def test_rounds_by_hand() -> None:
    """From 0: by -1 to 1, by 0 - 1/2 to 1.5, by 0.5 - 0.25 to 1.25."""
    assert [place(run(rounds)[0]) for rounds in (1, 2, 3)] == [1.0, 1.5, 1.25]
    assert run(3)[0].server_state["aggregator.way"].tolist() == [0.25]


def test_it_is_in_checkpoints(tmp_path: Path) -> None:
    run(2)[1].save_checkpoint(tmp_path / "c.ckpt")
    assert place(run(3, tmp_path / "c.ckpt")[0]) == 1.25


@pytest.mark.filterwarnings("ignore:the run goes on with other settings")
def test_a_run_that_goes_on_with_another_drops_it(tmp_path: Path) -> None:
    run(1)[1].save_checkpoint(tmp_path / "c.ckpt")
    federated = FederatedModule(Scalar(), aggregator=Median())
    trainer(max_steps=2).fit(
        federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([1.0])}), ckpt_path=tmp_path / "c.ckpt"
    )
    assert federated.server_state == {}


def test_a_fit_that_goes_on_remembers() -> None:
    federated, data = FederatedModule(Scalar(), aggregator=HalfOfBefore()), FederatedDataModule({"a": Rows([1.0])})
    for _ in range(3):
        fit(federated, data, max_steps=1)
    assert place(federated) == 1.25


def test_a_round_that_is_given_up_is_not_remembered() -> None:
    """To 1, then nothing, then by -1/2."""
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([1.0])}, availability=AwayInRound1())
    federated = FederatedModule(Scalar(), aggregator=HalfOfBefore())
    fit(federated, data, max_steps=3)
    assert place(federated) == 1.5


def test_a_round_that_fails_later_is_not_remembered() -> None:
    class Breaks(pl.Callback):
        def on_before_optimizer_step(self, run: pl.Trainer, *_: Any) -> None:
            if run.global_step == 1:
                raise RuntimeError("now")

    federated, data = FederatedModule(Scalar(), aggregator=HalfOfBefore()), FederatedDataModule({"a": Rows([1.0])})
    with pytest.raises(RuntimeError, match="now"):
        fit(federated, data, max_steps=3, callbacks=[Breaks()])
    assert federated.server_state["aggregator.way"].tolist() == [-1.0]


def test_cohorts_of_one_step_follow_one_another() -> None:
    """Both deltas are -1, the second and half of the first: together -1 and -1.5, of which Lightning takes the mean."""
    federated = FederatedModule(Scalar(), aggregator=HalfOfBefore())
    data = FederatedDataModule({"a": Rows([1.0])}, rounds_per_epoch=2)
    fit(federated, data, max_steps=1, accumulate_grad_batches=2)
    assert place(federated) == 1.25
    assert federated.server_state["aggregator.way"].tolist() == [-1.5]


def test_its_names_do_not_collide_with_the_algorithms() -> None:
    federated = FederatedModule(Scalar(), FedDyn(alpha=0.5), aggregator=HalfOfBefore())
    fit(federated, FederatedDataModule({"a": Rows([1.0])}), max_steps=1)
    assert sorted(federated.server_state) == ["aggregator.way", "way"]
    without = FederatedModule(Scalar(), FedDyn(alpha=0.5))
    fit(without, FederatedDataModule({"a": Rows([1.0])}), max_steps=1)
    assert federated.server_state["way"] == without.server_state["way"]


def test_it_goes_through_secure_aggregation() -> None:
    data = FederatedDataModule({name: Rows([1.0]) for name in "abcdef"})
    federated = FederatedModule(
        Scalar(), aggregator=HalfOfBefore(), secure_aggregation=SecureAggregation(clip=4.0, threshold=0.51)
    )
    fit(federated, data, max_steps=3)
    assert place(federated) == pytest.approx(1.25, abs=1e-3)


def test_layers_that_are_frozen_later_are_refused_in_its_name() -> None:
    class Freezes(pl.Callback):
        def on_train_batch_end(self, run: pl.Trainer, federated: Any, *_: Any) -> None:
            federated.module.y.requires_grad_(False)

    class Two(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.y = torch.nn.Parameter(torch.zeros(()))

    federated, data = FederatedModule(Two(), aggregator=HalfOfBefore()), FederatedDataModule({"a": Rows([1.0])})
    with pytest.raises(ValueError, match="HalfOfBefore remembers numbers of the trained parameters, and 'y' was"):
        fit(federated, data, max_steps=2, callbacks=[Freezes()])
