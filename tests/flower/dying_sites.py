"""The sites of :mod:`sites`, one of which ends when it is asked for a step of secure aggregation."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import sites

from lightning_fed.core.channel import Message


class Dying:
    """A node whose power fails when it is asked for a step, or whose resident process is killed, once.

    Args:
        config: ``sites``; ``step``, such as ``"mask"``; ``victim``: ``"node"`` or ``"resident"``.
    """

    def __init__(self, config: Mapping[str, str]) -> None:
        self.node = sites.build(config)
        self.step, self.victim = config["step"], config["victim"]
        self.mark = Path(self.node.home) / "has_died"

    def answer(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        if self.step and self.step == fields.get("step", fields.get("ask")) and not self.has_died():
            self.die()
        return self.node.answer(fields, parts)

    def has_died(self) -> bool:
        """Whether it is the resident that is to die once, and has."""
        return self.victim == "resident" and self.mark.exists() and self.mark.read_text() == self.step

    def die(self) -> NoReturn:
        self.mark.write_text(self.step)
        if self.victim == "node":
            owner = int(os.environ["LIGHTNING_FED_NODE_PID"])
            for path in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    of_node = f"LIGHTNING_FED_NODE_PID={owner}\0".encode() in (path / "environ").read_bytes()
                    if of_node and int(path.name) != os.getpid():
                        os.kill(int(path.name), signal.SIGKILL)
            os.kill(owner, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it is dead")


def build(config: Mapping[str, str]) -> Dying:
    """The node of a site that ends at a step."""
    return Dying(config)
