"""torch_geometric: batches of graphs, and workers that have one large graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from page import recipe
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

RECIPE = recipe("torch_geometric")

from contract import is_a_plain_epoch, learns, opens

from lightning_fed._lightning import pl


def drawn(seed: int, nodes: int) -> Data:
    """A ring, whose nodes lie around 1 or -1 according to the class."""
    generator = torch.Generator().manual_seed(seed)
    label = seed % 2
    around = torch.arange(nodes)
    x = torch.randn(nodes, 3, generator=generator) + 2 * label - 1
    return Data(x=x, edge_index=torch.stack([around, around.roll(1)]), y=torch.tensor([label]))


def clinic(which: int) -> Any:
    graphs = [drawn(100 * which + n, 4 + n % 3) for n in range(13)]
    return RECIPE.clinic(graphs[:9], graphs[9:])


class Own(pl.LightningDataModule):
    """torch_geometric's loader in a datamodule of the user's."""

    def train_dataloader(self) -> Any:
        return DataLoader([drawn(n, 5) for n in range(7)], batch_size=3)

    def val_dataloader(self) -> Any:
        return DataLoader([drawn(n, 5) for n in range(20, 24)], batch_size=3)


def network_of(nodes: int) -> Any:
    graph = drawn(nodes, nodes)
    graph.y = (graph.x.sum(1) > 0).long()
    graph.train_mask = torch.arange(nodes) % 3 > 0
    graph.val_mask = ~graph.train_mask
    return RECIPE.network_of(graph)


class WithoutDraws(pl.LightningDataModule):
    """A clinic's graphs in their order: LightningDataset shuffles."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def train_dataloader(self) -> Any:
        return DataLoader(self.inner.train_dataset, batch_size=4)

    def val_dataloader(self) -> Any:
        return self.inner.val_dataloader()


@pytest.mark.parametrize("worker", [Own, lambda: WithoutDraws(clinic(1))])
def test_one_worker_is_a_plain_trainer(worker: Any) -> None:
    is_a_plain_epoch(RECIPE.Graphs, worker)


def test_a_worker_with_one_graph_is_a_plain_trainer() -> None:
    is_a_plain_epoch(RECIPE.Nodes, lambda: network_of(30))


def test_clinics_learn_together(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    fed, run = learns("torch_geometric", RECIPE.Graphs, {f"clinic {n}": clinic(n) for n in range(4)}, caplog)
    assert {"val_loss", "train_acc"} <= run.callback_metrics.keys()
    assert {record.examples for record in fed.last_report.workers.values()} == {9}
    opens(fed, run, tmp_path)


def test_nodes_count_where_a_worker_has_one_graph(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    fed, run = learns(
        "torch_geometric", RECIPE.Nodes, {f"bank {n}": network_of(n) for n in (9, 30, 45, 60)}, caplog, rounds=8
    )
    assert {name: record.examples for name, record in fed.last_report.workers.items()} == {
        "bank 9": 6,
        "bank 30": 20,
        "bank 45": 30,
        "bank 60": 40,
    }
    opens(fed, run, tmp_path)
