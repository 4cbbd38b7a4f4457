"""The benchmark of convergence at scale, over IDX files of a few pictures that are made here."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from idx_files import idx

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROUNDS, PICTURES = 2, 60


def write_pictures(folder: Path) -> None:
    """Write pictures whose brightest row is that of their class, as many for each class, to train on and to test on."""
    label = np.arange(PICTURES, dtype=np.uint8) % 10
    images = np.zeros((PICTURES, 28, 28), dtype=np.uint8)
    images[np.arange(PICTURES), 2 * label] = 255
    for prefix in ("train", "t10k"):
        for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", label)):
            (folder / f"{prefix}-{name}").write_bytes(idx(array))


def test_two_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import convergence

    write_pictures(tmp_path)
    options = Namespace(
        **{"fashion_mnist": str(tmp_path), "rounds": ROUNDS, "every": 1, "workers": 10, "cohort_size": 10},
        **{"seed": 0, "threads": 1, "out": tmp_path / "convergence.svg"},
    )
    found = {way: convergence.measure(way, options) for way in convergence.WAYS}
    for noted in found.values():
        assert [rounds for rounds, _ in noted["curve"]] == [1, 2]
        assert len(noted["seconds"]) == len(noted["processor"]) == len(noted["memory"]) == 1 + ROUNDS
        assert noted["seconds"] == sorted(noted["seconds"])
        assert 0 < noted["memory"][0] <= noted["peak"]
    assert max(accuracy for noted in found.values() for _, accuracy in noted["curve"]) > 10, "nothing was learned"
    lines = convergence.table(found, options).splitlines()
    assert lines[0].startswith("10 workers, 10 a round; ")
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")][1:3] == ["| ours", "| by hand"]
    assert lines[-1] == f"| 2 | {found['ours']['curve'][-1][1]:.2f} | {found['by hand']['curve'][-1][1]:.2f} |"
    convergence.draw(found, options)
    assert options.out.read_text().count("memory in use, MB") >= 1


def test_the_median_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two rounds, of 9 and 7 seconds, are left out where there are more."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from convergence import median

    assert median([0.0, 9.0, 16.0, 17.0, 20.0, 22.0]) == 2.0
    assert median([0.0, 9.0, 16.0]) == 8.0
