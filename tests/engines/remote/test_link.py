"""Messages and their answers, as they come; what is not needed any more is let go of."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence

import numpy as np

from lightning_fed.core.channel import Message
from lightning_fed.engines.remote import Link
from lightning_fed.engines.remote.link import LinkError, answers

Parts = list[memoryview]


class Lists(Link):
    """Gives the answers that it was made with, a list of them at a look."""

    poll = 0.001

    def __init__(self, *looks: dict[str, Message | LinkError]) -> None:
        self.looks = list(looks)

    def nodes(self) -> Sequence[int]:
        return [0, 1, 2]

    def send(self, messages: Sequence[tuple[int, Message]], seconds: float) -> Sequence[str]:
        return [str(node) for node, _ in messages]

    def receive(self, identifiers: Collection[str]) -> Sequence[tuple[str, Message | LinkError]]:
        return list(self.looks.pop(0).items()) if self.looks else []


def _message() -> tuple[Message, weakref.ref[object]]:
    part = np.zeros(8, dtype=np.uint8)
    return ({}, [part.data]), weakref.ref(part)


def test_each_message_has_one_answer_in_the_order_of_arrival() -> None:
    away = LinkError("away")
    link = Lists({}, {"2": ({"from": 2}, [])}, {"0": away})
    found = list(answers(link, [(node, ({}, [])) for node in (0, 1, 2)], 0.05))
    assert found[:2] == [(2, ({"from": 2}, [])), (0, away)]
    position, late = found[2]
    assert (position, str(late)) == (1, "no answer within 0.05 seconds")


def test_messages_that_are_sent_are_let_go_of() -> None:
    message, part = _message()
    results = answers(Lists({"0": ({}, [])}, {"1": ({}, [])}), [(0, message), (1, message)], 1.0)
    del message
    next(results)
    assert part() is None


def test_answers_are_let_go_of_one_by_one() -> None:
    (one, first), (other, second) = _message(), _message()
    results = answers(Lists({"0": one, "1": other}), [(0, ({}, [])), (1, ({}, []))], 1.0)
    del one, other
    _, answer = next(results)
    assert first() is not None
    del answer
    assert first() is None
    assert second() is not None
    next(results)
    assert second() is None
