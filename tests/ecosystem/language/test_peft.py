"""peft: adapters travel and are what a checkpoint holds; the example of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from page import recipe
from torch.utils.data import DataLoader
from words import sentences

RECIPE = recipe("peft")

from contract import is_a_plain_epoch, learns, seeded, trainer
from peft import PeftModel
from transformers import GPT2LMHeadModel

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl

ROOT = Path(__file__).parents[3]
TOPICS = ("assert", "assignment", "booleans", "class", "comparisons", "debugger")


class Writer(pl.LightningDataModule):
    """A topic's sentences; where one ends, the mask is 0 and nothing is to be said."""

    def __init__(self, topic: str, shuffle: bool = True) -> None:
        super().__init__()
        self.rows = [torch.tensor(ids) for ids in sentences(topic, 12)]
        self.shuffle = shuffle

    def collate(self, rows: Any) -> Any:
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.masked_fill(ids == 0, -100)}

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows[:9], batch_size=4, shuffle=self.shuffle, collate_fn=self.collate)

    def val_dataloader(self) -> Any:
        return DataLoader(self.rows[9:], batch_size=4, collate_fn=self.collate)


def adapters(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def test_one_worker_is_a_plain_trainer() -> None:
    is_a_plain_epoch(lambda: RECIPE.Adapted(dropout=0.0), lambda: Writer("assignment", shuffle=False))


def test_only_adapters_travel_and_a_checkpoint_holds_no_more(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    fed, run = learns("peft", RECIPE.Adapted, {topic: Writer(topic) for topic in TOPICS}, caplog, rounds=6)
    trained = adapters(fed.module)
    assert trained.keys() == fed.module.state_dict().keys()
    of_adapters, of_all = (4 * sum(p.numel() for p in some) for some in (trained.values(), fed.module.parameters()))
    for sent in (fed.last_report.bytes_down, fed.last_report.bytes_up):
        assert of_adapters < sent / len(TOPICS) < of_adapters + 4096 < of_all / 4
    path = tmp_path / "federated.ckpt"
    run.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["state_dict"].keys() == trained.keys()
    with pytest.warns(UserWarning, match="not in the checkpoint"):
        opened = RECIPE.Adapted.load_from_checkpoint(path)
    for name, parameter in opened.named_parameters():
        assert torch.equal(parameter, fed.module.get_parameter(name)), name


def test_a_run_goes_on_from_adapters(tmp_path: Path) -> None:
    data = {topic: Writer(topic) for topic in TOPICS[:4]}
    modules = []
    for ends in ((4,), (2, 4)):
        for rounds in ends:
            module = seeded(RECIPE.Adapted)
            run = trainer(max_steps=rounds, max_epochs=-1)
            fed, path = FederatedModule(module), tmp_path / "run.ckpt"
            run.fit(fed, FederatedDataModule(data, cohort_size=4, seed=1), ckpt_path=path if rounds > ends[0] else None)
            run.save_checkpoint(path)
        modules.append(adapters(module))
    for name, tensor in modules[0].items():
        assert torch.equal(tensor, modules[1][name]), name


def test_peft_reads_the_global_adapters(tmp_path: Path) -> None:
    fed = FederatedModule(seeded(RECIPE.Adapted))
    trainer(max_epochs=1).fit(fed, FederatedDataModule({topic: Writer(topic) for topic in TOPICS}, cohort_size=6))
    fed.module.model.save_pretrained(tmp_path)
    base = GPT2LMHeadModel(RECIPE.Adapted().model.get_base_model().config)
    read = dict(PeftModel.from_pretrained(base, tmp_path).named_parameters())
    for name, tensor in adapters(fed.module.model).items():
        assert torch.equal(read[name], tensor), name


def test_the_example_prints_what_travels_and_what_is_learned() -> None:
    options = ["--rounds", "2", "--base-steps", "60", "--bytes", "6144", "--accelerator", "cpu"]
    command = [sys.executable, str(ROOT / "examples" / "lora.py"), *options]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^(full model|LoRA) +([\d,]+) +([\d,]+) +([\d,]+)  [\d.]+ s$", done.stdout, re.M)
    sent = {name: [int(figure.replace(",", "")) for figure in figures] for name, *figures in rows}
    for trained, down, up in sent.values():  # six workers, 4 bytes a number, and names
        assert 24 * trained < up < down < 24 * trained + 6 * 8192
    assert sent["LoRA"][1] < sent["full model"][1] / 10
    losses = re.findall(r"^.{16} +([\d.]+) +([\d.]+) +([\d.]+)$", done.stdout, re.M)
    assert len(losses) == 6
    base, full, lora = (sum(float(row[i]) for row in losses) for i in range(3))
    assert full < lora < base
