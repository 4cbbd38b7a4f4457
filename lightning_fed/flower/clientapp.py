"""The ``flwr-clientapp`` of a node: runs the relay in place of the code that came with the run.

Flower starts a process named ``flwr-clientapp`` for each message. Flower's own unpacks the App bundle of the
server and imports the ClientApp in the bundle: whoever can start a run executes code on every node. This program, first
on the node's ``PATH``, unpacks and imports nothing of the bundle: it loads the relay of this machine's installation.

For that it replaces three names within ``flwr.supernode.runtime.run_clientapp``. They are private and may move with
any release of Flower: each is checked first, and where one is missing nothing runs. A fourth name, which fetches a
message, is changed to poll at a shorter interval; where it has moved, runs work, but slower. Only this module uses
private names of Flower.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module, metadata
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning_fed.flower.relay import client_app
from lightning_fed.node.settings import Settings

CHECK = "--check"
_MODULE = "flwr.supernode.runtime.run_clientapp"
_FUNCTION = "run_clientapp"
_UNPACK, _INSTALL, _LOADER = "install_from_fab", "install_app_dependencies", "get_load_client_app_fn"
_FETCH, _FIRST_WAIT = "pull_and_inflate_object_from_tree", "initial_backoff"
_SOON = 0.05
"""How long to wait for a part of a message that the SuperNode does not have yet, in seconds; after each look twice as
long. The SuperNode starts this process before it has the message. Flower waits for 1 s, then for 2: when a process
takes a second to start that is seldom seen, and one that is forked saw it in each round of a small model."""
_TAKEN = {"runtime_api_address", "token", "insecure", "certificates", "parent_pid", "runtime_dependency_install"}


def runner() -> Callable[..., None]:
    """Return Flower's function that runs a ClientApp for one message, changed to run the relay.

    Raises:
        ImportError: If this version of Flower is not supported.
    """
    module = import_module(_MODULE)
    _check(module)
    build = Settings.of_environment().build

    def load_relay(**_: Any) -> Callable[..., Any]:
        return lambda *_: client_app(build)

    replaced: dict[str, Any] = {_UNPACK: _skip, _INSTALL: _skip, _LOADER: load_relay}
    for name, replacement in replaced.items():
        setattr(module, name, replacement)
    fetch = getattr(module, _FETCH, None)
    if callable(fetch) and _FIRST_WAIT in signature(fetch).parameters:
        setattr(module, _FETCH, partial(fetch, **{_FIRST_WAIT: _SOON}))
    run: Callable[..., None] = getattr(module, _FUNCTION)
    return run


def _check(module: ModuleType) -> None:
    """Refuse a version of Flower that does not reach all three names through this module."""
    code = getattr(getattr(module, _FUNCTION, None), "__code__", None)
    used = set(code.co_names) if code is not None else set()
    taken = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) if code is not None else set()
    missing = [name for name in (_UNPACK, _INSTALL, _LOADER) if name not in used or not hasattr(module, name)]
    if missing or not taken >= _TAKEN:
        what = ", ".join(missing) or _FUNCTION
        raise ImportError(
            f"flwr {metadata.version('flwr')} has no {what} where it is expected, so the code of an App bundle cannot "
            'be kept from this machine, and nothing is run: pip install "lightning_fed[flower]"'
        )


def _skip(*_: Any, **__: Any) -> None:
    """Neither unpack a bundle nor install its requirements."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the process for one message.

    Args:
        arguments: As Flower's SuperExec passes them; ``--check``: only check that the process could run.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        run = runner()
    except (ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    if given == [CHECK]:
        return
    parser = argparse.ArgumentParser(prog="flwr-clientapp", allow_abbrev=False)
    parser.add_argument("--runtime-api-address", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--root-certificates", type=Path)
    parser.add_argument("--parent-pid", type=int)
    words, _ = parser.parse_known_args(given)  # other words ask for what is not done here
    run(
        runtime_api_address=words.runtime_api_address,
        token=words.token,
        insecure=words.insecure,
        certificates=words.root_certificates.read_bytes() if words.root_certificates else None,
        parent_pid=words.parent_pid,
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    main()
