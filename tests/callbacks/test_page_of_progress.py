"""The page about progress: its code runs, and its lines are what is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "progress.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers", "ignore:.*tensorboard")
def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "progress.md", "exec"), globals())
    out = capsys.readouterr().out
    assert re.search(r"^round 1/20 · 5 % · cohort 2 · .*loss .*val_loss", out, re.MULTILINE)
    assert re.search(
        r"^20 rounds in .*best val_loss .* after \d+ rounds · logs in lightning_logs/version_0", out, re.MULTILINE
    )
    assert out.count(".") >= 4
    assert out.endswith("....")
