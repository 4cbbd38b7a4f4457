"""What ``docs/data.md`` shows, works."""

from __future__ import annotations

import re
import runpy
import sys
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


def test_the_pictures_are_those_that_the_command_draws_and_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = re.findall(r"\]\(partitions/([\w.-]+\.png)\)", PAGE.read_text())
    monkeypatch.setattr(sys, "argv", ["partitions.py", "--out", str(tmp_path)])
    runpy.run_path(str(PAGE.parents[1] / "examples" / "partitions.py"), run_name="__main__")
    assert re.search(r"^dirichlet-0.1 +5 to +216 examples", capsys.readouterr().out, re.M)
    assert sorted(pictures) == sorted(path.name for path in tmp_path.iterdir())
    for picture in pictures:
        assert 0 < (PAGE.parent / "partitions" / picture).stat().st_size < 100_000
