from __future__ import annotations

import pytest
import torch

from lightning_fed.wire import Layout, wide


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex64, torch.complex64),
    ],
)
def test_accumulation_is_at_least_float32(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert wide(dtype) == expected


def mixed() -> dict[str, torch.Tensor]:
    return {
        "w": torch.tensor([[1.0, 2.0]]),
        "z": torch.tensor([3.0 + 4.0j]),
        "scale": torch.tensor(5.0, dtype=torch.bfloat16),
    }


def test_there_and_back_again() -> None:
    parameters = mixed()
    layout = Layout(parameters)
    back = layout.unflatten(layout.flatten(parameters))
    assert {name: value.tolist() for name, value in back.items()} == {"w": [[1, 2]], "z": [3 + 4j], "scale": 5}


def test_stacks_there_and_back_again() -> None:
    stacks = {name: torch.stack([p, 2 * p, 3 * p]) for name, p in mixed().items()}
    layout = Layout(mixed())
    rows = layout.flatten(stacks, stacked=True)
    assert (rows.shape, rows.dtype) == ((3, layout.size), torch.float32)
    torch.testing.assert_close(rows[2], 3 * rows[0])
    assert layout.unflatten(rows)["z"].tolist() == [[3 + 4j], [6 + 8j], [9 + 12j]]


def test_what_is_unflattened_are_views() -> None:
    layout = Layout(mixed())
    rows = layout.rows(2, torch.device("cpu")).zero_()
    for view in layout.unflatten(rows).values():
        view[1] += 1
    # Complex first, with an imaginary part that stays 0; then w and scale; then the padding to an even length.
    assert rows.tolist() == [[0] * 6, [1, 0, 1, 1, 1, 0]]


def test_rows_that_are_not_written_yet_have_no_padding_to_fall_over() -> None:
    rows = Layout(mixed()).rows(100, torch.device("cpu"))
    assert not rows[:, -1].any()


def test_places_say_where_parameters_lie() -> None:
    assert Layout(mixed()).places == {"z": slice(0, 2), "w": slice(2, 4), "scale": slice(4, 5)}


def test_other_tensors_are_left_out() -> None:
    assert Layout({"w": torch.zeros(1)}).flatten({"b": torch.ones(3), "w": torch.ones(1)}).tolist() == [1]


@pytest.mark.parametrize(
    ("dtypes", "widest"),
    [
        ((torch.float16, torch.bfloat16), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
        ((torch.complex64, torch.float32), torch.float32),
        ((torch.complex128, torch.float32), torch.float64),
    ],
)
def test_a_vector_has_the_widest_dtype(dtypes: tuple[torch.dtype, ...], widest: torch.dtype) -> None:
    parameters = {str(dtype): torch.ones(1, dtype=dtype) for dtype in dtypes}
    layout = Layout(parameters)
    assert layout.dtype == layout.flatten(parameters).dtype == widest
