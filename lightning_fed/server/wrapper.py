"""A LightningModule around the user's own, which callbacks, loggers and checkpoints find behind it."""

from __future__ import annotations

from abc import ABC
from typing import Any

from lightning_fed._lightning import pl


class Wrapper(pl.LightningModule, ABC):
    """Looks up in the user's module what it has not itself."""

    module: pl.LightningModule
    """The user's module."""

    def __getattr__(self, name: str) -> Any:
        """Look up in the user's module what is not here: callbacks ask their ``pl_module`` for its layers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            module = self.__dict__.get("_modules", {}).get("module")
            if module is None or name.startswith("__"):
                raise
            return getattr(module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set on the user's module what is an attribute there and not here."""
        own = self.__dict__
        if name in own:
            # Lightning notes the hook that it calls 48 times a round; torch's way to set it takes 4 % of a small round.
            if value is None or type(value) is str:
                own[name] = value
            else:
                super().__setattr__(name, value)
            return
        module = own.get("_modules", {}).get("module")
        is_theirs = module is not None and name in vars(module)
        if is_theirs and not hasattr(type(self), name):
            setattr(module, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the user's module returns."""
        return self.module(*args, **kwargs)

    @property
    def hparams(self) -> Any:
        """Those of the user's module, so that a checkpoint can build it."""
        return self.module.hparams

    @property
    def strict_loading(self) -> bool:
        """That of the user's module."""
        return self.module.strict_loading

    @strict_loading.setter
    def strict_loading(self, strict_loading: bool) -> None:
        self.module.strict_loading = strict_loading
