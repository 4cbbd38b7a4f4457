"""The extension point for what carries messages between the server and its nodes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import final

from lightning_fed.core.channel import Message
from lightning_fed.core.shown import Shown


@final
class LinkError(RuntimeError):
    """A message did not reach its node, or the node's answer did not come back; the text is the reason."""


class Link(Shown, ABC):
    """Carries messages to nodes and back. It stores and forwards: a node fetches its messages when it can.

    A message is a pair of fields, which JSON can hold, and of parts, which are bytes. An answer belongs to the message
    whose identifier it has, and comes from the node that the message was sent to; a link sees to both.
    """

    poll: float = 0.25
    """The seconds between two looks for answers."""

    @abstractmethod
    def nodes(self) -> Sequence[int]:
        """Return the identifiers of the nodes that can be reached now."""

    @abstractmethod
    def send(self, messages: Sequence[tuple[int, Message]], seconds: float) -> Sequence[str]:
        """Send messages, without waiting for their answers.

        Args:
            messages: Each with its node. One that is the same object for several nodes need not be carried twice.
            seconds: How long each may take to be answered; a node that comes back later must not get it any more.

        Returns:
            An identifier for each, in order.
        """

    @abstractmethod
    def receive(self, identifiers: Collection[str]) -> Sequence[tuple[str, Message | LinkError]]:
        """Return the answers that have arrived, each once, without waiting for others.

        Args:
            identifiers: Those of messages that have not been answered yet.
        """


def answers(
    link: Link, messages: Sequence[tuple[int, Message]], seconds: float
) -> Iterator[tuple[int, Message | LinkError]]:
    """Send messages, and yield their answers as they come.

    Args:
        link: Carries them.
        messages: Each with its node.
        seconds: How long each may take to be answered.

    Yields:
        The position of a message, and its answer: exactly one for each.
    """
    waiting = {identifier: position for position, identifier in enumerate(link.send(messages, seconds))}
    del messages  # here and below: each may be as large as a model, and others are on their way
    deadline = time.monotonic() + seconds
    while waiting:
        arrived = list(link.receive(waiting))
        pause = 0.0 if arrived else link.poll
        while arrived:
            yield _about(waiting, *arrived.pop(0))
        if not waiting:
            return
        left = deadline - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(pause, left))
    for position in waiting.values():
        yield position, LinkError(f"no answer within {seconds:g} seconds")


def _about(waiting: dict[str, int], identifier: str, answer: Message | LinkError) -> tuple[int, Message | LinkError]:
    """Return the position of the message that an answer is about, and the answer; the caller does not hold it."""
    return waiting.pop(identifier), answer
