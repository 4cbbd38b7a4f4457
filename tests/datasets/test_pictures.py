"""Pictures of partitions: counted by hand, one bar per worker, and none of pyplot's state."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_fed.datasets import (
    IID,
    Dirichlet,
    NaturalIds,
    PartitionedPopulation,
    Shards,
    Synthetic,
    count_labels,
    draw_label_counts,
)

IDS = ["bob", "bob", "alice", "bob"]
LABELS = np.array([5, 7, 7, 5])


def population(labels: Any, partition: Any, **options: Any) -> PartitionedPopulation:
    labels = torch.as_tensor(labels)
    return PartitionedPopulation(TensorDataset(torch.zeros(len(labels), 1), labels), partition, **options)


def test_labels_are_counted_by_hand() -> None:
    table = population(LABELS, NaturalIds(IDS), val_fraction=0.5).label_counts()
    assert table.workers == ("alice", "bob")
    assert table.labels == ("5", "7")
    assert table.counts.tolist() == [[0, 1], [2, 1]]
    assert count_labels(NaturalIds(IDS)(LABELS), np.array([["n"], ["y"], ["y"], ["n"]])).labels == ("n", "y")


@pytest.mark.parametrize("labels", [None, np.linspace(0, 1, 101)], ids=["none", "real numbers"])
def test_labels_that_are_not_told_apart_leave_sizes(labels: Any) -> None:
    table = count_labels(NaturalIds([0] * 100 + [1])(np.zeros(101)), labels)
    assert table.labels == ()
    assert table.counts.tolist() == [[100], [1]]


def test_labels_for_other_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="labels: 3 for 4 examples; give one label per example"):
        count_labels(NaturalIds(IDS)(LABELS), LABELS[:3])


def test_a_partition_by_size_alone_still_shows_labels() -> None:
    assert population(LABELS, IID(workers=2)).label_counts().counts.sum(axis=0).tolist() == [2, 2]


def test_examples_without_labels_show_sizes() -> None:
    class Numbers(torch.utils.data.Dataset[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            return index

    table = PartitionedPopulation(Numbers(), IID(workers=2)).label_counts()
    assert table.labels == ()
    assert table.counts.tolist() == [[2], [2]]


def test_up_to_fifty_workers_have_a_bar_each_stacked_by_label() -> None:
    (axes,) = population(LABELS, NaturalIds(IDS)).plot().axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["alice", "bob"]
    five, seven = axes.containers
    assert [bar.get_height() for bar in five] == [0, 2]
    assert [(bar.get_y(), bar.get_height()) for bar in seven] == [(0, 1), (2, 1)]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["5", "7"]
    assert axes.get_ylim()[1] > 3, "the bars end within the picture"


def test_more_workers_are_a_map_and_a_histogram() -> None:
    labels = np.arange(600) % 3
    figure = population(labels, Dirichlet(workers=60, alpha=0.3)).plot()
    shares, sizes, _ = figure.axes
    (image,) = shares.get_images()
    assert image.get_array().shape == (3, 60)
    assert np.asarray(image.get_array()).sum(axis=0) == pytest.approx(1.0)
    assert sum(bar.get_height() for bar in sizes.patches) == 60
    (only,) = draw_label_counts(count_labels(IID(workers=60)(labels), None)).axes
    assert sum(bar.get_height() for bar in only.patches) == 60


def test_a_picture_is_written_without_pyplot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it fails
    for name, figure in {"drawn": Synthetic().plot(), "shards": population(LABELS, Shards(workers=2)).plot()}.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_notebook_shows_a_picture_without_pyplot() -> None:
    """Jupyter calls this method of the object in the last line of a cell."""
    picture = population(LABELS, Shards(workers=2)).plot()._repr_png_()
    assert picture.startswith(b"\x89PNG")


def test_without_matplotlib_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'a picture of a partition needs matplotlib .*"lightning_fed\[examples\]"'):
        population(LABELS, NaturalIds(IDS)).plot()
