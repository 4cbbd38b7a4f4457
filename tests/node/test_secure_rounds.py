"""Secure aggregation between a server and nodes: the sums of a simulation, whoever goes away, and what nodes refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, trainer
from over_nodes import connected, nodes_of

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import Scaffold
from lightning_fed.core.channel import Message
from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.node import Node, Policy, RequiredSecureAggregation
from lightning_fed.node.identities import Identities, write_identity
from lightning_fed.node.secure_rounds import SecureRounds
from lightning_fed.secure import AbortError, SecureAggregation
from lightning_fed.secure.server import SecureServer
from lightning_fed.selection import Availability, Response
from lightning_fed.testing import Loopback, OverLoopback
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Model, Penalty, RoundError, Updates, WorkerError
from lightning_fed.wire.codec import decode_job, encode_job
from lightning_fed.worker.sealing import Sealing

WORKERS = {f"w{i}": Rows([float(i), i + 1.0]) for i in range(5)}
SECURE = SecureAggregation(clip=50.0, threshold=0.6)


class Logs(Scalar):
    """Logs a metric."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("seen", batch[0].mean(), prog_bar=True)
        return super().training_step(batch, batch_idx)


def simulated(secure: SecureAggregation = SECURE, names: Any = WORKERS, **options: Any) -> Any:
    return fitted("sequential", {name: WORKERS[name] for name in names}, secure, **options)


def over_nodes(home: Path, spoil: Any = None, secure: SecureAggregation = SECURE, **options: Any) -> Any:
    node_options = options.pop("node", {})
    engine, workers = connected(lambda: Logs(lr=options.get("lr", 1.0)), WORKERS, home, spoil, **node_options)
    return fitted(engine, workers, secure, **options)


def fitted(engine: Any, workers: Any, secure: SecureAggregation | None, rounds: int = 3, **options: Any) -> Any:
    module, availability = Logs(lr=options.pop("lr", 1.0)), options.pop("availability", None)
    fed = FederatedModule(module, engine=engine, secure_aggregation=secure, **{"aggregator": UniformMean(), **options})
    run = trainer(max_steps=rounds, max_epochs=-1)
    run.fit(fed, FederatedDataModule(workers, availability=availability))
    fed.found = fed.module.x.detach().clone(), {k: float(v) for k, v in run.callback_metrics.items()}
    return fed


def drops(step: str, *nodes: int) -> Any:
    """Nodes whose answer to a step never arrives."""

    def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message | None:
        return None if node in nodes and step in (asked["ask"], asked.get("step")) else answer

    return spoil


def test_the_sums_are_those_of_the_simulation_to_the_bit(tmp_path: Path) -> None:
    there, here, keyed = over_nodes(tmp_path), simulated(), simulated(SecureAggregation(50.0, 0.6, protocol=True))
    assert there.found[0].item() == here.found[0].item() == keyed.found[0].item()
    assert there.found[1] == here.found[1] == keyed.found[1]
    assert there.found[1].keys() == {"loss", "seen"}
    assert repr(there.last_report) == repr(here.last_report) == repr(keyed.last_report)


def test_four_messages_a_round(tmp_path: Path) -> None:
    engine, workers = connected(Logs, WORKERS, tmp_path)
    fitted(engine, workers, SECURE, rounds=1)
    assert isinstance(engine.link, Loopback)
    steps = [asked.get("step", asked["ask"]) for asked in engine.link.asked if asked["ask"] in ("train", "secure")]
    assert steps == [step for step in ("train", "share", "mask", "unmask") for _ in WORKERS]


def test_the_bytes_that_are_said_are_those_that_cross(tmp_path: Path) -> None:
    """Invitations and keys are in the fields of messages, all else are parts."""
    engine, workers = connected(Logs, WORKERS, tmp_path)
    fed = fitted(engine, workers, SECURE, rounds=1)
    assert isinstance(engine.link, Loopback)
    assert fed.last_report.bytes_down == engine.link.bytes_down + len(WORKERS) * 89
    assert fed.last_report.bytes_up == engine.link.bytes_up + len(WORKERS) * 64


def test_no_message_holds_an_update(tmp_path: Path) -> None:
    """One worker's words differ between two runs that end alike: what crosses is masked."""
    answers: list[list[bytes]] = [[], []]

    def spying(turn: int) -> Any:
        def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message:
            if asked.get("step") == "mask" and node == 2:
                answers[turn].append(bytes(answer[1][0]))
            return answer

        return spoil

    one, two = (over_nodes(tmp_path / str(turn), spying(turn), rounds=1) for turn in range(2))
    assert one.found[0].item() == two.found[0].item()
    assert answers[0] != answers[1]


@pytest.mark.parametrize("step", ["train", "share", "mask"])
def test_a_node_that_goes_away_before_its_numbers_have_come_is_not_in_the_sum(tmp_path: Path, step: str) -> None:
    fed = over_nodes(tmp_path, drops(step, 3), on_worker_error="drop")
    alone = simulated(SecureAggregation(clip=50.0, threshold=0.6, least=3), ["w0", "w1", "w2", "w4"])
    # The steps of another size of cohort are others; by hand, too: the mean of 0.5, 1.5, 2.5 and 4.5 is 2.25.
    assert fed.found[0].item() == pytest.approx(alone.found[0].item(), abs=1e-6) == pytest.approx(2.25, abs=1e-6)
    assert fed.last_report is not None
    assert [failure.worker for failure in fed.last_report.failures] == ["w3"]
    assert len(fed.last_report) == 4


def test_a_node_that_goes_away_afterwards_is_in_the_sum(tmp_path: Path) -> None:
    fed = over_nodes(tmp_path, drops("unmask", 3))
    assert fed.found[0].item() == simulated().found[0].item()


@pytest.mark.parametrize("step", ["train", "share", "mask"])
def test_where_workers_are_not_to_fail_it_is_named(tmp_path: Path, step: str) -> None:
    with pytest.raises(WorkerError, match=r"worker 'w3' failed in round 0: no answer within 0\.2 seconds"):
        over_nodes(tmp_path, drops(step, 3))


@pytest.mark.parametrize("step", ["train", "share", "mask", "unmask"])
def test_too_many_that_go_away_change_nothing(tmp_path: Path, step: str, caplog: pytest.LogCaptureFixture) -> None:
    fed = over_nodes(tmp_path, drops(step, 1, 2, 3), on_worker_error="drop", rounds=1)
    assert fed.found[0].item() == Logs().x.item()
    assert "round 0: " in caplog.text
    assert "it changes nothing" in caplog.text or step == "train"


@pytest.mark.filterwarnings("ignore:SecureAggregation. in a simulation checkpoints hold")
def test_what_a_worker_has_learned_does_not_count_if_its_numbers_have_not(tmp_path: Path) -> None:
    """SCAFFOLD's control variate of a worker whose numbers never came is that of the round before."""
    secure = SecureAggregation(clip={"delta": 50.0, "control": 50.0}, threshold=0.6)
    seen: list[Any] = []

    def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message | None:
        if node == 3 and asked.get("step") == "mask":
            seen.append(asked)
            return None if len(seen) == 2 else answer
        return answer

    class Lost(Availability):
        def respond(self, worker: str, number: int, seed: int) -> Response:
            return Response("lost" if (worker, number) == ("w3", 1) else "replies")

    options: dict[str, Any] = {"algorithm": Scaffold(), "aggregator": None, "rounds": 4, "local_epochs": 2}
    there = over_nodes(tmp_path, spoil, secure, on_worker_error="drop", lr=0.3, **options)
    here = simulated(secure, availability=Lost(), lr=0.3, **options)
    complete = simulated(secure, lr=0.3, **options)
    assert len(seen) == 4
    assert there.found[0].item() == here.found[0].item() != complete.found[0].item()


def test_a_round_after_one_that_was_given_up_is_as_good_as_any(tmp_path: Path) -> None:
    def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message | None:
        seen.append(asked.get("step"))
        return None if asked.get("step") == "mask" and seen.count("mask") <= 3 else answer

    seen: list[Any] = []
    fed = over_nodes(tmp_path, spoil, on_worker_error="drop", rounds=2)
    assert fed.found[0].item() == pytest.approx(2.5, abs=1e-6)


def test_another_run_between_two_steps_of_a_round_takes_nothing_from_it(tmp_path: Path) -> None:
    engine, workers = connected(Logs, WORKERS, tmp_path)
    link, seen = engine.link, list[str]()
    assert isinstance(link, Loopback)
    nodes = dict(link._nodes)
    send = link.send

    def interrupted(messages: Any, seconds: float) -> Any:
        if messages[0][1][0].get("step") == "mask" and not seen:
            seen.append("mask")
            other = Loopback(nodes)
            fitted(OverLoopback(other, timeout=0.2), RemotePopulation(other, names=list(WORKERS)), None, rounds=1)
        return send(messages, seconds)

    link.send = interrupted  # type: ignore[method-assign]
    fed = fitted(engine, workers, SECURE)
    assert seen
    assert fed.found[0].item() == simulated().found[0].item()


# ---- a server that lies ----------------------------------------------------------------------------------------------


def test_a_node_that_is_sent_another_model_takes_no_part_in_the_sum(tmp_path: Path) -> None:
    """Its masks are bound to the job that it was sent, so that nobody's update can be told from the sum."""
    told: list[str] = []

    class Meddling(Loopback):
        def send(self, messages: Any, seconds: float) -> Any:
            changed = []
            for node, (fields, parts) in messages:
                if fields["ask"] == "train" and node == 2:
                    other = bytearray(parts[0])
                    other[-1] ^= 1  # in the model, which comes last
                    parts = [memoryview(bytes(other))]
                changed.append((node, (fields, parts)))
            return super().send(changed, seconds)

    def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message:
        told.extend(str(each.get("error")) for each in answer[0].get("results", []) if "error" in each)
        return answer

    nodes = {
        i: Node(Logs(), {name: data}, home=tmp_path / name, accelerator="cpu")
        for i, (name, data) in enumerate(WORKERS.items())
    }
    link = Meddling(nodes, spoil)
    fed = fitted(OverLoopback(link, timeout=0.2), RemotePopulation(link), SECURE, rounds=1, on_worker_error="drop")
    assert "this worker was sent another job than it was invited to" in told
    assert fed.found[0].item() == pytest.approx((0.5 + 1.5 + 3.5 + 4.5) / 4, abs=1e-6)


def asked_for(tmp_path: Path, step: str) -> tuple[Node, dict[str, Any]]:
    """A node after a run, and what it was asked for in a step of it."""
    engine, workers = connected(Logs, WORKERS, tmp_path)
    fitted(engine, workers, SECURE, rounds=1)
    assert isinstance(engine.link, Loopback)
    fields = next(dict(asked) for asked in engine.link.asked if asked.get("step") == step)
    node = engine.link._nodes[0]
    assert isinstance(node, Node)
    return node, fields


@pytest.mark.parametrize(
    ("change", "parts", "says"),
    [
        ({"step": "open"}, [b""], "a step of secure aggregation is one of share, mask, confirm, unmask, with a part"),
        ({"step": "wipe"}, [b""], "a step of secure aggregation is one of"),
        ({}, [], "with a part for each worker"),
        ({"workers": ["eve"]}, [b""], "there is no worker 'eve' at this node"),
        ({"terms": None}, [b""], "the terms of the run are missing"),
    ],
)
def test_questions_that_no_node_answers(change: Any, parts: list[bytes], says: str, tmp_path: Path) -> None:
    node, fields = asked_for(tmp_path, "share")
    answer, _ = node.answer({**fields, **change}, parts)
    assert says in answer["refused"]


def test_terms_of_another_run_open_nothing(tmp_path: Path) -> None:
    node, fields = asked_for(tmp_path, "unmask")
    answer, _ = node.answer({**fields, "terms": {**fields["terms"], "seed": 8}}, [b"\x1f"])
    assert answer["refused"] == "no session of secure aggregation is on at this node: it has begun anew"


def test_a_node_whose_numbers_have_other_names_is_in_no_sum(tmp_path: Path) -> None:
    """What the server refuses of its answer to the job, it does not add up either."""
    asked_to_share: list[int] = []

    def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message:
        if asked.get("step") == "share":
            asked_to_share.append(node)
        if node == 3 and asked["ask"] == "train":
            return answer[0], [bytes(answer[1][0]).replace(b"weight of metric/seen", b"weight of metric/soon")]
        return answer

    fed = over_nodes(tmp_path, spoil, rounds=1, on_worker_error="drop")
    assert asked_to_share == [0, 1, 2, 4]
    assert fed.found[0].item() == pytest.approx((0.5 + 1.5 + 2.5 + 4.5) / 4, abs=1e-6)
    assert [failure.worker for failure in fed.last_report.failures] == ["w3"]


def test_numbers_that_are_asked_for_before_a_roster_are_refused_in_words(tmp_path: Path) -> None:
    def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message:
        if asked.get("step") == "share" and node == 0 and not found:
            found.append(nodes[1].answer({**asked, "step": "mask", "workers": ["w1"]}, [b""])[0])
        return answer

    found: list[Any] = []
    engine, workers = connected(Logs, WORKERS, tmp_path, spoil)
    nodes: dict[int, Node] = engine.link._nodes
    fitted(engine, workers, SECURE, rounds=1, on_worker_error="drop")
    assert found[0]["results"] == [{"worker": "w1", "error": "numbers are asked for before a roster has come"}]


def test_a_round_in_which_nobody_is_asked_has_no_session_and_not_that_of_before(tmp_path: Path) -> None:
    """Chance can leave a cohort empty."""
    jobs: list[bytes] = []

    class Emptying(Loopback):
        def send(self, messages: Any, seconds: float) -> Any:
            if messages[0][1][0].get("step") == "share":
                assert not list(engine.run(decode_job(jobs[0]), []))
                with pytest.raises(AbortError, match="nobody was asked to train"):
                    engine.session()
                raise StopEarlyError
            jobs.extend(bytes(parts[0]) for _, (fields, parts) in messages if fields["ask"] == "train")
            return super().send(messages, seconds)

    class StopEarlyError(Exception):
        pass

    link = Emptying(nodes_of(Logs, WORKERS, tmp_path))
    engine = OverLoopback(link, timeout=0.2)
    with pytest.raises(StopEarlyError):
        fitted(engine, RemotePopulation(link), SECURE, rounds=1)


def test_a_session_is_over_with_its_round(tmp_path: Path) -> None:
    node, fields = asked_for(tmp_path, "unmask")
    answer, _ = node.answer(fields, [b"\x1f"])
    assert answer["results"][0]["error"].startswith("it is in no session")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cohort": 1}, "a cohort of 1 is too small, since the sum of one worker is its update"),
        ({"cohort": 0}, "small"),
    ],
)
def test_a_server_that_asks_for_the_sum_of_one(change: Any, says: str, tmp_path: Path) -> None:
    node, fields = asked_for(tmp_path, "share")
    secure = fields["terms"]["secure"]
    terms = {**fields["terms"], "secure": {**secure, "arguments": {**secure["arguments"], **change}}}
    answer, _ = node.answer({"ask": "agree", "protocol": fields["protocol"], "terms": terms}, [])
    assert says in answer["refused"]


ALONE: dict[str, Any] = {
    "start": {"start": {f"w{i}": Model(torch.zeros(1)) for i in (0, 1, 3, 4)}},
    "penalty": {"penalty": Penalty(linear={f"w{i}": torch.full((1,), 1e6) for i in (0, 1, 3, 4)})},
    "work": {"work": {f"w{i}": 1e-9 for i in (0, 1, 3, 4)}},
}


@pytest.mark.parametrize("what", ALONE)
def test_a_job_that_treats_one_worker_otherwise_than_all_others(what: str, tmp_path: Path) -> None:
    """The job is the same for all, and so its digest: the sum would be of known numbers and one worker's update."""
    trained: list[tuple[dict[str, Any], bytes]] = []

    class Listening(Loopback):
        def send(self, messages: Any, seconds: float) -> Any:
            trained.extend((dict(f), bytes(parts[0])) for _, (f, parts) in messages if f["ask"] == "train")
            return super().send(messages, seconds)

    nodes = nodes_of(Logs, WORKERS, tmp_path)
    link = Listening(nodes)
    fitted(OverLoopback(link, timeout=0.2), RemotePopulation(link), SECURE, rounds=1)
    fields, job = trained[2]
    answer, parts = nodes[2].answer(fields, [encode_job(replace(decode_job(job), **ALONE[what]))])
    assert f"the job has a {what} for 'w0' alone" in answer["refused"]
    assert not parts


@pytest.mark.parametrize("invitation", [None, "", "zz", "00", 7])
def test_a_job_without_an_invitation_is_answered_without_an_update(invitation: Any, tmp_path: Path) -> None:
    left: list[Message] = []

    class Forgetful(Loopback):
        def send(self, messages: Any, seconds: float) -> Any:
            for _, (fields, _parts) in messages:
                if fields["ask"] == "train":
                    fields["invitation"] = invitation
            return super().send(messages, seconds)

    def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message:
        if asked["ask"] == "train":
            left.append(answer)
        return answer

    nodes = {
        i: Node(Logs(), {name: data}, home=tmp_path / name, accelerator="cpu")
        for i, (name, data) in enumerate(WORKERS.items())
    }
    link = Forgetful(nodes, spoil)
    with pytest.raises(WorkerError, match="invitation"):
        fitted(OverLoopback(link, timeout=0.2), RemotePopulation(link), SECURE, rounds=1)
    assert left
    assert not any(parts for _, parts in left)


def test_a_second_question_of_a_step_ends_the_session(tmp_path: Path) -> None:
    """Above all not two lists of survivors: a server could collect both of a worker's secrets with them."""
    again: list[Any] = []

    def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message:
        if asked.get("step") == "unmask" and node == 0:
            again.append(nodes[0].answer(dict(asked), [b"\x1e"])[0]["results"][0]["error"])
        return answer

    engine, workers = connected(Logs, WORKERS, tmp_path, spoil)
    nodes: dict[int, Node] = engine.link._nodes
    fitted(engine, workers, SECURE, rounds=1)
    assert again == ["it is in no session: its node has begun anew, or the round is over"]


# ---- identities ------------------------------------------------------------------------------------------------------


def with_identities(folder: Path, names: Any = WORKERS) -> tuple[dict[str, Path], Path]:
    """The files of a node for each worker, and of those that all know."""
    folder.mkdir(exist_ok=True)
    lines, files = [], {}
    for name in names:
        files[name] = folder / f"{name}.identity"
        lines.append(f"{name}: {write_identity(files[name])}\n")
    known = folder / "identities.yaml"
    known.write_text("".join(lines))
    return files, known


def signing(home: Path, files: Mapping[str, Path], known: Path, spoil: Any = None, **options: Any) -> Any:
    nodes = {
        i: Node(
            Logs(), {name: data}, home=home / name, accelerator="cpu", identity=files.get(name), identities=known_of
        )
        for i, (name, data) in enumerate(WORKERS.items())
        for known_of in [known if name in files else None]
    }
    link = Loopback(nodes, spoil)
    return fitted(OverLoopback(link, timeout=0.2), RemotePopulation(link), SECURE, rounds=1, **options)


def test_with_identities_all_confirm_who_survives(tmp_path: Path) -> None:
    steps: list[Any] = []

    def spoil(node: int, asked: Mapping[str, Any], answer: Message) -> Message:
        steps.append(asked.get("step"))
        return answer

    fed = signing(tmp_path, *with_identities(tmp_path / "keys"), spoil)
    assert fed.found[0].item() == simulated(rounds=1).found[0].item()
    assert steps.count("confirm") == 5


def test_a_worker_that_nobody_knows_is_believed_by_nobody(tmp_path: Path) -> None:
    files, known = with_identities(tmp_path / "keys")
    others, _ = with_identities(tmp_path / "others", ["w2"])
    with pytest.raises(RoundError, match="'w0' failed in round 0: the keys of 'w2' are not signed by it, or nobody of"):
        signing(tmp_path, {**files, **others}, known, on_worker_error="drop")


def test_all_have_identities_or_none(tmp_path: Path) -> None:
    files, known = with_identities(tmp_path / "keys", ["w0", "w1"])
    with pytest.raises(ValueError, match="the node of 'w0' has an identity, and that of 'w2' has none"):
        signing(tmp_path, files, known)


def test_files_of_identities_that_cannot_be_used(tmp_path: Path) -> None:
    files, known = with_identities(tmp_path / "keys", ["w0"])
    with pytest.raises(FileExistsError):
        write_identity(files["w0"])
    assert (files["w0"].stat().st_mode & 0o777) == 0o600
    with pytest.raises(ValueError, match="identities= is missing"):
        Identities.read(files["w0"], None)
    with pytest.raises(ValueError, match="there is no key of 64 hexadecimal digits"):
        Identities.read(tmp_path / "nowhere", known)
    known.write_text("- w0")
    with pytest.raises(ValueError, match="must have a line 'name: public key' for each worker"):
        Identities.read(files["w0"], known)
    known.write_text("w0: abc")
    with pytest.raises(ValueError, match=r"identities\.yaml, w0: there is no key of 64 hexadecimal digits"):
        Identities.read(files["w0"], known)
    assert "secret" not in repr(Identities.read(files["w0"], with_identities(tmp_path / "more")[1]))


# ---- a node's own policy ---------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Policy, SecureAggregation | None, str]] = {
    "none": (Policy(secure_aggregation=True), None, "the run shows the server what each worker sends"),
    "a low threshold": (
        Policy(secure_aggregation=RequiredSecureAggregation(threshold=0.8)),
        SECURE,
        r"secure aggregation with threshold=0\.6, .* secure_aggregation\.threshold: 0\.8",
    ),
    "few neighbours": (
        Policy(secure_aggregation=RequiredSecureAggregation(neighbours=4)),
        SecureAggregation(clip=50.0, threshold=0.7, neighbours=2),
        "secure aggregation with neighbours=2",
    ),
    "few behind a sum": (
        Policy(least_workers=4),
        SecureAggregation(clip=50.0, threshold=0.6, least=3),
        "a sum of the run may be of as few as 3 workers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_runs_that_a_policy_refuses(name: str, tmp_path: Path) -> None:
    policy, secure, says = REFUSED[name]
    with pytest.raises(ValueError, match=says):
        over_nodes(tmp_path, secure=secure, node={"policy": policy}, min_workers=5)


def test_a_worker_that_is_invited_wrongly_holds_nothing_of_the_round_before() -> None:
    one = torch.ones(1, dtype=torch.float64)
    sealing = Sealing(SECURE, cohort=2)
    job = Job(0, 0, 0, GlobalModel({"x": torch.zeros(())}), LocalTraining())
    updates = sealing.sealed(Updates(0, ("w0",), torch.ones(1, 1), {}, one, one, one, one), job)
    rounds = SecureRounds(sealing)
    rounds.begin(updates, SecureServer(sealing.parameters, bytes(32), bytes(32)).invite(), bytes(32))
    with pytest.raises(AbortError, match="no invitation"):
        rounds.begin(updates, b"", bytes(32))
    with pytest.raises(AbortError, match="it is in no session"):
        rounds.answer("w0", "share", b"")


def test_a_policy_hides_sizes_that_a_sum_has() -> None:
    assert Policy(secure_aggregation=True).told_size(5) is None
    assert Policy(secure_aggregation=True, sizes="exact").told_size(5) == Policy().told_size(5) == 5


def test_a_policy_that_is_met(tmp_path: Path) -> None:
    required = RequiredSecureAggregation(threshold=0.6, neighbours=16)  # in a cohort of five all are four others
    fed = over_nodes(
        tmp_path, node={"policy": Policy(secure_aggregation=required, least_workers=3, sizes="hidden")}, min_workers=5
    )
    assert fed.found[0].item() == simulated().found[0].item()
