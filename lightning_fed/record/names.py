"""Names of runs: ``<algorithm>-<number>``, in a folder for all runs of a kind."""

from __future__ import annotations

from pathlib import Path


def next_version(folder: str | Path, algorithm: str) -> str:
    """Return the name of the next run with an algorithm, to be the ``version`` of a logger.

    Args:
        folder: The folder in which the runs lie, each in one of its own; it need not be there.
        algorithm: The name of the algorithm's class.

    Returns:
        The name and the first number above all that are there, from 0: ``FedAvg-0``.

    Example::

        version = next_version("logs/toy", "FedAvg")
        pl.Trainer(logger=TensorBoardLogger("logs", name="toy", version=version))
    """
    name = f"{algorithm}-"
    try:
        taken = [path.name.removeprefix(name) for path in Path(folder).iterdir() if path.name.startswith(name)]
    except OSError:  # there is none yet, or none that can be read, which the logger will say
        taken = []
    return f"{name}{max((int(number) for number in taken if number.isdecimal()), default=-1) + 1}"
