"""The messages in ``docs/security.md`` are what crosses; ``python tests/node/test_security_page.py`` writes them."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import load
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.core.channel import Message
from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.node import Node, Policy, RequiredPromise
from lightning_fed.privacy import LocalDP, Privacy
from lightning_fed.testing import Loopback, OverLoopback

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- messages: `python tests/node/test_security_page.py` writes them -->\n", "<!-- end of messages -->"
WIDTH = 110


class Level(pl.LightningModule):
    """One number that moves towards the mean of the data, by half of the way in a step: exact in binary."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.0))
        self.distance = MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = ((self.level - batch[0]) ** 2).mean() / 2
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.distance(abs(self.level - batch[0]))
        self.log("distance", self.distance)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch[0] - self.level

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Values(pl.LightningDataModule):
    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = TensorDataset(torch.tensor(values))

    def train_dataloader(self) -> Any:
        return DataLoader(self.values, batch_size=4)

    val_dataloader = predict_dataloader = train_dataloader


class Overheard:
    """A node, and what was said to it and by it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.messages: list[tuple[Mapping[str, Any], Sequence[Any], Message]] = []

    def answer(self, fields: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> Message:
        answer = self._node.answer(fields, parts)
        self.messages.append((fields, parts, answer))
        return answer


def overheard(promise: Privacy | None, policy: Policy, folder: Path) -> dict[str, tuple[Any, Any, Message]]:
    """The first message of each kind to bob's node, in a run of one round with alice and bob."""
    nodes = {
        number: Overheard(Node(Level(), {name: Values(*values)}, home=folder / name, accelerator="cpu", policy=policy))
        for number, (name, values) in enumerate({"alice": (5.0, 7.0), "bob": (1.0, 3.0)}.items())
    }
    engine = OverLoopback(Loopback(nodes))
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    federated = FederatedModule(Level(), engine=engine, privacy=promise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = FederatedDataModule(RemotePopulation(engine.link), seed=7)
        trainer.fit(federated, data)
        if promise is None:
            trainer.predict(federated, data)
    first: dict[str, tuple[Any, Any, Message]] = {}
    for fields, parts, answer in nodes[1].messages:
        kind = "predict" if fields.get("kind") == "predict" else fields["ask"]
        first.setdefault(kind, (fields, parts, answer))
    return first


def decoded(part: bytes | memoryview) -> dict[str, Any]:
    """A part by nothing but its format: eight bytes of a length, JSON, tensors."""
    data = bytes(part)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])["__metadata__"]
    tensors = {name: tensor.tolist() for name, tensor in sorted(load(data).items())}
    return {"header": json.loads(header["lightning_fed"]), "tensors": tensors}


def shown(value: Any, indent: int = 0) -> str:
    """JSON, in lines that are filled."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent <= WIDTH or not isinstance(value, dict):
        return line
    inner = [f"{json.dumps(key)}: {shown(each, indent + 2)}" for key, each in value.items()]
    lines, current = [], ""
    for each in inner:
        if current and ("\n" in each or "\n" in current or len(current) + len(each) + indent + 4 > WIDTH):
            lines.append(current)
            current = each
        else:
            current = f"{current}, {each}" if current else each
    pad = " " * (indent + 2)
    return "{\n" + ",\n".join(pad + each for each in [*lines, current]) + "\n" + " " * indent + "}"


def told(fields: Mapping[str, Any], parts: Sequence[Any], is_agreed: bool, noise: str | None = None) -> str:
    fields = dict(fields)
    if "terms" in fields:
        fields["terms"] = "as above" if is_agreed else {**fields["terms"], "run": "f00d"}
    if "versions" in fields:
        fields["versions"] = {**dict.fromkeys(fields["versions"], "…"), "protocol": fields["versions"]["protocol"]}
    text = shown(fields)
    for part in parts:
        content = decoded(part)
        if noise:
            content["tensors"]["delta"] = noise
        text += "\n" + shown(content)
    return text


def blocks() -> str:
    """All messages, as they stand on the page."""
    text = ""
    with tempfile.TemporaryDirectory() as folder:
        plain = overheard(None, Policy(), Path(folder, "plain"))
        insists = Policy(promise=RequiredPromise("LocalDP", clip=1.0, noise_multiplier=4.0))
        private = overheard(LocalDP(clip=1.0, noise_multiplier=4.0, delta=1e-3), insists, Path(folder, "private"))
    for kind in ("greet", "agree", "train", "evaluate", "predict"):
        fields, parts, answer = plain[kind]
        text += f"\n**{kind}**: the server asks, and the node answers\n\n"
        text += f"```json\n{told(fields, parts, kind != 'agree')}\n```\n\n```json\n{told(*answer, True)}\n```\n"
    for kind in ("greet", "train"):
        _, _, answer = private[kind]
        text += f"\n**{kind}**: the answer where the policy asks for `LocalDP`\n\n"
        text += f"```json\n{told(*answer, True, 'clipped, with noise' if kind == 'train' else None)}\n```\n"
    return text + "\n"


def of_page(text: str) -> str:
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def test_the_page_shows_what_crosses() -> None:
    assert of_page(PAGE.read_text()) == blocks()


def test_no_value_of_a_worker_is_in_what_it_sends_under_a_promise(tmp_path: Path) -> None:
    insists = Policy(promise=RequiredPromise("LocalDP", clip=1.0, noise_multiplier=4.0))
    private = overheard(LocalDP(clip=1.0, noise_multiplier=4.0, delta=1e-3), insists, tmp_path)
    assert "evaluate" not in private
    (greeted, _), (trained, parts) = private["greet"][2], private["train"][2]
    assert greeted["workers"] == [{"name": "bob", "examples": None, "loaders": {"predict": 1}}]
    assert trained == {"results": [{"worker": "bob"}], "noted": {}}
    content = decoded(parts[0])
    assert content["tensors"].keys() == {"delta", "numbers"}
    assert str(content["tensors"]["numbers"]) == "[[1.0], [1.0], [nan], [1.0]]"
    assert content["header"]["metrics"] == content["header"]["rates"] == []


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + blocks() + text[text.index(END) :])
