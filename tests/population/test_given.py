"""Data as people have them: what is made of each kind, and what is refused, in words."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, TensorDataset

from lightning_fed._lightning import is_overridden
from lightning_fed.population import datamodule_of, examples_of
from lightning_fed.population.batches import IndexedBatches, batches_of

X, Y = torch.arange(6.0).reshape(3, 2), torch.arange(3.0).reshape(3, 1)


class Squares(Dataset[Any]):
    """Says how many examples it has; not derived from TensorDataset."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return zip(X, Y, strict=True)


class Duck:
    """What a DataLoader takes for a dataset, as Hugging Face's is."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        if index >= 3:
            raise IndexError(index)
        return X[index], Y[index]


class Batches:
    """An iterable of batches that is no DataLoader."""

    def __iter__(self) -> Iterator[Any]:
        return iter([[X, Y]])


def of(thing: object, batch_size: int = 32, **options: Any) -> pl.LightningDataModule:
    return datamodule_of(thing, "workers['bob']", batch_size, **options)


PAIRS = {
    "tuple": (X, Y),
    "list": [X, Y],
    "arrays": (X.numpy(), Y.numpy()),
    "mixed": (X.numpy(), Y),
    "float64 arrays": (X.double().numpy(), Y.double().numpy()),
    "reversed twice": (X.numpy()[::-1][::-1], Y),
    "tensors with gradients": (X.clone().requires_grad_(), Y),
    "TensorDataset": TensorDataset(X, Y),
    "Dataset": Squares(),
    "stream": Stream(),
    "numbered": Duck(),
    "loader": DataLoader(TensorDataset(X, Y), batch_size=3),
    "iterable of batches": Batches(),
    "parts": {"train": (X, Y), "val": (X[:1], Y[:1])},
    "part that is a loader": {"train": DataLoader(TensorDataset(X, Y), batch_size=3)},
}


@pytest.mark.parametrize("kind", PAIRS)
def test_every_kind_gives_the_same_batch(kind: str) -> None:
    ((x, y),) = of(PAIRS[kind]).train_dataloader()
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    assert x.dtype == torch.float32
    assert not x.requires_grad


def test_a_datamodule_is_itself_and_a_loader_too() -> None:
    datamodule, loader = Rows([1.0]), DataLoader(Squares(), batch_size=2, num_workers=0)
    assert of(datamodule) is datamodule
    assert of(loader).train_dataloader() is loader


def test_a_single_tensor_gives_batches_that_are_tensors() -> None:
    (x,) = of(X).train_dataloader()
    assert torch.equal(x, X)
    (x,) = of(X.numpy()).train_dataloader()
    assert torch.equal(x, X)
    ((x,),) = of((X,)).train_dataloader()
    assert torch.equal(x, X)


def test_a_dict_of_tensors_gives_batches_that_are_dicts() -> None:
    datamodule = of({"x": X, "y": Y.numpy()}, batch_size=2)
    sizes = [{name: len(tensor) for name, tensor in batch.items()} for batch in datamodule.train_dataloader()]
    assert sizes == [{"x": 2, "y": 2}, {"x": 1, "y": 1}]


def test_batches_are_shuffled_if_there_are_several() -> None:
    assert isinstance(of((X, Y), 2).train_dataloader().sampler, RandomSampler)
    assert isinstance(of((X, Y), 3).train_dataloader().sampler, SequentialSampler)
    assert isinstance(of({"train": X, "val": X}, 2).val_dataloader().sampler, SequentialSampler)
    assert [len(x) for x, _ in of(Stream(), 2).train_dataloader()] == [2, 1]


def test_tensors_are_batched_by_indexing() -> None:
    for thing in ((X, Y), (X.numpy(), Y), TensorDataset(X, Y), DataLoader(TensorDataset(X, Y))):
        assert isinstance(batches_of(of(thing).train_dataloader()), IndexedBatches)


def has(datamodule: pl.LightningDataModule) -> list[str]:
    names = ("train", "val", "test", "predict")
    return [name for name in names if is_overridden(f"{name}_dataloader", datamodule, pl.LightningDataModule)]


def test_there_are_loaders_for_what_was_given_only() -> None:
    assert has(of((X, Y))) == ["train"]
    assert has(of({"train": (X, Y), "test": Squares()})) == ["train", "test"]
    assert has(of((X, Y), splits=("val", "test"))) == ["val", "test"]
    assert has(of({"test": (X, Y)}, splits=("val", "test"))) == ["test"]


def test_what_is_given_can_be_sent_to_another_process() -> None:
    datamodule = pickle.loads(pickle.dumps(of({"train": (X, Y), "val": {"x": X}})))
    ((x, _),) = datamodule.train_dataloader()
    assert torch.equal(x, X)
    assert has(datamodule) == ["train", "val"]


def test_arrays_share_their_memory_and_only_numpys_default_becomes_torchs() -> None:
    ids, probabilities = np.arange(3), np.full((3, 1), 0.5, dtype=np.float16)
    dataset = examples_of((ids, probabilities, np.ones((3, 1))), "source")
    assert isinstance(dataset, TensorDataset)
    assert [tensor.dtype for tensor in dataset.tensors] == [torch.int64, torch.float16, torch.float32]
    ids[0] = 7
    assert dataset.tensors[0][0] == 7


def test_an_array_that_must_not_be_written_to_is_copied() -> None:
    array = np.arange(3.0, dtype=np.float32)
    array.setflags(write=False)
    (x,) = of(array).train_dataloader()
    assert x.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3.0).astype(">f8"),
        np.arange(3.0).astype(">f4"),
        np.arange(3.0)[::-1][::-1],
        np.arange(2.0, -1.0, -1.0)[::-1],
        np.asfortranarray(np.arange(3.0)),
        np.arange(6.0)[::2] / 2,
        np.ma.masked_array(np.arange(3.0), mask=False),
    ],
)
def test_an_array_in_any_layout_gives_its_values(array: Any) -> None:
    (x,) = of(array).train_dataloader()
    assert x.dtype == torch.float32
    assert x.tolist() == [0.0, 1.0, 2.0]


def test_a_field_may_have_a_name_like_that_of_a_part() -> None:
    (batch,) = of({"text": X, "label": Y}).train_dataloader()
    assert list(batch) == ["text", "label"]


def test_an_array_of_a_tensor_is_copied() -> None:
    """When a tensor is shared with another process its memory moves, and of the array nothing is left."""
    tensor = torch.arange(3.0)
    (before,) = of(tensor.numpy()[1:]).train_dataloader()
    datamodule = of(tensor.numpy()[1:])
    tensor.fill_(7.0)
    (after,) = datamodule.train_dataloader()
    assert torch.equal(after, before)


class NoLength(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


class Empty(Squares):
    def __len__(self) -> int:
        return 0


class EmptyDuck(Duck):
    def __len__(self) -> int:
        return 0


def masked() -> Any:
    return np.ma.masked_array(X.numpy(), mask=X.numpy() > 3)


def of_another_kind(kind: str) -> torch.Tensor:
    with warnings.catch_warnings():  # torch has it that these kinds may change, or go
        warnings.simplefilter("ignore")
        return X.to_sparse_csr() if kind == "rows" else torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)


class Other(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        return (X, Y)

    def __iter__(self) -> Iterator[str]:
        return iter(["bob"])

    def __len__(self) -> int:
        return 1


W = r"workers\['bob'\]"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (X, Y[:2]), f"{W} has tensors of 3 and 2 examples: give as many rows of each"),
        (lambda: {"x": X, "y": Y[:2]}, f"{W} has tensors of 3 and 2 examples"),
        (lambda: (X[:0], Y[:0]), f"{W} has no examples: give it data, or leave it out"),
        (lambda: X[:0], f"{W} has no examples"),
        (lambda: (), f"{W} is empty: give tensors, such as"),
        (lambda: {}, f"{W} is empty: give tensors"),
        (lambda: (X, torch.tensor(1.0)), rf"{W}\[1\] is a single number: give a tensor with one row per example"),
        (lambda: ([[1.0]], [[2.0]]), rf"{W}\[0\] is a list: give a tensor or an array, such as torch.tensor"),
        (lambda: [(X[0], Y[0]), (X[1], Y[1])], rf"{W}\[0\] is a tuple: give a tensor or an array"),
        (lambda: (X, None), rf"{W}\[1\] is None: give a tensor"),
        (lambda: np.array(["a", "b"]), f"{W} is an array of <U1, of which torch has no tensors: give numbers"),
        (lambda: np.array([None, {}]), f"{W} is an array of object, of which"),
        (
            lambda: (Squares(), Squares()),
            f"{W} holds several Squaress and .*: give a dict, such as .*'train': train_set",
        ),
        (lambda: iter([(X, Y)]), f"{W} is a list_iterator, which is used up after one pass"),
        (lambda: (batch for batch in [(X, Y)]), f"{W} is a generator, which is used up after one pass"),
        (lambda: {X, Y}, f"{W} must be a LightningDataModule, a DataLoader, a Dataset, .*, not set"),
        (lambda: "bob.csv", f"{W} is a path, 'bob.csv', and no file is read here: read it, and give a LightningData"),
        (lambda: b"bob", f"{W} must be .*, not bytes"),
        (lambda: None, f"{W} must be .*, not NoneType"),
        (lambda: 3, f"{W} must be .*, not int"),
        (lambda: torch.nn.Sequential(torch.nn.ReLU()), f"{W} must be .*, not Sequential"),
        (lambda: TensorDataset, rf"{W} must be .*, not the class TensorDataset: give an object of it"),
        (lambda: {"train": Rows([1.0])}, rf"{W}\['train'\] is a LightningDataModule, which has parts of its own"),
        (lambda: {"val": (X, Y)}, f"{W} has no part 'train': give the data to train on under that name"),
        (lambda: {"train": (X, Y), "validation": (X, Y)}, f"{W} has a part 'validation', .*; did you mean 'val'"),
        (lambda: {"train": (X, Y), "tset": (X, Y)}, f"{W} has a part 'tset', which must be one of .* mean 'test'"),
        (lambda: {"train": (X, Y[:1])}, rf"{W}\['train'\] has tensors of 3 and 1 examples"),
        (lambda: {"trian": (X, Y)}, f"{W} has a part 'trian', which must be one of .*; did you mean 'train'"),
        (lambda: {"training": (X, Y)}, f"{W} has a part 'training', .*; did you mean 'train'"),
        (lambda: (masked(), Y), rf"{W}\[0\] is a masked array, of which 2 values are masked.*array.filled\(0.0\)"),
        (lambda: {"x": X, "y": masked()}, rf"{W}\['y'\] is a masked array"),
        (lambda: np.zeros(3, [("a", float), ("b", int)]), f"{W} is an array of records: .*'a': array.*'b': array"),
        (lambda: np.array(["2020-01-01"], "datetime64[D]"), f"{W} is an array of datetime64.*np.timedelta64"),
        (lambda: (X.to_sparse(), Y), rf"{W}\[0\] is a sparse tensor, .*tensor.to_dense"),
        (lambda: of_another_kind("rows"), f"{W} is a sparse tensor"),
        (lambda: (X.to("meta"), Y), rf"{W}\[0\] is a meta tensor"),
        (lambda: of_another_kind("quantized"), f"{W} is a quantized tensor, .*dequantize"),
        (lambda: Empty(), f"{W} is an Empty without examples: give it data, or leave it out"),
        (lambda: EmptyDuck(), f"{W} is an EmptyDuck without examples"),
        (lambda: {"train": (X, Y), "val": Empty()}, rf"{W}\['val'\] is an Empty without examples"),
        (lambda: DataLoader(Squares(), 4, drop_last=True), f"{W} is a DataLoader without batches"),
        (lambda: DataLoader(Empty()), f"{W} is a DataLoader without batches"),
        (lambda: NoLength(), f"{W} is a NoLength, which does not say how many examples it has: .*__len__"),
        (lambda: Other(), rf"{W}\['bob'\] is a tuple: give a tensor"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_fix(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        of(make())
    assert "\n" not in str(caught.value)
