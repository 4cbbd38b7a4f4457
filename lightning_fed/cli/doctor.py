"""The command ``lightning-fed doctor``: installed packages, hardware, and problems that would prevent a run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import final

from lightning_fed import __version__
from lightning_fed.cli.commands import PROGRAM
from lightning_fed.cli.one_line_parser import OneLineParser

_SHARED_MEMORY = "/dev/shm"  # where Linux has it
_LITTLE_SHARED_MEMORY = 256 * 2**20
_LITTLE_SPACE = 2**30


@final
@dataclass(frozen=True)
class Finding:
    """A line of the answer.

    Args:
        about: The checked item.
        says: The result.
        is_fault: Whether the result prevents a run.
    """

    about: str
    says: str
    is_fault: bool = False


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed doctor``.

    Raises:
        SystemExit: With the status 1 if something would keep a run from working.
    """
    OneLineParser(
        prog=f"{PROGRAM} doctor",
        description="Say which versions and devices there are, which extras are installed, and what would keep a run "
        "from working; the exit status is 1 if something would.",
        allow_abbrev=False,
    ).parse_args(list(arguments))
    findings = [*_versions(), *_extras(), *_devices(), *_room(os.getcwd())]
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        print(f"{'FAULT ' if finding.is_fault else ''}{finding.about:{width}}  {finding.says}")
    faults = [finding.about for finding in findings if finding.is_fault]
    print(f"\nA run cannot work so: see {', '.join(faults)} above." if faults else "\nAll that a run needs is there.")
    raise SystemExit(1 if faults else 0)


def _versions() -> Iterator[Finding]:
    yield Finding("lightning_fed", __version__)
    yield Finding("Python", f"{platform.python_version()} on {platform.platform()}")
    for requirement in _requirements(""):
        yield Finding(requirement.name, *_state(requirement))
    try:
        from lightning_fed import _lightning
    except Exception as error:  # any error of an installation is a finding
        yield Finding("Lightning", f"cannot be imported: {type(error).__name__}: {error}", is_fault=True)
        return
    told = os.environ.get(_lightning.ENVIRONMENT_VARIABLE)
    why = f"by {_lightning.ENVIRONMENT_VARIABLE}" if told else f"unless {_lightning.NAMES[1]} is imported first"
    yield Finding("Lightning", f"{_lightning.pl.__name__} is used, {why}")


def _extras() -> Iterator[Finding]:
    try:
        extras = metadata.metadata("lightning_fed").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        yield Finding("extras", "not to be seen, as lightning_fed is not installed but imported from a folder")
        return
    for extra in extras:
        wanting = [one.name for one in _requirements(extra) if _state(one)[1]]
        missing = f'without {", ".join(wanting)}: pip install "lightning_fed[{extra}]"'
        yield Finding(f"extra {extra}", missing if wanting else "installed")


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding("devices", f"torch cannot be imported: {type(error).__name__}: {error}", is_fault=True)
        return
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    yield Finding("processor", f"{usable} of {os.cpu_count()} cores to use; torch takes {torch.get_num_threads()}")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    names += ["Apple's MPS"] if torch.backends.mps.is_available() else []
    yield Finding("accelerators", ", ".join(names) or "none")


def _room(folder: str) -> Iterator[Finding]:
    if os.path.isdir(_SHARED_MEMORY):
        free = shutil.disk_usage(_SHARED_MEMORY).free
        little = "; little for processes of workers: docker run --shm-size=2g" if free < _LITTLE_SHARED_MEMORY else ""
        yield Finding("shared memory", f"{_size(free)} free{little}")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        says = f"{folder} cannot be written: {error.strerror}; begin in another one"
        yield Finding("this folder", says, is_fault=True)
        return
    free = shutil.disk_usage(folder).free
    little = "; little for logs and checkpoints" if free < _LITTLE_SPACE else ""
    yield Finding("this folder", f"can be written, {_size(free)} free{little}")


def _size(count: int) -> str:
    """A number of bytes in words.

    >>> _size(3 * 2**30), _size(64 * 2**20)
    ('3.0 GiB', '64 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


@final
@dataclass(frozen=True)
class _Requirement:
    name: str
    versions: str


def _requirements(extra: str) -> list[_Requirement]:
    """Return the requirements of this package: without an extra, or those of an extra; empty if not installed."""
    try:
        from packaging.requirements import Requirement

        lines = metadata.requires("lightning_fed") or []
    except (ImportError, metadata.PackageNotFoundError):
        return []
    found = []
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        wanted = always if not extra else not always and marker is not None and marker.evaluate({"extra": extra})
        if wanted and requirement.name.replace("-", "_") != "lightning_fed":
            found.append(_Requirement(requirement.name, str(requirement.specifier)))
    return found


def _state(requirement: _Requirement) -> tuple[str, bool]:
    """Which version of a package is installed, and whether it is another than the required one, or none."""
    from packaging.specifiers import SpecifierSet

    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f'missing: pip install "{requirement.name}{requirement.versions}"', True
    if not SpecifierSet(requirement.versions).contains(version, prereleases=True):
        return f'{version} is not {requirement.versions}: pip install "{requirement.name}{requirement.versions}"', True
    return version, False
