"""litgpt: its model, trained as in pretraining, on its own datamodule."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from page import recipe
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import DataLoader

RECIPE = recipe("litgpt")

import lightning.pytorch as pl
from contract import is_a_plain_epoch, learns, opens

TOPICS = ("assert", "assignment", "booleans", "class", "comparisons", "debugger")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    """One of bytes, in the files that litgpt reads."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    of_bytes = Tokenizer(models.BPE(vocab=letters, merges=[]))
    of_bytes.pre_tokenizer, of_bytes.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    of_bytes.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "Ā", "eos_token": "Ā"}  # how the byte 0 is written
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return RECIPE.Tokenizer(tmp_path)


def author(topic: str, tokenizer: Any, folder: Path) -> Any:
    file = folder / f"{topic}.json"
    said = [part.strip()[:40] for part in topics[topic].split(".") if len(part) > 40][:16]
    file.write_text(json.dumps([{"instruction": text[:15], "output": text[15:]} for text in said]))
    return RECIPE.author(file, tokenizer)


class InOrder(pl.LightningDataModule):
    """The same examples, which are not shuffled."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        data.setup()
        self.data = data

    def train_dataloader(self) -> Any:
        shuffled = self.data.train_dataloader()
        return DataLoader(shuffled.dataset, batch_size=4, collate_fn=shuffled.collate_fn)

    def val_dataloader(self) -> Any:
        return self.data.val_dataloader()


def test_one_worker_is_a_plain_trainer(tokenizer: Any, tmp_path: Path) -> None:
    is_a_plain_epoch(RECIPE.module, lambda: InOrder(author("assignment", tokenizer, tmp_path)))


def test_authors_learn_together(tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workers = {topic: author(topic, tokenizer, tmp_path) for topic in TOPICS}
    fed, run = learns("litgpt", RECIPE.module, workers, caplog, rounds=6)
    assert "val_loss" in run.callback_metrics
    opens(fed, run, tmp_path)
