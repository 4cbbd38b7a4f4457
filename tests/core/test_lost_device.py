"""An accelerator that takes no more work, as far as a machine without one can tell."""

from __future__ import annotations

import pickle

import pytest
import torch

from lightning_fed.core.lost_device import LostDeviceError, refuse_lost


def fails(device: torch.device) -> None:
    raise RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")


def test_it_is_said_whose_training_it_was_and_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    cause = IndexError("Target 99 is out of bounds.")
    with pytest.raises(LostDeviceError) as raised:
        refuse_lost(torch.device("cuda"), "'bob'", 3, cause)
    said = str(raised.value)
    assert said.startswith("worker 'bob', round 3: RuntimeError: CUDA error: device-side assert triggered. After this")
    assert "engine='isolated'" in said
    assert "\n" not in said
    assert raised.value.__cause__ is cause
    assert str(pickle.loads(pickle.dumps(raised.value))) == said  # processes of a run tell each other


def test_a_device_that_goes_on_working_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_lost(torch.device("cpu"), "'bob'", 3, ValueError())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    refuse_lost(torch.device("cuda"), "'bob'", 3, RuntimeError("CUDA out of memory"))
