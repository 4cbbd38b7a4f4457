"""Copies of the user's module that hold nothing of the server."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Set
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NoReturn, cast, final

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.worker.snapshot import HOOKS, is_computed, parts_of


@final
class Outside:
    """Stands on a worker for an object of the server, to which something on the user's module refers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Outside:
        if name.startswith("__"):
            raise AttributeError(name)
        return Outside(f"{self.name}.{name}")

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"{self.name} belongs to the server, and is not there on a worker")


def servers_objects(trainer: pl.Trainer) -> dict[str, object]:
    """Return the objects of the server to which a module may refer, by their names in messages.

    Args:
        trainer: The server's Trainer.
    """
    owned = {
        "the Trainer": trainer,
        "the FederatedModule": getattr(trainer, "lightning_module", None),
        "the FederatedDataModule": getattr(trainer, "datamodule", None),
        "the profiler": getattr(trainer, "profiler", None),
    }
    return {name: thing for name, thing in owned.items() if thing is not None}


def outside_of(trainer: pl.Trainer) -> dict[int, Outside]:
    """Return what stands for the server's objects, by their ids.

    Args:
        trainer: The server's Trainer.
    """
    return {id(thing): Outside(name) for name, thing in servers_objects(trainer).items()}


def copied(module: pl.LightningModule, trainer: pl.Trainer) -> pl.LightningModule:
    """Copy a module for workers, without the hooks that objects of the server (such as a profiler) have put on it.

    Args:
        module: The user's module.
        trainer: The server's Trainer.

    Raises:
        ValueError: If the module cannot be copied, or if a copy would still refer to the module itself.
    """
    _refuse_scripted(module)
    inside = _inside(module)
    refuse_closures(module, inside)
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks:  # torch copies none, neither here nor into another process
            rank_zero_warn(
                f"the parameter {name!r} of {type(module).__name__} has a hook, which stays on the server: workers "
                "train without it. To change gradients, define on_before_optimizer_step()"
            )
    memo: dict[int, Any] = dict(outside_of(trainer))
    memo.pop(id(module), None)  # a Trainer's own module, where nothing is wrapped
    profilers = _held_by(servers_objects(trainer).get("the profiler"))
    memo.update(_without_history(module, inside))
    hooks: list[tuple[OrderedDict[Any, Any], OrderedDict[Any, Any]]] = []
    for path, part in module.named_modules():
        for name in HOOKS:
            registered = vars(part)[name] if isinstance(vars(part).get(name), OrderedDict) else None
            if registered:
                memo[id(registered)] = OrderedDict()
                hooks.append((registered, memo[id(registered)]))
                _say_who_stays(type(module).__name__, path, registered.values(), inside, profilers)
    try:
        copy_ = copy.deepcopy(module, memo)
        for registered, ours in hooks:
            ours.update((key, copy.deepcopy(hook, memo)) for key, hook in registered.items() if _belongs(hook, inside))
    except Exception as error:
        culprit = _what_cannot_be_copied(inside, memo)
        what = "" if culprit is None else f": its {_kind_of(culprit)} {culprit!r} cannot be"
        raise ValueError(
            f"{type(module).__name__} cannot be copied for its workers{what} ({error}); keep what copy.deepcopy cannot "
            "copy (open files, locks, generators) out of the module's attributes and the objects of its hooks"
        ) from error
    return copy_


def _refuse_scripted(module: nn.Module) -> None:
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(
                f"{type(module).__name__}.{path} is a layer of torch.jit.script or torch.jit.trace, whose tensors "
                "cannot be set back from one worker to the next; train the layer that it was made of, and script or "
                "trace it after the fit"
            )


def deep_copy(module: pl.LightningModule) -> pl.LightningModule:
    """Copy a module for the user, also where it holds tensors that were computed from others, as of a weight_norm.

    Args:
        module: The user's module.
    """
    return copy.deepcopy(module, _without_history(module, _inside(module)))


def _without_history(module: nn.Module, inside: dict[int, tuple[str, Any]]) -> dict[int, Any]:
    """Return stand-ins in a copy for tensors that were computed from others, by their ids: torch copies none of those.

    Layers compute theirs anew before they are used, and for a result of the user's a copy has no use for its history.
    """
    tensors = [t for part in module.modules() for name, t in vars(part).items() if is_computed(vars(part), name)]
    tensors += [thing for _, thing in inside.values() if isinstance(thing, Tensor) and not thing.is_leaf]
    return {id(tensor): tensor.detach().clone() for tensor in tensors}


def _say_who_stays(
    module: str, path: str, hooks: Iterable[Any], inside: dict[int, tuple[str, Any]], profilers: set[int]
) -> None:
    """Name the hooks of objects outside of a module: workers train without them."""
    for hook in hooks:
        if not _belongs(hook, inside) and id(_bare(hook).__self__) not in profilers:
            rank_zero_warn(
                f"the hook {_bare(hook).__qualname__} on {path or 'the module itself'!r} of {module} is that of an "
                "object outside of the module, and stays on the server: it is called in evaluations and not in the "
                "training of workers; log what it is to see there in training_step"
            )


def _held_by(thing: object) -> set[int]:
    """The ids of an object and of those that it refers to."""
    return {id(thing), *map(id, vars(thing).values())} if thing is not None else set()


def _what_cannot_be_copied(inside: dict[int, tuple[str, Any]], memo: dict[int, Any]) -> str | None:
    """The path of the innermost object that cannot be copied by itself."""
    for path, thing in sorted(inside.values(), key=lambda item: item[0].count("."), reverse=True):
        try:
            copy.deepcopy(thing, dict(memo))
        except Exception:
            return path
    return None


def _kind_of(path: str) -> str:
    return "hook" if any(name in path for name in HOOKS) else "attribute"


def refuse_closures(module: pl.LightningModule, inside: dict[int, tuple[str, Any]] | None = None) -> None:
    """Refuse functions on a module that refer to the module itself: a copy of them would still use the original.

    Args:
        module: The module.
        inside: The objects that it consists of.

    Raises:
        ValueError: Naming the attribute, and what to do.
    """
    inside = _inside(module) if inside is None else inside
    own = {id(part) for part in module.modules()}
    kept = [t for part in module.modules() for by_name in (part._parameters, part._buffers) for t in by_name.values()]
    own |= {id(tensor) for tensor in kept if tensor is not None}  # as a layer's bias=False is
    for path, thing in inside.values():
        if not isinstance(thing, FunctionType):
            continue
        if any(id(value) in own for value in _held(thing)):
            raise ValueError(
                f"{type(module).__name__}: the {_kind_of(path)} {path!r} is the function {thing.__qualname__}, "
                "which refers to the module by other means than its arguments, so a worker's copy would still use the "
                "server's module; make it a method of the module (self.name = self.method), which is copied with it"
                + (_COMPILED if "_torchdynamo_orig_callable" in vars(thing) else "")
            )


def _inside(module: pl.LightningModule) -> dict[int, tuple[str, Any]]:
    """The objects that a module consists of, by their ids, each with its path."""
    found: dict[int, tuple[str, Any]] = {}
    pending: list[tuple[tuple[str, ...], Any]] = [((), module)]
    while pending:
        path, thing = pending.pop()
        if id(thing) in found or isinstance(thing, _NO_PARTS):
            continue
        found[id(thing)] = (".".join(path), thing)
        if isinstance(thing, nn.Module):
            pending.extend(_copied_with(path, thing))
        elif isinstance(thing, MethodType) and any(name in path for name in HOOKS):
            pass  # whoever has put a hook of his own on the module is no part of it for that alone
        elif not isinstance(thing, Tensor):
            pending.extend(parts_of(path, thing))
    return found


_COMPILED = (
    "; torch.compile such a method's layers in its place (self.net = torch.compile(net)), or the workers' whole steps: "
    "engine=Sequential(compile=True)"
)

# A torchmetrics object wraps its own methods, and wraps them anew when it is copied.
_NO_PARTS = (str, bytes, int, float, type(None), type, Metric)


def _copied_with(path: tuple[str, ...], module: nn.Module) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the objects that are copied with a module, each with its path; compiled ones are compiled anew."""
    left_out: Set[str] = set()
    if getattr(module, "__deepcopy__", None) is None:
        state = cast(Any, module).__getstate__()
        left_out = vars(module).keys() - state.keys() if isinstance(state, dict) else set()
    yield from ((place, value) for place, value in parts_of(path, module) if left_out.isdisjoint(place[len(path) :]))


def _held(function: FunctionType) -> Iterator[Any]:
    """Yield the objects to which a function refers by its closure and its defaults, and those to which these refer."""
    seen, pending = {id(function)}, [function]
    while pending:
        thing: Any = pending.pop()
        values: list[Any] = []
        if isinstance(thing, FunctionType):
            values = [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
            values += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        elif isinstance(thing, MethodType):
            values = [thing.__self__]
        elif isinstance(thing, partial):
            values = [thing.func, *thing.args, *thing.keywords.values()]
        for value in values:
            if id(value) not in seen:
                seen.add(id(value))
                pending.append(value)
                yield value


def _belongs(hook: Any, inside: dict[int, tuple[str, Any]]) -> bool:
    """Whether a hook is the module's own: a function, or a method of an object that is part of the module."""
    hook = _bare(hook)
    return not isinstance(hook, MethodType) or id(hook.__self__) in inside


def _bare(hook: Any) -> Any:
    """Return the function that a hook calls in the end."""
    while isinstance(hook, partial):
        hook = hook.func
    return hook


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - it raises if there is nothing
    except ValueError:
        return False
    return True
