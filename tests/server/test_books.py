"""The account of a private run never goes back, by no evaluation, older checkpoint, crash, process or promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import fit, trainer
from private import ValidatedNet, ValidatedPoints, people
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.privacy import (
    DPFTRL,
    Accountant,
    CentralDP,
    DistributedDP,
    LocalDP,
    Privacy,
    RecordDP,
    SubsampledGaussian,
)
from lightning_fed.privacy.ledger import read
from lightning_fed.selection import Uniform
from lightning_fed.server import books

pytestmark = pytest.mark.filterwarnings(
    # Lightning's, about files that lie where a test wants them, and callbacks that it leaves out
    "ignore:Checkpoint directory",
    "ignore:The dirpath has changed",
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:You passed in a `val_dataloader`",
)
SECRET = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, accountant="rdp")


class Held(ValidatedPoints):
    def predict_dataloader(self) -> Any:
        return self.val_dataloader()


class Module(ValidatedNet):
    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch[0])


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said about the account."""
    lines: list[str] = []
    monkeypatch.setattr(books, "rank_zero_info", lines.append)
    return lines


def data(n: int = 10, cohort_size: int | None = 2, **options: Any) -> FederatedDataModule:
    return FederatedDataModule(people(n), cohort_size=cohort_size, val=Held(99), **options)


def keeping(folder: Path, **options: Any) -> dict[str, Any]:
    keeper = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    return {"callbacks": [keeper], "enable_checkpointing": True, "default_root_dir": folder, **options}


def federated(privacy: Privacy | None = SECRET) -> FederatedModule:
    return FederatedModule(Module(), privacy=privacy, engine="sequential")


def released(fed: FederatedModule) -> int:
    assert fed.private_run is not None
    return sum(count for _, count in fed.private_run.accountant.history)


def cost(rounds: int, delta: float = 1e-5) -> float:
    accountant = Accountant("rdp")
    accountant.charge(SubsampledGaussian(1.0, 0.2), rounds)
    return accountant.epsilon(delta)


# ---- evaluations of checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("whose", ["own", "public", "plain"])
def test_to_evaluate_a_checkpoint_between_fits_takes_nothing_back(tmp_path: Path, stage: str, whose: str) -> None:
    """An older one of the same run, one of a run that promises nothing, and one of the module alone."""
    fed = federated()
    fit(fed, data(), max_steps=4, **keeping(tmp_path / "own"))
    if whose == "public":
        fit(federated(None), data(), max_steps=1, **keeping(tmp_path / "public"))
    path = tmp_path / ("public" if whose == "public" else "own") / "step=1.ckpt"
    if whose == "plain":
        saved = torch.load(path, weights_only=True)
        saved.pop("lightning_fed")
        torch.save(saved, path)
    quiet = {} if stage == "predict" else {"verbose": False}
    getattr(trainer(), stage)(fed, data(), ckpt_path=path, **quiet)
    assert released(fed) == 4
    fit(fed, data(), max_steps=2)
    assert released(fed) == 6
    assert fed.private_run is not None
    assert fed.private_run.spent == cost(6)


def test_nor_does_it_leave_more_of_the_budget() -> None:
    fed = federated(CentralDP(1.0, 1.0, delta=1e-5, accountant="rdp", epsilon=cost(5)))
    fit(fed, data(), max_steps=3, **keeping(Path("own")))
    trainer().test(fed, data(), ckpt_path="own/step=1.ckpt", verbose=False)
    assert fit(fed, data(), max_steps=50).global_step == 2


def test_the_best_of_several_costs_the_whole_run(tmp_path: Path, said: list[str]) -> None:
    fed = federated()
    fit(fed, data(), max_steps=4, **keeping(tmp_path))
    for evaluates in (fed, federated()):  # the object that has released it, and a new one
        said.clear()
        trainer().test(evaluates, data(), ckpt_path=tmp_path / "step=1.ckpt", verbose=False)
        (line,) = said
        assert f"costs the whole run: ε = {cost(4):.4g} at δ = 1e-05" in line
        assert f"this one was written at ε = {cost(1):.4g}" in line


def test_to_evaluate_a_checkpoint_of_another_run_adds_it(tmp_path: Path) -> None:
    """The next fit goes on from its weights."""
    fit(federated(), data(), max_steps=2, **keeping(tmp_path))
    fed = federated()
    fit(fed, data(), max_steps=3)
    for _ in range(2):
        trainer().test(fed, data(), ckpt_path=tmp_path / "step=2.ckpt", verbose=False)
    assert released(fed) == 3 + 2
    fit(fed, data(), max_steps=1)
    assert released(fed) == 3 + 2 + 1


def test_a_new_object_that_has_evaluated_goes_on_with_the_account(tmp_path: Path) -> None:
    fit(federated(), data(), max_steps=2, **keeping(tmp_path))
    fed = federated()
    trainer().validate(fed, data(), ckpt_path=tmp_path / "step=2.ckpt", verbose=False)
    fit(fed, data(), max_steps=1)
    assert released(fed) == 3


# ---- older checkpoints, and those of other runs ----------------------------------------------------------------------


def test_an_older_checkpoint_takes_nothing_back_from_the_object_that_went_on(tmp_path: Path) -> None:
    fed = federated()
    fit(fed, data(), max_steps=5, **keeping(tmp_path))
    trainer(max_steps=4).fit(fed, data(), ckpt_path=tmp_path / "step=2.ckpt")
    assert released(fed) == 7, "five, and two once more"


def test_a_checkpoint_of_the_same_run_is_not_counted_twice(tmp_path: Path) -> None:
    fed = federated()
    fit(fed, data(), max_steps=3, **keeping(tmp_path))
    trainer(max_steps=4).fit(fed, data(), ckpt_path=tmp_path / "step=3.ckpt")
    assert released(fed) == 4


def test_a_checkpoint_of_another_run_is_added(tmp_path: Path) -> None:
    """Its model has seen the same workers."""
    fit(federated(), data(), max_steps=2, **keeping(tmp_path))
    fed = federated()
    fit(fed, data(), max_steps=3)
    trainer(max_steps=3).fit(fed, data(), ckpt_path=tmp_path / "step=2.ckpt")
    assert released(fed) == 3 + 2 + 1


@pytest.mark.filterwarnings("ignore:the run goes on with other settings")
@pytest.mark.parametrize("delta", [1e-2, 1e-7])
def test_another_delta_is_that_of_the_whole_account(tmp_path: Path, delta: float) -> None:
    fit(federated(), data(), max_steps=3, **keeping(tmp_path))
    fed = federated(CentralDP(3.0, 1.0, delta=delta, accountant="rdp"))
    trainer(max_steps=4).fit(fed, data(), ckpt_path=tmp_path / "step=3.ckpt")
    assert fed.private_run is not None
    assert fed.private_run.spent == cost(4, delta)


@pytest.mark.filterwarnings("ignore:the run goes on with other settings")
def test_another_noise_is_counted_beside_the_first(tmp_path: Path) -> None:
    fit(federated(), data(), max_steps=3, **keeping(tmp_path))
    fed = federated(CentralDP(1.0, 4.0, delta=1e-5, accountant="rdp"))
    trainer(max_steps=4).fit(fed, data(), ckpt_path=tmp_path / "step=3.ckpt")
    assert fed.private_run is not None
    history = dict(fed.private_run.accountant.history)
    assert history == {SubsampledGaussian(1.0, 0.2): 3, SubsampledGaussian(4.0, 0.2): 1}


# ---- crashes ---------------------------------------------------------------------------------------------------------


class Crash(pl.Callback):
    """The process is gone after a round; nobody says goodbye."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.after:
            raise RuntimeError("crash")


def crash(fed: FederatedModule, folder: Path, after: int, every: int, path: Path | None = None) -> None:
    keeper = ModelCheckpoint(folder, every_n_train_steps=every, save_top_k=-1, filename="{step}")
    run = trainer(max_steps=20, callbacks=[Crash(after), keeper], enable_checkpointing=True, default_root_dir=folder)
    with pytest.raises(RuntimeError, match="crash"):
        run.fit(fed, data(), ckpt_path=path)


def test_what_a_crashed_run_released_after_its_last_checkpoint_is_counted(tmp_path: Path) -> None:
    crash(federated(), tmp_path, after=5, every=3)
    crash(federated(), tmp_path, after=5, every=10, path=tmp_path / "step=3.ckpt")  # and once more, with none
    fed = federated()
    trainer(max_steps=4).fit(fed, data(), ckpt_path=tmp_path / "step=3.ckpt")
    assert released(fed) == 5 + 2 + 1
    (ledger,) = tmp_path.glob("privacy-ledger-*.jsonl")
    record = read(ledger)
    assert len(record.releases) == 8
    assert record.ends[-1]["agrees"] is True


def test_also_where_the_run_folder_was_moved(tmp_path: Path) -> None:
    crash(federated(), tmp_path / "a", after=5, every=3)
    (tmp_path / "a").rename(tmp_path / "b")
    fed = federated()
    trainer(max_steps=4).fit(fed, data(), ckpt_path=tmp_path / "b" / "step=3.ckpt")
    assert released(fed) == 6


def test_also_if_the_last_line_is_torn(tmp_path: Path) -> None:
    crash(federated(), tmp_path, after=5, every=3)
    (ledger,) = tmp_path.glob("privacy-ledger-*.jsonl")
    with ledger.open("a") as file:
        file.write('{"kind": "release", "stretch": "')
    fed = federated()
    trainer(max_steps=4, default_root_dir=tmp_path).fit(fed, data(), ckpt_path=tmp_path / "step=3.ckpt")
    assert released(fed) == 6
    assert read(ledger).ends[-1]["agrees"] is True


def test_a_branch_from_an_older_checkpoint_has_its_own_account_and_is_told_of_the_rest(
    tmp_path: Path, said: list[str]
) -> None:
    """The fit that wrote it has ended: what it released later belongs to models that this one does not go on from."""
    fit(federated(), data(), max_steps=5, **keeping(tmp_path))
    fed = federated()
    trainer(max_steps=3).fit(fed, data(), ckpt_path=tmp_path / "step=2.ckpt")
    assert released(fed) == 3
    (line,) = said
    assert f"(ε = {cost(2):.4g} so far)" in line
    assert f"holds ε = {cost(5):.4g}" in line
    (ledger,) = tmp_path.glob("privacy-ledger-*.jsonl")
    assert read(ledger).ends[-1]["agrees"] is True
    assert sum(charge["count"] for charge in read(ledger).account.total()) == 6


# ---- other promises --------------------------------------------------------------------------------------------------


RECORD = RecordDP(clip=1.0, sampling_rate=0.5, delta=1e-5, noise_multiplier=5.0, accountant="rdp")
LOCAL = LocalDP(1.0, 5.0, delta=1e-5, accountant="rdp")
SUMS = DistributedDP(1.0, 2, 5.0, delta=1e-5, accountant="rdp")
EVERYONE = CentralDP(1.0, 5.0, delta=1e-5, accountant="rdp")
REFUSED = {
    "examples to workers": (RECORD, EVERYONE, r"RecordDP, which hides single examples, and CentralDP hides workers"),
    "workers to examples": (EVERYONE, RECORD, r"CentralDP, which hides single workers, and RecordDP hides examples"),
    "server to nobody": (
        EVERYONE,
        LOCAL,
        r"CentralDP, which hides workers from everyone who sees the model; so LocalDP",
    ),
    "server to sums": (EVERYONE, SUMS, r"so DistributedDP cannot promise .* go on with privacy=CentralDP"),
    "sums to nobody": (SUMS, LOCAL, r"DistributedDP, which hides .* so LocalDP cannot promise"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(("before", "after", "message"), REFUSED.values(), ids=REFUSED)
def test_accounts_that_do_not_add_up(tmp_path: Path, before: Privacy, after: Privacy, message: str) -> None:
    fit(federated(before), data(4, None), max_steps=1, **keeping(tmp_path))
    fed = federated(after)
    with pytest.raises(ValueError, match=message):
        trainer(max_steps=2).fit(fed, data(4, None), ckpt_path=tmp_path / "step=1.ckpt")
    fit(fed, data(4, None), max_steps=1)  # from its own weights, which it still has
    fed = federated(after)
    trainer().validate(fed, data(4, None), ckpt_path=tmp_path / "step=1.ckpt", verbose=False)
    with pytest.raises(ValueError, match=message):
        fit(fed, data(4, None), max_steps=1)  # from the weights that were evaluated


@pytest.mark.parametrize("before", [LOCAL, SUMS], ids=lambda p: type(p).__name__)
def test_what_hides_from_more_goes_on_with_what_hides_from_fewer(tmp_path: Path, before: Privacy) -> None:
    fit(federated(before), data(4, None), max_steps=2, **keeping(tmp_path))
    fed = federated(EVERYONE)
    trainer(max_steps=3).fit(fed, data(4, None), ckpt_path=tmp_path / "step=2.ckpt")
    assert released(fed) == 3


@pytest.mark.filterwarnings("ignore:the run goes on with other settings")
def test_a_sampling_that_cannot_be_added_up_is_refused_before_the_first_round(tmp_path: Path) -> None:
    fit(federated(), data(), max_steps=1, **keeping(tmp_path))
    fed = federated()
    with pytest.raises(ValueError, match="sample by Poisson, or with a fixed size, in all rounds"):
        trainer(max_steps=2).fit(fed, data(sampler=Uniform()), ckpt_path=tmp_path / "step=1.ckpt")


def test_a_tree_and_samples_add_up(tmp_path: Path) -> None:
    fit(federated(), data(), max_steps=2, **keeping(tmp_path))
    fed = federated(DPFTRL(1.0, 4.0, delta=1e-5, accountant="rdp"))
    trainer(max_steps=3).fit(fed, data(), ckpt_path=tmp_path / "step=2.ckpt")
    assert released(fed) == 3


# ---- other processes -------------------------------------------------------------------------------------------------

FORKED = """
import sys, warnings
warnings.filterwarnings("ignore")
sys.path[:0] = [{tests!r}]
import torch
from helpers import trainer
from private import Net, people
from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.privacy import CentralDP

if __name__ == "__main__":
    torch.set_num_threads(1)
    promise = CentralDP(1.0, 1.0, delta=1e-5, accountant="rdp", epsilon={budget})
    fed = FederatedModule(Net(), privacy=promise, engine="sequential")
    for _ in range(2):
        run = trainer(max_steps=3, strategy="ddp_fork", devices=2)
        run.fit(fed, FederatedDataModule(people(10), cohort_size=2))
        print("RELEASED", dict(fed.private_run.accountant.history), "%.9f" % fed.private_run.spent)
    run.save_checkpoint("after.ckpt")
    print("KEPT", torch.load("after.ckpt", weights_only=True)["lightning_fed"]["privacy"]["accountant"])
    try:
        again = FederatedModule(Net(), privacy=promise, engine="sequential")
        trainer(max_steps=9).fit(again, FederatedDataModule(people(10), cohort_size=2), ckpt_path="after.ckpt")
    except ValueError as error:
        print("REFUSED", error)
"""


@pytest.mark.slow
def test_an_account_comes_back_from_processes_of_a_fit(tmp_path: Path) -> None:
    """And the next fit has what is left of the budget of four rounds."""
    script = tmp_path / "forked.py"
    script.write_text(FORKED.format(tests=str(Path(__file__).parent.parent), budget=cost(4)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, cwd=tmp_path)
    said = [line for line in done.stdout.splitlines() if line.startswith(("RELEASED", "KEPT", "REFUSED"))]
    assert done.returncode == 0, done.stderr
    mechanism = SubsampledGaussian(1.0, 0.2)
    assert said[:2] == [f"RELEASED { ({mechanism: n}) } {cost(n):.9f}" for n in (3, 4)]
    assert "'count': 4" in said[2]
    assert "which has the weights and no server optimizer; go on from one that was written during the fit" in said[3]
    (ledger,) = tmp_path.glob("privacy-ledger-*.jsonl")
    assert len(read(ledger).releases) == 4, "the first process alone writes"


def test_only_a_process_of_its_own_can_hand_an_account_over() -> None:
    """Weights from elsewhere may have anything under that name; it is taken out, and never unpickled."""
    fed, other = federated(), federated()
    fit(other, data(), max_steps=1)
    other._guard.handed_over(weights := dict(other.state_dict()))
    assert len(weights) == len(other.state_dict()) + 1
    fed.load_state_dict(weights)
    assert fed.private_run is None
