"""The relay's program with another answer to messages: what it is told to do, without flwr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_fed.flower.staying import answer
from lightning_fed.node.settings import Settings


def run(words: Sequence[str]) -> None:
    folder, name, *more = words
    Path(folder, f"{name}.began").write_text(f"{os.getpid()} {os.getppid()}")
    if "wait" in more:
        while not Path(folder, "go on").exists():
            time.sleep(0.01)
    if "kill" in more:
        os.kill(os.getpid(), 9)
    if "fail" in more:
        raise RuntimeError(name)
    sys.exit(7 if "seven" in more else None)


def prepare():  # type: ignore[no-untyped-def]
    with open(os.environ["PREPARED"], "a") as file:
        file.write("once\n")
    return run


if __name__ == "__main__":
    sys.exit(answer(sys.argv[1:], prepare, Settings.of_environment()))
