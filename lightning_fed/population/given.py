"""Data as people have them, as a datamodule: tensors, arrays, datasets and loaders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_fed._lightning import pl, refuse_foreign
from lightning_fed.core.arguments import article, nearest
from lightning_fed.core.shown import Shown
from lightning_fed.population.lengths import length_of

if not TYPE_CHECKING:
    # At runtime the narrow type, by which the command line reads a config: YAML has names of classes, and no tensors.
    WorkerData: TypeAlias = pl.LightningDataModule
else:
    WorkerData: TypeAlias = pl.LightningDataModule | Iterable[Any] | Dataset[Any]
"""Data of one worker: a datamodule, or anything of which :func:`datamodule_of` makes one."""

BATCH_SIZE = 32
"""The number of examples in a batch of data that come without batches, unless the user says otherwise."""

SPLITS = ("train", "val", "test", "predict")
"""The parts of data that have a loader of their own."""

_MAY_BE = (
    "a LightningDataModule, a DataLoader, a Dataset, tensors or arrays such as (x, y), or a dict of such parts for "
    "'train', 'val', 'test' and 'predict'"
)


@final
class GivenData(Shown, pl.LightningDataModule):
    """Data that were given without a datamodule.

    Args:
        loaders: What makes the loader of each part, as a partial of a function, which another process can be sent.
            There is a loader of those parts only, as Lightning sees it.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Any]]) -> None:
        super().__init__()
        for split, make in loaders.items():
            vars(self)[f"{split}_dataloader"] = make


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
    """Anything whose examples have numbers from 0 on, as a DataLoader takes it for a dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def datamodule_of(
    thing: object, argument: str, batch_size: int, splits: Sequence[str] = ("train",)
) -> pl.LightningDataModule:
    """Return a datamodule of what a user has.

    - A datamodule is returned as it is.
    - A loader is used as it is, with its batches, its sampler and its processes.
    - Examples (see :func:`examples_of`) come in batches of ``batch_size``: in their order where one batch holds them
      all or they are evaluated, else shuffled anew in each pass.
    - A dict whose keys are among ``"train"``, ``"val"``, ``"test"`` and ``"predict"`` has a part for each.

    Args:
        thing: What the user gave.
        argument: The argument's name, for messages.
        batch_size: The number of examples in a batch.
        splits: What something without parts is for; the first of them is needed.

    Raises:
        TypeError: If it is nothing of the kind; the message says what to give instead.
        ValueError: If it has no examples, or not as many of one kind as of another.
    """
    if isinstance(thing, pl.LightningDataModule):
        return thing
    if isinstance(thing, Mapping) and any(key in SPLITS for key in thing):
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
    """Return a dataset of what a user has: examples that are not in batches yet.

    - A torch Dataset, or anything with ``len()`` and examples by number, is returned as it is.
    - A tuple or list of tensors or arrays gives batches ``[x, y, ...]``.
    - A single tensor or array gives batches that are tensors.
    - A dict of tensors or arrays gives batches that are dicts.

    An array becomes a tensor that shares its memory; only float64, numpy's default, becomes torch's default dtype.

    Args:
        thing: What the user gave.
        argument: The argument's name, for messages.

    Raises:
        TypeError: If it is nothing of the kind; the message says what to give instead.
        ValueError: If it has no examples, or not as many of one kind as of another.
    """
    _refuse_tables(thing, argument)
    if isinstance(thing, Dataset):
        return thing
    if isinstance(thing, (Tensor, np.ndarray)):
        (tensor,) = _alike({argument: thing}, argument)
        return cast("Dataset[Any]", tensor)  # a DataLoader takes a tensor for a dataset; TensorDataset gives lists
    if isinstance(thing, (tuple, list)):
        _refuse_two_sets(thing, argument)
        return TensorDataset(*_alike({f"{argument}[{i}]": item for i, item in enumerate(thing)}, argument))
    if isinstance(thing, Mapping):
        tensors = _alike({f"{argument}[{name!r}]": item for name, item in thing.items()}, argument)
        return Fields(dict(zip(thing, tensors, strict=True)))
    if isinstance(thing, Numbered) and not isinstance(thing, (type, str, bytes, nn.Module)):
        return cast("Dataset[Any]", thing)
    refuse_foreign(thing, "LightningDataModule", argument, _MAY_BE)
    raise TypeError(f"{argument} is a LightningDataModule, which has parts of its own: give it as a whole")


def _loading(thing: object, argument: str, batch_size: int) -> Callable[..., Any]:
    """Return what makes a loader, given whether it is for training, as a keyword ``trains``."""
    if isinstance(thing, Iterator):
        raise TypeError(
            f"{argument} is {article(type(thing).__name__)}, which is used up after one pass: give a DataLoader or an "
            "IterableDataset, which can be gone through in every round"
        )
    if isinstance(thing, Iterable) and not isinstance(thing, (Numbered, AbstractSet, Dataset, nn.Module, type)):
        return partial(_as_it_is, thing)  # a DataLoader, or another iterable of batches
    return partial(_batched, examples_of(thing, argument), batch_size)


def _for(make: Callable[..., Any], split: str) -> Callable[[], Any]:
    return partial(make, trains=split == "train")


def _as_it_is(loader: Any, trains: bool) -> Any:
    return loader


def _batched(examples: Dataset[Any], batch_size: int, trains: bool) -> DataLoader[Any]:
    # In one batch there is no order to draw. A stream has its own, and what has no length cannot be shuffled.
    length = None if isinstance(examples, IterableDataset) else length_of(examples)
    return DataLoader(examples, batch_size, shuffle=trains and length is not None and length > batch_size)


def _checked_splits(parts: Mapping[Any, Any], argument: str) -> Mapping[str, Any]:
    for key in parts:
        if key not in SPLITS:
            hint = "; did you mean 'val'?" if key == "validation" else nearest(str(key), SPLITS)
            raise ValueError(
                f"{argument} has a part {key!r}, which must be one of {', '.join(map(repr, SPLITS))}{hint}"
            )
    return parts


def _alike(things: Mapping[str, object], argument: str) -> list[Tensor]:
    """Return tensors of as many examples each.

    Args:
        things: Tensors or arrays, by what to call them in a message.
        argument: The name of all of them.
    """
    if not things:
        raise ValueError(f"{argument} is empty: give tensors, such as (x, y)")
    tensors = [_tensor(thing, name) for name, thing in things.items()]
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"{argument} has tensors of {' and '.join(map(str, lengths))} examples: give as many rows of each, one per "
            "example"
        )
    if not lengths[0]:
        raise ValueError(f"{argument} has no examples: give it data, or leave it out")
    return tensors


def _tensor(thing: object, name: str) -> Tensor:
    _refuse_tables(thing, name)
    if isinstance(thing, np.ndarray):
        is_wide = thing.dtype == np.float64
        try:
            # torch takes no negative strides, and warns of memory that must not be written to
            tensor = torch.as_tensor(_own(np.require(thing, requirements=["C", "W"])))
        except TypeError:
            raise TypeError(
                f"{name} is an array of {thing.dtype}, of which torch has no tensors: give numbers, such as "
                "array.astype('float32')"
            ) from None
        tensor = tensor.to(torch.get_default_dtype()) if is_wide else tensor
    elif isinstance(thing, Tensor):
        tensor = thing.detach()  # data have no gradients, and a worker's would add up
    else:
        raise TypeError(f"{name} is {_named(thing)}: give a tensor or an array, such as torch.tensor([[0.0], [1.0]])")
    if tensor.ndim == 0:
        raise ValueError(f"{name} is a single number: give a tensor with one row per example, [n, ...]")
    return tensor


def _own(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array, or a copy if its memory is a tensor's: that moves when the tensor is sent to a process."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return array.copy() if isinstance(base, Tensor) else array


def _refuse_two_sets(things: Sequence[object], argument: str) -> None:
    kinds = (Dataset, DataLoader, pl.LightningDataModule)
    if things and all(isinstance(thing, kinds) for thing in things):
        raise TypeError(
            f"{argument} holds several {type(things[0]).__name__}s and does not say what each is for: give a dict, "
            "such as {'train': train_set, 'val': val_set}, or join them with torch.utils.data.ConcatDataset"
        )


def _refuse_tables(thing: object, name: str) -> None:
    pandas = sys.modules.get("pandas")  # who has a table has imported it
    if pandas is not None and isinstance(thing, (pandas.DataFrame, pandas.Series)):
        raise TypeError(
            f"{name} is a pandas {type(thing).__name__}, which does not say which columns are features and which is "
            "the label: give lightning_fed.datasets.FrameDataModule(frame, features=[...], label=...), or arrays, as "
            "by .to_numpy()"
        )


def _named(thing: object) -> str:
    return "None" if thing is None else article(type(thing).__name__)
