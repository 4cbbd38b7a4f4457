"""Whoever goes away and whenever: the sum of those who have sent their numbers, exactly, or an abort."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping

import numpy as np
import pytest

pytest.importorskip("cryptography")

from sessions import FORM, JOB, STEPS, Session, agreed

from lightning_fed.secure.attendance import Attendance
from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.lengths import BOX_BYTES, REPLY_BYTES
from lightning_fed.secure.messages import Form, masked_length
from lightning_fed.secure.server import SecureServer
from lightning_fed.secure.session import Machines, MachinesHere, summed


def outcome(session: Session) -> tuple[str, ...] | str:
    """Who has survived, if the sum is right; or why there is none."""
    try:
        found = session.run()
    except AbortError as error:
        return str(error)
    session.assert_right(found)
    return found.survivors


def by_rules(session: Session) -> tuple[str, ...] | str:
    """The same, by the rules without keys."""
    names = session.stay(session.names, "advertise")
    try:
        attendance = Attendance(session.parameters, session.session, names)
        able = attendance.share({names.index(name) for name in session.stay(names, "share")})
        there = session.stay([names[v] for v in sorted(able)], "mask")
        can = attendance.send({names.index(name) for name in there})
        attendance.reply({names.index(name) for name in session.stay([names[v] for v in sorted(can)], "unmask")})
    except AbortError as error:
        return str(error)
    return tuple(there)


def test_every_pattern_of_five_workers() -> None:
    parameters, right = agreed(5), 0
    assert parameters.degree(5).threshold == 3
    for pattern in itertools.product((*STEPS[1:], None), repeat=5):
        gone = {f"w{i}": step for i, step in enumerate(pattern) if step is not None}
        session = Session(5, parameters, gone)
        found = outcome(session)
        assert found == by_rules(session), pattern
        stayed = sum(step is None for step in pattern)
        assert isinstance(found, tuple) == (stayed >= 3), pattern
        right += isinstance(found, tuple)
    assert right == sum(math.comb(5, k) * 3 ** (5 - k) for k in (3, 4, 5)) == 106


@pytest.mark.parametrize("bits", [32, 20])
def test_patterns_on_a_graph(bits: int) -> None:
    draw, right = random.Random(bits), 0
    for _ in range(150):
        steps = draw.choices((*STEPS, None), weights=[1, 1, 1, 1, 16], k=12)
        gone = {f"w{i}": step for i, step in enumerate(steps) if step is not None}
        session = Session(12, agreed(12, bits=bits, neighbours=6), gone)
        found = outcome(session)
        assert found == by_rules(session), gone
        right += isinstance(found, tuple)
    assert 30 < right < 140, "both kinds are met with"


@pytest.mark.parametrize(
    ("form", "bits"), [(FORM, 32), (FORM, 24), (Form(20), 32), (Form(20_001, ("loss",)), 12), (Form(0, ("loss",)), 32)]
)
def test_forms(form: Form, bits: int) -> None:
    session = Session(4, agreed(4, bits=bits), {"w2": "mask"}, form=form)
    assert outcome(session) == ("w0", "w1", "w3")


def test_identities_add_a_step_and_change_no_sum() -> None:
    session = Session(6, agreed(6), {"w1": "mask", "w4": "unmask"}, identities=True)
    assert outcome(session) == ("w0", "w2", "w3", "w4", "w5")


def test_the_lengths_of_messages() -> None:
    """82 bytes for each neighbour, 38 for each share that comes back, and the numbers as they are."""
    session = Session(5, agreed(5, bits=12), form=Form(7, ("loss", "weight")))
    forwarded = session.server.forward(session.shared())
    assert {len(message) for message in Session(5, agreed(5)).advertised().values()} == {64}
    assert {len(message) for message in Session(5, agreed(5)).shared().values()} == {32 + 82 * 4}
    assert {len(message) for message in forwarded.values()} == {1 + BOX_BYTES * 4}
    masked = Session(5, session.parameters, form=session.form).masked()
    assert {len(message) for message in masked.values()} == {8 * 2 + 11} == {masked_length(session.form, 12)}
    assert {len(message) for message in Session(5, agreed(5)).replies().values()} == {38 * 5} == {REPLY_BYTES * 5}


def test_what_is_sent_looks_like_random_numbers() -> None:
    """χ² of the top byte of masked zeros: 255 degrees of freedom, a standard deviation of 22.6."""
    session = Session(3, agreed(3), form=Form(2**16))
    session.words = {name: np.zeros(2**16, np.uint32) for name in session.names}
    for masked in session.masked().values():
        counts = np.bincount(np.frombuffer(masked, np.uint8)[3::4], minlength=256)
        assert 255 - 6 * 22.6 < ((counts - 256) ** 2 / 256).sum() < 255 + 6 * 22.6


def test_nothing_is_used_twice() -> None:
    """The same numbers in two sessions look unrelated: keys, seeds and masks are made anew."""
    one, other = (Session(3, agreed(3), session=bytes(32), form=Form(1000)) for _ in range(2))
    first, second = one.masked(), other.masked()
    for name in one.names:
        assert (np.frombuffer(first[name], np.uint8) == np.frombuffer(second[name], np.uint8)).mean() < 0.02


def test_the_order_of_vectors_does_not_matter() -> None:
    session = Session(6, agreed(6))
    masked = session.masked()
    for name in reversed(session.names):
        assert session.server.take(name, masked[name])
    survivors = session.server.survivors()
    found = session.server.unmask(session.each(list(reversed(session.names)), "unmask", survivors))
    assert found.survivors == tuple(session.names)
    session.assert_right(found)


def test_a_machine_shows_no_secret() -> None:
    session = Session(3, agreed(3))
    session.masked()
    assert repr(session.workers["w1"]) == "SecureWorker('w1')"
    with pytest.raises(TypeError, match="not to be written anywhere"):
        __import__("pickle").dumps(session.workers["w1"])


def test_secrets_are_gone_after_the_last_step_and_after_an_abort() -> None:
    secrets = {"_mask_keys", "_channel_keys", "_seed", "_own_share", "_shares", "_channels"}
    session = Session(4, agreed(4))
    survivors = session.sent()
    assert secrets <= vars(session.workers["w0"]).keys()
    session.workers["w0"].unmask(survivors)
    with pytest.raises(AbortError):
        session.workers["w1"].unmask(b"")
    for name in ("w0", "w1"):
        assert not secrets & vars(session.workers[name]).keys()


@pytest.mark.parametrize("identities", [False, True])
@pytest.mark.parametrize("neighbours", [None, 6])
@pytest.mark.parametrize(
    "gone", [{}, {"w1": "advertise"}, {"w1": "share", "w2": "mask"}, {"w3": "unmask", "w7": "mask"}], ids=str
)
def test_lengths_are_those_of_the_messages(gone: dict[str, str], neighbours: int | None, identities: bool) -> None:
    """Whoever has gone away before the roster is in no message, and so in no length."""
    form = Form(33, ("loss", "größe"))
    session = Session(10, agreed(10, threshold=0.51, neighbours=neighbours, bits=20), gone, identities, form=form)
    server, counted = session.server, {"down": 0, "up": 0}

    def down(messages: dict[str, bytes]) -> dict[str, bytes]:
        counted["down"] += sum(map(len, messages.values()))
        return messages

    def up(messages: dict[str, bytes]) -> dict[str, bytes]:
        counted["up"] += sum(map(len, messages.values()))
        return messages

    advertised = up(session.advertised())
    down(dict.fromkeys(advertised, server.invite()))
    roster = server.roster(advertised, form)
    down(dict.fromkeys(advertised, roster))
    shares = up(session.each(session.stay(list(advertised), "share"), "share", roster))
    masked: dict[str, bytes] = {}
    for name, message in down(server.forward(shares)).items():
        if session.stay([name], "mask"):
            masked |= up(session.each([name], "mask", message, JOB, session.words[name], session.scalars[name]))
    assert all(server.take(name, numbers) for name, numbers in masked.items())
    told = down(dict.fromkeys(masked, server.survivors()))
    if identities:
        confirmed = up(session.each(list(masked), "confirm", next(iter(told.values()))))
        told = down(server.confirmations(confirmed))
    replies: dict[str, bytes] = {}
    for name in session.stay(list(masked), "unmask"):
        replies |= up(session.each([name], "unmask", told[name]))
    session.assert_right(server.unmask(replies))
    assert (server.lengths.down, server.lengths.up) == (counted["down"], counted["up"])
    assert server.lengths.vectors == len(masked) * -(-33 * 20 // 8)


def test_a_machine_that_refuses_is_left_out_of_the_sum() -> None:
    """In a simulation, too: one is sent boxes that were changed on the way, and the other three go on."""
    parameters, names = agreed(4), [f"w{i}" for i in range(4)]
    form = Form(2, ("loss",))

    class Spoiling(Machines):
        def __init__(self) -> None:
            super().__init__()
            self.here = MachinesHere(
                parameters, names, lambda *_: (np.ones(2, np.uint32), np.ones(1, np.uint64)), JOB, names
            )

        def advertised(self, invitation: bytes) -> Mapping[str, bytes]:
            return self.here.advertised(invitation)

        def ask(self, step: str, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
            return self.here.ask(step, messages)

        def add(self, messages: Mapping[str, bytes], server: SecureServer) -> None:
            self.here.add({**messages, "w1": messages["w1"][:-1] + b"x"}, server)

    machines = Spoiling()
    found = summed(SecureServer(parameters, bytes(32), JOB), machines, form)
    assert found.survivors == ("w0", "w2", "w3")
    assert (found.words.tolist(), found.scalars.tolist()) == ([3, 3], [3])
    assert machines.here.failed.keys() == {"w1"}
