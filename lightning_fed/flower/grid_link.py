"""Flower's Grid as a link: its message API carries the messages, and nothing of its strategies is used."""

from __future__ import annotations

import gc
import re
from collections.abc import Collection, Sequence
from typing import final

from flwr.app import Message as FlowerMessage
from flwr.serverapp import Grid

from lightning_fed.core.channel import Message
from lightning_fed.engines.remote import Link
from lightning_fed.engines.remote.link import LinkError
from lightning_fed.flower.records import of_records, to_arrays, to_records

_TYPES = {"train": "train", "evaluate": "evaluate"}
"""Flower's types of messages, by what is asked; all else is a query."""

_REASONS = {
    1: "its node cannot load the ClientApp that it is to run; see the node's log",
    2: "its node fails to answer",
    3: "no answer within {seconds:g} seconds",
    4: "no answer within {seconds:g} seconds",
    5: "its node is away: the SuperLink has not heard from it for a minute, or it has signed off",
    7: "its node refuses the App bundle of this run; see the node's log",
    8: "the process that was to answer has ended at its node; see the node's log",
}
"""The sentences for Flower's ``ErrorCode``."""

_LARGE = 8 * 2**20
_REQUESTS = 16
"""In how many requests is looked for the answers to messages of this many bytes or more. Flower fetches all that a
request finds before it returns the first, and an answer that it puts together is in memory three times."""


_SAID = re.compile(r"<class '[^']*\.?ResidentError'>:<'(.*)'>", re.DOTALL)
"""How Flower passes on the sentence of an exception in the relay, which holds nothing of a worker's data; another
exception's may, and stays at the node."""


@final
class GridLink(Link):
    """Carries messages over a SuperLink to SuperNodes.

    Args:
        grid: Flower's grid, an argument of a ServerApp's ``main``.
        poll: The time between two polls for answers, in seconds. Each poll is a request: short intervals load the
            SuperLink.
    """

    def __init__(self, grid: Grid, poll: float = 0.25) -> None:
        self._grid = grid
        self.poll = poll
        self._sent: dict[str, tuple[float, bool]] = {}  # how long each may take, and whether it is large

    def nodes(self) -> Sequence[int]:
        return sorted(self._grid.get_node_ids())

    def send(self, messages: Sequence[tuple[int, Message]], seconds: float) -> Sequence[str]:
        # One object for the parts that messages share: Flower hashes it once, and holds it once.
        arrays = {id(parts): to_arrays(parts) for parts in {id(parts): parts for _, (_, parts) in messages}.values()}
        sent = [
            FlowerMessage(
                to_records(fields, arrays[id(parts)]),
                dst_node_id=node,
                message_type=_TYPES.get(fields["ask"], "query"),
                ttl=seconds,
            )
            for node, (fields, parts) in messages
        ]
        given = list(self._grid.push_messages(sent)) if sent else []
        given += [""] * (len(sent) - len(given))
        del sent, arrays
        identifiers = [identifier or f"unsent-{position}" for position, identifier in enumerate(given)]
        for identifier, (_, (_, parts)) in zip(identifiers, messages, strict=True):
            self._sent[identifier] = seconds, sum(map(len, parts)) >= _LARGE
        if any(self._sent[identifier][1] for identifier in identifiers):
            # Requests and responses of Flower's HTTP client hold each other, and what went over the network
            gc.collect()
        return identifiers

    def receive(self, identifiers: Collection[str]) -> Sequence[tuple[str, Message | LinkError]]:
        unsent = [identifier for identifier in identifiers if identifier.startswith("unsent-")]
        arrived: list[tuple[str, Message | LinkError]] = [
            (identifier, LinkError("the SuperLink has not taken the message: its node is not registered any more"))
            for identifier in unsent
        ]
        waiting = [identifier for identifier in identifiers if identifier not in unsent]
        large = any(self._sent.get(identifier, (0.0, False))[1] for identifier in waiting)
        length = max(-(-len(waiting) // _REQUESTS), 1) if large else max(len(waiting), 1)
        for first in range(0, len(waiting), length):
            replies = list(self._grid.pull_messages(waiting[first : first + length]))
            is_heavy = large and bool(replies)
            if is_heavy:
                gc.collect()  # as above, and before the pieces of a part are put together
            while replies:
                reply = replies.pop(0)
                identifier = reply.metadata.reply_to_message_id
                seconds, _ = self._sent.pop(identifier, (0.0, False))
                arrived.append((identifier, self._read(reply, seconds)))
                del reply
            if is_heavy:
                break  # the next look is for the others: these are to be used, and let go of, first
        return arrived

    @staticmethod
    def _read(reply: FlowerMessage, seconds: float) -> Message | LinkError:
        if reply.has_error():
            known = _REASONS.get(reply.error.code, "its node cannot be reached").format(seconds=seconds)
            told = _SAID.fullmatch(reply.error.reason or "") if reply.error.code == 2 else None
            return LinkError(f"{known}: {told.group(1)}" if told else known)
        try:
            return of_records(reply.content)
        except ValueError as error:
            return LinkError(f"its node answers something that is no message of lightning_fed: {error}")
