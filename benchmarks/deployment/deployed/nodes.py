"""The two kinds of nodes: ours with a Lightning module, and a minimal one for Flower's arrays."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deployed.task import network, train
from deployed.watched import high_water

Message = tuple[dict[str, Any], Sequence[Any]]


class Arrays:
    """Trains what it gets as files of NumPy, and returns such files."""

    def __init__(self, kind: str, site: str) -> None:
        self.kind, self.site, self.net = kind, site, network(kind)

    def answer(self, fields: dict[str, Any], parts: Sequence[memoryview]) -> Message:
        given = [np.load(io.BytesIO(part), allow_pickle=False) for part in parts]
        self.net.load_state_dict({name: torch.from_numpy(a) for name, a in zip(fields["names"], given, strict=True)})
        examples = train(self.kind, self.site, self.net)
        files = []
        for name in fields["names"]:
            file = io.BytesIO()
            np.save(file, self.net.state_dict()[name].numpy(), allow_pickle=False)
            files.append(file.getbuffer())
        return {"examples": examples}, files


class Timed:
    """A node that writes down when it began and ended each answer, and how much memory it has had."""

    def __init__(self, node: Any, notes: Path) -> None:
        self.node, self.notes = node, notes

    def answer(self, fields: dict[str, Any], parts: Sequence[memoryview]) -> Message:
        began = time.time()
        answer = self.node.answer(fields, parts)
        note = {"ask": fields.get("ask", "train"), "began": began, "ended": time.time(), "peak": high_water()}
        with self.notes.open("a") as file:
            file.write(json.dumps(note) + "\n")
        return answer  # type: ignore[no-any-return]


def build_arrays(config: Mapping[str, str]) -> Timed:
    torch.set_num_threads(1)
    return Timed(Arrays(config["kind"], config["site"]), Path(config["notes"]))


def build(config: Mapping[str, str]) -> Timed:
    from deployed.lightning import Module, datamodule
    from lightning_fed.node import Node

    kind, site = config["kind"], config["site"]
    node = Node(Module(kind), {site: datamodule(kind, site)}, threads=1)
    return Timed(node, Path(config["notes"]))
