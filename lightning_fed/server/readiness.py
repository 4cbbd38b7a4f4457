"""Modules that are not ready to be trained: compiled ones, and those without shapes."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_fed._lightning import pl, rank_zero_warn, to_uncompiled


def leave_uncompiled(server: pl.LightningModule) -> None:
    """Undo what Lightning does with a compiled module: there is nothing in a round's own Python that could be compiled.

    Args:
        server: The FederatedModule.
    """
    if server._compiler_ctx is not None:
        to_uncompiled(server)
        rank_zero_warn(
            "torch.compile(FederatedModule(...)) compiles nothing, since it would compile the server and not the "
            "workers; have their steps compiled by FederatedModule(module, engine=Sequential(compile=True))"
        )


def has_lazy(module: nn.Module) -> bool:
    """Whether a module has parameters or buffers that no batch has given their shapes yet.

    Args:
        module: The user's module.
    """
    return any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers()))


def refuse_lazy(module: pl.LightningModule) -> None:
    """Refuse a module that has no shapes yet when training begins: the server has no batch that would give them.

    Args:
        module: The user's module.

    Raises:
        ValueError: If it has such parameters or buffers.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{name!r} of {type(module).__name__} has no shape before a first batch, which workers have and the "
                "server has not, so there is no global model to begin with; pass an example through the module before "
                "the fit, as in module(torch.zeros(1, 3))"
            )
