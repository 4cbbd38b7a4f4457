"""The side of a site: the function that ``lightning-fed node --build hospitals.site:build`` calls."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset, random_split

from hospitals.model import OUTCOME, USUAL, module
from lightning_fed.node import Node


class Patients(pl.LightningDataModule):
    """The patients of a CSV file on this machine; a fifth of them is held out for validation."""

    def __init__(self, file: str | Path) -> None:
        super().__init__()
        self.file = Path(file)

    def setup(self, stage: str) -> None:
        self.train, self.val = random_split(read(self.file), [0.8, 0.2], torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=256)


def read(file: Path) -> TensorDataset:
    """Read a CSV file; a value that is missing becomes the usual one."""
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    scaled = [[(float(row[name] or mean) - mean) / std for name, (mean, std) in USUAL.items()] for row in rows]
    return TensorDataset(torch.tensor(scaled), torch.tensor([float(row[OUTCOME]) for row in rows]))


def build(config: Mapping[str, str]) -> Node:
    """Make the node of a site: ``--config site=north data=/srv/hospitals/north.csv``."""
    return Node(module(), {config["site"]: Patients(config["data"])}, accelerator="cpu", threads=1)
