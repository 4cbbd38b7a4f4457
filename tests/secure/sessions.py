"""Sessions of secure aggregation in one process, in which workers may go away after any step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.masks import Identity
from lightning_fed.secure.messages import Form
from lightning_fed.secure.parameters import Parameters
from lightning_fed.secure.server import SecureServer, Sum
from lightning_fed.secure.worker import SecureWorker

STEPS = ("advertise", "share", "mask", "unmask")
JOB = bytes(range(32))


FORM = Form(20, ("loss", "weight", "workers"))


def agreed(n: int, **others: Any) -> Parameters:
    """The parameters of sessions of n workers."""
    return Parameters(**{"threshold": 0.6, "least": 2, "most": n, **others})


@dataclass
class Session:
    """A session, step by step, of workers w0, w1, ..."""

    n: int
    parameters: Parameters
    gone: Mapping[str, str] = field(default_factory=dict)
    """The step before which a worker goes away, by its name."""
    identities: bool = False
    job: bytes = JOB
    session: bytes = field(default_factory=lambda: os.urandom(32))
    form: Form = FORM

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.n)
        self.names = [f"w{i}" for i in range(self.n)]
        keys = {name: Identity() for name in self.names} if self.identities else {}
        known = {name: key.public for name, key in keys.items()}
        self.workers = {name: SecureWorker(name, self.parameters, keys.get(name), known) for name in self.names}
        size, scalars = self.form.size, len(self.form.scalars)
        self.words = {name: rng.integers(0, 2**32, size, dtype=np.uint32) for name in self.names}
        self.scalars = {name: rng.integers(0, 2**64, scalars, dtype=np.uint64) for name in self.names}
        self.server = SecureServer(self.parameters, self.session, self.job, self.identities)
        self.said: dict[str, str] = {}
        """Why a worker has refused, by its name."""

    def stay(self, names: Sequence[str], step: str) -> list[str]:
        return [
            name
            for name in names
            if STEPS.index(step) < STEPS.index(self.gone.get(name, "unmask")) + (name not in self.gone)
        ]

    def each(self, names: Sequence[str], step: str, *arguments: Any) -> dict[str, bytes]:
        """What workers answer; those that refuse are noted."""
        answers = {}
        for name in names:
            try:
                answers[name] = getattr(self.workers[name], step)(*arguments)
            except AbortError as error:
                self.said[name] = str(error)
        return answers

    def advertised(self) -> dict[str, bytes]:
        return self.each(self.stay(self.names, "advertise"), "advertise", self.server.invite())

    def shared(self) -> dict[str, bytes]:
        advertised = self.advertised()
        self.roster = self.server.roster(advertised, self.form)
        return self.each(self.stay(list(advertised), "share"), "share", self.roster)

    def masked(self) -> dict[str, bytes]:
        forwarded = self.server.forward(self.shared())
        masked: dict[str, bytes] = {}
        for name in self.stay(list(forwarded), "mask"):
            numbers = self.words[name], self.scalars[name]
            masked |= self.each([name], "mask", forwarded[name], self.job, *numbers)
        return masked

    def sent(self) -> bytes:
        self.there = [name for name, numbers in self.masked().items() if self.server.take(name, numbers)]
        return self.server.survivors()

    def replies(self) -> dict[str, bytes]:
        survivors = self.sent()
        if not self.identities:
            return self.each(self.stay(self.there, "unmask"), "unmask", survivors)
        confirmed = self.server.confirmations(self.each(self.there, "confirm", survivors))
        found: dict[str, bytes] = {}
        for name in self.stay(self.there, "unmask"):
            found |= self.each([name], "unmask", confirmed[name])
        return found

    def run(self) -> Sum:
        return self.server.unmask(self.replies())

    def expected(self, survivors: Sequence[str]) -> tuple[Any, Any]:
        """The sums of what survivors have sent."""
        low = np.uint32(2**self.parameters.bits - 1)
        words = sum((self.words[name] for name in survivors), np.zeros(self.form.size, np.uint32))
        scalars = sum((self.scalars[name] for name in survivors), np.zeros(len(self.form.scalars), np.uint64))
        return words & low, scalars

    def assert_right(self, found: Sum) -> None:
        words, scalars = self.expected(found.survivors)
        assert np.array_equal(found.words & np.uint32(2**self.parameters.bits - 1), words)
        assert np.array_equal(found.scalars, scalars)
