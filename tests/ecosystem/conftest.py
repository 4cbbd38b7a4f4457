"""What the tests of published libraries share; each group of them runs in an environment of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs a download, and a hub is asked for nothing
torch.set_num_threads(1)


if importlib.util.find_spec("torchvision"):
    # The wheel of torchvision on PyPI is linked to CUDA, so that beside torch for the CPU its operators are not there;
    # Python code that describes them to the compiler must find at least their names. No test calls one.
    DECLARED = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
        for operator in (name, f"_{name}_backward"):
            DECLARED.define(f"{operator}(Tensor a) -> Tensor")

if importlib.util.find_spec("torchaudio"):
    # So is the wheel of torchaudio, which is not imported then; it goes without where the library is not in the wheel.
    EXTENSION = ModuleType("torchaudio._extension")
    EXTENSION.__dict__.update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, fail_if_no_align=lambda function: function)
    sys.modules[EXTENSION.__name__] = EXTENSION
    os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")  # else pyannote.audio reports its use to a server


@pytest.fixture(autouse=True)
def _folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # where libraries leave logs and caches
