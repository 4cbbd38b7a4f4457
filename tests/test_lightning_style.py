"""Both import styles work, and mixing them is refused with the fix."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import assert_same, run


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_users_of_lightning_pytorch_get_the_same(tmp_path: Path) -> None:
    one = run(tmp_path / "one.pt", "--rounds", "3")
    other = run(tmp_path / "other.pt", "--rounds", "3", "--lightning")
    assert_same(one, other)


CHOICE = "import lightning_fed._lightning as l; print(l.pl.__name__)"


@pytest.mark.parametrize(
    ("before", "environment", "expected"),
    [
        ("", {}, "pytorch_lightning"),
        ("import lightning.pytorch;", {}, "lightning.pytorch"),
        ("import pytorch_lightning;", {}, "pytorch_lightning"),
        ("", {"LIGHTNING_FED_PL": "lightning.pytorch"}, "lightning.pytorch"),
    ],
)
@pytest.mark.slow
def test_the_one_that_is_imported_first_is_used(before: str, environment: dict[str, str], expected: str) -> None:
    assert python(before + CHOICE, **environment).stdout.strip() == expected


def test_a_wrong_choice_is_refused() -> None:
    assert "use one of pytorch_lightning, lightning.pytorch" in python(CHOICE, LIGHTNING_FED_PL="keras").stderr


@pytest.mark.parametrize(
    "thing",
    [
        "FederatedModule(L.LightningModule())",
        pytest.param("FederatedDataModule({'bob': L.LightningDataModule()})", marks=pytest.mark.slow),
    ],
)
def test_mixing_the_two_is_refused_with_the_fix(thing: str) -> None:
    code = f"from lightning_fed import *; import lightning.pytorch as L; {thing}"
    error = python(code).stderr
    assert "TypeError" in error
    assert "import lightning.pytorch before lightning_fed, or set" in error
    assert "LIGHTNING_FED_PL=lightning.pytorch" in error


@pytest.mark.slow
def test_a_warning_that_each_worker_would_repeat_is_left_out_and_no_other() -> None:
    said = python(
        "import warnings; warnings.simplefilter('always'); import lightning_fed._lightning\n"
        "for text in ('`isinstance(treespec, LeafSpec)` is deprecated, use ...', '`LeafSpec` is deprecated'):\n"
        "    warnings.warn(text, FutureWarning)"
    ).stderr
    assert "FutureWarning: `LeafSpec` is deprecated" in said
    assert "treespec" not in "".join(line for line in said.splitlines() if "FutureWarning:" in line)
