"""The part that runs on a worker's own machine: the node with module and data, its policy, its process, and the caller.

Imports are lazy: the program that hands a message to the process is started for each message, and must not import
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_fed.node.account import NodeAccount
    from lightning_fed.node.errors import PolicyError, RefusalError
    from lightning_fed.node.node import Node
    from lightning_fed.node.policy import Policy, RequiredPromise, RequiredSecureAggregation

__all__ = [
    "Node",
    "NodeAccount",
    "Policy",
    "PolicyError",
    "RefusalError",
    "RequiredPromise",
    "RequiredSecureAggregation",
]

_HOMES = {
    "Node": "node",
    "NodeAccount": "account",
    "Policy": "policy",
    "PolicyError": "errors",
    "RefusalError": "errors",
    "RequiredPromise": "policy",
    "RequiredSecureAggregation": "policy",
}
"""The module of each name, within this package."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
