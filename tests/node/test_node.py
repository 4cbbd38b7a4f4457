"""A node: what it answers to anyone, and what it refuses."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar

from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedAvg, FedPer, QFedAvg, Scaffold
from lightning_fed.node import Node, Policy, RequiredPromise
from lightning_fed.privacy import LocalDP
from lightning_fed.state import OwnState
from lightning_fed.wire import GlobalModel, Job, LocalTraining, decode_share, decode_updates, encode_job
from lightning_fed.wire.fingerprint import fingerprint_of, rows_of
from lightning_fed.wire.parts import description_of
from lightning_fed.wire.terms import PROTOCOL, Terms
from lightning_fed.worker.kept import Kept

LOCAL = LocalDP(clip=1.0, noise_multiplier=2.0)


def terms(module: pl.LightningModule | None = None, algorithm: Any = None, promise: Any = None, **change: Any) -> Terms:
    return replace(
        Terms(
            run="a1",
            seed=0,
            fingerprint=fingerprint_of(rows_of(module or Scalar())),
            algorithm=description_of(algorithm or FedAvg()),
            promise=None if promise is None else description_of(promise),
            kept=description_of(Kept()),
            trainer={"max_epochs": -1, "max_steps": 3},
            population=3,
            cohort_size=3,
        ),
        **change,
    )


def job(**change: Any) -> Job:
    return replace(Job(0, 0, 0, GlobalModel({"x": torch.zeros(())}), LocalTraining()), **change)


def private(**change: Any) -> Job:
    return job(promise={"bound": 1.0, "noise_multiplier": 2.0, "release_metrics": 0.0}, **change)


class Crowd:
    """A node in a folder, and questions to it."""

    def __init__(self, home: Path, **options: Any) -> None:
        module = options.pop("module", None) or Scalar()
        workers = options.pop("workers", None) or {"bob": Rows([1.0, 3.0]), "alice": Rows([5.0])}
        self.node = Node(module, workers, home=home, accelerator="cpu", **options)

    def __call__(self, ask: str, parts: Any = (), **fields: Any) -> tuple[dict[str, Any], list[bytes]]:
        fields, parts = self.node.answer({"ask": ask, "protocol": PROTOCOL, **fields}, list(parts))
        return json.loads(json.dumps(fields)), [bytes(part) for part in parts]

    def train(self, work: Job, given: Terms, *workers: str, refused: Any = None) -> tuple[dict[str, Any], list[bytes]]:
        return self(
            "train",
            [encode_job(work)],
            terms=given.to_fields(),
            workers=list(workers or ("bob",)),
            refused=refused or {},
        )


@pytest.fixture
def ask(tmp_path: Path) -> Crowd:
    return Crowd(tmp_path)


def test_a_greeting_announces_the_workers(ask: Crowd) -> None:
    fields, parts = ask("greet")
    assert fields["workers"] == [
        {"name": "bob", "examples": 2, "loaders": {"val": 0, "test": 0, "predict": 0}},
        {"name": "alice", "examples": 1, "loaders": {"val": 0, "test": 0, "predict": 0}},
    ]
    assert fields["versions"]["protocol"] == PROTOCOL
    assert fields["fingerprint"] == ask.node.fingerprint
    assert fields["policy"] == "no limits"
    assert parts == []


def test_a_worker_trains_by_hand(ask: Crowd) -> None:
    fields, (update,) = ask.train(job(), terms())
    assert fields["results"] == [{"worker": "bob"}]
    updates = decode_updates(update, job())
    assert updates.delta.tolist() == [[-2.0]]  # from 0 to the mean of 1 and 3
    assert updates.examples.tolist() == updates.weight.tolist() == [2.0]


def test_workers_are_answered_in_the_order_of_the_question(ask: Crowd) -> None:
    fields, parts = ask.train(job(), terms(), "alice", "bob")
    assert [each["worker"] for each in fields["results"]] == ["alice", "bob"]
    assert [decode_updates(part, job()).workers for part in parts] == [("alice",), ("bob",)]


QUESTIONS: dict[str, tuple[Callable[[Crowd], tuple[dict[str, Any], list[bytes]]], str]] = {
    "another protocol": (lambda ask: ask("greet", protocol=99), "version 99 of the protocol"),
    "no protocol": (lambda ask: ask("greet", protocol=None), "version None of the protocol"),
    "another question": (lambda ask: ask("run"), "there is no answer to 'run'"),
    "no terms": (lambda ask: ask("agree"), "the terms of the run are missing"),
    "terms with another field": (lambda ask: ask("agree", terms={**terms().to_fields(), "x": 1}), "other fields"),
    "terms of another type": (lambda ask: ask("agree", terms={**terms().to_fields(), "seed": "x"}), "hold seed='x'"),
    "a run outside of its folder": (lambda ask: ask("agree", terms=terms(run="../x").to_fields()), "letters and digit"),
    "a run with a long name": (lambda ask: ask("agree", terms=terms(run="a" * 65).to_fields()), "at most 64 letters"),
    "a run with another alphabet": (lambda ask: ask("agree", terms=terms(run="é").to_fields()), "letters and digits"),
    "an unknown class": (
        lambda ask: ask("agree", terms={**terms().to_fields(), "algorithm": {"class": "os.system", "arguments": {}}}),
        "there is no 'os.system' at this node",
    ),
    "a class of another kind": (
        lambda ask: ask("agree", terms={**terms().to_fields(), "algorithm": description_of(LOCAL)}),
        "which is no Algorithm",
    ),
    "wrong arguments": (
        lambda ask: ask(
            "agree", terms={**terms().to_fields(), "algorithm": {"class": "FedProx", "arguments": {"mu": -1.0}}}
        ),
        "FedProx cannot be made of the arguments",
    ),
    "another module": (lambda ask: ask("agree", terms=terms(fingerprint="sha256:0").to_fields()), "another one than"),
    "nobody": (lambda ask: ask("train", [encode_job(job())], terms=terms().to_fields()), "says not which workers"),
    "somebody else": (lambda ask: ask.train(job(), terms(), "eve"), "there is no worker 'eve' at this node"),
    "somebody twice": (lambda ask: ask.train(job(), terms(), "bob", "bob"), "names a worker twice"),
    "a cohort below 0": (lambda ask: ask.train(job(cohort=-1), terms()), "both are counted from 0"),
    "no job": (lambda ask: ask("train", terms=terms().to_fields(), workers=["bob"]), "0 parts, and a job is one"),
    "two jobs": (
        lambda ask: ask("train", [b"", b""], terms=terms().to_fields(), workers=["bob"]),
        "2 parts, and a job is one",
    ),
    "nothing that can be read": (
        lambda ask: ask("train", [b"nothing"], terms=terms().to_fields(), workers=["bob"]),
        "send the message again",
    ),
    "refused rounds that are no numbers": (
        lambda ask: ask.train(job(), terms(), refused={"bob": ["x"]}),
        "in which rounds an update did not count",
    ),
    "numbers of no promise": (lambda ask: ask.train(private(), terms()), "terms of its run make none"),
    "an evaluation of another kind": (
        lambda ask: ask("evaluate", [encode_job(job())], terms=terms().to_fields(), workers=["bob"], kind="x"),
        "no evaluation of the kind 'x'",
    ),
    "an endless number of batches": (
        lambda ask: ask(
            "evaluate", [encode_job(job())], terms=terms().to_fields(), workers=["bob"], kind="val", limit=float("inf")
        ),
        "no number of batches",
    ),
    "an evaluation under a promise": (
        lambda ask: ask(
            "evaluate", [encode_job(job())], terms=terms(promise=LOCAL).to_fields(), workers=["bob"], kind="val"
        ),
        "LocalDP covers nothing that an evaluation would say",
    ),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_that_cannot_be_answered_is_refused_in_words(question: str, ask: Crowd) -> None:
    put, words = QUESTIONS[question]
    fields, parts = put(ask)
    assert words in fields["refused"]
    assert parts == []
    assert ask.train(job(), terms())[0]["results"] == [{"worker": "bob"}]  # and the next one is answered


def test_nothing_is_trained_where_the_job_asks_for_another_parameter(ask: Crowd) -> None:
    other = job(model=GlobalModel({"y": torch.zeros(())}))
    fields, _ = ask.train(other, terms())
    assert "has no such parameter" in fields["results"][0]["error"]


# ---- what leaves of an error -----------------------------------------------------------------------------------------


class Tells(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise RuntimeError(f"Jane Doe's numbers are {batch[0].tolist()}")


def test_what_an_exception_says_leaves_only_where_nothing_is_promised(tmp_path: Path) -> None:
    ask = Crowd(tmp_path, module=Tells())
    (open_,) = ask.train(job(), terms())[0]["results"]
    assert "Jane Doe" in open_["error"]
    (hidden,) = ask.train(private(), terms(promise=LOCAL))[0]["results"]
    assert hidden["error"] == "RuntimeError; what it says stays at its node, in the log"


def test_remarks_do_not_leave_under_a_promise(tmp_path: Path) -> None:
    class Counts(Scalar):
        seen = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.seen += len(batch[0])
            return super().training_step(batch, batch_idx)

    ask = Crowd(tmp_path, module=Counts())
    assert ask.train(job(), terms())[0]["noted"]["changed"] == ["seen"]
    assert Crowd(tmp_path, module=Scalar()).train(private(), terms(promise=LOCAL))[0]["noted"] == {}


def test_under_a_promise_losses_and_sizes_stay(tmp_path: Path) -> None:
    _, (update,) = Crowd(tmp_path).train(private(), terms(promise=LOCAL))
    updates = decode_updates(update, private())
    assert updates.loss.isnan().all()
    assert updates.examples.tolist() == updates.steps.tolist() == updates.weight.tolist() == [1.0]


class ToldRows(Rows):
    def predict_dataloader(self) -> Any:
        return self.train_dataloader()


class Predicts(Scalar):
    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        if self.x > 1:
            raise RuntimeError(f"Jane Doe's numbers are {batch[0].tolist()}")
        return batch[0]


@pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers")
@pytest.mark.parametrize("x", [0.0, 2.0])
def test_a_prediction_hides_what_the_terms_hide_whatever_the_job_says(x: float, tmp_path: Path) -> None:
    def share(given: Terms) -> bytes:
        ask = Crowd(tmp_path, module=Predicts(), workers={"bob": ToldRows([1.0, 3.0])})
        sent = [encode_job(job(model=GlobalModel({"x": torch.tensor(x)})))]  # with no promise in it
        fields, (part,) = ask("evaluate", sent, terms=given.to_fields(), workers=["bob"], kind="predict", limit=None)
        assert fields["results"] == [{"worker": "bob"}]
        return part

    module = Predicts()
    open_, hidden = share(terms(module)), share(terms(module, promise=LOCAL))
    told = b'\\"examples\\":{\\"bob\\":2}' if x == 0 else b"Jane Doe"
    assert told in open_
    assert told not in hidden


class Widens(Scalar):
    """Makes its buffer another one where the data are large."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch[0].sum() > 4:
            self.seen = self.seen.new_zeros((), dtype=torch.uint8).view(torch.bits8)  # has no form as bytes
        return super().training_step(batch, batch_idx)


def test_an_update_that_cannot_leave_is_its_workers_error_alone(tmp_path: Path) -> None:
    data = {"bob": Rows([1.0, 3.0]), "alice": Rows([5.0])}
    work = job(model=GlobalModel({"x": torch.zeros(())}, {"seen": torch.zeros(())}))
    fields, parts = Crowd(tmp_path, module=Widens(), workers=data).train(work, terms(Widens()), "bob", "alice")
    bob, alice = fields["results"]
    assert bob == {"worker": "bob"}
    assert "its update cannot leave: the tensor 'buffers/seen' is torch.bits8" in alice["error"]
    assert len(parts) == 1


@pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers")
def test_where_failures_are_hidden_a_prediction_does_not_say_whether_it_failed(tmp_path: Path) -> None:
    """Else a server would read a bit of the data off each model that it sends, and nothing would be charged."""

    def share(x: float) -> bytes:
        ask = Crowd(tmp_path, module=Predicts(), workers={"bob": ToldRows([1.0, 3.0])}, policy=STRICT)
        given = terms(Predicts(), promise=LOCAL).to_fields()
        sent = [encode_job(job(model=GlobalModel({"x": torch.tensor(x)})))]
        _, (part,) = ask("evaluate", sent, terms=given, workers=["bob"], kind="predict", limit=None)
        return part

    assert share(2.0) == share(0.0)


# ---- the node's own policy and account -------------------------------------------------------------------------------

STRICT = Policy(promise=RequiredPromise("LocalDP", clip=1.0, noise_multiplier=2.0), most_rounds=2)


def test_a_policy_refuses_a_run_before_its_first_round(tmp_path: Path) -> None:
    ask = Crowd(tmp_path, policy=STRICT)
    assert "the run makes no promise" in ask("agree", terms=terms().to_fields())[0]["refused"]
    assert ask("agree", terms=terms(promise=LOCAL).to_fields()) == ({}, [])


@pytest.mark.parametrize("kind", ["val", "predict"])
def test_an_evaluation_changes_no_attribute_that_the_policy_does_not_allow(kind: str, tmp_path: Path) -> None:
    ask = Crowd(tmp_path, policy=Policy(attributes=False))
    sent = [encode_job(job(attributes={"lr": 3.0}))]
    fields, _ = ask("evaluate", sent, terms=terms().to_fields(), workers=["bob"], kind=kind, limit=None)
    assert "the job changes the attribute 'lr' of the module" in fields["refused"]


def test_a_policy_hides_sizes(tmp_path: Path) -> None:
    ask = Crowd(tmp_path, policy=STRICT)
    assert [each["examples"] for each in ask("greet")[0]["workers"]] == [None, None]
    hides = Crowd(tmp_path / "other", policy=Policy(sizes="hidden"))
    _, (update,) = hides.train(job(), terms())
    assert decode_updates(update, job()).examples.tolist() == [1.0]


def test_where_sizes_are_hidden_an_algorithm_may_weigh_by_other_numbers(tmp_path: Path) -> None:
    """q-FedAvg by hand: the loss is (1 + 9) / 4 and the update -2 with lr 1, so that h = 4 + 2½."""
    hides = Crowd(tmp_path, policy=Policy(sizes="hidden"))
    _, (update,) = hides.train(job(), terms(algorithm=QFedAvg(q=1.0, lr=1.0, weighted=False)))
    updates = decode_updates(update, job())
    assert (updates.examples.tolist(), updates.weight.tolist()) == ([1.0], [6.5])


def test_each_training_is_charged_over_all_runs_and_ends_with_the_last_one_that_is_allowed(tmp_path: Path) -> None:
    ask = Crowd(tmp_path, policy=STRICT)
    assert ask.train(private(), terms(promise=LOCAL), "bob", "alice")[0]["results"] == [
        {"worker": "bob"},
        {"worker": "alice"},
    ]
    ask.train(private(cohort=1), terms(promise=LOCAL, run="b2"))
    again = Crowd(tmp_path, policy=STRICT)  # the node was restarted
    (result,) = again.train(private(cohort=2), terms(promise=LOCAL, run="c3"))[0]["results"]
    assert "worker 'bob' was trained 2 times" in result["error"]
    assert again.node.account.rounds("bob") == 2
    assert again.node.account.rounds("alice") == 1


def test_a_policy_is_read_from_the_file_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.yaml").write_text("algorithms: [Scaffold]\n")
    monkeypatch.setenv("LIGHTNING_FED_POLICY", str(tmp_path / "policy.yaml"))
    refused = Crowd(tmp_path)("agree", terms=terms().to_fields())[0]["refused"]
    assert "the run uses the algorithm FedAvg" in refused
    assert "policy.yaml" in refused


# ---- own state on the node's disk ------------------------------------------------------------------------------------


def sent(**change: Any) -> Job:
    return job(sent={"control": torch.zeros(1)}, extra=("control",), wants_gradient=True, **change)


def rows_on_disk(home: Path) -> dict[str, dict[str, list[float]]]:
    own = OwnState(Scaffold.tables)
    own.read_from(home / "runs" / "a1" / "bob")
    return {table: {name: row.tolist() for name, row in rows.items()} for table, rows in own.kept().items()}


def test_a_round_is_kept_when_the_next_job_says_that_it_succeeded(tmp_path: Path) -> None:
    given = terms(algorithm=Scaffold())
    ask = Crowd(tmp_path)
    assert "error" not in ask.train(sent(), given)[0]["results"][0]
    assert rows_on_disk(tmp_path) == {}
    ask.train(sent(cohort=1, round=1, last=0), given)
    assert rows_on_disk(tmp_path) == {Scaffold.tables[0]: {"bob": [-2.0]}}


def test_a_round_that_failed_or_did_not_count_is_dropped(tmp_path: Path) -> None:
    given = terms(algorithm=Scaffold())
    for number, more in enumerate(({"failed": (0,)}, {})):
        home = tmp_path / str(number)
        ask = Crowd(home)
        ask.train(sent(), given)
        ask.train(sent(cohort=1, last=None if more else 0, **more), given, refused={} if more else {"bob": [0]})
        assert rows_on_disk(home) == {}


class Own(Scalar):
    """Has a layer that stays with the worker, and logs it."""

    def __init__(self) -> None:
        super().__init__()
        self.y = torch.nn.Parameter(torch.tensor(0.0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + ((self.y - batch[0]) ** 2).mean() / 2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("own", self.y)


@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
@pytest.mark.parametrize(("refused", "expected"), [({}, 2.0), ({"bob": [0]}, 0.0)])
def test_an_evaluation_leaves_out_rounds_in_which_an_update_did_not_count(
    refused: dict[str, list[int]], expected: float, tmp_path: Path
) -> None:
    ask = Crowd(tmp_path, module=Own(), workers={"bob": EvaluatedRows([1.0, 3.0])})
    model = GlobalModel({"x": torch.zeros(()), "y": torch.zeros(())})
    given = terms(Own(), FedPer(["y"]))
    ask.train(job(model=model), given)
    sent = [encode_job(job(model=model, cohort=1, last=0))]
    asked = {"terms": given.to_fields(), "workers": ["bob"], "kind": "val", "limit": None, "refused": refused}
    _, (part,) = ask("evaluate", sent, **asked)
    assert decode_share(part, "bob").logged.workers == {"bob": {"own": expected}}


def test_an_update_stays_where_what_goes_with_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Crowd(tmp_path)
    given = terms(algorithm=Scaffold())
    ask.train(sent(), given)
    before = (tmp_path / "runs" / "a1" / "bob" / "own_state.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning_fed.state.own_state.save_file", full)
    fields, parts = ask.train(sent(cohort=1, last=0), given)
    assert "No space left on device" in fields["results"][0]["error"]
    assert "make room on the node's disk" in fields["results"][0]["error"]
    assert parts == []
    assert (tmp_path / "runs" / "a1" / "bob" / "own_state.safetensors").read_bytes() == before


def test_damaged_own_state_is_that_workers_error(tmp_path: Path) -> None:
    ask = Crowd(tmp_path)
    given = terms(algorithm=Scaffold())
    ask.train(sent(), given)
    (tmp_path / "runs" / "a1" / "bob" / "own_state.safetensors").write_bytes(b"damaged")
    fields, parts = ask.train(sent(cohort=1, last=0), given, "bob", "alice")
    assert "is damaged" in fields["results"][0]["error"]
    assert fields["results"][1] == {"worker": "alice"}
    assert len(parts) == 1


@pytest.mark.parametrize("name", ["../../ward 7/b", "..", ".", "/etc/x", "x" * 400])
def test_names_of_workers_are_no_paths(name: str, tmp_path: Path) -> None:
    ask = Crowd(tmp_path / "home", workers={name: Rows([1.0])})
    fields, _ = ask.train(sent(), terms(algorithm=Scaffold()), name)
    assert fields["results"] == [{"worker": name}]
    outside = [path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "home")]
    assert outside == []
    (written,) = tmp_path.rglob("own_state.safetensors")
    assert written.parent.parent == tmp_path / "home" / "runs" / "a1"


# ---- the module, as a fit finds it -----------------------------------------------------------------------------------


class Late(pl.LightningModule):
    """Makes its parameter when a fit begins."""

    def setup(self, stage: str) -> None:
        if not hasattr(self, "x"):
            self.x = torch.nn.Parameter(torch.zeros(()))

    training_step = Scalar.training_step
    lr = 1.0
    configure_optimizers = Scalar.configure_optimizers


def test_a_module_is_set_up_as_by_a_trainer(tmp_path: Path) -> None:
    ask = Crowd(tmp_path, module=Late())
    assert ask("agree", terms=terms().to_fields()) == ({}, [])


def test_a_hook_that_fails_at_the_node_is_refused_by_its_name(tmp_path: Path) -> None:
    class Fails(Scalar):
        def on_fit_start(self) -> None:
            self.logger.experiment  # noqa: B018 - there is no logger at a node

    refused = Crowd(tmp_path, module=Fails())("agree", terms=terms().to_fields())[0]["refused"]
    assert "Fails.on_fit_start() fails at this node: AttributeError" in refused


class Draws(Scalar):
    """Draws a random number of each generator as it is set up."""

    def setup(self, stage: str) -> None:
        torch.rand(1)
        random.random()
        np.random.rand()


def test_an_answer_leaves_the_random_numbers_of_the_process(tmp_path: Path) -> None:
    ask = Crowd(tmp_path, module=Draws())
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    assert ask("agree", terms=terms().to_fields()) == ({}, [])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), str(np.random.get_state())) == before[1:]


def test_a_node_is_as_deterministic_as_the_server(ask: Crowd) -> None:
    try:
        assert ask("agree", terms=terms(deterministic=True).to_fields()) == ({}, [])
        assert torch.are_deterministic_algorithms_enabled()
        assert ask("agree", terms=terms(run="a2").to_fields()) == ({}, [])
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


class TornDown(Rows):
    """Notes when it is let go of."""

    def __init__(self, values: list[float], torn: list[str]) -> None:
        super().__init__(values)
        self.torn = torn

    def teardown(self, stage: str) -> None:
        self.torn.append(stage)


def test_the_data_of_a_run_are_let_go_of_as_another_begins(tmp_path: Path) -> None:
    torn: list[str] = []
    ask = Crowd(tmp_path, workers={"bob": TornDown([1.0, 3.0], torn)})
    ask.train(job(), terms())
    assert torn == []
    ask.train(job(), terms(run="a2"))
    assert torn == ["fit"]


def test_what_a_hook_says_stays_at_the_node_under_a_promise(tmp_path: Path) -> None:
    class Fails(Scalar):
        def setup(self, stage: str) -> None:
            raise ValueError("row 7 is a secret")

    ask = Crowd(tmp_path, module=Fails())
    assert "ValueError: row 7 is a secret" in ask("agree", terms=terms().to_fields())[0]["refused"]
    hidden = ask("agree", terms=terms(promise=LOCAL).to_fields())[0]["refused"]
    assert hidden == "Fails.setup() fails at this node: ValueError; what it says stays at its node, in the log"


def test_a_node_trains_in_the_servers_precision(tmp_path: Path) -> None:
    double = Scalar().double()
    ask = Crowd(tmp_path)
    given = terms(module=double, precision="64-true", default_dtype="float32")
    work = job(model=GlobalModel({"x": torch.zeros((), dtype=torch.float64)}))
    _, (update,) = Crowd(tmp_path, workers={"bob": Rows([1.0, 3.0])}).train(work, given)
    assert decode_updates(update, work).delta.dtype == torch.float64
    assert ask.node.module.x.dtype == torch.float32


class Halves(FedAvg.__mro__[1]):  # type: ignore[name-defined]
    """An algorithm of a user's own."""

    def __init__(self, by: float = 2.0) -> None:
        self.by = by

    def aggregator(self) -> Any:
        return FedAvg().aggregator()


def test_an_algorithm_of_ones_own_is_named_to_the_node(tmp_path: Path) -> None:
    given = terms(algorithm=Halves(by=4.0))
    assert "at this node; install it there" in Crowd(tmp_path)("agree", terms=given.to_fields())[0]["refused"]
    assert Crowd(tmp_path, parts=[Halves])("agree", terms=given.to_fields()) == ({}, [])


def test_personal_layers_stay_on_the_node(tmp_path: Path) -> None:
    class Two(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.y = torch.nn.Parameter(torch.tensor(0.0))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + ((self.y - batch[0]) ** 2).mean() / 2

    work = job(model=GlobalModel({"x": torch.zeros(()), "y": torch.zeros(())}))
    given = terms(module=Two(), algorithm=FedPer(["y"]))
    _, (update,) = Crowd(tmp_path, module=Two()).train(work, given)
    updates = decode_updates(update, work)
    assert updates.stays == {"y"}
    assert updates.delta.tolist() == [[-2.0, 0.0]]
    assert (tmp_path / "runs" / "a1" / "bob" / "own_state.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workers": {}}, "workers is empty"),
        ({"workers": [1]}, "must be a mapping"),
        ({"threads": 0}, "threads=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"compile": 1}, "compile=1"),
        ({"policy": 3}, "policy"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    given = {"module": Scalar(), "workers": {"bob": Rows([1.0])}, "home": tmp_path, **arguments}
    with pytest.raises((TypeError, ValueError), match=words):
        Node(**given)
