"""``lightning-fed repeat``: one run for each seed, whatever becomes of the others.

The runs are of a small program in place of a fit, which answers as one does; a test marked slow runs real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lightning_fed.cli import repeat
from lightning_fed.cli.repeat import last_line, seeds_of
from lightning_fed.cli.seed_runs import SeedRuns

FIT = """
import json, os, pathlib, sys, time
words = sys.argv[1:]
seed = int(words[words.index("--seed_everything") + 1])
options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "name": "lightning_fed", "version": None}}
if "--print_config" in words:
    if "wrong" in options:
        sys.exit("error: there is no option '--wrong'")
    model = {"algorithm": {"class_path": "x.FedProx", "init_args": {"mu": float(options.get("mu", 0.1))}}}
    print(json.dumps({"seed_everything": seed, "model": model, "data": {}, "trainer": {"logger": logger}}))
    sys.exit()
given = [words[words.index(f"--trainer.logger.init_args.{name}") + 1] for name in ("save_dir", "name", "version")]
folder = pathlib.Path(*given)
folder.mkdir(parents=True)
print("running seed", seed, "with", os.environ.get("OMP_NUM_THREADS"))
with open("began", "a") as began:
    began.write(f"{seed}\\n")
until = time.monotonic() + float(options.get("sleep", 0))
while time.monotonic() < until:
    time.sleep(0.02)
if options.get("fail") == str(seed):
    (folder / "run.json").write_text(json.dumps({"outcome": "failed"}))
    raise ValueError(f"no data for {seed}")
(folder / "run.json").write_text(json.dumps({"outcome": "completed"}))
(folder / "evaluations.jsonl").write_text(json.dumps({"metrics": {"val_acc": 0.5 + seed / 100}}) + "\\n")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run ``lightning-fed repeat``; return its status and what it printed."""
    (tmp_path / "fit.py").write_text(FIT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(repeat, "python", lambda: [sys.executable, "fit.py"])

    def call(*words: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as left:
            repeat.main(words)
        return (left.value.code, *capsys.readouterr())

    return call


def test_every_seed_is_run_in_a_folder_of_its_own(run: Callable[..., Any]) -> None:
    status, said, _ = run("--seeds", "0..2", "--", "fit", "-c", "toy")
    assert status == 0
    folder = Path("logs/toy/FedProx-mu=0.1")
    assert sorted(path.name for path in folder.iterdir()) == [
        "repeat.json",
        *(name for seed in range(3) for name in (f"seed={seed}", f"seed={seed}.log")),
    ]
    assert "running seed 1" in (folder / "seed=1.log").read_text()
    lines = said.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("seed 1: finished in ")
    assert lines[1].endswith(f"val_acc 0.51 ({folder}/seed=1)")
    assert lines[3] == f"3 of 3 seeds finished; lightning-fed compare {folder} makes a table of them"


def test_a_seed_that_fails_ends_no_other(run: Callable[..., Any]) -> None:
    status, said, _ = run("--seeds", "0,2,5", "fit", "-c", "toy", "--fail=2")
    assert status == 1
    assert Path("began").read_text().split() == ["0", "2", "5"]
    lines = said.splitlines()
    assert "seed 2: failed after" in lines[1]
    assert "ValueError: no data for 2 (all of it: logs/toy/FedProx-mu=0.1/seed=2.log)" in lines[1]
    assert lines[3].startswith("2 of 3 seeds finished")
    assert lines[4] == "failed: seed 2: ValueError: no data for 2"


def test_of_seeds_that_all_fail_there_is_no_table(run: Callable[..., Any]) -> None:
    status, said, _ = run("--seeds", "2", "fit", "-c", "toy", "--fail=2")
    assert status == 1
    assert "0 of 1 seeds finished\n" in said
    assert "compare" not in said


def test_what_has_finished_is_not_run_again(run: Callable[..., Any]) -> None:
    run("--seeds", "0..2", "--", "fit", "--fail=1")
    status, said, _ = run("--seeds", "0..3", "--", "fit", "--trainer.logger=x")
    assert status == 0
    assert Path("began").read_text().split() == ["0", "1", "2", "1", "3"]
    folder = Path("logs/lightning_fed/FedProx-mu=0.1")
    assert f"seed 0: has finished before, and is not run again without --again ({folder}/seed=0)" in said
    assert "4 of 4 seeds finished" in said
    assert sorted(path.name for path in (folder / "earlier").iterdir()) == ["seed=1_1", "seed=1_1.log"]
    run("--seeds", "0", "--again", "--", "fit")
    run("--seeds", "0", "--again", "--", "fit")
    assert Path("began").read_text().split()[5:] == ["0", "0"]
    assert (folder / "earlier" / "seed=0_2").is_dir()


def test_another_config_gets_another_folder(run: Callable[..., Any]) -> None:
    for mu in ("0.1", "1", "0.1"):
        run("--seeds", "0", "--", "fit", "-c", "my/own.yaml", f"--mu={mu}")
    assert sorted(path.name for path in Path("logs/own").iterdir()) == ["FedProx-mu=0.1", "FedProx-mu=1.0"]
    status, _, errors = run("--seeds", "0", "--folder", "logs/own/FedProx-mu=1.0", "--", "fit")
    assert (status, errors.split(";")[0]) == (
        2,
        "error: --folder logs/own/FedProx-mu=1.0 is not empty, and has no runs of this config",
    )
    assert run("--seeds", "0", "--folder", "there/it", "--", "fit")[0] == 0
    assert Path("there/it/seed=0/run.json").is_file()


def test_configs_have_the_names_that_single_runs_of_them_have(tmp_path: Path) -> None:
    left = tmp_path / "logs" / "digits" / "FedAvg-0" / "config.yaml"
    left.parent.mkdir(parents=True)
    (left.parent / "run.json").touch()
    for words, name in {
        (f"--config={left}",): "digits",
        ("-c", "my/own.yaml", "-ctoy", "-c", "{data: {cohort_size: 2}}"): "own+toy",
        ("-c", "{data: {cohort_size: 2}}"): "lightning_fed",
    }.items():
        assert SeedRuns.of(["fit", *words], {}).folder == Path("logs") / name / "FedAvg"


def test_configs_whose_algorithm_is_the_same_are_numbered(tmp_path: Path) -> None:
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "own", "version": None}}
    folders = []
    for rate in (0.1, 0.2, 0.1):
        config = {"model": {"lr": rate}, "trainer": {"logger": logger}, "seed_everything": len(folders)}
        runs = SeedRuns.of(["fit"], config)
        runs.note("fit")
        folders.append(runs.folder)
    assert folders == [tmp_path / "own" / name for name in ("FedAvg", "FedAvg_2", "FedAvg")]


OWN = {"save_dir": "logs/lightning_fed", "name": "FedAvg", "version": "seed=3"}
WANDB = {"class_path": "WandbLogger", "init_args": {"save_dir": ".", "name": None, "version": None, "id": None}}
TENSORBOARD = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "l", "name": "n", "version": None, "x": 1}}


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        (False, [{"class_path": "CSVLogger", "init_args": OWN}]),
        (True, [{"class_path": "CSVLogger", "init_args": OWN}]),
        (
            [WANDB],
            [
                {"class_path": "CSVLogger", "init_args": OWN},
                {**WANDB, "init_args": {**WANDB["init_args"], "name": "lightning_fed/FedAvg/seed=3"}},  # type: ignore[dict-item]
            ],
        ),
        (
            [WANDB, TENSORBOARD],
            [
                {**TENSORBOARD, "init_args": {**OWN, "save_dir": "l/n", "x": 1}},
                {**WANDB, "init_args": {**WANDB["init_args"], "name": "n/FedAvg/seed=3"}},  # type: ignore[dict-item]
            ],
        ),
    ],
)
def test_every_run_has_a_logger_with_a_folder_of_its_own(logger: Any, expected: Any) -> None:
    option, value = SeedRuns.of(["fit"], {"trainer": {"logger": logger}}).options(3)
    assert (option, json.loads(value)) == ("--trainer.logger", expected)


def test_several_seeds_run_at_a_time_and_share_the_processors(run: Callable[..., Any]) -> None:
    began = time.monotonic()
    run("--seeds", "0..3", "--jobs", "4", "--", "fit", "-c", "toy", "--sleep=1.5")
    assert time.monotonic() - began < 4 * 1.5
    share = max(1, (os.cpu_count() or 1) // 4)
    assert f"with {share}\n" in Path("logs/toy/FedProx-mu=0.1/seed=0.log").read_text()


def test_a_wrong_command_is_refused_once(run: Callable[..., Any]) -> None:
    status, said, errors = run("--seeds", "0..2", "--", "fit", "--wrong=1")
    assert (status, said, errors) == (1, "", "error: there is no option '--wrong'\n")
    assert not Path("began").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--", "fit"], "the following arguments are required: --seeds"),
        (["--seeds", "0..4"], "what to repeat is missing: lightning-fed repeat --seeds 0..4 -- fit -c toy"),
        (["--seeds", "0..4", "--", "test", "-c", "toy"], "only fit can be repeated, not 'test'"),
        (["--seeds", "0..4", "-c", "toy"], "unrecognized arguments: -c"),
        (
            ["--seeds", "0..4", "--", "fit", "--seed_everything=3"],
            "--seed_everything is given by --seeds; leave it out",
        ),
        (["--seeds", "0..4", "--", "fit", "--help"], "--help runs nothing that could be repeated"),
        (["--seeds", "0..4", "--jobs", "0", "--", "fit"], "argument --jobs: '0' must be a positive integer"),
        (["--seeds", "4..0", "--", "fit"], "argument --seeds: '4..0' must be at most 10000 seeds"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(run: Callable[..., Any], words: Sequence[str], says: str) -> None:
    status, said, errors = run(*words)
    assert (status, said) == (2, "")
    assert errors.startswith(f"error: {says}")
    assert errors.endswith("\n\nlightning-fed repeat --help lists all options\n")


@pytest.mark.parametrize(
    "text", ["", "a", "1,", "1,,2", "0...3", "-1", "1.5", "1,1", "0..3,2", "99999999999", "0..10000"]
)
def test_what_are_no_seeds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be|twice"):
        seeds_of(text)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("one\ntwo\n\n", "two"),
        ("Traceback\n  File\npackage.OwnError: bad\nRound: 3/5\rRound: 4/5\n", "package.OwnError: bad"),
        ("error: there is no worker 'x'\n\nlightning-fed fit --help-all lists all options\n", "there is no worker 'x'"),
        ("\x1b[31mKeyboardInterrupt\x1b[0m\n", "KeyboardInterrupt"),
        ("", ""),
    ],
)
def test_the_last_line_is_that_of_the_error(tmp_path: Path, output: str, line: str) -> None:
    path = tmp_path / "seed=0.log"
    path.write_text(output)
    assert last_line(path) == line


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_all_runs_end_when_the_command_is_told_to(tmp_path: Path, kind: signal.Signals) -> None:
    """Also what a run has started itself: here a process that sleeps."""
    sleeps = """
import subprocess
pathlib.Path(f"child{seed}").write_text(str(subprocess.Popen(["sleep", "60"]).pid))
until ="""
    (tmp_path / "fit.py").write_text(FIT.replace("\nuntil =", sleeps))
    code = f"""
import signal
from lightning_fed.cli import repeat
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have been told to ignore it
repeat.python = lambda: [{sys.executable!r}, "fit.py"]
repeat.main(["--seeds", "0..3", "--jobs", "2", "--", "fit", "--sleep=60"])
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and not all((tmp_path / f"child{seed}").exists() for seed in (0, 1)):
        time.sleep(0.05)
    time.sleep(0.2)
    child.send_signal(kind)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted, and all runs are ended: 0 of 4 seeds finished" in said
    assert sorted((tmp_path / "began").read_text().split()) == ["0", "1"]
    for seed in (0, 1):
        assert not _is_running(int((tmp_path / f"child{seed}").read_text()))


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_real_fits_are_repeated_and_compared(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}

    def call(*words: str) -> str:
        command = [sys.executable, "-m", "lightning_fed", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    fit = ("fit", "-c", "toy", "--trainer.max_epochs", "3", "--trainer.accelerator", "cpu", "--model.local_epochs", "3")
    call("repeat", "--seeds", "0..2", "--jobs", "2", "--", *fit)
    said = call("repeat", "--seeds", "0..2", "--", *fit, "--model.algorithm", "FedProx", "--model.algorithm.mu", "0.5")
    assert "lightning-fed compare logs/toy/FedProx-mu=0.5 makes a table" in said
    table = call("compare", "logs/toy", "--metric", "val_mse", "--target", "0.2").splitlines()
    assert table[0].startswith("| algorithm       | val_mse")
    assert table[2].startswith("| FedAvg          | ")
    assert table[3].startswith("| FedProx(mu=0.5) | ")
    assert "± " in table[2]
    assert table[3].rstrip(" |").endswith("] (3)")
