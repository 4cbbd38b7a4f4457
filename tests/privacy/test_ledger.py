"""The ledger: written before a release, read after a kill, signed off, and shown on a page."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import fit
from private import Net, people
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from lightning_fed import FederatedDataModule, FederatedModule, __version__
from lightning_fed.algorithms import Scaffold
from lightning_fed.cli import main
from lightning_fed.privacy import (
    DPFTRL,
    Accountant,
    AdaptiveClip,
    CentralDP,
    DistributedDP,
    Gaussian,
    LocalDP,
    SkellamSum,
    SubsampledGaussian,
)
from lightning_fed.privacy.ledger import Ledger, read, recomputed

SECRET = CentralDP(clip=0.5, noise_multiplier=2.0, delta=1e-5, accountant="rdp")
RATE = 0.2


def cost(rounds: int, kind: Any = "rdp") -> float:
    accountant = Accountant(kind)
    accountant.charge(SubsampledGaussian(2.0, RATE), rounds)
    return accountant.epsilon(1e-5)


def run(privacy: Any = SECRET, rounds: int = 3, **options: Any) -> FederatedModule:
    fed = FederatedModule(Net(), privacy=privacy)
    fit(fed, FederatedDataModule(people(10), cohort_size=2), max_steps=rounds, **options)
    return fed


def lines_of(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.rglob("privacy-ledger-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]


# ---- what is written -------------------------------------------------------------------------------------------------


def test_every_release_with_what_it_was(tmp_path: Path) -> None:
    run(default_root_dir=tmp_path)
    lines = lines_of(tmp_path)
    assert [line["kind"] for line in lines] == ["run", "release", "release", "release", "end"]
    for number, release in enumerate(of(lines, "release")):
        assert (release["number"], release["round"], release["cohort"]) == (number + 1, number, number)
        assert (release["bound"], release["noise_std"]) == (0.5, 1.0)
        assert release["relation"] == "zero-out", "the number of workers is public"
        assert (release["charged"], release["charges"]) == (1, number + 1)
        assert release["epsilon"] == pytest.approx(cost(number + 1))
    (begin,), (end,) = of(lines, "run"), of(lines, "end")
    assert (begin["promise"], begin["population"], begin["cohort_size"], begin["delta"]) == ("CentralDP", 10, 2, 1e-5)
    assert (begin["release_metrics"], begin["least_replies"], begin["remembers"]) == (False, 1, None)
    assert begin["versions"] == {"lightning_fed": __version__, "dp-accounting": version("dp-accounting")}
    assert end["epsilon"] == end["recomputed"] == cost(3)
    assert end["agrees"] is True


@pytest.mark.filterwarnings("ignore:DistributedDP.* checkpoints hold what Scaffold remembers")
def test_what_a_statement_of_privacy_has_to_say(tmp_path: Path) -> None:
    fed = FederatedModule(Net(), algorithm=Scaffold(), privacy=DistributedDP(1.0, survivors=3, noise_multiplier=1.0))
    fit(fed, FederatedDataModule(people(4)), max_steps=1, default_root_dir=tmp_path)
    (begin,) = of(lines_of(tmp_path), "run")
    assert (begin["least_replies"], begin["remembers"]) == (3, "Scaffold")


def test_integer_noise_is_written_counted_and_shown_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mechanism = SkellamSum(2.0, units=2**12, dimension=1000)
    monkeypatch.setattr(DistributedDP, "mechanism", lambda *_: mechanism)
    fed = run(DistributedDP(1.0, survivors=2, noise_multiplier=2.0, delta=1e-5), default_root_dir=tmp_path)
    accountant = Accountant("rdp")
    accountant.charge(mechanism, 3)
    assert fed.private_run is not None
    assert fed.private_run.accountant.kind == "rdp"
    lines = lines_of(tmp_path)
    for release in of(lines, "release"):
        assert release["mechanism"] == {"mechanism": "SkellamSum", "parameters": mechanism.settings()}
        assert release["relation"] == "zero-out"
    (end,) = of(lines, "end")
    assert end["epsilon"] == end["recomputed"] == accountant.epsilon(1e-5)
    page = said(capsys, "--of", str(tmp_path))
    assert f"| ε | {accountant.epsilon(1e-5):.4f} at δ = 1e-05, accounted by RDP |" in page
    assert "SkellamSum(beta=" in page


def test_beside_what_the_logger_writes(tmp_path: Path) -> None:
    run(logger=CSVLogger(tmp_path / "logs"), default_root_dir=tmp_path / "root")
    assert [path.parent.name for path in tmp_path.rglob("privacy-ledger-*.jsonl")] == ["version_0"]


def test_a_trial_run_leaves_none(tmp_path: Path) -> None:
    run(fast_dev_run=True, default_root_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_release_is_written_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[int] = []
    step = Net.training_step

    def looking(self: Net, *batch: Any) -> Any:
        during.append(len(of(lines_of(tmp_path), "release")))
        return step(self, *batch)

    monkeypatch.setattr(Net, "training_step", looking)
    fed = FederatedModule(Net(), privacy=SECRET, engine="sequential")
    fit(fed, FederatedDataModule(people(3)), max_steps=2, default_root_dir=tmp_path)
    assert set(during[: len(during) // 2]) == {1}
    assert set(during[len(during) // 2 :]) == {2}


def test_a_round_is_not_released_if_the_ledger_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the place of the file, as root may write everywhere."""
    write = Ledger.write

    def full(self: Ledger, kind: str, **values: Any) -> None:
        if kind == "release" and values["number"] == 2:
            path = self.path
            assert path is not None
            path.unlink()
            path.mkdir()
        write(self, kind, **values)

    monkeypatch.setattr(Ledger, "write", full)
    module = Net()
    after_one: list[torch.Tensor] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            after_one.append(module.head.weight.detach().clone())

    fed = FederatedModule(module, privacy=SECRET)
    with pytest.raises(OSError, match=r"cannot be written .* nothing is released that is not in it; make room"):
        fit(fed, FederatedDataModule(people(4)), max_steps=3, default_root_dir=tmp_path, callbacks=[Keep()])
    assert len(after_one) == 1
    assert (module.head.weight == after_one[0]).all()


@pytest.mark.filterwarnings("ignore:.*NOT private")
def test_a_bound_that_moves_is_written_as_it_moves(tmp_path: Path) -> None:
    clip = AdaptiveClip(initial=1e-3, count_std=2.0)
    privacy = CentralDP(clip, 1.0, delta=1e-5, accountant="rdp", insecure_deterministic_noise=True)
    fed = run(privacy, 4, default_root_dir=tmp_path)
    lines = lines_of(tmp_path)
    bounds = [release["bound"] for release in of(lines, "release")]
    assert bounds[0] == 1e-3
    assert len(set(bounds)) == 4
    assert fed.private_run is not None
    assert fed.private_run.bound not in bounds
    assert of(lines, "run")[0]["outside"] == ["noise comes from the seed of the run, so this run is NOT private"]


def test_a_charge_for_several_rounds_is_one_charge(tmp_path: Path) -> None:
    """DP-FTRL charges a tree before its first round."""
    fed = FederatedModule(Net(), privacy=DPFTRL(clip=1.0, noise_multiplier=2.0, delta=1e-5, accountant="rdp"))
    fit(fed, FederatedDataModule(people(6), cohort_size=2), max_steps=4, default_root_dir=tmp_path)
    lines = lines_of(tmp_path)
    assert [release["charged"] for release in of(lines, "release")] == [1, 0, 0, 1]
    assert of(lines, "end")[0]["agrees"] is True


def test_with_the_accountant_pld_a_release_says_what_it_costs_at_most(tmp_path: Path) -> None:
    run(CentralDP(clip=0.5, noise_multiplier=2.0, delta=1e-5), 2, default_root_dir=tmp_path)
    lines = lines_of(tmp_path)
    assert [(r["epsilon"], r["epsilon_by"]) for r in of(lines, "release")] == [
        (pytest.approx(cost(1)), "rdp"),
        (pytest.approx(cost(2)), "rdp"),
    ]
    assert of(lines, "end")[0]["epsilon"] == cost(2, "pld") < cost(2)


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_a_release_that_was_not_made(tmp_path: Path) -> None:
    run(default_root_dir=tmp_path)
    (path,) = tmp_path.glob("privacy-ledger-*.jsonl")
    content = path.read_bytes()
    third = content.index(b'"number": 3')
    path.write_bytes(content[: third + 20])
    record = read(path)
    assert (len(record.releases), record.unreadable) == (2, 1)
    Ledger(path).write("end", stretch="other", epsilon=0.0)
    again = read(path)
    assert (len(again.releases), again.unreadable, len(again.ends)) == (2, 1, 1)
    assert recomputed(again.account, "rdp", 1e-5) == cost(2)


def test_a_lost_line_in_the_middle_is_counted_by_the_next(tmp_path: Path) -> None:
    run(default_root_dir=tmp_path)
    (path,) = tmp_path.glob("privacy-ledger-*.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "\x00garbage", *lines[3:]]) + "\n")
    assert recomputed(read(path).account, "rdp", 1e-5) == cost(3)


# ---- the page --------------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(["privacy", *arguments])
    return capsys.readouterr().out


def test_a_page_that_answers_what_an_officer_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    privacy = CentralDP(clip=0.5, noise_multiplier=2.0, delta=1e-5, accountant="rdp", epsilon=9.0, release_metrics=True)
    with pytest.warns(UserWarning, match="release_metrics=True"):
        run(privacy, default_root_dir=tmp_path)
    page = said(capsys, "--of", str(tmp_path))
    for answer in (
        "CentralDP: hides a worker, with all of its data",
        "| from whom | everyone who sees the model |",
        "| neighbours | a worker's contributions or zeros in their place; how many workers there are is public |",
        "at δ = 1e-05, accounted by RDP",
        "| budget | ε = 9 |",
        "| released | 3 rounds |",
        "SubsampledGaussian(noise_multiplier=2.0, sampling_rate=0.2) × 3",
        "| clipping bound | 0.5 |",
        "2 of 10 workers, sampled by Poisson",
        "| signed off | agrees",
        "- losses, metrics and counts of workers are shown as they are (release_metrics=True)",
    ):
        assert answer in page
    facts = json.loads(said(capsys, f"--of={tmp_path}", "--json"))
    assert facts["epsilon"] == cost(3)
    assert facts["signed_off"] is True
    assert facts["relation"] == "zero-out"
    assert (facts["releases"], facts["charges"][0]["count"]) == (3, 3)


def test_of_a_checkpoint_with_its_ledger_and_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keeper = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    run(default_root_dir=tmp_path, callbacks=[keeper], enable_checkpointing=True)
    path = tmp_path / "kept" / "step=1.ckpt"
    page = said(capsys, "--of", str(path))
    assert "if it was chosen among several, choosing it cost all of the above" in page
    facts = json.loads(said(capsys, "--of", str(path), "--json"))
    assert (facts["epsilon"], facts["checkpoint"]["epsilon"]) == (cost(3), cost(1)), "all rounds were released"
    for ledger in tmp_path.glob("*.jsonl"):
        ledger.unlink()
    alone = json.loads(said(capsys, "--of", str(path), "--json"))
    assert (alone["epsilon"], alone["ledger"], alone["signed_off"]) == (cost(1), None, None)
    folder = json.loads(said(capsys, "--of", str(tmp_path / "kept"), "--json"))
    assert folder["epsilon"] == cost(3), "the newest checkpoint's"
    page = said(capsys, "--of", str(path))
    assert "| signed off | no: there is no ledger beside the checkpoint, and what was released after it is not " in page
    assert "| released |" not in page, "the checkpoint counts charges, not rounds"


@pytest.mark.filterwarnings("ignore:.*NOT private")
def test_a_page_of_seeded_noise_says_at_once_that_nothing_is_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(replace(SECRET, insecure_deterministic_noise=True), default_root_dir=tmp_path).trainer.save_checkpoint(
        tmp_path / "a.ckpt"
    )
    warning = "| NOT PRIVATE | its noise comes from a seed, so nothing below is promised |"
    assert said(capsys, "--of", str(tmp_path)).splitlines()[4] == warning
    for ledger in tmp_path.glob("*.jsonl"):
        ledger.unlink()
    assert warning in said(capsys, "--of", str(tmp_path / "a.ckpt"))
    run(default_root_dir=tmp_path / "secret")
    assert "NOT PRIVATE" not in said(capsys, "--of", str(tmp_path / "secret"))


def test_a_checkpoint_alone_says_who_the_neighbours_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promise = LocalDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, accountant="rdp")
    run(promise, default_root_dir=tmp_path).trainer.save_checkpoint(tmp_path / "a.ckpt")
    for ledger in tmp_path.glob("*.jsonl"):
        ledger.unlink()
    assert "| neighbours | one worker or another in its place;" in said(capsys, "--of", str(tmp_path / "a.ckpt"))


def test_a_moved_run_folder_is_read_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keeper = ModelCheckpoint(tmp_path / "a" / "kept", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    run(default_root_dir=tmp_path / "a", callbacks=[keeper], enable_checkpointing=True)
    shutil.move(tmp_path / "a", tmp_path / "b")
    facts = json.loads(said(capsys, "--of", str(tmp_path / "b" / "kept" / "step=2.ckpt"), "--json"))
    assert facts["epsilon"] == cost(3)


def cut(path: Path) -> None:
    """The last two releases are gone, and the claim stands."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[-1]]) + "\n")


def less(path: Path) -> None:
    mechanism = '"noise_multiplier": {}, "sampling_rate"'
    path.write_text(path.read_text().replace(mechanism.format("2.0"), mechanism.format("9.0")))


@pytest.mark.parametrize("change", [cut, less])
def test_a_ledger_that_was_made_smaller_does_not_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None]
) -> None:
    run(default_root_dir=tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    change(path)
    assert "DOES NOT AGREE" in said(capsys, "--of", str(path))


def test_several_runs_in_a_folder_have_a_page_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        run(default_root_dir=tmp_path)
    assert said(capsys, "--of", str(tmp_path)).count("# Privacy of run") == 2
    assert len(json.loads(said(capsys, "--of", str(tmp_path), "--json"))) == 2


def nothing(path: Path) -> Path:
    return path / "nothing"


def empty(path: Path) -> Path:
    return path


def other(path: Path) -> Path:
    file = path / "notes.jsonl"
    file.write_text('{"kind": "note"}\nno json\n')
    return file


def garbage(path: Path) -> Path:
    file = path / "a.ckpt"
    file.write_bytes(b"\x00" * 100)
    return file


def public(path: Path) -> Path:
    done = fit(FederatedModule(Net()), FederatedDataModule(people(2)), max_steps=1)
    done.save_checkpoint(path / "a.ckpt")
    return path / "a.ckpt"


def newer(path: Path) -> Path:
    file = path / "privacy-ledger-a.jsonl"
    file.write_text('{"kind": "run", "version": 99, "run": "a", "stretch": "b"}\n')
    return file


def without_settings(path: Path) -> Path:
    file = path / "privacy-ledger-a.jsonl"
    file.write_text('{"kind": "run", "run": "a", "stretch": "b", "outside": []}\n')
    return file


def unreadable(path: Path) -> Path:
    file = Path(os.path.relpath(path / "a.ckpt"))  # the name of a socket has at most 107 characters
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(file))
    return file


WRONG = {
    nothing: "does not exist",
    empty: "has no ledger",
    other: "is no ledger of privacy",
    garbage: "neither a ledger nor a checkpoint that can be read",
    public: "no checkpoint of a run with privacy=",
    newer: "written by a newer lightning_fed",
    unreadable: "No such device or address",
    without_settings: "it is damaged, or no record of lightning_fed's (KeyError('delta'))",
}


@pytest.mark.parametrize(("make", "message"), WRONG.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["privacy", "--of", str(make(tmp_path))])
    assert left.value.code == 2
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("error: --of ")
    assert message in first


def test_gaussians_are_told_apart_from_samples() -> None:
    """So that the numbers above are known to be those of the sampling."""
    accountant = Accountant("rdp")
    accountant.charge(Gaussian(2.0), 3)
    assert accountant.epsilon(1e-5) > 1.5 * cost(3)
