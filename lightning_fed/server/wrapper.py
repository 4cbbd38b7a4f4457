"""A LightningModule in place of the user's own, which callbacks, loggers and checkpoints use as if it were that."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.server.checkpoint.start import module_of

_W = TypeVar("_W", bound="Wrapper")

_SHARED = (
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""The dicts in which torch keeps a module's parts, and the hooks around its ``forward``."""


class Wrapper(pl.LightningModule, ABC):
    """A module with the layers, parameters and buffers of the user's module, under the same names.

    A warning names the attributes of the user's module whose names are the wrapper's own.

    Wrapper and user's module share the dicts of these. All operations of torch and Lightning on layers by name
    (summaries, state dicts, finetuning, hooks) therefore act on the user's module. Any other attribute that the wrapper
    lacks is looked up and set on the user's module; :attr:`module` is the user's module itself.
    """

    module: pl.LightningModule
    """The user's module."""

    @classmethod
    def from_checkpoint(
        cls: type[_W],
        path: str | Path,
        module: type[pl.LightningModule] | pl.LightningModule,
        *,
        weights_only: bool | None = None,
        **arguments: Any,
    ) -> _W:
        """Wrap a module that begins with the weights of a checkpoint, of a plain Trainer or of a federated one.

        Only the weights are loaded: the run begins with round 0. To resume a federated run, pass its checkpoint
        to ``Trainer.fit(ckpt_path=...)``.

        Args:
            path: The checkpoint.
            module: The user's class, to be built with the hyperparameters in the checkpoint, or a module, which takes
                the weights.
            weights_only: See ``torch.load``.
            arguments: The other arguments of :class:`FederatedModule`.

        Raises:
            TypeError: If ``module`` is wrapped already, or neither a class nor a module.
            ValueError: If the file is damaged, or no checkpoint.

        Example::

            fed = FederatedModule.from_checkpoint("plain.ckpt", LinearRegression, algorithm=FedProx(mu=0.1))
        """
        kind = module if isinstance(module, type) else type(module)
        if issubclass(kind, Wrapper):
            raise TypeError(f"module is a {kind.__name__} already: give the LightningModule in it, or its class")
        return cls(module_of(path, module, weights_only), **arguments)

    def wrap(self, module: pl.LightningModule) -> None:
        """Wrap the user's module. Attributes set before this call belong to the wrapper.

        Args:
            module: The user's module.
        """
        own, theirs = vars(self), vars(module)
        own["module"] = module
        own.pop("training", None)
        own.update((name, theirs[name]) for name in _SHARED)
        self._name_hidden(module)

    def _name_hidden(self, module: pl.LightningModule) -> None:
        """Warn of attributes of the user's module that attributes of the wrapper hide."""
        ours = {*dir(type(self)), *vars(self)}.difference(dir(pl.LightningModule()))
        hidden = sorted(name for name in ours.intersection(dir(module)) if not name.startswith("_"))
        if hidden:
            ways = ", ".join(f"fed.module.{name}" for name in hidden)
            rank_zero_warn(
                f"{type(module).__name__} has attributes with names of a {type(self).__name__}'s own, which callbacks "
                f"find in their place on pl_module: read those of the module as {ways}, or rename them"
            )

    # ---- attributes ------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """Look up an attribute that the wrapper lacks in the user's module."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            module = vars(self).get("module")
            if module is None or name.startswith("__"):
                raise
            return getattr(module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute that the wrapper lacks on the user's module."""
        own = vars(self)
        if name in own:
            # Lightning notes here each hook that it calls: this path is faster than that of torch.
            own[name] = value
        elif "module" not in own or self._is_of_class(name):
            super().__setattr__(name, value)
        else:
            setattr(own["module"], name, value)

    def __delattr__(self, name: str) -> None:
        """Delete an attribute that the wrapper lacks from the user's module."""
        if name in vars(self) or self._is_of_class(name):
            super().__delattr__(name)
        else:
            delattr(self.module, name)

    def _is_of_class(self, name: str) -> bool:
        return any(name in vars(kind) for kind in type(self).__mro__)

    # ---- what torch does to a module as a whole --------------------------------------------------------------------

    @property
    def training(self) -> bool:
        """Whether the user's module is in training mode."""
        module = vars(self).get("module")
        return True if module is None else bool(module.training)

    @training.setter
    def training(self, training: bool) -> None:
        module = vars(self).get("module")
        if module is not None:
            module.training = training

    def train(self, mode: bool = True) -> Any:
        """Do what the user's module does."""
        self.module.train(mode)
        return self

    def eval(self) -> Any:
        """Do what the user's module does."""
        self.module.eval()
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> Any:
        """Apply a function to all parts of the user's module, to itself, and to the wrapper."""
        self.module.apply(fn)
        fn(self)
        return self

    def get_submodule(self, target: str) -> nn.Module:
        """Return a part of the user's module, also where its name is one of the wrapper's attributes."""
        return self.module.get_submodule(target)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.module._apply(fn, recurse)  # type: ignore[no-untyped-call]
        vars(self.module).update(_device=self._device, _dtype=self._dtype)  # Lightning sets them on what it finds below
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the user's module returns."""
        return self.module.forward(*args, **kwargs)  # the hooks around it have been called: they are in a shared dict

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Return the state dict of the user's module."""
        return self.module.state_dict(*args, **options)

    def load_state_dict(self, state_dict: Any, *args: Any, **options: Any) -> Any:
        """Load a state dict into the user's module."""
        return self.module.load_state_dict(state_dict, *args, **options)

    # ---- what Lightning does to a module as a whole ----------------------------------------------------------------

    @property
    def trainer(self) -> Any:
        """The Trainer."""
        return pl.LightningModule.trainer.fget(self)  # type: ignore[attr-defined]

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        pl.LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]
        self.module.trainer = trainer

    @property
    def fabric(self) -> Any:
        """The Fabric."""
        return pl.LightningModule.fabric.fget(self)  # type: ignore[attr-defined]

    @fabric.setter
    def fabric(self, fabric: Any) -> None:
        pl.LightningModule.fabric.fset(self, fabric)  # type: ignore[attr-defined]
        self.module.fabric = fabric

    def freeze(self) -> Any:
        """Do what the user's module does."""
        self.module.freeze()
        return self

    def unfreeze(self) -> Any:
        """Do what the user's module does."""
        self.module.unfreeze()
        return self

    def to_onnx(self, *args: Any, **options: Any) -> Any:
        """Export the user's module."""
        return self.module.to_onnx(*args, **options)

    def to_torchscript(self, *args: Any, **options: Any) -> Any:
        """Export the user's module."""
        return self.module.to_torchscript(*args, **options)

    @property
    def example_input_array(self) -> Any:
        """The ``example_input_array`` of the user's module."""
        return self.module.example_input_array

    @example_input_array.setter
    def example_input_array(self, example: Any) -> None:
        self.module.example_input_array = example

    @property
    def hparams(self) -> Any:
        """The hyperparameters of the user's module, from which a checkpoint can build it."""
        return self.module.hparams

    @property
    def strict_loading(self) -> bool:
        """The ``strict_loading`` of the user's module."""
        return self.module.strict_loading

    @strict_loading.setter
    def strict_loading(self, strict_loading: bool) -> None:
        self.module.strict_loading = strict_loading
