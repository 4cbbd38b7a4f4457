"""pyannote.audio: a small segmentation model, on recordings of its kind of protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from page import recipe

RECIPE = recipe("pyannote.audio")

from contract import differences, is_a_plain_epoch, learns, opens
from pyannote.audio import Model
from pyannote.core import Annotation, Segment, Timeline
from pyannote.database.protocol import SpeakerDiarizationProtocol

RATE, SECONDS = 16_000, 20


def spoken() -> Annotation:
    """Two voices in turn, each for a second, with a second of silence after it."""
    turns = Annotation()
    for start in range(0, SECONDS, 2):
        turns[Segment(start, start + 1)] = f"voice {start // 2 % 2}"
    return turns


def waveform(number: int) -> torch.Tensor:
    """A recording of them, a second longer than is annotated; float32, ``[1, samples]``."""
    noise = torch.Generator().manual_seed(number)
    heard = 0.01 * torch.randn(1, (SECONDS + 1) * RATE, generator=noise)
    for turn, _, voice in spoken().itertracks(yield_label=True):
        time = torch.arange(round(turn.start * RATE), round(turn.end * RATE))
        pitch = 200 + 150 * int(voice[-1]) + 5 * number
        heard[0, time] += 0.3 * torch.sin(2 * torch.pi * pitch * time / RATE)
    return heard


class Recordings(SpeakerDiarizationProtocol):
    """Recordings by their numbers, the last one to develop on."""

    name = "Made.SpeakerDiarization.Recordings"

    def __init__(self, *numbers: int) -> None:
        super().__init__()
        self.numbers = numbers

    def files(self, numbers: tuple[int, ...]) -> Iterator[dict[str, Any]]:
        for number in numbers:
            yield {
                "uri": str(number),
                "database": "Made",
                "scope": "file",
                "audio": str(number),
                "annotation": spoken(),
                "annotated": Timeline([Segment(0, SECONDS)]),
            }

    def train_iter(self) -> Iterator[dict[str, Any]]:
        return self.files(self.numbers[:-1])

    def development_iter(self) -> Iterator[dict[str, Any]]:
        return self.files(self.numbers[-1:])


def heard(task: Any) -> Any:
    """The task with waveforms in place of files: torchcodec, which reads them, is linked to CUDA on PyPI."""

    def get_file(number: int) -> dict[str, Any]:
        return {"waveform": waveform(int(task.prepared_data["audio-path"][number])), "sample_rate": RATE}

    task.get_file = get_file
    return task


TASKS = pytest.mark.parametrize("task", [RECIPE.voices, RECIPE.speakers])


@TASKS
def test_one_worker_is_a_plain_trainer(task: Any) -> None:
    is_a_plain_epoch(
        lambda: RECIPE.module(task(Recordings(8, 9))), lambda: RECIPE.Studio(heard(task(Recordings(1, 2, 3))))
    )


@TASKS
def test_studios_learn_together(task: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"studio {n}": RECIPE.Studio(heard(task(Recordings(3 * n, 3 * n + 1, 3 * n + 2)))) for n in range(3)}
    fed, run = learns("pyannote.audio", lambda: RECIPE.module(task(Recordings(8, 9))), workers, caplog)
    assert {RECIPE.voices: "BinaryAUROC", RECIPE.speakers: "DiarizationErrorRate"}[task] in run.callback_metrics
    opened = opens(fed, run, tmp_path, weights_only=False)  # it holds what the task is about
    served = Model.from_pretrained(tmp_path / "federated.ckpt")
    assert not any(differences(served.state_dict(), opened.state_dict()).values())
