"""RoundProgress on a terminal, in a file and in a notebook."""

from __future__ import annotations

import logging
import pickle
import re
import sys
import time
import types
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from helpers import TRUSTED, EvaluatedRows, Rows, Scalar, trainer
from pytorch_lightning.callbacks import EarlyStopping, LambdaCallback, LearningRateFinder, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from terminals import frames, screen, terminal
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.callbacks import RoundProgress, RoundProgressBar
from lightning_fed.engines import Sequential, Vectorized
from lightning_fed.privacy import CentralDP
from lightning_fed.selection import Poisson, RandomAvailability


class Evaluated(Scalar):
    """Logs the distance to each worker's rows, which falls, and a made-up accuracy."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        (values,) = batch
        self.log("val_error", (self.x - values).abs().mean())
        self.log("val_acc", 1 / (1 + (self.x - values).abs().mean()))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_acc", 0.5)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.x.detach()


class Slow(Scalar):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(self.seconds)
        return super().training_step(batch, batch_idx)


def workers(count: int = 2) -> dict[str, Any]:
    return {f"w{number}": Rows([float(number)]) for number in range(count)}


def evaluated(count: int = 2) -> dict[str, Any]:
    return {f"w{number}": EvaluatedRows([float(number)] * 4, batch_size=2) for number in range(count)}


def shown(fed: Any = None, data: Any = None, *callbacks: Any, bar: Any = None, **options: Any) -> pl.Trainer:
    """Fit with a bar."""
    progress = RoundProgress() if bar is None else bar
    run = trainer(enable_progress_bar=True, callbacks=[progress, *callbacks], **options)
    run.fit(fed or FederatedModule(Scalar()), data or FederatedDataModule(workers()))
    return run


class Clock:
    """A clock by which so much passes between two looks at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
        self.now, self.step = 1000.0, step
        monkeypatch.setattr("lightning_fed.callbacks.progress.time", types.SimpleNamespace(monotonic=self))

    def __call__(self) -> float:
        self.now += self.step
        return self.now


# ---- a terminal ------------------------------------------------------------------------------------------------------


def test_a_round_of_forty_slow_workers_moves() -> None:
    with terminal() as written:
        shown(FederatedModule(Slow(0.02), engine="sequential"), FederatedDataModule(workers(40)), max_steps=1)
    counts = [int(count) for count in re.findall(r"cohort (\d+)/40", written[0])]
    assert counts == sorted(counts)
    assert counts[-1] == 40
    assert len(set(counts)) >= 5
    assert len(counts) <= 0.02 * 40 * 10 * 2 + 5, "at most ten times a second; twice as long on a busy machine"


def test_chunks_are_counted_while_they_train() -> None:
    class SlowRows(Rows):
        def train_dataloader(self) -> Any:
            time.sleep(0.04)
            return super().train_dataloader()

    data = FederatedDataModule({f"w{i}": SlowRows([1.0]) for i in range(20)}, cached_workers=1)
    with terminal() as written:
        shown(FederatedModule(Scalar(), engine=Vectorized(chunk_size=4)), data, max_steps=1)
    assert {4, 8, 12, 16} <= {int(count) for count in re.findall(r"cohort (\d+)/20", written[0])}


def test_the_line_says_it_all_and_stays_in_the_end(tmp_path: Path) -> None:
    with terminal() as written:
        logger = CSVLogger(tmp_path / "logs", version="one")
        shown(FederatedModule(Evaluated()), FederatedDataModule(evaluated()), max_epochs=4, logger=logger)
    last, summary, rest = screen(written[0])[-3:]
    bar = r"round 4/4 ━{20} 100 % · cohort 2/2 · [\d.]+ m?s/round · loss 0\.0625 · val_acc 0\.667"
    assert re.fullmatch(bar + r"( \(p10 0\.667\))? · val_error 0\.5( \(p90 0\.5\))?", last)
    assert re.fullmatch(
        r"4 rounds in [\d.]+ m?s · best val_acc 0\.667 after 1 round · logs in logs/lightning_logs/one", summary
    )
    assert rest == ""


@pytest.mark.parametrize("columns", [1, 8, 20, 40, 60, 80, 100])
def test_the_line_fits_every_width(columns: int) -> None:
    with terminal(columns=columns) as written:
        shown(FederatedModule(Evaluated()), FederatedDataModule(evaluated()), max_epochs=2)
    drawn = [frame for frame in frames(written[0]) if frame.startswith("round")]
    assert columns < 8 or drawn
    assert all(len(frame) <= max(columns - 1, 1) for frame in drawn)


def test_colours_can_be_switched_off_and_other_signs_are_taken_where_an_encoding_lacks_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal() as written:
        shown()
    assert "\x1b[" in written[0]
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal() as written:
        shown()
    assert "\x1b" not in written[0]
    monkeypatch.delenv("NO_COLOR")
    with terminal(encoding="ascii") as written:
        shown()
    assert written[0].isascii()
    assert re.search(r"round 1/1 =+ 100 % \| cohort 2/2 \| ", written[0])


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with terminal() as written:
        shown()
    assert "\x1b" not in written[0]
    assert not re.search(r"\r(?!\n)", written[0])


def test_what_others_write_stands_above_the_line() -> None:
    log = logging.getLogger("some.library")
    log.propagate = False

    def speak(run: Any, fed: Any, *_: Any) -> None:
        print("printed", run.global_step)
        sys.stderr.write("begun ")
        sys.stderr.write("and ended\n")
        log.warning("logged")
        fed.print("by the module")

    with terminal() as written:
        handler = logging.StreamHandler()
        log.addHandler(handler)
        own = handler.stream
        shown(None, None, LambdaCallback(on_train_batch_end=speak), max_steps=3)
        assert handler.stream is own
        log.removeHandler(handler)
    lines = screen(written[0])
    for text in ("printed 1", "printed 3"):
        assert lines.count(text) == 1
    for text in ("begun and ended", "logged", "by the module"):
        assert lines.count(text) == 3
    assert [line for line in lines if line.startswith("round")] == [lines[-3]]


def test_a_line_that_others_have_begun_is_not_torn() -> None:
    def begin(run: Any, *_: Any) -> None:
        if run.global_step == 1:  # the first round takes its time
            print("half a line", end="")

    def finish(run: Any, *_: Any) -> None:
        if run.global_step == 2:
            print(" and the rest")

    with terminal() as written:
        talk = LambdaCallback(on_train_batch_start=begin, on_train_batch_end=finish)
        shown(FederatedModule(Slow(0.11), engine="sequential"), None, talk, max_steps=2)
    assert "half a line and the rest" in screen(written[0])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_terminal_is_left_clean_when_a_run_breaks_off(error: Any) -> None:
    def fail(run: Any, *_: Any) -> None:
        if run.global_step == 2:
            raise error("enough")

    with terminal() as written:
        with pytest.raises((RuntimeError, SystemExit)):
            shown(None, None, LambdaCallback(on_train_batch_end=fail), max_steps=5)
        print("afterwards")
    lines = screen(written[0])
    assert lines[-2:] == ["afterwards", ""]
    assert re.fullmatch(rf"2 of 5 rounds in .* · ended in round 2 by {error.__name__}", lines[-3])
    assert lines[-4].startswith("round")


def test_a_stream_that_cannot_be_written_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            pass

    monkeypatch.setattr("sys.stdout", Full())
    with pytest.warns(UserWarning, match="progress cannot be shown any more, and the run goes on without: .*No space"):
        run = shown(max_steps=3)
    assert run.global_step == 3


# ---- evaluations -----------------------------------------------------------------------------------------------------


def test_evaluations_count_workers_without_a_bar_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 0.2)
    fed, data = FederatedModule(Evaluated()), FederatedDataModule(evaluated(3))
    with terminal() as written:
        run = shown(fed, data, max_epochs=2, num_sanity_val_steps=2)
    text = written[0]
    assert re.search(r"round 0 · sanity check 2/2", text)
    assert [int(done) for done in re.findall(r"evaluating (\d)/3", text)][:6:2] == [1, 2, 3]
    assert sum(line.startswith("round") for line in screen(text)) == 1
    for fn, word in (("validate", "validating"), ("test", "testing"), ("predict", "predicting")):
        with terminal() as written:
            getattr(run, fn)(fed, data)
        seen = [int(done) for done in re.findall(rf"{word} (\d)/3", written[0])]
        assert sorted(set(seen)) == [1, 2, 3]
        assert any(re.fullmatch(rf"{word} 3/3 ━+ 100 %", line) for line in screen(written[0]))


def test_batches_of_central_data_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 0.2)
    data = FederatedDataModule(workers(), val=EvaluatedRows([1.0] * 8, batch_size=2))
    with terminal() as written:
        shown(FederatedModule(Evaluated()), data)
    assert set(re.findall(r"evaluating (\d/\d)", written[0])) == {"0/4", "1/4", "2/4", "3/4", "4/4"}


def test_the_worst_decile_stands_in_brackets() -> None:
    class Distribution(pl.Callback):
        def on_validation_epoch_end(self, run: Any, *_: Any) -> None:
            run.callback_metrics["workers/val_acc/p10"] = torch.tensor(0.25)
            run.callback_metrics["workers/val_error/p90"] = torch.tensor(0.75)

    with terminal() as written:
        shown(FederatedModule(Evaluated()), FederatedDataModule(evaluated()), Distribution())
    assert re.search(r"val_acc [\d.]+ \(p10 0\.25\) · val_error [\d.]+ \(p90 0\.75\)", written[0])


def test_what_is_logged_for_the_bar_is_on_it() -> None:
    class Logs(Evaluated):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("mine", 42.5, prog_bar=True)
            self.log("other", 43.5)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.log("val_mine", 0.125, prog_bar=True)

    with terminal() as written:
        shown(FederatedModule(Logs()), FederatedDataModule(evaluated()))
    last = screen(written[0])[-3]
    assert "· mine 42.5 · val_mine 0.125" in last
    assert "43.5" not in last
    assert "val_acc" not in last


# ---- a file ----------------------------------------------------------------------------------------------------------


def test_two_hundred_rounds_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, monitor="val_error", filename="best")
    shown(
        FederatedModule(Evaluated()),
        FederatedDataModule(evaluated()),
        checkpoints,
        max_steps=200,
        enable_checkpointing=True,
        check_val_every_n_epoch=20,
    )
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) < 30
    assert "\x1b" not in text
    assert "\r" not in text
    assert lines[0].startswith("round 1/200 · 0 % · cohort 2 · ")
    assert re.fullmatch(
        r"200 rounds in [\d.]+ m?s · best val_error 0\.5 after \d+ rounds? · checkpoint best\.ckpt", lines[-1]
    )


@pytest.mark.parametrize("seconds", [1.0, 20.0])
def test_slow_rounds_give_a_line_every_twentieth_round_or_every_thirty_seconds(
    seconds: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, 0.0)

    def wait(*_: Any) -> None:
        clock.now += seconds

    shown(None, None, LambdaCallback(on_train_batch_start=wait), max_steps=200)
    lines = capsys.readouterr().out.splitlines()
    rounds = [int(line.split()[1].partition("/")[0]) for line in lines[:-1]]
    expected = range(1, 200, 30) if seconds == 1.0 else range(1, 200, 10)
    assert rounds == list(expected)
    assert len(lines) <= 25
    assert " · 20 s/round · " in lines[3] or seconds == 1.0


def test_a_run_whose_end_nobody_can_tell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.0)

    class Stop(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.now += 60.0

        def on_train_batch_end(self, run: Any, *_: Any) -> None:
            run.should_stop = run.global_step == 100

    shown(None, None, Stop(), max_steps=-1, max_epochs=-1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("round 1 · cohort 2 · 60 s/round · loss")
    assert lines[-1] == "100 rounds in 1 h 40 min"
    rounds = [int(line.split()[1]) for line in lines[:-1]]
    gaps = [after - before for before, after in pairwise(rounds)]
    assert gaps[:18] == [1] * 18
    assert gaps[-1] == 5, "5 % of those that are over: the further, the fewer"


def test_time_is_left_where_it_is_limited() -> None:
    slow = FederatedModule(Slow(0.02), engine="sequential")
    with terminal() as written:
        shown(slow, None, max_steps=-1, max_epochs=-1, max_time={"seconds": 1})
    drawn = [frame for frame in frames(written[0]) if frame.startswith("round")]
    assert re.fullmatch(r"round \d+ ━*╸?━* \d+ % · cohort \d/2( · [\d.]+ m?s/round)? · .* left.*", drawn[2])


def test_a_stopped_run_says_of_how_many_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    stop = EarlyStopping("val_error", patience=1, check_on_train_epoch_end=False)
    shown(FederatedModule(Evaluated()), FederatedDataModule(evaluated()), stop, max_epochs=50)
    assert re.match(r"\d of 50 rounds in ", capsys.readouterr().out.splitlines()[-1])


def test_a_resumed_run_begins_at_its_round(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fed, data = FederatedModule(Scalar()), FederatedDataModule(workers())
    run = shown(fed, data, max_steps=3)
    run.save_checkpoint(tmp_path / "three.ckpt")
    capsys.readouterr()
    again = trainer(enable_progress_bar=True, callbacks=[RoundProgress()], max_steps=6)
    again.fit(fed, data, ckpt_path=tmp_path / "three.ckpt", **TRUSTED)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("round 4/6 · 66 % · ")
    assert last.startswith("rounds 3 to 5 in ")


def test_several_fits_with_one_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = RoundProgress()
    for rounds in (2, 4):
        shown(None, None, bar=bar, max_steps=rounds)
        first, last = capsys.readouterr().out.splitlines()
        assert first.startswith(f"round 1/{rounds} · ")
        assert last.startswith(f"{rounds} rounds in ")


def test_accumulated_cohorts_are_one_round(capsys: pytest.CaptureFixture[str]) -> None:
    data = FederatedDataModule(workers(), rounds_per_epoch=4)
    shown(None, data, max_epochs=2, accumulate_grad_batches=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("round 1/4 · 25 % · ")
    assert lines[-1].startswith("4 rounds in ")


def test_a_module_that_is_not_federated(capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(enable_progress_bar=True, callbacks=[RoundProgress()], max_epochs=2)
    run.fit(Scalar(), Rows([1.0]))
    first, last = capsys.readouterr().out.splitlines()
    assert re.match(r"step 1/2 · 50 % · [\d.]+ m?s/step", first)
    assert last.startswith("2 steps in ")


# ---- switched off ----------------------------------------------------------------------------------------------------


def test_nothing_is_shown_where_it_is_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    off = RoundProgress()
    off.disable()
    for bar in (off, RoundProgress(refresh_rate=0)):
        assert not bar.is_enabled
        fed = FederatedModule(Evaluated())
        run = shown(fed, FederatedDataModule(evaluated()), bar=bar, max_epochs=2)
        run.validate(fed, FederatedDataModule(evaluated()), verbose=False)
        assert capsys.readouterr().out == ""
        assert fed.cohort_progress.listener is None
    off.enable()
    shown(bar=off)
    assert capsys.readouterr().out.startswith("round 1/1")


def test_another_process_than_the_first_shows_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    shown()
    assert capsys.readouterr().out == ""


def test_a_search_for_a_learning_rate_shows_nothing_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    fed = FederatedModule(Scalar(lr=0.1))
    finder = LearningRateFinder(num_training_steps=5, early_stop_threshold=None)
    shown(fed, None, finder, max_steps=2, enable_checkpointing=True)
    out = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in out] == ["round", "2"]


def test_the_earlier_name_does_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    shown(bar=RoundProgressBar(refresh_rate=5))
    assert capsys.readouterr().out.startswith("round 1/1 · 100 % · cohort 2")


def test_a_bar_can_be_copied_to_another_process_at_any_time() -> None:
    copies = []

    def copy(run: Any, fed: Any, *_: Any) -> None:
        copies.append(
            pickle.loads(pickle.dumps((run.progress_bar_callback.__getstate__()["_run"], fed.cohort_progress)))
        )

    shown(None, None, LambdaCallback(on_train_batch_end=copy))
    ((run, progress),) = copies
    assert run is None
    assert progress.listener is None


# ---- a notebook ------------------------------------------------------------------------------------------------------


class FakeNotebook(types.ModuleType):
    """IPython as it is in a notebook's kernel, as far as it is used."""

    def __init__(self, shell: Any) -> None:
        super().__init__("IPython")
        self.get_ipython = lambda: shell
        self.shown: list[tuple[str, str, str]] = []
        self.display = types.ModuleType("IPython.display")
        parts: Any = self.display
        parts.HTML = lambda html: html
        parts.display = lambda html, display_id: self.shown.append(("new", display_id, html))
        parts.update_display = lambda html, display_id: self.shown.append(("again", display_id, html))


def notebook(monkeypatch: pytest.MonkeyPatch, shell: str = "ZMQInteractiveShell") -> FakeNotebook:
    fake = FakeNotebook(type(shell, (), {})())
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    return fake


def test_a_notebook_has_one_row_that_is_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Clock(monkeypatch, 0.2)
    fake = notebook(monkeypatch)

    class Odd(Evaluated):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.log("val_<b>", 1.0)

    shown(FederatedModule(Odd()), FederatedDataModule(evaluated()), max_epochs=3)
    assert [kind for kind, _, _ in fake.shown] == ["new"] + ["again"] * (len(fake.shown) - 1)
    assert len({name for _, name, _ in fake.shown}) == 1
    assert len(fake.shown) > 5
    last = fake.shown[-1][2]
    assert "round 3/3 <progress" in last
    assert "3 rounds in " in last
    assert last.count("<tr>") == 1 + 3, "a table of three evaluations"
    assert "<th>val_acc</th>" in last
    assert "<b>" not in last
    assert capsys.readouterr().out == ""


def test_a_shell_whose_output_goes_to_a_file_is_no_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = notebook(monkeypatch, "TerminalInteractiveShell")
    shown()
    assert not fake.shown
    assert capsys.readouterr().out.startswith("round 1/1")


# ---- what a promise hides --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:CentralDP. losses, metrics and counts of workers are shown")
@pytest.mark.parametrize("released", [False, True])
def test_a_promise_hides_losses_and_who_takes_part(released: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 0.2)
    pytest.importorskip("dp_accounting")
    promise = CentralDP(
        clip=1.0, noise_multiplier=5.0, epsilon=8.0, delta=1e-3, accountant="rdp", release_metrics=released
    )
    fed = FederatedModule(Scalar(), privacy=promise, engine=Sequential())
    away = RandomAvailability(absent=0.3)
    data = FederatedDataModule(workers(20), cohort_size=6, sampler=Poisson(), availability=away)
    with terminal() as written:
        shown(fed, data, max_steps=4)
    text = written[0]
    assert re.search(r"ε [\d.e-]+ of 8\b", text)
    if released:
        assert re.search(r"cohort \d+/\d+", text)
        assert "loss" in text
    else:
        assert set(re.findall(r"cohort (\S+ ?\w*)", text)) == {"6 planned"}
        assert "loss" not in text
        assert not re.search(r"[^ ]/6", text.replace("/round", ""))


@pytest.mark.parametrize(("accountant", "budget"), [("pld", None), ("rdp", None), ("pld", 50.0)])
def test_what_is_spent_is_in_every_line_of_a_file_and_in_the_summary(
    accountant: Literal["pld", "rdp"],
    budget: float | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Clock(monkeypatch, 60)  # a line for every round
    pytest.importorskip("dp_accounting")
    promise = CentralDP(clip=1.0, noise_multiplier=5.0, epsilon=budget, delta=1e-3, accountant=accountant)
    fed = FederatedModule(Scalar(), privacy=promise, engine=Sequential())
    # Of itself, ε is drawn with the curves only, here never.
    data = FederatedDataModule(workers(20), cohort_size=6, sampler=Poisson())
    shown(fed, data, max_steps=4, log_every_n_steps=100)
    *lines, summary = [line for line in capsys.readouterr().out.splitlines() if "round" in line]
    assert fed.private_run is not None
    of = "" if budget is None else " of 50"
    each = [re.findall(rf"ε ([\d.]+){of}$", line) for line in lines]
    assert all(each), lines
    spent = [float(value) for (value,) in each]
    assert spent == sorted(set(spent)), "each round costs something"
    assert f" · epsilon={fed.private_run.spent:.3g}{of} at delta=0.001" in summary
