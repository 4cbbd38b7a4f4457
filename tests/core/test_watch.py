"""What a worker's code raises and changes: whose it is, and that it stays there."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, fit

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.core.process_settings import ProcessSettings, with_settings_kept
from lightning_fed.core.watch import EndingError, Watch, counting_signals
from lightning_fed.engines import Sequential, Vectorized

CHANGES: dict[str, Callable[[], object]] = {
    "torch.set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "torch.set_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch.set_num_threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch.set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.use_deterministic_algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "numpy.seterr": lambda: np.seterr(all="raise"),
    "os.chdir": lambda: os.chdir("/"),
    "warnings.filters": lambda: warnings.simplefilter("ignore"),
}


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell starts what runs in its background deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("setting", CHANGES)
def test_a_setting_is_set_back_and_named_with_the_first_worker(setting: str) -> None:
    watch, before = Watch(), ProcessSettings()
    for worker in ("ann", "bob"):
        with watch.over(worker, round=0):
            CHANGES[setting]()
    assert watch.changed == {setting: "ann"}
    assert before.set_back() == ()


def test_it_is_set_back_after_an_error_too() -> None:
    watch = Watch()

    def change_and_fail() -> None:
        with watch.over("ann", round=0):
            torch.set_grad_enabled(False)
            raise LookupError

    with pytest.raises(LookupError):
        change_and_fail()
    assert torch.is_grad_enabled()
    assert watch.changed == {"torch.set_grad_enabled": "ann"}


def test_filters_of_special_warnings_stay_as_a_library_adds_them_when_it_is_imported() -> None:
    watch = Watch()
    with warnings.catch_warnings():
        with watch.over("ann", round=0):
            warnings.filterwarnings("ignore", message="mind the step")
        warnings.warn("mind the step", stacklevel=1)
    assert not watch.changed


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with Watch().over("ann", round=0):
        os.chdir(tmp_path)


def test_settings_are_set_back_between_items() -> None:
    def changing() -> Any:
        for number in range(2):
            torch.set_grad_enabled(False)
            yield number, torch.is_grad_enabled()

    noted: list[Any] = []
    seen = [(item, torch.is_grad_enabled()) for item in with_settings_kept(changing(), noted.append)]
    assert seen == [((0, False), True), ((1, False), True)]
    assert noted == [["torch.set_grad_enabled"]] * 2


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")])
def test_what_would_end_the_program_is_the_workers_error(error: BaseException) -> None:
    ends = pytest.raises(EndingError, match=f"its code raised {type(error).__name__}")
    with ends as caught, counting_signals(), Watch().over("ann", round=0):
        raise error
    assert caught.value.__cause__ is error


def test_a_signal_is_the_users_and_the_log_names_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises(KeyboardInterrupt), counting_signals(), Watch().over("ann", round=4):
        signal.raise_signal(signal.SIGINT)
    assert "interrupted in round 4, while worker 'ann' was at work" in caplog.text
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_to_end_that_a_handler_turns_into_an_exit_ends_the_run() -> None:
    def leave(*_: Any) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(SystemExit), counting_signals(), Watch().over("ann", round=0):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is leave
    finally:
        signal.signal(signal.SIGTERM, before)


def test_where_no_round_counts_signals_an_interrupt_without_one_is_the_workers() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(EndingError, match="its code raised KeyboardInterrupt"), Watch().over("ann", round=0):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), Watch().over("ann", round=0):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


class UnspeakableExit(SystemExit):
    def __str__(self) -> str:
        raise LookupError("no words")


def test_an_error_that_cannot_say_what_it_is_has_its_type() -> None:
    with pytest.raises(EndingError, match="its code raised UnspeakableExit, as if"), Watch().over("ann", round=0):
        raise UnspeakableExit


def test_no_signal_comes_to_another_thread() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            with counting_signals(), Watch().over("ann", round=0):
                raise KeyboardInterrupt
        except EndingError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 1


class Interrupted(Scalar):
    """The user presses Ctrl-C in the second round, while a step runs."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 1 and (batch[0] == 13).any():
            os.kill(os.getpid(), signal.SIGINT)
        return super().training_step(batch, batch_idx)


def test_ctrl_c_ends_a_run_as_lightning_does_though_errors_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    before = signal.getsignal(signal.SIGINT)
    federated = FederatedModule(Interrupted(), engine="sequential", on_worker_error="drop")
    try:
        with pytest.raises(SystemExit), caplog.at_level(logging.WARNING):
            fit(federated, FederatedDataModule({"ann": Rows([2.0]), "bob": Rows([13.0])}), max_epochs=5)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    assert "interrupted in round 1, while worker 'bob' was at work" in caplog.text
    assert federated.module.x.item() == 7.5  # of the first round


@pytest.mark.parametrize("engine", [Sequential(), Vectorized()])
def test_drawing_the_batches_of_torchs_own_loaders_is_not_watched(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at the settings of the process costs more than to draw the order of a small worker's rows."""
    taken: list[int] = []
    plain = ProcessSettings.__init__

    def counted(settings: ProcessSettings) -> None:
        taken[-1] += 1
        plain(settings)

    class Rounds(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            taken.append(0)

    taken.append(0)
    monkeypatch.setattr(ProcessSettings, "__init__", counted)
    data = FederatedDataModule({str(number): Rows([float(number)]) for number in range(10)})
    fit(FederatedModule(Scalar(), engine=engine), data, max_epochs=3, callbacks=[Rounds()])
    _, first, second, _ = taken  # the last one has the end of the fit in it
    assert second == first - 10
