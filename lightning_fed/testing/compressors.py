"""The contract of compressors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from lightning_fed.testing.workload import ROUNDING
from lightning_fed.transforms import Compressor, Form
from lightning_fed.wire import WireError

_SHAPES = ((1,), (255,), (257,), (4097,), (12, 31), (4, 3, 5, 5))
_REPEATED = 2000
_MOST = 16.0  # four standard errors, squared, for an error that lies in a single number


def check_compressor(make: Callable[[], Compressor]) -> None:
    """Check a compressor against its contract.

    - Codes have the length ``num_bytes``, for tensors of any shape and both dtypes; the decoded tensor has the
      tensor's shape and dtype, and is finite; zeros stay zeros.
    - Row i is a function of row i and seed i only, bit for bit, in both directions; inputs are not modified.
    - A compressor declared unbiased is unbiased: for dense tensors and for sparse ones like (2, 1, 0, 0, ...).
    - A compressor declared a contraction contracts every tensor. For a linear one with equal seeds, decoding commutes
      with addition.
    - Any bytes of the right length are decoded, or refused by a ``WireError``.

    Args:
        make: Makes the compressor.

    Raises:
        AssertionError: With the part of the contract that fails.
    """
    compressor = make()
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64):
            for shape in _SHAPES:
                _check_rows(compressor, Form(shape, dtype))
        for what, tensor in _tensors():
            _check_errors(compressor, what, tensor)
        _check_sums(compressor)
        _check_any_bytes(compressor)


def _check_rows(compressor: Compressor, form: Form) -> None:
    generator, seeds = torch.Generator().manual_seed(0), [11, 12, 13]
    rows = torch.randn(3, *form.shape, dtype=form.dtype, generator=generator)
    before, about = rows.clone(), f"{compressor}, {form.dtype} {list(form.shape)}"
    codes = compressor.encode(rows, seeds)
    kept, length = codes.clone(), compressor.num_bytes(form)
    decoded = compressor.decode(codes, form, seeds)
    assert torch.equal(rows, before), f"{about}: encode() has written to what it was given"
    assert torch.equal(codes, kept), f"{about}: decode() has written to what it was given"
    assert codes.dtype == torch.uint8, f"{about}: codes are {codes.dtype}, not bytes"
    assert codes.shape == (3, length), f"{about}: codes have the shape {list(codes.shape)}, and num_bytes says {length}"
    assert decoded.shape == rows.shape, f"{about}: decoded tensors have the shape {list(decoded.shape)}"
    assert decoded.dtype == form.dtype, f"{about}: decoded tensors are {decoded.dtype}"
    assert bool(torch.isfinite(decoded).all()), f"{about}: finite numbers come out as NaN or Inf"
    assert torch.equal(compressor.encode(rows, seeds), codes), f"{about}: the same seed gives other codes next time"
    for row in range(3):
        alone = compressor.encode(rows[row : row + 1], seeds[row : row + 1])
        assert torch.equal(alone[0], codes[row]), f"{about}: a row that is alone gets other codes than among others"
        back = compressor.decode(codes[row : row + 1], form, seeds[row : row + 1])
        assert torch.equal(back[0], decoded[row]), f"{about}: codes that are alone are decoded otherwise"
    zeros = torch.zeros(1, *form.shape, dtype=form.dtype)
    nothing = compressor.decode(compressor.encode(zeros, [7]), form, [7])
    assert not nothing.any(), f"{about}: zeros do not come out as zeros"


def _tensors() -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    yield "a dense tensor", torch.randn(16, 20, generator=generator, dtype=torch.float64)
    for what, first in (("(1, 0, 0, ...)", [1.0]), ("(2, 1, 0, 0, ...)", [2.0, 1.0])):
        sparse = torch.zeros(16, 20, dtype=torch.float64)
        sparse.view(-1)[: len(first)] = torch.tensor(first, dtype=torch.float64)
        yield what, sparse
    yield "a constant tensor", torch.ones(16, 20, dtype=torch.float64)


def _check_errors(compressor: Compressor, what: str, tensor: Tensor) -> None:
    seeds = list(range(_REPEATED))
    form = Form(tuple(tensor.shape), tensor.dtype)
    decoded = compressor.decode(compressor.encode(tensor.expand(_REPEATED, *tensor.shape), seeds), form, seeds)
    length = float((tensor**2).sum())
    error = float(((decoded - tensor) ** 2).sum()) / _REPEATED
    if compressor.contracts:
        assert error < length, f"{compressor}: the error of {what} is {error / length:.3g} of it: it does not contract"
    if compressor.unbiased:
        bias = float(((decoded.mean(dim=0) - tensor) ** 2).sum())
        most = _MOST * error / _REPEATED + 1e-20 * length
        assert bias <= most, (
            f"{compressor} is biased: of {what}, the mean of {_REPEATED} is off by {bias / length:.3g} of its squared "
            f"length, and chance explains {error / _REPEATED / length:.3g}"
        )


def _check_sums(compressor: Compressor) -> None:
    if not compressor.linear:
        return
    rows = torch.randn(2, 16, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    form = Form((16, 20), torch.float64)
    apart = compressor.decode(compressor.encode(rows, [5, 5]), form, [5, 5]).sum(dim=0)
    together = compressor.decode(compressor.encode(rows.sum(dim=0, keepdim=True), [5]), form, [5])[0]
    torch.testing.assert_close(
        *(together, apart),
        rtol=ROUNDING[torch.float64],
        atol=ROUNDING[torch.float64],
        msg=lambda m: f"{compressor} is not linear: {m}",
    )


def _check_any_bytes(compressor: Compressor) -> None:
    generator = np.random.default_rng(3)
    for shape in _SHAPES:
        form = Form(shape)
        length = compressor.num_bytes(form)
        for raw in (generator.bytes(length), b"\xff" * length, bytes(length)):
            codes = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(1, length)
            try:
                decoded = compressor.decode(codes, form, [0])
            except WireError:
                continue
            except Exception as error:
                raise AssertionError(f"{compressor}: bytes of anyone's end in {error!r}, not in a WireError") from error
            assert decoded.shape == (1, *shape), f"{compressor}: bytes of anyone's give {list(decoded.shape)}"
