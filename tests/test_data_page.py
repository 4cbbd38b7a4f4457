"""What ``docs/data.md`` shows, works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers import fit

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.models import LinearRegression

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_every_block_runs_and_its_workers_train() -> None:
    defined: dict[str, Any] = {"__name__": "data"}
    trained = 0
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), defined)
        data = defined.pop("data")
        assert isinstance(data, FederatedDataModule)
        if "DigitsDataModule" not in block:  # which has other features than the rest
            fit(FederatedModule(LinearRegression(2, 1, lr=0.001)), data)
            trained += 1
    assert trained == 4
    assert defined["counts"].shape == (20, 10)
    assert len(defined["figure"].axes) == 1


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"\]\((partitions/[\w.-]+\.png)\)", PAGE.read_text())
    assert len(pictures) == 4
    for picture in pictures:
        assert 0 < (PAGE.parent / picture).stat().st_size < 100_000
