"""Flower's Grid as a link, without its processes: what is sent, and in how many requests is looked for answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import Message as FlowerMessage
from flwr.supercore.task_identity import TaskIdentity

from lightning_fed.core.channel import Message
from lightning_fed.flower.grid_link import GridLink
from lightning_fed.flower.records import to_records

LARGE = memoryview(bytes(8 * 2**20))


class FakeGrid:
    """Takes messages, and gives the replies that a test has put into it."""

    def __init__(self) -> None:
        self.pushed: list[FlowerMessage] = []
        self.asked: list[list[str]] = []
        self.replies: dict[str, FlowerMessage] = {}

    def get_node_ids(self) -> list[int]:
        return [3, 1, 2]

    def push_messages(self, messages: Iterable[FlowerMessage]) -> list[str | None]:
        self.pushed += messages
        for number, message in enumerate(self.pushed):
            message.metadata.__dict__["_message_id"] = str(number)
        return [message.metadata.message_id for message in self.pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> list[FlowerMessage]:
        self.asked.append(list(message_ids))
        return [self.replies.pop(each) for each in self.asked[-1] if each in self.replies]

    def reply(self, number: int) -> None:
        self.replies[str(number)] = FlowerMessage(to_records({"about": number}, []), reply_to=self.pushed[number])


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> FakeGrid:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    return FakeGrid()


def _sent(grid: Any, count: int, parts: list[memoryview]) -> tuple[GridLink, Sequence[str]]:
    link = GridLink(grid)
    messages: list[tuple[int, Message]] = [(1 + each, ({"ask": "train"}, parts)) for each in range(count)]
    return link, link.send(messages, 60.0)


def test_parts_that_all_nodes_get_are_one_object(grid: FakeGrid) -> None:
    _sent(grid, 3, [LARGE])
    one, *others = (message.content["parts"] for message in grid.pushed)
    assert one["0"].data is LARGE.obj
    assert all(other is one for other in others)


def test_small_answers_are_looked_for_in_one_request(grid: FakeGrid) -> None:
    link, identifiers = _sent(grid, 40, [memoryview(b"abc")])
    grid.reply(7)
    grid.reply(3)
    arrived = link.receive(identifiers)
    assert [identifier for identifier, _ in arrived] == ["3", "7"]
    assert len(grid.asked) == 1


def test_large_answers_come_one_at_a_time(grid: FakeGrid) -> None:
    link, identifiers = _sent(grid, 3, [LARGE])
    grid.reply(1)
    grid.reply(2)
    assert link.receive(identifiers) == [("1", ({"about": 1}, []))]
    assert grid.asked == [["0"], ["1"]]
    assert link.receive(["0", "2"]) == [("2", ({"about": 2}, []))]
    assert link.receive(["0"]) == []


def test_large_answers_of_many_nodes_take_no_more_requests(grid: FakeGrid) -> None:
    link, identifiers = _sent(grid, 40, [LARGE])
    assert link.receive(identifiers) == []
    assert [len(asked) for asked in grid.asked] == [3] * 13 + [1]
