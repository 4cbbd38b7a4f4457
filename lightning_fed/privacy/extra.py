"""Packages that come with the extra ``privacy``, imported when it is first needed."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str) -> Any:
    """Import a module of the extra.

    Args:
        module: Its full name, such as ``dp_accounting.rdp``.

    Raises:
        ImportError: If it is not installed, with the command that installs it.

    >>> import_extra("math").sqrt(4.0)
    2.0
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ImportError(
            f'lightning_fed.privacy needs {package} ({error}): pip install "lightning_fed[privacy]"', name=error.name
        ) from error
