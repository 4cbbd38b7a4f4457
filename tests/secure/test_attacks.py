"""Whatever a party or the network changes: someone refuses, in words, and no wrong sum is shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cryptography")

from sessions import JOB, Session, agreed

from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.graph import order
from lightning_fed.secure.lengths import BOX_BYTES
from lightning_fed.secure.masks import Identity, KeyPair
from lightning_fed.secure.messages import Form, Invitation, Keys, Reply, Roster, bits_of, of_neighbours, replies_of
from lightning_fed.secure.parameters import Parameters
from lightning_fed.secure.server import SecureServer
from lightning_fed.secure.worker import SecureWorker, commitment, mask_key


def flipped(message: bytes, at: int = -1) -> bytes:
    changed = bytearray(message)
    changed[at] ^= 1
    return bytes(changed)


# ---- a server that lies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", 0.5), ("least", 1), ("most", 99), ("bits", 16), ("neighbours", 2)],
)
def test_other_parameters_than_were_agreed_on(name: str, value: Any) -> None:
    wrong = SecureServer(agreed(4, **{name: value}), bytes(32), JOB).invite()
    with pytest.raises(AbortError, match="with other parameters than"):
        SecureWorker("w0", agreed(4)).advertise(wrong)


@pytest.mark.parametrize("message", [b"", b"\x02" + bytes(100), bytes(3)])
def test_an_invitation_that_is_none(message: bytes) -> None:
    with pytest.raises(AbortError, match="no invitation of version 1"):
        SecureWorker("w0", agreed(4)).advertise(message)


ROSTERS: dict[str, tuple[Callable[[Roster], Roster], str]] = {
    "own keys left out": (lambda r: Roster(r.names[1:], r.keys[1:], r.form), "own keys are not at its own place"),
    "own keys exchanged": (
        lambda r: Roster(r.names, (Keys(KeyPair().public, KeyPair().public), *r.keys[1:]), r.form),
        "own keys are not at its own place",
    ),
    "a key twice": (lambda r: Roster(r.names, (*r.keys[:3], r.keys[1]), r.form), "a key stands twice"),
    "one key for both": (
        lambda r: Roster(r.names, (*r.keys[:3], Keys(r.keys[3].mask, r.keys[3].mask)), r.form),
        "a key stands twice",
    ),
    "a name twice": (lambda r: Roster(("w0", "w1", "w1", "w3"), r.keys, r.form), "a name stands twice"),
    "one worker alone": (lambda r: Roster(r.names[:1], r.keys[:1], r.form), "1 workers take part, and from 2 to 4"),
    "more than there is room for": (
        lambda r: Roster((*r.names, "eve"), (*r.keys, Keys(KeyPair().public, KeyPair().public)), r.form),
        "5 workers take part, and from 2 to 4",
    ),
    "a key of low order": (
        lambda r: Roster(r.names, (*r.keys[:3], Keys(bytes(32), bytes([1] + [0] * 31))), r.form),
        "low order",
    ),
}


@pytest.mark.parametrize("name", ROSTERS)
def test_a_wrong_roster(name: str) -> None:
    change, said = ROSTERS[name]
    session = Session(4, agreed(4))
    roster = Roster.of(session.server.roster(session.advertised(), session.form), False)
    with pytest.raises(AbortError, match=said):
        session.workers["w0"].share(change(roster).to_bytes())


@pytest.mark.parametrize(
    "form", [Form(20, ("weight", "loss", "workers")), Form(20, ("loss", "weight", "workers", "x"))]
)
def test_a_worker_that_is_told_another_form_comes_to_no_sum(form: Form) -> None:
    """With the others' zeros in the place of its loss, the loss would be seen."""
    session = Session(4, agreed(4))
    roster = session.server.roster(session.advertised(), session.form)
    other = Roster.of(roster, False)._replace(form=form).to_bytes()
    shares = {n: w.share(other if n == "w0" else roster) for n, w in session.workers.items()}
    forwarded = session.server.forward(shares)
    for name, worker in session.workers.items():
        with pytest.raises(AbortError, match="changed on the way, or are of another session"):
            worker.mask(forwarded[name], JOB, session.words[name], np.zeros(len(worker.form.scalars), np.uint64))


def test_numbers_of_another_form_than_the_roster_says() -> None:
    session = Session(4, agreed(4))
    forwarded = session.server.forward(session.shared())
    with pytest.raises(
        AbortError, match=r"there are \(3,\) words and \(3,\) scalars to mask, and the roster says 20 and 3"
    ):
        session.workers["w0"].mask(forwarded["w0"], JOB, session.words["w0"][:3], session.scalars["w0"])


def test_a_worker_is_sent_the_shares_of_another_roster() -> None:
    """It stands in the middle with a worker of its own: what others have sealed does not open."""
    session = Session(4, agreed(4))
    advertised = session.advertised()
    roster = session.server.roster(advertised, session.form)
    others = Roster.of(roster, False)
    mine = others._replace(keys=(*others.keys[:3], Keys(KeyPair().public, KeyPair().public))).to_bytes()
    shares = {name: session.workers[name].share(roster) for name in ("w1", "w2", "w3")}
    shares["w0"] = session.workers["w0"].share(mine)
    forwarded = session.server.forward(shares)
    with pytest.raises(AbortError, match="the shares of 'w1' were changed on the way, or are of another session"):
        session.workers["w0"].mask(forwarded["w0"], JOB, session.words["w0"], session.scalars["w0"])


def changed_boxes(session: Session, change: Callable[[bytes], bytes]) -> bytes:
    forwarded = session.server.forward(session.shared())
    return change(forwarded["w0"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flipped, "the shares of 'w3' were changed on the way"),
        (
            lambda m: m[:1] + m[1 + BOX_BYTES : 1 + 2 * BOX_BYTES] + m[1 : 1 + BOX_BYTES] + m[1 + 2 * BOX_BYTES :],
            "of 'w1'",
        ),
        (lambda m: m[:-1], "not as long as it says"),
        (lambda m: m + b"0", "not as long as it says"),
        (lambda m: bits_of([True, False, False]) + m[1 : 1 + BOX_BYTES], "2 of those who hold .* 3 needed"),
        (lambda m: b"\xff" + m[1:], "not a bit for each"),
        (lambda m: b"", "not a bit for each"),
    ],
)
def test_forwarded_shares_that_were_changed(change: Callable[[bytes], bytes], said: str) -> None:
    session = Session(4, agreed(4))
    forwarded = changed_boxes(session, change)
    with pytest.raises(AbortError, match=said):
        session.workers["w0"].mask(forwarded, JOB, session.words["w0"], session.scalars["w0"])


def test_another_model_for_one_worker() -> None:
    """Masks that are bound to the model do not cancel with those of others, so the worker sends none."""
    session = Session(4, agreed(4))
    forwarded = session.server.forward(session.shared())
    with pytest.raises(AbortError, match="was sent another job than it was invited to"):
        session.workers["w0"].mask(forwarded["w0"], bytes(32), session.words["w0"], session.scalars["w0"])


def test_workers_that_were_invited_to_different_models_come_to_no_sum() -> None:
    session = Session(4, agreed(4))
    other = Invitation(session.session, session.parameters.to_bytes(), bytes(32)).to_bytes()
    invitation = session.server.invite()
    advertised = {n: w.advertise(other if n == "w0" else invitation) for n, w in session.workers.items()}
    roster = session.server.roster(advertised, session.form)
    forwarded = session.server.forward({n: w.share(roster) for n, w in session.workers.items()})
    for name, worker in session.workers.items():
        job = bytes(32) if name == "w0" else JOB
        with pytest.raises(AbortError, match="or are of another session"):
            worker.mask(forwarded[name], job, session.words[name], session.scalars[name])


SURVIVORS = {
    "called lost": ([False, True, True, True], "this worker is called lost"),
    "too few": ([True, False, False, False], "the sum would be of 1 workers"),
    "too few who hold shares": (
        [True, True, False, False],
        "2 of those who hold this worker's shares are left, 3 needed",
    ),
}


@pytest.mark.parametrize("name", SURVIVORS)
def test_a_wrong_list_of_survivors(name: str) -> None:
    flags, said = SURVIVORS[name]
    session = Session(4, agreed(4))
    session.sent()
    with pytest.raises(AbortError, match=said):
        session.workers["w0"].unmask(bits_of(flags))


@pytest.mark.parametrize("bits", [b"", b"\x0f\x00", b"\x1f"])
def test_a_list_of_survivors_of_another_length(bits: bytes) -> None:
    session = Session(4, agreed(4))
    session.sent()
    with pytest.raises(AbortError, match="not a bit for each of 4 workers"):
        session.workers["w0"].unmask(bits)


def test_one_is_called_a_survivor_that_never_shared() -> None:
    session = Session(5, agreed(5), {"w4": "share"})
    session.sent()
    with pytest.raises(AbortError, match="'w4' is called a survivor, and has never shared its secrets"):
        session.workers["w0"].unmask(bits_of([True] * 5))


def test_a_second_list_of_survivors_is_not_answered() -> None:
    """Else it would have both secrets of a worker, and with them its numbers."""
    session = Session(5, agreed(5))
    survivors = session.sent()
    worker = session.workers["w0"]
    worker.unmask(survivors)
    for again in (survivors, bits_of([True, True, True, True, False])):
        with pytest.raises(AbortError, match="a message of step 4 came out of turn"):
            worker.unmask(again)


def test_a_worker_never_gives_both_secrets_of_another() -> None:
    session = Session(5, agreed(5), {"w3": "mask"})
    for message in session.replies().values():
        lines = replies_of(message)
        assert len({line.worker for line in lines}) == len(lines)
        assert all(line.of_seed == (line.worker != 3) for line in lines)


def test_a_server_that_tells_two_stories_gets_too_few_shares_of_each() -> None:
    """Three of six hear that w5 lives, and two that it is lost: the threshold is a majority, so one secret is safe."""
    session = Session(6, agreed(6))
    assert session.parameters.degree(6).threshold == 4
    survivors = session.sent()
    lost = bits_of([True] * 5 + [False])
    held: dict[bool, int] = {True: 0, False: 0}
    for name, told in zip(session.names, [survivors] * 3 + [lost] * 2, strict=False):
        for line in replies_of(session.workers[name].unmask(told)):
            held[line.of_seed] += line.worker == 5
    assert held == {True: 3, False: 2}
    assert 2 * 4 > 6


def told_each_its_own(session: Session) -> dict[str, bytes]:
    """Lists of survivors for ten workers: all call w0 to w5 alive, and each a single other one, or itself."""
    return {
        name: bits_of([v < 6 or v == (i if i >= 6 else 6 + i % 4) for v in range(10)])
        for i, name in enumerate(session.names)
    }


def test_without_identities_a_server_that_lies_gets_the_sum_of_fewer() -> None:
    """Each hears of seven, as was agreed on, and the sum is of six; of none it gets both secrets."""
    session = Session(10, agreed(10, threshold=0.7, least=7))
    for name, numbers in list(session.masked().items())[:6]:
        session.server.take(name, numbers)
    vars(session.server._attendance)["_parameters"] = agreed(10, threshold=0.7)  # it does not keep to the rules
    session.server.survivors()
    replies = {}
    for name, told in told_each_its_own(session).items():
        lines = replies_of(session.workers[name].unmask(told))
        replies[name] = b"".join(line.to_bytes() for line in lines if line.of_seed == (line.worker < 6))
    found = session.server.unmask(replies)
    assert found.survivors == tuple(session.names[:6])
    session.assert_right(found)


def test_with_identities_it_gets_nothing() -> None:
    session = Session(10, agreed(10, threshold=0.7, least=7), identities=True)
    session.sent()
    told = told_each_its_own(session)
    confirmed = session.server.confirmations(
        {name: session.workers[name].confirm(told[name]) for name in session.names}
    )
    for name in session.names:
        with pytest.raises(AbortError, match=r"[23] workers confirm this list of survivors, 7 needed"):
            session.workers[name].unmask(confirmed[name])


# ---- out of turn -----------------------------------------------------------------------------------------------------


def test_a_sum_of_a_few_survivors_that_share_no_mask_with_the_others() -> None:
    """On a ring of nine with two neighbours each, every third one lost: three pairs, each with a sum of its own."""
    session = Session(9, agreed(9, least=6, neighbours=2))
    ring = order(tuple(session.names), session.session)
    session.gone = {f"w{ring[place]}": "mask" for place in (0, 3, 6)}
    with pytest.raises(AbortError):
        session.run()
    assert len(session.said) == 6


def test_a_threshold_that_is_no_majority_is_refused_by_workers_too() -> None:
    """Rounding can make one of a threshold that is above one half by less than an error of floats."""
    session = Session(4, agreed(4, threshold=0.5 + 1e-12))
    session.shared()
    assert set(session.said.values()) == {"2 of 4 shares are no majority"}


def test_masks_and_commitments_are_of_one_session() -> None:
    assert mask_key(bytes(32), b"one") != mask_key(bytes(32), b"other")
    assert commitment(bytes(32), b"one") != commitment(bytes(32), b"other")


@pytest.mark.parametrize("step", ["share", "mask", "confirm", "unmask"])
def test_a_step_before_its_turn(step: str) -> None:
    worker = SecureWorker("w0", agreed(3))
    arguments: tuple[Any, ...] = (
        (b"",) if step != "mask" else (b"", JOB, np.zeros(20, np.uint32), np.zeros(3, np.uint64))
    )
    with pytest.raises(AbortError, match="out of turn"):
        getattr(worker, step)(*arguments)
    with pytest.raises(AbortError, match="out of turn"):
        worker.advertise(Session(3, agreed(3)).server.invite())


def test_a_step_twice() -> None:
    session = Session(3, agreed(3))
    session.advertised()
    with pytest.raises(AbortError, match="a message of step 0 came out of turn"):
        session.workers["w0"].advertise(session.server.invite())


def test_numbers_of_another_form_are_not_masked() -> None:
    session = Session(3, agreed(3))
    forwarded = session.server.forward(session.shared())
    with pytest.raises(AbortError, match="21"):
        session.workers["w0"].mask(forwarded["w0"], JOB, np.zeros(21, np.uint32), np.zeros(3, np.uint64))


# ---- workers that lie ------------------------------------------------------------------------------------------------


def left_out(session: Session) -> dict[str, str]:
    return session.server.left_out


def test_keys_that_are_none_or_anothers_leave_a_worker_out() -> None:
    session = Session(5, agreed(5))
    advertised = session.advertised()
    advertised["w0"] = b"x"
    advertised["w4"] = advertised["w1"][:32] + advertised["w4"][32:]
    names = Roster.of(session.server.roster(advertised, session.form), False).names
    assert names == ("w1", "w2", "w3")
    assert left_out(session) == {
        "w0": "1 bytes are not two keys, which are 64",
        "w4": "a key that it sends is another's, too",
    }


@pytest.mark.parametrize("place", [slice(0, 32), slice(32, 64)])
def test_a_key_of_low_order_leaves_a_worker_out_and_nobody_else(place: slice) -> None:
    session = Session(5, agreed(5))
    advertised = session.advertised()
    spoilt = bytearray(advertised["w0"])
    spoilt[place] = bytes(32)
    advertised["w0"] = bytes(spoilt)
    roster = session.server.roster(advertised, session.form)
    assert session.server.names == ("w1", "w2", "w3", "w4")
    assert "low order" in left_out(session)["w0"]
    assert len(session.each(session.server.names, "share", roster)) == 4


def test_shares_of_another_length_are_as_good_as_none() -> None:
    session = Session(5, agreed(5))
    shares = session.shared()
    shares["w0"] = shares["w0"][:-1]
    assert "w0" not in session.server.forward(shares)
    assert left_out(session) == {"w0": "359 bytes are not the shares for 4 neighbours"}


def test_numbers_that_cannot_be_added() -> None:
    session = Session(5, agreed(5), {"w4": "share"})
    masked = session.masked()
    server = session.server
    assert not server.take("w0", masked["w0"][:-1])
    assert server.take("w1", masked["w1"])
    assert not server.take("w1", masked["w1"])
    assert not server.take("w4", masked["w1"])
    assert not server.take("eve", masked["w1"])
    assert server.take("w2", masked["w2"])
    assert server.take("w3", masked["w3"])
    survivors = server.survivors()
    assert not server.take("w0", masked["w0"])
    assert left_out(session) == {
        "w0": "its numbers came after the survivors had been told",
        "w1": "it has sent numbers twice, of which the first count",
        "w4": "it has sent numbers, and has never shared its secrets",
        "eve": "it has sent numbers, and has never shared its secrets",
    }
    session.assert_right(server.unmask(session.each(["w1", "w2", "w3"], "unmask", survivors)))


def lying(message: bytes, change: Callable[[Reply], Reply]) -> bytes:
    return b"".join(change(line).to_bytes() for line in replies_of(message))


LIES: dict[str, tuple[Callable[[Reply], Reply], str]] = {
    "another number": (lambda r: r._replace(share=r.share + 1), "a share that does not fit those of others"),
    "a share of the wrong kind": (lambda r: r._replace(of_seed=not r.of_seed), "a share of the wrong secret"),
    "of nobody": (lambda r: r._replace(worker=99), "a share that it does not hold"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_wrong_share_is_found_and_the_sum_is_right(name: str) -> None:
    change, said = LIES[name]
    session = Session(6, agreed(6), {"w2": "mask"})
    replies = session.replies()
    replies["w0"] = lying(replies["w0"], change)
    session.assert_right(session.server.unmask(replies))
    assert list(left_out(session)) == ["w0"]
    assert said in left_out(session)["w0"]


def test_a_wrong_share_that_is_not_needed_does_no_harm() -> None:
    session = Session(6, agreed(6))
    replies = session.replies()
    replies["w5"] = lying(replies["w5"], lambda r: r._replace(share=7))
    session.assert_right(session.server.unmask(replies))


def test_too_many_wrong_shares_are_an_abort() -> None:
    session = Session(5, agreed(5))
    replies = session.replies()
    for name in ("w0", "w1", "w2"):
        replies[name] = lying(
            replies[name], lambda r: r._replace(share=r.share ^ int.from_bytes(os.urandom(8), "little"))
        )
    with pytest.raises(AbortError, match=r"the shares of 'w0' that came back do not fit each other"):
        session.server.unmask(replies)


@pytest.mark.parametrize("message", [b"x", bytes(37), b"\x00\x00\x00\x00\x02" + bytes(33)])
def test_a_reply_that_is_none_leaves_a_worker_out(message: bytes) -> None:
    session = Session(6, agreed(6))
    replies = session.replies()
    replies["w1"] = message
    session.assert_right(session.server.unmask(replies))
    assert list(left_out(session)) == ["w1"]


def test_too_few_replies_are_an_abort() -> None:
    session = Session(5, agreed(5))
    replies = session.replies()
    with pytest.raises(AbortError, match="2 of those who hold the shares of 'w0' have answered, 3 needed"):
        session.server.unmask({name: replies[name] for name in ("w0", "w3")})


# ---- identities ------------------------------------------------------------------------------------------------------


def test_keys_that_nobody_known_has_signed() -> None:
    session = Session(4, agreed(4), identities=True)
    advertised = session.advertised()
    forged = KeyPair().public + KeyPair().public
    advertised["w3"] = forged + Identity().signed(b"keys" + session.session + forged)
    roster = session.server.roster(advertised, session.form)
    with pytest.raises(AbortError, match="the keys of 'w3' are not signed by it"):
        session.workers["w0"].share(roster)


def test_an_invented_worker_is_not_known() -> None:
    session = Session(3, agreed(4), identities=True)
    eve, parameters = Identity(), session.parameters
    advertised = session.advertised()
    advertised["eve"] = SecureWorker("eve", parameters, eve, {}).advertise(session.server.invite())
    with pytest.raises(AbortError, match="the keys of 'eve' are not signed by it, or nobody of that name is known"):
        session.workers["w0"].share(session.server.roster(advertised, session.form))


def test_survivors_that_others_have_not_confirmed() -> None:
    session = Session(5, agreed(5), identities=True)
    survivors = session.sent()
    signatures = session.each(session.names, "confirm", survivors)
    signatures["w1"] = signatures["w2"] = signatures["w3"] = bytes(64)
    confirmed = session.server.confirmations(signatures)
    with pytest.raises(AbortError, match="2 workers confirm this list of survivors, 3 needed"):
        session.workers["w0"].unmask(confirmed["w0"])


def test_a_worker_that_is_told_other_survivors_than_the_rest() -> None:
    session = Session(5, agreed(5), identities=True)
    session.sent()
    signatures = session.each(["w0"], "confirm", bits_of([True] * 5))
    signatures |= session.each(["w1", "w2", "w3"], "confirm", bits_of([True, True, True, True, False]))
    confirmed = session.server.confirmations(signatures)
    with pytest.raises(AbortError, match="1 workers confirm this list of survivors, 3 needed"):
        session.workers["w0"].unmask(confirmed["w0"])
    session.workers["w1"].unmask(confirmed["w1"])


def test_what_one_worker_of_a_node_has_confirmed_another_has_not() -> None:
    """They sign by one identity, and a server could tell each of them another story."""
    session = Session(5, agreed(5), identities=True)
    one = Identity()
    for name in ("w1", "w2", "w3"):
        session.workers[name] = SecureWorker(name, session.parameters, one, session.workers["w0"]._known)
    for worker in session.workers.values():
        worker._known |= dict.fromkeys(("w1", "w2", "w3"), one.public)
    survivors = session.sent()
    session.each(["w0"], "confirm", survivors)
    (signature,) = session.each(["w1"], "confirm", survivors).values()
    with pytest.raises(AbortError, match="2 workers confirm this list of survivors, 3 needed"):
        session.workers["w0"].unmask(of_neighbours({1: signature, 2: signature, 3: signature}, [1, 2, 3, 4]))


def test_a_worker_with_an_identity_leaves_out_no_step() -> None:
    session = Session(4, agreed(4), identities=True)
    survivors = session.sent()
    with pytest.raises(AbortError, match="a message of step 4 came out of turn"):
        session.workers["w0"].unmask(survivors)


def test_one_without_an_identity_confirms_nothing() -> None:
    session = Session(4, agreed(4))
    survivors = session.sent()
    with pytest.raises(AbortError, match="no identity"):
        session.workers["w0"].confirm(survivors)


def test_a_parameter_is_one_of_the_bytes() -> None:
    assert len(agreed(4).to_bytes()) == Parameters.LENGTH == 24
