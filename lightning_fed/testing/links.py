"""The contract of links, with a test's own nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from lightning_fed.core.channel import Message
from lightning_fed.engines.remote import Link
from lightning_fed.engines.remote.link import LinkError, answers
from lightning_fed.testing.loopback import Answers

_SECONDS = 5.0


def check_link(make: Callable[[Mapping[int, Answers]], Link]) -> None:
    """Check that a link carries messages completely, each answer once, and reports missing answers.

    Args:
        make: Makes a link to nodes, by their identifiers; the nodes answer from the start.

    Raises:
        AssertionError: With the part of the contract that fails.

    >>> from lightning_fed.testing import Loopback
    >>> check_link(Loopback)
    """
    _carries_messages_whole(make)
    _carries_each_answer_once(make)
    _carries_nothing(make)


@final
class _Echo:
    """Node that returns each message, with its own number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def answer(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        return {"node": self._number, "asked": dict(fields)}, [memoryview(bytes(part)) for part in parts]


def _nodes(count: int) -> dict[int, Answers]:
    return {7 + number: _Echo(7 + number) for number in range(count)}


def _carries_messages_whole(make: Callable[[Mapping[int, Answers]], Link]) -> None:
    link = make(_nodes(3))
    assert sorted(link.nodes()) == [7, 8, 9], "nodes() names every node that can be reached"
    parts = [memoryview(b""), memoryview(bytes(range(256)) * 1000)]
    asked = {"ask": "train", "numbers": [1, 2.5, None, True], "text": "ä \" ' \n", "nested": {"a": {}}}
    messages: list[tuple[int, Message]] = [(node, ({**asked, "for": node}, parts)) for node in (9, 7, 8)]
    heard = dict(answers(link, messages, _SECONDS))
    assert sorted(heard) == [0, 1, 2], "each message has one answer"
    for position, (node, (fields, _)) in enumerate(messages):
        answer = heard[position]
        assert not isinstance(answer, LinkError), f"a node that is there has answered: {answer}"
        assert answer[0] == {"node": node, "asked": fields}, "fields arrive as they are, at the node they are for"
        assert [bytes(part) for part in answer[1]] == [bytes(part) for part in parts], "parts arrive whole, in order"


def _carries_each_answer_once(make: Callable[[Mapping[int, Answers]], Link]) -> None:
    link = make(_nodes(2))
    message: Message = {"ask": "greet"}, []
    first = list(link.send([(7, message), (8, message)], _SECONDS))
    second = list(link.send([(7, message)], _SECONDS))
    assert len({*first, *second}) == 3, "identifiers are not used twice"
    heard: list[str] = []
    deadline = time.monotonic() + _SECONDS
    while len(heard) < 3 and time.monotonic() < deadline:
        waiting = [identifier for identifier in (*first, *second) if identifier not in heard]
        for identifier, _ in link.receive(waiting):
            assert identifier in waiting, "an answer belongs to one of the messages that are asked about"
            heard.append(identifier)
        time.sleep(link.poll)
    assert sorted(heard) == sorted((*first, *second)), "each answer comes once"
    assert list(link.receive(first)) == [], "an answer that was received does not come again"


def _carries_nothing(make: Callable[[Mapping[int, Answers]], Link]) -> None:
    link = make(_nodes(1))
    assert list(link.send([], _SECONDS)) == [], "no message has no identifier"
    assert list(answers(link, [], _SECONDS)) == [], "and no answer"
