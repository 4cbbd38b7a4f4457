from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_fed.state import refuse_unwritable


def test_folders_side_by_side_can_be_asked_at_once(tmp_path: Path) -> None:
    folders = [tmp_path / "run" / "state" / f"process-{rank}" for rank in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda turn: refuse_unwritable(folders[turn % 4], "rows"), range(2000)))
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(OSError, match=r"nothing can be written to .*run.state .*MB are free there\): choose another"):
        refuse_unwritable(tmp_path / "run" / "state", "choose another")
