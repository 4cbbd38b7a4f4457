"""Names of runs: ``<algorithm>-<number>``, in a folder for all runs of a kind."""

from __future__ import annotations

from pathlib import Path


def next_version(folder: str | Path, algorithm: str) -> str:
    """Return the name of the next run with an algorithm, for the ``version`` of a logger.

    Args:
        folder: The folder with one folder for each run; it need not exist.
        algorithm: The name of the algorithm's class.

    Returns:
        The name, with the smallest number above all existing ones, from 0: ``FedAvg-0``.

    Example::

        version = next_version("logs/toy", "FedAvg")
        pl.Trainer(logger=TensorBoardLogger("logs", name="toy", version=version))
    """
    name = f"{algorithm}-"
    try:
        taken = [path.name.removeprefix(name) for path in Path(folder).iterdir() if path.name.startswith(name)]
    except OSError:  # it does not exist yet, or is unreadable, which the logger will report
        taken = []
    return f"{name}{max((int(number) for number in taken if number.isdecimal()), default=-1) + 1}"
