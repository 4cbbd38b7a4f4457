import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.models import LinearRegression
from lightning_fed.node import Node


def module():
    torch.manual_seed(0)
    return LinearRegression(2, 1, lr=0.05)


class Data(pl.LightningDataModule):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def train_dataloader(self):
        g = torch.Generator().manual_seed(100 + self.number)
        x = torch.randn(64 + 8 * self.number, 2, generator=g)
        y = x @ torch.tensor([[1.0], [-2.0]]) + 0.1 * self.number
        return DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)


def build(config):
    name = config["worker"]
    return Node(module(), {name: Data(int(name[1:]))}, threads=1)
