"""Nodes in this process: an engine over real machines, without the machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import Any, Protocol, final

import torch

from lightning_fed.core.channel import Message
from lightning_fed.engines.remote import Link, Remote
from lightning_fed.engines.remote.link import LinkError


class Answers(Protocol):
    """Interface of a node, which answers messages."""

    def answer(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        """Answer a message; see :meth:`lightning_fed.node.Node.answer`."""


@final
class Loopback(Link):
    """Carries messages to nodes of this process, as bytes, like a link between machines.

    Args:
        nodes: Each node, by its identifier.
        spoil: Called with a node, the message and the answer; returns what arrives in place of the answer: another
            answer, a ``LinkError``, or None for a lost answer. None: everything arrives unchanged.
    """

    poll = 0.001

    def __init__(
        self,
        nodes: Mapping[int, Answers],
        spoil: Callable[[int, Mapping[str, Any], Message], Message | LinkError | None] | None = None,
    ) -> None:
        self._nodes = dict(nodes)
        self._spoil = spoil
        self._count = count()
        self._arrived: dict[str, Message | LinkError] = {}
        self.away: set[int] = set()
        """The nodes that cannot be reached."""
        self.asked: list[Mapping[str, Any]] = []
        """The fields of all messages so far."""
        self.bytes_down = 0
        """The length of all parts that went to nodes."""
        self.bytes_up = 0
        """The length of all parts that came from nodes."""

    def nodes(self) -> Sequence[int]:
        return [node for node in self._nodes if node not in self.away]

    def send(self, messages: Sequence[tuple[int, Message]], seconds: float) -> Sequence[str]:
        return [self._sent(node, *message) for node, message in messages]

    def _sent(self, node: int, fields: dict[str, Any], parts: Sequence[memoryview]) -> str:
        identifier = str(next(self._count))
        self.asked.append(fields)
        if node in self.away:
            self._arrived[identifier] = LinkError("its node is away")
            return identifier
        crossed = json.loads(json.dumps(fields))
        answer: Message | LinkError | None
        with torch.inference_mode(False), torch.enable_grad():  # another machine is in no mode of the server's Trainer
            answer = self._nodes[node].answer(crossed, [bytes(part) for part in parts])
        self.bytes_down += sum(len(part) for part in parts)
        if self._spoil is not None and not isinstance(answer, LinkError) and answer is not None:
            answer = self._spoil(node, crossed, answer)
        if answer is None:
            return identifier
        if not isinstance(answer, LinkError):
            self.bytes_up += sum(len(part) for part in answer[1])
            answer = json.loads(json.dumps(answer[0])), [memoryview(bytes(part)) for part in answer[1]]
        self._arrived[identifier] = answer
        return identifier

    def receive(self, identifiers: Collection[str]) -> Sequence[tuple[str, Message | LinkError]]:
        return [(each, self._arrived.pop(each)) for each in list(identifiers) if each in self._arrived]


@final
class OverLoopback(Remote):
    """Trains workers on nodes of this process.

    Args:
        link: Carries the messages.
        timeout: The seconds that a node may take for one message.
    """

    def __init__(self, link: Loopback, timeout: float = 600.0) -> None:
        super().__init__(timeout)
        self._link = link

    @property
    def link(self) -> Loopback:
        return self._link
