"""``lightning-fed doctor``: what is there, what is missing, and whether a run can work."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from lightning_fed.cli import main


def told(capsys: pytest.CaptureFixture[str], status: int) -> str:
    with pytest.raises(SystemExit) as left:
        main(["doctor"])
    said = capsys.readouterr().out
    assert left.value.code == status, said
    return said


def test_where_all_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = told(capsys, 0)
    for about in ("lightning_fed", "Python", "torch", "Lightning", "processor", "accelerators", "this folder"):
        assert f"{about} " in said
    assert "pytorch_lightning is used" in said or "lightning.pytorch is used" in said
    assert "FAULT" not in said
    assert said.endswith("All that a run needs is there.\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_said_with_its_fix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = metadata.version

    def version(name: str) -> str:
        if name in ("dp-accounting", "safetensors"):
            raise metadata.PackageNotFoundError(name)
        return "1.0.0" if name == "torchmetrics" else there(name)

    monkeypatch.setattr(metadata, "version", version)
    said = told(capsys, 1)
    assert 'without dp-accounting: pip install "lightning_fed[privacy]"' in said
    assert 'missing: pip install "safetensors>=' in said
    assert '1.0.0 is not >=1.3: pip install "torchmetrics>=1.3"' in said
    assert said.endswith("A run cannot work so: see safetensors, torchmetrics above.\n")


def test_a_folder_that_cannot_be_written_is_a_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    assert "cannot be written: Permission denied; begin in another one" in told(capsys, 1)
