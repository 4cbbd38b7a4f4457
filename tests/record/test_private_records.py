"""A promise holds in the record too: nothing in it tells who took part, how many examples there are, or how it went."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import Rows, Scalar, fit
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedPer, FedProx
from lightning_fed.callbacks import Dashboard
from lightning_fed.population import Population
from lightning_fed.privacy import CentralDP, LocalDP
from lightning_fed.record import read, settings
from lightning_fed.record.described import described
from lightning_fed.reports.run.build import report_of
from lightning_fed.reports.run.markdown import as_markdown
from lightning_fed.selection import Availability, Poisson, RandomAvailability, Response, Uniform
from lightning_fed.server.checkpoint.settings import plain_settings

NAMES = ("alice", "bob", "carol", "dora")


class Sized(Population):
    """Workers whose sizes are an argument."""

    def __init__(self, sizes: dict[str, int], rate: float) -> None:
        self.sizes = sizes
        self.rate = rate

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, position: int) -> str:
        return NAMES[position]

    def num_examples(self, name: str) -> int:
        return self.sizes[name]

    def has_loader(self, kind: Any) -> bool:
        return False

    def __getitem__(self, name: str) -> pl.LightningDataModule:
        return Rows([1.0] * self.sizes[name])


def record(folder: Path, privacy: Any) -> Any:
    data = FederatedDataModule(Sized(dict(zip(NAMES, (711, 722, 733, 744), strict=True)), rate=0.5), cohort_size=2)
    logger = TensorBoardLogger(str(folder), name="", version="run", default_hp_metric=False)
    fit(FederatedModule(Scalar(), privacy=privacy), data, max_epochs=2, logger=logger)
    return read(folder / "run")


@pytest.mark.filterwarnings("ignore:.*NOT private")
@pytest.mark.parametrize(
    "privacy",
    [CentralDP(1.0, 1.0, delta=1e-3, accountant="rdp"), LocalDP(1.0, 1.0, delta=1e-3, accountant="rdp")],
    ids=["central", "local"],
)
def test_nothing_of_workers_is_written(tmp_path: Path, privacy: Any) -> None:
    run = record(tmp_path, privacy)
    assert [set(line) for line in run.rounds] == [{"fit", "round", "epoch"}] * 4
    random = run.run["fits"][0]["fit"].encode()  # hexadecimal digits, among which there may be any number
    files = [path for path in (tmp_path / "run").iterdir() if not path.name.startswith("privacy-ledger")]
    written = [path.read_bytes().replace(random, b"") for path in files]
    for secret in (*NAMES, "711", "722", "2910"):
        assert not [content for content in written if secret.encode() in content], secret
    assert run.run["data"] == {"population": 4, "cohort_size": 2}
    assert run.settings["population/rate"] == 0.5
    promise = run.run["promise"]
    assert (promise["name"], promise["bound"], promise["delta"]) == (type(privacy).__name__, 1.0, 1e-3)
    assert promise["epsilon"] > 0
    assert (tmp_path / "run" / run.run["ledger"]).is_file()


class Away(Availability):
    """Nobody replies before some cohort."""

    def __init__(self, until: int) -> None:
        self.until = until

    def respond(self, worker: str, number: int, seed: int) -> Response:
        return Response("absent") if number < self.until else Response()


class AfterEachBatch(pl.Callback):
    """Notes whether the record says what leaves, after each batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[bool] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(read(self.folder).run["leaves"] is not None)


@pytest.mark.filterwarnings("ignore:.*NOT private")
@pytest.mark.parametrize("accumulated", [1, 2])
def test_what_leaves_is_written_when_the_first_round_is_over_whoever_has_replied(
    tmp_path: Path, accumulated: int
) -> None:
    """Everyone, everyone from the second cohort on, and nobody at all: all three runs write the same."""
    written = []
    for until in (0, 1, 9):
        folder = tmp_path / str(until) / "run"
        data = FederatedDataModule(
            {name: Rows([1.0]) for name in NAMES},
            availability=Away(until),
            cohort_size=2,
            rounds_per_epoch=4,
            sampler=Uniform(),
        )
        watch = AfterEachBatch(folder)
        promise = CentralDP(1.0, 1.0, delta=1e-3, accountant="rdp", insecure_deterministic_noise=True)
        fed = FederatedModule(Scalar(), privacy=promise, engine="sequential")
        logger = TensorBoardLogger(str(folder.parent), name="", version="run", default_hp_metric=False)
        options = {"accumulate_grad_batches": accumulated, "callbacks": [watch, Dashboard()], "max_epochs": 1}
        fit(fed, data, logger=logger, **options)
        events = EventAccumulator(str(folder))
        events.Reload()
        steps = [event.step for event in events.Tensors("run/what_leaves/text_summary")]
        written.append((read(folder).run["leaves"], watch.seen, steps))
        assert watch.seen == [number >= accumulated - 1 for number in range(4)]
    assert written[0] == written[1] == written[2]
    assert written[0][0]["bytes_up"] > 0


def test_without_a_promise_it_is(tmp_path: Path) -> None:
    run = record(tmp_path, None)
    assert run.run["data"]["sizes"] == {"total": 2910, "min": 711, "median": 727.5, "max": 744}
    assert len(run.run["data"]["sizes_checksum"]) == 8
    assert "711" in str(run.settings["population/sizes"])
    assert (run.run["promise"], run.run["ledger"], run.settings["privacy"]) == (None, None, None)


class Failing(Rows):
    def train_dataloader(self) -> Any:
        raise OSError("of alice")


def test_what_ended_a_private_run_is_not_told_by_name(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False)
    data = FederatedDataModule({"alice": Failing([1.0]), "bob": Rows([1.0])})
    with pytest.raises(RuntimeError, match="alice"):
        fit(FederatedModule(Scalar(), privacy=CentralDP(1.0, 1.0, delta=1e-3, accountant="rdp")), data, logger=logger)
    run = read(tmp_path / "run").run
    assert (run["outcome"], run["error"]) == ("failed", None)


# ---- what a user's own classes were built with -----------------------------------------------------------------------

CENTRAL = CentralDP(1.0, 1.0, delta=1e-3, accountant="rdp")
SECRETS = ("Zq0name", "Zq1name", "9876540", "9876541")
SIZES = {"Zq0name": 9876540, "Zq1name": 9876541}


class Favouring(Poisson):
    def __init__(self, favourites: Any = (), rate: float = 0.5) -> None:
        super().__init__()
        self.favourites, self.rate = favourites, rate


class Patchy(RandomAvailability):
    def __init__(self, of_each: Any = None) -> None:
        super().__init__(absent=0.1)
        self.of_each = of_each


class Weighing(FedProx):
    def __init__(self, mu: float, of_each: Any) -> None:
        super().__init__(mu)
        self.of_each = of_each


class Watching(pl.Callback):
    def __init__(self, whom: Any) -> None:
        self.whom = whom


class Nested:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Saving(Scalar):
    def __init__(self, of_each: Any, widths: Any = (3, 4)) -> None:
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.parametrize("held", [[*SIZES], SIZES, "Zq0name", Nested(SIZES), [Nested(SIZES)], lambda: "Zq0name"])
@pytest.mark.filterwarnings("ignore:.*NOT private", "ignore:Attribute 'of_each'")
def test_nothing_of_workers_that_a_users_own_classes_hold_is_written(tmp_path: Path, held: Any) -> None:
    data = FederatedDataModule(
        {name: Rows([1.0]) for name in SIZES},
        sampler=Favouring(held),
        cohort_size=1,
        availability=Patchy(held),
        val=Rows([1.0]),
    )
    fed = FederatedModule(Scalar(), algorithm=Weighing(0.1, held), privacy=CENTRAL)
    folder = tmp_path / "run"
    loggers = [
        TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False),
        CSVLogger(str(folder), name="", version="csv"),
    ]
    callbacks = [Dashboard(), Watching(held), ModelCheckpoint(folder / "checkpoints")]
    fit(fed, data, max_epochs=2, logger=loggers, callbacks=callbacks, enable_checkpointing=True)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("privacy-ledger")]
    assert [path for path in files if path.suffix == ".ckpt"]
    written = {str(path): path.read_bytes() for path in files}
    shown = [repr(fed), repr(data), as_markdown(report_of(read(folder))), str(settings(fed, data))]
    for secret in SECRETS:
        assert not [path for path, content in written.items() if secret.encode() in content], secret
        assert not [text for text in shown if secret in text], secret
    table = read(folder).settings
    assert (table["algorithm/mu"], table["sampler/rate"]) == (0.1, 0.5)
    assert str(table["algorithm"]).startswith("Weighing(mu=0.1")


def test_no_checksum_tells_of_what_is_hidden() -> None:
    assert described("x", Favouring(SIZES), hides=True) == described("x", Favouring(["else"]), hides=True)
    one, other = (described("x", Nested(code), hides=True) for code in (lambda: "Zq0name", lambda: "Zq1name"))
    assert one == other
    fed, another = (FederatedModule(Saving({name: 1}), privacy=CENTRAL) for name in ("Zq0name", "Zq1name"))
    assert settings(fed, None)["model/checksum"] == settings(another, None)["model/checksum"]


def test_what_ours_are_built_with_is_shown() -> None:
    assert described("x", FedPer(["head.*"]), hides=True)["x"] == "FedPer(personal=['head.*'])"
    assert plain_settings(FedPer(["head.*"]), hides=True) == {"class": "FedPer", "personal": ["head.*"]}
    assert plain_settings(Favouring(SIZES), hides=True) == {"class": "Favouring", "rate": 0.5}
    assert plain_settings({"a": Favouring(SIZES)}, hides=True) == {}


def test_hyperparameters_of_the_module_that_name_a_worker_are_hidden() -> None:
    fed = FederatedModule(Saving(SIZES), privacy=CENTRAL)
    data = FederatedDataModule({name: Rows([1.0]) for name in SIZES})
    table = settings(fed, data)
    assert not [secret for secret in SECRETS if secret in str(table)]
    assert table["model/widths"] == "[3, 4]"


@pytest.mark.filterwarnings("ignore:.*NOT private")
def test_words_of_the_command_that_let_others_in_are_hidden_without_a_promise_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--hub.hf_token=x1", "--tokenizer", "bert"])
    run = record(tmp_path, None)
    assert run.run["command"] == "python train.py --hub.hf_token=HIDDEN --tokenizer bert"
    text = as_markdown(report_of(read(tmp_path / "run")))
    assert "HIDDEN stands for a word that lets others in, such as a token." in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "--data.workers.alice", "Toy", "--model.lr=1"], "fit HIDDEN HIDDEN --model.lr=1"),
        (["fit", "--data.workers.x.size=711", "-c", "a.yaml"], "fit HIDDEN -c a.yaml"),
        (["--only", "alice,bob", "--alices"], "--only HIDDEN --alices"),
    ],
)
def test_words_of_the_command_that_are_about_workers_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    run = record(tmp_path, CENTRAL)
    assert run.run["command"] == f"python train.py {said}"
    text = as_markdown(report_of(read(tmp_path / "run")))
    assert "HIDDEN stands for a word that is about single workers" in text
    record(tmp_path / "open", None)
    assert read(tmp_path / "open" / "run").run["command"] == f"python train.py {' '.join(words)}"
