"""MNIST and Fashion-MNIST over small IDX files, which are made here byte by byte."""

from __future__ import annotations

import gzip
import pickle
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from idx_files import idx
from torch.utils.data import RandomSampler

from lightning_fed.datasets import MNIST, FashionMNIST, PartitionedPopulation, Shards
from lightning_fed.datasets.idx import read_idx

IMAGES = np.arange(4 * 28 * 28, dtype=np.uint8).reshape(4, 28, 28)
LABELS = np.array([0, 9, 3, 3], dtype=np.uint8)


def written(folder: Path, *, compressed: bool = False, dotted: bool = False) -> Path:
    """Write the four files: four pictures to train on, and the first two of them to test on."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 4), ("t10k", 2)):
        for kind, array in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", LABELS)):
            name = f"{prefix}-{kind}".replace("-idx", ".idx" if dotted else "-idx")
            data = idx(array[:count])
            (folder / (name + ".gz" * compressed)).write_bytes(gzip.compress(data) if compressed else data)
    return folder


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_pixels_and_labels(tmp_path: Path, kind: type[MNIST], compressed: bool, dotted: bool) -> None:
    data = kind(written(tmp_path, compressed=compressed, dotted=dotted))
    data.setup("fit")
    x, label = data.examples("train").tensors
    assert (x.shape, x.dtype, label.dtype) == ((4, 1, 28, 28), torch.float32, torch.int64)
    assert label.tolist() == [0, 9, 3, 3]
    assert x[0, 0, 0, :3].tolist() == [0.0, pytest.approx(1 / 255), pytest.approx(2 / 255)]
    assert torch.equal(data.examples("test").tensors[0], x[:2])


def test_where_torchvision_puts_them(tmp_path: Path) -> None:
    written(tmp_path / "FashionMNIST" / "raw")
    data = FashionMNIST(str(tmp_path))
    data.setup("fit")
    assert len(data.examples("train")) == 4
    with pytest.raises(FileNotFoundError, match=r"MNIST: there is no train-images-idx3-ubyte .*download=True"):
        MNIST(tmp_path).setup("fit")


def test_flat_and_normalized(tmp_path: Path) -> None:
    data = MNIST(written(tmp_path), flatten=True, normalize=True)
    data.setup("fit")
    x, _ = data.examples("train").tensors
    assert x.shape == (4, 784)
    assert x[0, 51].item() == pytest.approx((51 / 255 - 0.1307) / 0.3081, rel=1e-6)


def test_training_is_shuffled_and_evaluation_is_not(tmp_path: Path) -> None:
    data = MNIST(written(tmp_path), batch_size=3)
    data.setup("fit")
    assert isinstance(data.train_dataloader().sampler, RandomSampler)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert [label.tolist() for _, label in loader] == [[0, 9]]


def test_a_population_deals_it_out(tmp_path: Path) -> None:
    workers = PartitionedPopulation(MNIST(written(tmp_path)), Shards(workers=2, shards_per_worker=1))
    assert sorted(sorted(label for _, label in workers[name].train_set) for name in workers) == [[0, 3], [3, 9]]


def test_files_are_read_once(tmp_path: Path) -> None:
    data = MNIST(written(tmp_path))
    data.setup("fit")
    (tmp_path / "train-images-idx3-ubyte").unlink()
    data.setup("test")
    assert len(pickle.loads(pickle.dumps(data)).examples("train")) == 4


def test_download_is_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(root: str, download: bool) -> None:
        calls.append((root, download))
        written(Path(root) / "MNIST" / "raw")

    torchvision, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    datasets.MNIST = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    data = MNIST(tmp_path, download=True)
    data.prepare_data()
    data.prepare_data()  # all is there now
    data.setup("fit")
    assert calls == [(str(tmp_path), True)]
    assert len(data.examples("train")) == 4


def test_without_torchvision_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match=r'download=True.*pip install "lightning_fed\[vision\]"'):
        MNIST(tmp_path, download=True).prepare_data()


def test_before_setup_the_error_says_what_to_call(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r'MNIST is not set up: call setup\("fit"\)'):
        MNIST(tmp_path).train_dataloader()


def test_a_part_that_there_is_not_is_refused(tmp_path: Path) -> None:
    data = MNIST(written(tmp_path))
    data.setup("fit")
    with pytest.raises(ValueError, match="part='val' must be one of 'train', 'test'"):
        data.examples("val")


def test_repr() -> None:
    assert repr(MNIST(Path("data"), flatten=True)) == "MNIST(folder='data', flatten=True)"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no IDX file"),
        (b"<html>", "is no IDX file: it begins with the bytes 3c 68 74 6d"),
        (idx(LABELS)[:6], "fewer bytes than its header says"),
        (idx(LABELS)[:-1], r"fewer bytes than its header says, 4 for shape \(4,\)"),
        (b"\0\0\x08\3" + b"\xff" * 12, "fewer bytes than its header says"),
        (idx(LABELS) + b"\0", "more than its header says"),
        (gzip.compress(idx(LABELS))[:-9], "is damaged"),
        (gzip.compress(idx(LABELS))[:10] + b"\xff" * 9, "is damaged"),
    ],
    ids=["empty", "a page", "no sizes", "short", "huge", "long", "short and compressed", "not compressed"],
)
def test_damaged_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as raised:
        read_idx(path)
    assert str(path) in str(raised.value)


def test_other_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "floats"
    path.write_bytes(struct.pack(">HBBI2f", 0, 0x0D, 1, 2, 1.5, -2.0))
    assert read_idx(path).tolist() == [1.5, -2.0]
    assert read_idx(path).dtype == np.float32


def test_images_of_one_file_with_labels_of_another(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:3]))
    with pytest.raises(ValueError, match=r"images of shape \(4, 28, 28\) and labels of shape \(3,\)"):
        MNIST(tmp_path).setup("fit")
