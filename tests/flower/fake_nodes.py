"""Build functions of nodes that need no torch, for tests of the processes around them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Echo:
    """Answers with what it was asked, and does what some fields ask for."""

    def __init__(self, config: Mapping[str, str]) -> None:
        self.config = dict(config)

    def answer(self, fields: dict[str, Any], parts: list[memoryview]) -> tuple[dict[str, Any], list[memoryview]]:
        if "sleep" in fields:
            if "began" in fields:
                Path(fields["began"]).touch()
            time.sleep(fields["sleep"])
        if "exit" in fields:
            os._exit(fields["exit"])
        if "error" in fields:
            raise KeyError(fields["error"])
        if fields.get("nonsense"):
            return None  # type: ignore[return-value]
        return {"echo": fields, "pid": os.getpid(), "config": self.config}, parts


def build(config: Mapping[str, str]) -> Echo:
    return Echo(config)


def build_without_config() -> Echo:
    return Echo({"made": "without"})


def build_slowly() -> Echo:
    time.sleep(1.0)
    return Echo({})


def build_nothing() -> None:
    pass


def build_that_fails() -> Echo:
    raise ValueError("could not convert string to float: 'Jane Doe'")


def build_that_lacks() -> Echo:
    import a_package_that_nobody_has  # noqa: F401

    return Echo({})


def build_that_ends() -> Echo:
    os._exit(3)


not_callable = 1
