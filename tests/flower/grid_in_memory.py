"""A Grid without processes: nodes of this process answer, and every message crosses as the bytes that Flower stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

# Private: a Message can be made within a task only, and what it is stored as is made by the components of Flower.
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from lightning_fed.flower.records import of_records, to_records

TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


def stored(records: RecordDict) -> RecordDict:
    """Take records apart into the objects that Flower pushes, and put them together again."""
    contents = {name: thing.deflate() for name, thing in get_all_nested_objects(records).items()}
    made: Any = inflate_object_from_contents(records.object_id, contents)
    assert isinstance(made, RecordDict)
    return made


class InMemoryGrid(Grid):
    """Answers messages at once.

    Args:
        nodes: Each node by its identifier.
        spoil: Called with a node and a reply; returns what arrives in its place: a reply, an Error, or None: nothing.
    """

    def __init__(
        self, nodes: Mapping[int, Any], spoil: Callable[[int, RecordDict], RecordDict | Error | None] | None = None
    ) -> None:
        self.nodes = dict(nodes)
        self.spoil = spoil
        self.replies: dict[str, Message] = {}
        self.sent: list[Message] = []
        self.unknown: set[int] = set()
        self._numbers = count()

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any: ...

    def create_message(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def send_and_receive(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._pushed(message) for message in messages]

    def _pushed(self, message: Message) -> Any:
        if message.metadata.dst_node_id in self.unknown:
            return None  # Flower's way to say that it has not taken it
        self.sent.append(message)
        number = str(next(self._numbers))
        message.metadata.__dict__["_message_id"] = number
        message.metadata.__dict__["_src_node_id"] = 1
        node = message.metadata.dst_node_id
        answer: Any = stored(to_records(*self.nodes[node].answer(*of_records(stored(message.content)))))
        if self.spoil is not None:
            answer = self.spoil(node, answer)
        if answer is not None:
            self.replies[number] = Message(answer, reply_to=message)
        return number

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.replies.pop(number) for number in list(message_ids) if number in self.replies]
