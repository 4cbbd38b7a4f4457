"""Tensors of a user's data: tensors and arrays with equal numbers of rows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fed.core.arguments import article


def alike(things: Mapping[str, object], argument: str) -> list[Tensor]:
    """Return tensors with equal numbers of examples.

    Args:
        things: Tensors or arrays, by their names in messages.
        argument: The name of all of them.

    Raises:
        TypeError: If one of them is neither, or of no numbers; the message names an alternative.
        ValueError: If there is none, one has masked values or no rows, or one has more rows than another.
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
    refuse_tables(thing, name)
    if isinstance(thing, np.ndarray):
        tensor = _of_array(thing, name)
    elif isinstance(thing, Tensor):
        _refuse_without_rows(thing, name)
        tensor = thing.detach()  # data need no gradients, which would accumulate over rounds
    else:
        raise TypeError(f"{name} is {_named(thing)}: give a tensor or an array, such as torch.tensor([[0.0], [1.0]])")
    if tensor.ndim == 0:
        raise ValueError(f"{name} is a single number: give a tensor with one row per example, [n, ...]")
    return tensor


def _of_array(array: np.ndarray[Any, Any], name: str) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(array).sum())
        if masked:
            raise ValueError(
                f"{name} is a masked array, of which {masked} values are masked, and a tensor has no mask: fill them, "
                "as by array.filled(0.0), or leave their rows out"
            )
    if array.dtype.names is not None:
        fields = ", ".join(f"{field!r}: array[{field!r}]" for field in array.dtype.names)
        raise TypeError(f"{name} is an array of records: give a dict of its fields, such as {{{fields}}}")
    # torch refuses foreign byte order and negative strides, and warns about read-only memory
    array = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    try:
        tensor = torch.as_tensor(_own(array))
    except TypeError:
        if array.dtype.kind in "mM":
            advice = "a number of days or seconds since a date, such as (array - date) / np.timedelta64(1, 'D')"
        else:
            advice = "numbers, such as array.astype('float32')"
        raise TypeError(f"{name} is an array of {array.dtype}, of which torch has no tensors: give {advice}") from None
    return tensor.to(torch.get_default_dtype()) if array.dtype == np.float64 else tensor


def _refuse_without_rows(tensor: Tensor, name: str) -> None:
    """Refuse a tensor whose rows cannot be taken and stacked."""
    if tensor.is_nested:
        kind, fix = "nested", "tensor.to_padded_tensor(0.0)"
    elif tensor.layout != torch.strided:
        kind, fix = "sparse", "tensor.to_dense()"
    elif tensor.is_quantized:
        kind, fix = "quantized", "tensor.dequantize()"
    elif tensor.is_meta:
        kind, fix = "meta", "one with values, such as torch.zeros(tensor.shape)"
    else:
        return
    raise TypeError(f"{name} is a {kind} tensor, of which no batches can be made: give {fix}")


def _own(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array, or a copy if a tensor owns its memory, which moves when the tensor is sent to a process."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return array.copy() if isinstance(base, Tensor) else array


def refuse_tables(thing: object, name: str) -> None:
    """Refuse a table of pandas.

    Raises:
        TypeError: If it is one; the message names an alternative.
    """
    pandas = sys.modules.get("pandas")  # a table exists only if pandas is imported
    if pandas is not None and isinstance(thing, (pandas.DataFrame, pandas.Series)):
        raise TypeError(
            f"{name} is a pandas {type(thing).__name__}, which does not say which columns are features and which is "
            "the label: give lightning_fed.datasets.FrameDataModule(frame, features=[...], label=...), or arrays, as "
            "by .to_numpy()"
        )


def _named(thing: object) -> str:
    return "None" if thing is None else article(type(thing).__name__)
