"""Modules and datamodules for another process of the same program: with what is theirs, and nothing of the server's.

Only the engine ``Isolated`` pickles, and only what a node would have from the beginning: code, settings and its own
data. What crosses in a round has a format of its own, :mod:`lightning_fed.wire.codec`.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from lightning_fed._lightning import pl
from lightning_fed.population.batches.rows import rows_of
from lightning_fed.worker.copying import Outside, outside_of


def dumps(thing: object, trainer: pl.Trainer) -> bytes:
    """Pickle something of the user's.

    Args:
        thing: A module or a datamodule.
        trainer: The server's Trainer; references to it, to its module and to its data are replaced.

    Raises:
        Exception: If something in it cannot be pickled.
    """
    file = io.BytesIO()
    _Pickler(file, outside_of(trainer)).dump(thing)
    return file.getvalue()


def loads(data: bytes | memoryview) -> Any:
    """Read what :func:`dumps` wrote.

    Args:
        data: The bytes, from this program.
    """
    return _Unpickler(io.BytesIO(data)).load()


@final
class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, outside: dict[int, Outside]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._outside = outside

    def persistent_id(self, obj: Any) -> str | None:
        outside = self._outside.get(id(obj))
        return None if outside is None else outside.name

    def reducer_override(self, obj: Any) -> Any:
        # A tensor is pickled with all of its storage, and a Subset with all of its dataset: with other workers' data.
        if isinstance(obj, Tensor) and not isinstance(obj, nn.Parameter) and obj.layout is torch.strided:
            if obj.untyped_storage().nbytes() > obj.nbytes:
                own: Any = obj.detach().clone().requires_grad_(obj.requires_grad)
                return own.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        elif type(obj) is Subset and type(obj.dataset) in (TensorDataset, Subset):
            tensors = rows_of(obj)
            if tensors is not None:
                return Subset, (TensorDataset(*tensors), range(len(tensors[0])))
        return NotImplemented


@final
class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: str) -> Outside:
        return Outside(pid)
