"""One round of secure aggregation over nodes: the server's part, and its messages to the workers' machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias, final

from lightning_fed.secure.masks import digest
from lightning_fed.secure.parameters import Parameters
from lightning_fed.secure.server import SecureServer
from lightning_fed.secure.session import Machines
from lightning_fed.wire import WorkerError
from lightning_fed.wire.container import Buffer
from lightning_fed.wire.terms import Terms

Ask: TypeAlias = Callable[[str, Mapping[str, bytes]], Iterator[tuple[str, memoryview | WorkerError]]]
"""Sends each worker a message of a step, and yields what comes back for each, as it comes."""


@final
class SecureRound(Machines):
    """The machines of workers on nodes. They were invited with the job, and their keys came back as they had trained.

    Args:
        parameters: The rules.
        job: The bytes of the job.
        terms: The terms of the run, to which masks are bound, too: workers with other terms come to no sum.
        signed: Whether workers sign their keys.
        ask: Sends messages to nodes.
    """

    def __init__(self, parameters: Parameters, job: Buffer, terms: Terms, signed: bool, ask: Ask) -> None:
        super().__init__()
        self.server = SecureServer(parameters, os.urandom(32), digest(terms.to_bytes(), job), signed)
        self.keys: dict[str, bytes] = {}
        """The keys that workers have advertised so far, by name."""
        self._ask = ask

    def hear(self, worker: str, keys: str) -> None:
        """Store the keys that a worker's node has sent.

        Args:
            worker: Its name.
            keys: Hexadecimal digits, from anyone.
        """
        try:
            self.keys[worker] = bytes.fromhex(keys)
        except ValueError:
            self.failed[worker] = "its node has advertised keys that cannot be read"

    def leave_out(self, worker: str) -> None:
        """Let a worker take no part whose answer to the job cannot be used.

        Args:
            worker: Its name.
        """
        self.keys.pop(worker, None)

    def advertised(self, invitation: bytes) -> Mapping[str, bytes]:
        return {name: self.keys[name] for name in sorted(self.keys)}

    def ask(self, step: str, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return {name: bytes(answer) for name, answer in self._answers(step, messages)}

    def add(self, messages: Mapping[str, bytes], server: SecureServer) -> None:
        for name, masked in self._answers("mask", messages):
            server.take(name, masked)
            del masked

    def _answers(self, step: str, messages: Mapping[str, bytes]) -> Iterator[tuple[str, memoryview]]:
        for name, answer in self._ask(step, messages):
            if isinstance(answer, WorkerError):
                self.failed[name] = answer.reason
            else:
                yield name, answer
