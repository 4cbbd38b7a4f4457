"""Datamodules for plain data: tensors, arrays, datasets and loaders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, final, runtime_checkable

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_fed._lightning import pl, refuse_foreign
from lightning_fed.core.arguments import article, nearest
from lightning_fed.core.shown import Shown
from lightning_fed.population.lengths import length_of, num_examples
from lightning_fed.population.tensors import alike, refuse_tables

if not TYPE_CHECKING:
    # At runtime the narrow type, with which the command line reads a config: YAML has names of classes, not tensors.
    WorkerData: TypeAlias = pl.LightningDataModule
else:
    WorkerData: TypeAlias = pl.LightningDataModule | Iterable[Any] | Dataset[Any]
"""Data of one worker: a datamodule, or anything that :func:`datamodule_of` accepts."""

BATCH_SIZE = 32
"""The default number of examples in a batch of data that come without batches."""

SPLITS = ("train", "val", "test", "predict")
"""The parts of data with their own loaders."""

_MAY_BE = (
    "a LightningDataModule, a DataLoader, a Dataset, tensors or arrays such as (x, y), or a dict of such parts for "
    "'train', 'val', 'test' and 'predict'"
)


@final
class GivenData(Shown, pl.LightningDataModule):
    """A datamodule of data that were given without one.

    Args:
        loaders: A function that makes the loader of each part, as a picklable partial. To Lightning, only these parts
            have loaders.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Any]]) -> None:
        super().__init__()
        for split, make in loaders.items():
            vars(self)[f"{split}_dataloader"] = make

    @property
    def makes_batches(self) -> bool:
        """Whether some data came without batches."""
        return any(make.func is _batched for make in self._makers())

    @property
    def batches(self) -> dict[str, int | str | bool | None]:
        """The batch settings of the given loaders: batch size and sampler."""
        said: dict[str, int | str | bool | None] = {}
        for make in self._makers():
            if make.func is _as_it_is and isinstance(loader := make.args[0], DataLoader):
                said |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
                said |= {"sampler": type(loader.sampler).__name__, "batches": type(loader.batch_sampler).__name__}
                break
        return said

    @property
    def examples(self) -> dict[str, Any]:
        """The examples of each part that came without batches."""
        makers = {split: vars(self).get(f"{split}_dataloader") for split in SPLITS}
        return {
            split: make.args[0] for split, make in makers.items() if isinstance(make, partial) and make.func is _batched
        }

    @property
    def num_examples(self) -> int | None:
        """The number of training examples, if known without a pass over them."""
        make = vars(self).get("train_dataloader")
        if not isinstance(make, partial):
            return None
        of = self.examples.get("train")
        if of is None:
            return num_examples(make.args[0])
        return None if isinstance(of, IterableDataset) else length_of(of)

    def _makers(self) -> Iterator[partial[Any]]:
        """Return the functions that make the loaders, the training loader first."""
        makers = (vars(self).get(f"{split}_dataloader") for split in SPLITS)
        return (make for make in makers if isinstance(make, partial))


@final
class Fields(Dataset[dict[str, Tensor]]):
    """Tensors by name, whose batches are dicts.

    Args:
        tensors: One row per example, ``[n, ...]`` each.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        """Count the examples."""
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one example."""
        return {name: tensor[index] for name, tensor in self.tensors.items()}


@runtime_checkable
class Numbered(Protocol):
    """Protocol of objects whose examples are numbered from 0, which a DataLoader accepts as datasets."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def datamodule_of(
    thing: object, argument: str, batch_size: int, splits: Sequence[str] = ("train",)
) -> pl.LightningDataModule:
    """Return a datamodule of a user's data.

    - A datamodule is returned as it is.
    - A loader is used as it is, with its batches, its sampler and its processes.
    - Examples (see :func:`examples_of`) are batched by ``batch_size``: in order if one batch holds all of them or in
      evaluation, else shuffled in each pass.
    - A dict whose keys are among ``"train"``, ``"val"``, ``"test"`` and ``"predict"`` has a part for each.

    Args:
        thing: The user's data.
        argument: The argument's name, for messages.
        batch_size: The number of examples in a batch.
        splits: The parts for which undivided data are used; the first of them is required.

    Raises:
        TypeError: If the data are of no supported kind; the message names an alternative.
        ValueError: If it has no examples, or not as many of one kind as of another.
    """
    if isinstance(thing, pl.LightningDataModule):
        return thing
    if isinstance(thing, Mapping) and any(key in SPLITS or _is_misspelt(key, part) for key, part in thing.items()):
        parts = {split: (part, f"{argument}[{split!r}]") for split, part in _checked_splits(thing, argument).items()}
        if splits[0] == "train" and "train" not in parts:
            raise ValueError(f"{argument} has no part 'train': give the data to train on under that name")
    else:
        parts = dict.fromkeys(splits, (thing, argument))
    made: dict[int, Callable[..., Any]] = {}
    for part, name in parts.values():
        if id(part) not in made:
            made[id(part)] = _loading(part, name, batch_size)
    return GivenData({split: _for(made[id(part)], split) for split, (part, _) in parts.items()})


def examples_of(thing: object, argument: str) -> Dataset[Any]:
    """Return a dataset of a user's data: examples that are not yet in batches.

    - A torch Dataset, or anything with ``len()`` and examples by number, is returned as it is.
    - A tuple or list of tensors or arrays gives batches ``[x, y, ...]``.
    - A single tensor or array gives batches that are tensors.
    - A dict of tensors or arrays gives batches that are dicts.

    An array becomes a tensor that shares its memory. Exceptions: float64, NumPy's default, becomes torch's default
    dtype, and arrays that torch cannot share (foreign byte order, negative strides, read-only memory) are copied.

    Args:
        thing: The user's data.
        argument: The argument's name, for messages.

    Raises:
        TypeError: If the data are of no supported kind; the message names an alternative.
        ValueError: If it has no examples, or not as many of one kind as of another.
    """
    refuse_tables(thing, argument)
    if isinstance(thing, Dataset):
        _refuse_no_examples(thing, argument)
        return thing
    if isinstance(thing, (Tensor, np.ndarray)):
        (tensor,) = alike({argument: thing}, argument)
        return cast("Dataset[Any]", tensor)  # a DataLoader accepts a tensor; TensorDataset would yield lists
    if isinstance(thing, (tuple, list)):
        _refuse_two_sets(thing, argument)
        return TensorDataset(*alike({f"{argument}[{i}]": item for i, item in enumerate(thing)}, argument))
    if isinstance(thing, Mapping):
        tensors = alike({f"{argument}[{name!r}]": item for name, item in thing.items()}, argument)
        return Fields(dict(zip(thing, tensors, strict=True)))
    if isinstance(thing, Numbered) and not isinstance(thing, (type, str, bytes, nn.Module)):
        _refuse_no_examples(thing, argument)
        return cast("Dataset[Any]", thing)
    if isinstance(thing, (str, os.PathLike)):
        raise TypeError(f"{argument} is a path, {str(thing)!r}, and no file is read here: read it, and give {_MAY_BE}")
    refuse_foreign(thing, "LightningDataModule", argument, _MAY_BE)
    raise TypeError(f"{argument} is a LightningDataModule, which has parts of its own: give it as a whole")


def _loading(thing: object, argument: str, batch_size: int) -> Callable[..., Any]:
    """Return a function that makes a loader, with the keyword ``trains``: whether the loader is for training."""
    if isinstance(thing, Iterator):
        raise TypeError(
            f"{argument} is {article(type(thing).__name__)}, which is used up after one pass: give a DataLoader or an "
            "IterableDataset, which can be gone through in every round"
        )
    if isinstance(thing, Iterable) and not isinstance(thing, (Numbered, AbstractSet, Dataset, nn.Module, type)):
        if length_of(thing) == 0:
            raise ValueError(
                f"{argument} is {article(type(thing).__name__)} without batches: give it data, or leave it out"
            )
        return partial(_as_it_is, thing)  # a DataLoader, or another iterable of batches
    return partial(_batched, examples_of(thing, argument), batch_size)


def _for(make: Callable[..., Any], split: str) -> Callable[[], Any]:
    return partial(make, trains=split == "train")


def _as_it_is(loader: Any, trains: bool) -> Any:
    return loader


def _batched(examples: Dataset[Any], batch_size: int, trains: bool) -> DataLoader[Any]:
    # A single batch has no order to draw. A stream has its own, and data without a length cannot be shuffled.
    length = None if isinstance(examples, IterableDataset) else length_of(examples)
    return DataLoader(examples, batch_size, shuffle=trains and length is not None and length > batch_size)


def _checked_splits(parts: Mapping[Any, Any], argument: str) -> Mapping[str, Any]:
    for key in parts:
        if key not in SPLITS:
            raise ValueError(
                f"{argument} has a part {key!r}, which must be one of {', '.join(map(repr, SPLITS))}{_near_split(key)}"
            )
    return parts


def _is_misspelt(key: object, part: object) -> bool:
    """Whether a key is close to the name of a split; a tensor with such a name, like ``text``, may be a field."""
    return not isinstance(part, (Tensor, np.ndarray)) and bool(_near_split(key))


def _near_split(key: object) -> str:
    return "; did you mean 'val'?" if key == "validation" else nearest(str(key), SPLITS)


def _refuse_no_examples(examples: object, argument: str) -> None:
    length, name = length_of(examples), type(examples).__name__
    if length is None and not isinstance(examples, IterableDataset):
        raise TypeError(
            f"{argument} is {article(name)}, which does not say how many examples it has: give it a method __len__ "
            "that returns their number, or derive it from IterableDataset"
        )
    if length == 0:
        raise ValueError(f"{argument} is {article(name)} without examples: give it data, or leave it out")


def _refuse_two_sets(things: Sequence[object], argument: str) -> None:
    kinds = (Dataset, DataLoader, pl.LightningDataModule)
    if things and all(isinstance(thing, kinds) for thing in things):
        raise TypeError(
            f"{argument} holds several {type(things[0]).__name__}s and does not say what each is for: give a dict, "
            "such as {'train': train_set, 'val': val_set}, or join them with torch.utils.data.ConcatDataset"
        )
