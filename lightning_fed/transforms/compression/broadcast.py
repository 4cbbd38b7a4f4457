"""Compression of the model that is sent to the workers.

Workers train from the decoded model, and their deltas are relative to it: ``w ← w − mean(Q(w) − local)``. The error
``Q(w) − w`` of a round changes the point where gradients are taken, but never enters the server's model. With deltas
relative to w it would enter the model in each round and add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.rng import derive
from lightning_fed.core.tree import Tensors
from lightning_fed.transforms.compression.compressor import Compressor, Form
from lightning_fed.wire import GlobalModel, ModelCoder, WireError
from lightning_fed.wire.container import Spec
from lightning_fed.wire.layout import wide

_LEAST = 256
"""The number of elements below which a tensor is sent without compression, as in ``Compressed``."""


@final
@dataclass(frozen=True)
class Broadcast(ModelCoder):
    """Compresses each trained parameter of the sent model, with the same codes for all workers of a cohort.

    Buffers are sent as they are, and so are tensors of fewer than 256 elements and those that codes would not shorten.

    Args:
        compressor: The compressor of each tensor.
    """

    compressor: Compressor

    def compressed(self, model: GlobalModel, seed: int, cohort: int) -> GlobalModel:
        """Return the model that workers decode, and the codes.

        Args:
            model: The server's model; read only.
            seed: The seed of the run.
            cohort: The number of the cohort.
        """
        parameters, codes = dict(model.parameters), Tensors()
        for name, parameter in model.parameters.items():
            form = _form(parameter.dtype, tuple(parameter.shape))
            if form.size < _LEAST or self.compressor.num_bytes(form) >= parameter.nbytes:
                continue
            real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            codes[name] = self.compressor.encode(real.to(form.dtype).unsqueeze(0), _seeds(seed, cohort, name))[0]
            spec = name, parameter.dtype, tuple(parameter.shape)
            parameters[name] = self.decode(codes[name], spec, seed, cohort)
        return replace(model, parameters=parameters, codes=codes)

    def decode(self, codes: Tensor, spec: Spec, seed: int, cohort: int) -> Tensor:
        name, dtype, shape = spec
        form = _form(dtype, shape)
        length = self.compressor.num_bytes(form) if form.size else 0
        if not length or codes.dtype != torch.uint8 or codes.shape != (length,):
            raise WireError(
                f"the codes of the parameter {name!r} are {list(codes.shape)} of {codes.dtype}, and {self.compressor} "
                f"makes {length} bytes of the shape {list(shape)}: send the message again"
            )
        (decoded,) = self.compressor.decode(codes.unsqueeze(0), form, _seeds(seed, cohort, name))
        return torch.view_as_complex(decoded) if dtype.is_complex else decoded.to(dtype)


def _form(dtype: torch.dtype, shape: tuple[int, ...]) -> Form:
    return Form((*shape, 2) if dtype.is_complex else shape, wide(dtype.to_real()))


def _seeds(seed: int, cohort: int, name: str) -> list[int]:
    return [derive(seed, cohort, "broadcast", name)]
