"""Rules for every ``LightningCLI`` whose model is a FederatedModule: that of this package, and one of the user's.

Three things that a LightningCLI takes for granted of the outermost module are about the user's module, within a
FederatedModule:

- ``save_hyperparameters()`` takes what the config says of the outermost one, within it too;
- with ``--ckpt_path`` a checkpoint's hyperparameters are those of the outermost one, and win over the config;
- ``--optimizer`` and ``--lr_scheduler`` take the place of the outermost ``configure_optimizers``, here the server's.

LightningCLI has no hook for any of them. So :func:`attach` puts functions in the place of four private methods, for
such a model only; every other goes on to Lightning's.
"""

from __future__ import annotations

import copy
import json
import typing
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any, final

import torch
import yaml
from jsonargparse import Namespace

from lightning_fed._lightning import (
    LightningCLI,
    MisconfigurationException,
    _given_hyperparameters_context,
    instantiate_class,
    is_overridden,
    pl,
    rank_zero_info,
    rank_zero_warn,
)


def attach(module_class: type[pl.LightningModule], data_class: type[pl.LightningDataModule]) -> None:
    """Make every LightningCLI of this program follow the rules above, if its model is a FederatedModule.

    Whoever has a FederatedModule has imported its class, by whatever path: so this is called where the class is
    defined, and once.

    Args:
        module_class: FederatedModule.
        data_class: FederatedDataModule.
    """
    for name, ours in (
        ("_add_instantiators", _give_own_hyperparameters),
        ("_parse_ckpt_path", _keep_the_config),
        ("_add_configure_optimizers_method_to_model", _configure_workers),
        ("_instantiate_trainer", _say_what_changed),
    ):
        theirs = getattr(LightningCLI, name, None)
        if theirs is not None:  # Lightning 2.5 does not read the checkpoint
            setattr(LightningCLI, name, _instead(theirs, ours, module_class))
    for kind in (module_class, data_class):
        # What is final at run time, too, LightningCLI(FederatedModule, subclass_mode_model=True) does not take.
        setattr(kind, "__final__", False)  # noqa: B010  # mypy has it that there is no such attribute


def _instead(
    theirs: Callable[..., Any], ours: Callable[..., Any], module_class: type[pl.LightningModule]
) -> Callable[..., Any]:
    @wraps(theirs)
    def method(cli: LightningCLI, *arguments: Any) -> Any:
        return ours(cli, *arguments, theirs) if _builds(cli, module_class) else theirs(cli, *arguments)

    return method


def section(cli: LightningCLI) -> Any:
    """Return the part of a parsed config that is about the subcommand, or all of it if there is none."""
    subcommand = cli.config.get("subcommand")
    return cli.config[subcommand] if subcommand else cli.config


def _builds(cli: LightningCLI, module_class: type[pl.LightningModule]) -> bool:
    """Whether the model of a command line is of a class."""
    kind: Any = cli._model_class
    if cli.subclass_mode_model:
        kind = imported((section(cli).get("model") or {}).get("class_path"))
    elif not isinstance(kind, type):
        kind = typing.get_type_hints(kind).get("return")
    return isinstance(kind, type) and issubclass(kind, module_class)


def imported(path: Any) -> Any:
    """Return what a path names, whose module has been imported to parse it."""
    module, _, name = str(path).rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name) if module else None


def _module_key(cli: LightningCLI) -> str:
    return "model.init_args.module" if cli.subclass_mode_model else "model.module"


def _written(cli: LightningCLI) -> dict[str, Any]:
    """Return the config's entries for the user's module, as plain values; empty if a function makes it."""
    dumped = cli.parser.dump(cli.config, skip_link_targets=False, skip_none=False, format="yaml")
    content = yaml.safe_load(dumped)
    for key in (*filter(None, [cli.config.get("subcommand")]), *_module_key(cli).split(".")):
        content = content.get(key) or {}
    return dict(content)


def _arguments(written: Mapping[str, Any]) -> dict[str, Any]:
    return {**(written.get("init_args") or {}), **(written.get("dict_kwargs") or {})}


# ---- hyperparameters -------------------------------------------------------------------------------------------------


def _give_own_hyperparameters(cli: LightningCLI, _: Callable[..., None]) -> None:
    cli.parser.add_instantiator(_Instantiator(cli), pl.LightningModule, subclasses=True)


@final
class _Instantiator:
    """Builds a module for a command line; the hyperparameters of the user's are its arguments in the config.

    So ``load_from_checkpoint`` can build one that takes an optimizer or another object, by Lightning's own mechanism.
    Where all arguments are plain values there is nothing to give, and they are saved as without a command line.
    """

    def __init__(self, cli: LightningCLI) -> None:
        self._cli: LightningCLI | None = cli
        self._module: Mapping[str, Any] = {}

    def __call__(self, class_type: type[pl.LightningModule], *args: Any, **kwargs: Any) -> pl.LightningModule:
        if self._cli is not None:
            # Only now, as before_instantiate_classes() may change the config; and a function that makes an optimizer
            # refers to this object, so that the copies of a module would be copies of the command line.
            self._module, self._cli = _written(self._cli), None
        written = _arguments(self._module)
        own = {name: value if _is_plain(value) else written.get(name, value) for name, value in kwargs.items()}
        is_theirs = imported(self._module.get("class_path")) is class_type
        if not is_theirs or all(own[name] is value for name, value in kwargs.items()):
            return class_type(*args, **kwargs)
        with _given_hyperparameters_context(copy.deepcopy(own), f"{pl.__name__}.cli.instantiate_module"):
            return class_type(*args, **kwargs)


def _is_plain(value: Any) -> bool:
    """Whether a value is the same in a config and out of it, and a checkpoint holds it as it is."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str)


# ---- --ckpt_path -----------------------------------------------------------------------------------------------------


def _keep_the_config(cli: LightningCLI, _: Callable[..., None]) -> None:
    """Let the config win over the hyperparameters in a checkpoint, which are those of the user's module."""


def _say_what_changed(
    cli: LightningCLI, config: dict[str, Any], callbacks: list[pl.Callback], theirs: Callable[..., pl.Trainer]
) -> pl.Trainer:
    if section(cli).get("ckpt_path"):
        callbacks = [*callbacks, _ChangedHyperparameters(f"{_module_key(cli)}.init_args", _arguments(_written(cli)))]
    return theirs(cli, config, callbacks)


@final
class _ChangedHyperparameters(pl.Callback):
    """Warns of arguments of the user's module that differ from those with which a checkpoint was written.

    As a callback it also covers a checkpoint that is given by a word (``--ckpt_path last``).
    """

    def __init__(self, key: str, now: Mapping[str, Any]) -> None:
        self._key = key
        self._now = now

    def on_load_checkpoint(self, trainer: pl.Trainer, _: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("hyper_parameters", {})
        for name in sorted(set(saved) & set(self._now)):
            if _comparable(saved[name]) != _comparable(self._now[name]):
                rank_zero_warn(
                    f"{self._key}.{name} is {self._now[name]!r}, but {trainer.ckpt_path} was written with "
                    f"{saved[name]!r}; the run goes on with {self._now[name]!r}"
                )


def _comparable(value: Any) -> Any:
    """Return a value as a config has it: tuples are lists there, and paths are texts."""
    return json.loads(json.dumps(value, default=str))


# ---- --optimizer -----------------------------------------------------------------------------------------------------


def _configure_workers(cli: LightningCLI, subcommand: str | None, _: Callable[..., None]) -> None:
    if not cli.auto_configure_optimizers:
        return
    parser = cli._parser(subcommand)
    optimizer = _automatic(cli, parser._optimizers)
    scheduler = _automatic(cli, parser._lr_schedulers)
    if optimizer is None:
        if scheduler is not None:
            raise ValueError(
                "--lr_scheduler is for the optimizer that --optimizer gives the workers, and there is none; give both, "
                "or --model.server_lr_scheduler for the server's"
            )
        return
    module = cli.model.module
    name = type(module).__name__
    if is_overridden("configure_optimizers", module, pl.LightningModule):
        rank_zero_warn(f"{name}.configure_optimizers() is not used: the workers' optimizer is that of --optimizer")
    # Not bound by `MethodType`: unpickled, in the process of a worker, that would be the class's own method.
    module.configure_optimizers = partial(_configured, module, cli.configure_optimizers, optimizer, scheduler)
    rank_zero_info(
        f"--optimizer: the workers train {name} with {optimizer['class_path']}; the server's optimizer is "
        "--model.server_optimizer"
    )


def _automatic(cli: LightningCLI, register: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the class and the arguments of what takes the place of ``configure_optimizers``; None if nothing does."""
    keys = [key for key, (_, link_to) in register.items() if link_to == "AUTOMATIC"]
    if len(keys) > 1:
        raise MisconfigurationException(
            f"{' and '.join(keys)} cannot both take the place of configure_optimizers(); link all of them but one to "
            "arguments of your module"
        )
    given = cli._get(cli.config_init, keys[0]) if keys else None
    if given is None:
        return None
    given = given.as_dict() if isinstance(given, Namespace) else dict(given)
    kind = register[keys[0]][0]
    if isinstance(kind, tuple):  # any subclass of them
        return {"class_path": given["class_path"], "init_args": dict(given.get("init_args") or {})}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": given}


def _configured(
    module: pl.LightningModule, configure: Callable[..., Any], optimizer: dict[str, Any], scheduler: Any
) -> Any:
    """Make the workers' optimizer for a copy of the module, as the module's own ``configure_optimizers`` would."""
    made: torch.optim.Optimizer = instantiate_class(module.parameters(), optimizer)
    return configure(module, made, None if scheduler is None else instantiate_class(made, scheduler))
