"""The function that makes a node, named ``package.module:function``: found, checked and called."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FORM = "package.module:function"


class BuildError(ValueError):
    """The function that makes a node was not found."""


def load(build: str) -> Callable[[Mapping[str, str]], Any]:
    """Import the function that makes a node.

    Args:
        build: Its name.

    Returns:
        A function of the node's config. The config is dropped if the named function takes no argument.

    Raises:
        BuildError: If there is no such function.

    >>> load("collections:ChainMap")({"site": "north"})
    ChainMap({'site': 'north'})
    """
    module, _, name = build.partition(":")
    if not (module and name.isidentifier()):
        raise BuildError(f"{build!r} does not name a function; write {FORM}")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports what is not
        raise BuildError(f"there is no module {module!r} ({error})") from error
    function = getattr(found, name, None)
    if not callable(function):
        raise BuildError(f"module {module!r} has no function {name!r}")
    takes_config = bool(inspect.signature(function).parameters)
    return lambda config: function(dict(config)) if takes_config else function()


def main(arguments: Sequence[str]) -> None:
    """Import the named function, and print its error in one line if that fails.

    Args:
        arguments: Its name.

    Raises:
        SystemExit: With the status 1 if it cannot be imported.
    """
    try:
        load(arguments[0])
    except Exception as error:  # whatever the node's own module raises
        text = str(error) if isinstance(error, BuildError) else f"its import raises {type(error).__name__}: {error}"
        print(" ".join(text.split()), file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(sys.argv[1:])
