"""The tensors of a worker's module: how they become the global model's, and which of them have moved.

Three kinds: parameters that are trained, buffers, and parameters that are not trained but that user code may move, such
as a teacher that follows the student. Which parameters are trained, and which buffers there are, the server's module
decides anew in each round: layers may be unfrozen, and buffers may appear or grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn

from lightning_fed.core.tree import Tensors, copy_
from lightning_fed.wire import GlobalModel


@final
class UnfrozenError(ValueError):
    """Code that runs at the workers has unfrozen a layer, which would be trained in no round."""


class Place(NamedTuple):
    """Place where a module keeps a tensor.

    Args:
        name: The tensor's name.
        owner: The dict that holds it.
        key: Its key there.
    """

    name: str
    owner: dict[str, Any]
    key: str


@final
class ModuleTensors:
    """The tensors of a copy of the server's module.

    Args:
        module: The copy.
        original: The module that it is a copy of, which has the values of what is not trained and has not moved.
    """

    def __init__(self, module: nn.Module, original: nn.Module) -> None:
        self._module = module
        self._all: dict[str, Any] = dict(module.named_parameters())
        self._originals = dict(original.named_parameters())
        self._parts = [(f"{path}." if path else "", part._buffers) for path, part in module.named_modules()]
        self._structure = [dict(owner) for _, owner in self._parts]
        self._aliases = _aliases(self._parts)
        self.parameters: Tensors = {name: p for name, p in self._all.items() if p.requires_grad}
        """The parameters that are trained, by name."""
        self._trained_at_first = frozenset(self.parameters)
        self._model: GlobalModel | None = None
        self.spare: list[Tensor | None] = []
        """Gradients of the worker before, to be freed just before a backward pass."""
        self._take_in(self.buffers)

    @property
    def buffers(self) -> Tensors:
        """The buffers as they are now, by name: user code may put another tensor in place of one."""
        return {
            prefix + key: buffer
            for prefix, owner in self._parts
            for key, buffer in owner.items()
            if buffer is not None and prefix + key not in self._aliases
        }

    @property
    def unfrozen(self) -> list[Tensor]:
        """The parameters that are trained now and were not when the run began."""
        return [parameter for name, parameter in self.parameters.items() if name not in self._trained_at_first]

    def refuse_unfrozen(self) -> None:
        """Refuse code of a worker that has unfrozen a layer.

        Raises:
            UnfrozenError: Naming a parameter, and what to do.
        """
        for name, parameter in self.frozen.items():
            if parameter.requires_grad:
                raise UnfrozenError(
                    f"code that runs at the workers, such as on_train_epoch_start(), has unfrozen {name!r}, which the "
                    "server does not train: unfreeze it in a hook of a callback, such as BackboneFinetuning's or one's "
                    "own on_train_epoch_start(trainer, pl_module), which runs at the server"
                )

    def begin(self, model: GlobalModel) -> bool:
        """Train the parameters, and keep the buffers, that the global model has.

        Args:
            model: The global model of the round.

        Returns:
            Whether anything but values is new, so that what was derived from the names is to be derived again.

        Raises:
            ValueError: If the module has no such parameter.
        """
        if model is self._model:
            return False
        self._model = model
        is_new = list(model.parameters) != list(self.parameters)
        if is_new:
            unknown = model.parameters.keys() - self._all.keys()
            if unknown:
                raise ValueError(f"the server trains {min(unknown)!r}, but the worker's module has no such parameter")
            self.parameters = {name: self._all[name] for name in model.parameters}
        ours = {name: b for name, b in model.buffers.items() if name not in self._all}
        alike = ours.keys() == self._sent.keys() and all(
            b.shape == self._sent[name].shape and b.dtype == self._sent[name].dtype for name, b in ours.items()
        )
        if is_new or not alike:
            self._take_in(ours)
            return True
        return False

    def _take_in(self, buffers: Tensors) -> None:
        """Put exactly these buffers into the module, and find where it keeps its tensors."""
        for (prefix, owner), structure in zip(self._parts, self._structure, strict=True):
            for key, buffer in structure.items():
                sent = buffers.get(prefix + key)
                if prefix + key in self._aliases:
                    continue
                if sent is None:
                    structure[key] = None
                elif buffer is None or buffer.shape != sent.shape or buffer.dtype != sent.dtype:
                    structure[key] = sent.detach().clone()
            for name, sent in buffers.items():
                if name.rpartition(".")[0] == prefix[:-1] and name.rpartition(".")[2] not in structure:
                    structure[name.rpartition(".")[2]] = sent.detach().clone()
            owner.clear()
            owner.update(structure)
        missing = buffers.keys() - self.buffers.keys()
        if missing:
            raise ValueError(f"the server has the buffer {min(missing)!r}, but the worker's module has no part for it")
        self._sent = self.buffers
        for name, parameter in self._all.items():
            parameter.requires_grad_(name in self.parameters)
        self.keep()
        self.frozen: Tensors = {name: p for name, p in self._all.items() if name not in self.parameters}
        """The parameters that are not trained, by name."""
        self._marks = {name: mark(p) for name, p in self.frozen.items()}
        self._found: dict[str, Mark] = {}
        self.places = _places(self._module, {**self.parameters, **self.frozen, **self._sent})
        """Where the module keeps its tensors."""
        self._at_first = [(place, self._all[place.name]) for place in self.places if place.name in self._all]

    def keep(self) -> None:
        """Note what belongs to the tensors now, such as their hooks: they are set back to it from now on."""
        self._kept = [_Kept(b) for structure in self._structure for b in structure.values() if b is not None]
        self._kept += [_Kept(p) for p in self._all.values()]

    def fixed(self, name: str) -> Tensor:
        """Return a frozen parameter's value at the start: the global model's if it has moved, else the original one."""
        assert self._model is not None
        return self._model.buffers.get(name, self._originals[name].detach())

    def start(self, parameters: Tensors, buffers: Tensors) -> None:
        """Begin a worker's training.

        Args:
            parameters: The values of the trained parameters, by name.
            buffers: Those of the buffers, and of frozen parameters that have moved.
        """
        assert self._model is not None
        copy_(self.parameters, parameters)
        copy_(self._sent, buffers)
        for name, parameter in self.frozen.items():
            if name in buffers:
                copy_({name: parameter}, buffers)
                if name in self._model.buffers:  # else it has moved before this training, and the next worker's has not
                    self._marks[name] = mark(parameter)

    def moved(self) -> Tensors:
        """Return frozen parameters that do not have their first value: moved since :meth:`start`, or in a round before.

        No code of the user's may run from here to :meth:`set_back`, which takes what is found here for what there is:
        to look through a large frozen model once more would take as long as a forward pass of a few examples.

        Returns:
            The module's own tensors, by name.
        """
        assert self._model is not None
        self._found = {name: mark(parameter) for name, parameter in self.frozen.items()}
        return {
            name: parameter.detach()
            for name, parameter in self.frozen.items()
            if name in self._model.buffers
            or (self._found[name] != self._marks[name] and not _equal(parameter.detach(), self.fixed(name)))
        }

    def set_back(self) -> str | None:
        """Put the old tensors back where user code has put others, and restore the values of the frozen ones.

        Returns:
            The name of a parameter in whose place user code has put another, if there is one.
        """
        replaced = None
        for (name, owner, key), parameter in self._at_first:
            if owner.get(key) is not parameter:
                owner[key] = parameter
                replaced = name
        for (_, owner), structure in zip(self._parts, self._structure, strict=True):
            if owner or structure:
                owner.clear()
                owner.update(structure)
        # The next worker's code must not see these gradients. But their memory, still warm in the cache, had better be
        # taken for its own ones: memory that is freed at once goes to activations, which is slower.
        self.spare[:] = [parameter.grad for parameter in self.parameters.values()]
        for kept in self._kept:
            kept.set_back()
        found, self._found = self._found, {}
        for name, parameter in self.frozen.items():
            if (found[name] if found else mark(parameter)) != self._marks[name]:
                copy_({name: parameter}, {name: self.fixed(name)})
                self._marks[name] = mark(parameter)
        return replaced


def put(module: nn.Module, tensors: Tensors) -> None:
    """Put values of buffers into a module, also new ones and ones of another shape, and of frozen parameters.

    Args:
        module: The module.
        tensors: By name.
    """
    parameters = dict(module.named_parameters())
    for name, tensor in tensors.items():
        prefix, _, key = name.rpartition(".")
        there: Tensor | None = parameters.get(name)
        owner = None if there is not None else module.get_submodule(prefix)._buffers
        if owner is not None:
            there = owner.get(key)
            if there is None or there.shape != tensor.shape or there.dtype != tensor.dtype:
                owner[key] = tensor.detach().clone()
                continue
        assert there is not None
        copy_({name: there}, {name: tensor})


@final
class _Kept:
    """A tensor of the module, and what belongs to it besides its values, as user code may change it."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._storage = tensor.data  # keeps its shape where the tensor itself is resized
        self._pointer = tensor.data_ptr()
        self._requires_grad = tensor.requires_grad
        self._attributes = dict(vars(tensor))
        self._hooks = [dict(getattr(tensor, kind) or {}) for kind in _TENSOR_HOOKS]

    def set_back(self) -> None:
        tensor = self._tensor
        tensor.grad = None
        if tensor.requires_grad is not self._requires_grad:
            tensor.requires_grad_(self._requires_grad)
        if tensor.data_ptr() != self._pointer or tensor.shape != self._storage.shape:
            tensor.data = self._storage
        if vars(tensor) or self._attributes:
            vars(tensor).clear()
            vars(tensor).update(self._attributes)
        for kind, before in zip(_TENSOR_HOOKS, self._hooks, strict=True):
            now = getattr(tensor, kind)
            if (now or before) and dict(now or {}) != before:
                now.clear()
                now.update(before)


_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


Mark: TypeAlias = tuple[int, int, int]
"""Marks of a tensor that differ once the tensor has been written to."""


def mark(tensor: Tensor) -> Mark:
    """Return the version of a tensor, its place in memory, and the sum of its bits taken as integers.

    The sum also tells of what was written to ``tensor.data``, of which torch takes no note; it is exact, where a sum of
    its numbers would be rounded, and the same after one was added to and another subtracted from.
    """
    with torch.no_grad():
        values = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        # One number of a sum is 8 bytes, where they lie side by side; a tensor of one number may have any stride.
        if (
            values.is_contiguous()
            and values.nbytes % 8 == 0
            and values.data_ptr() % 8 == 0
            and values.stride()[-1:] == (1,)
        ):
            bits = values.reshape(-1).view(torch.uint8).view(torch.int64)
        else:
            bits = values if values.dtype is torch.bool else values.view(_INTEGERS[values.element_size()])
        return tensor._version, tensor.data_ptr(), int(bits.sum(dtype=torch.int64))


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def _aliases(parts: list[tuple[str, dict[str, Tensor | None]]]) -> frozenset[str]:
    """The names of buffers that are another one's tensor, as ``named_buffers()`` leaves them out."""
    seen: set[int] = set()
    aliases: list[str] = []
    for prefix, owner in parts:
        for key, buffer in owner.items():
            if buffer is not None:
                (aliases.append(prefix + key) if id(buffer) in seen else seen.add(id(buffer)))
    return frozenset(aliases)


def _places(module: nn.Module, tensors: Tensors) -> list[Place]:
    """Find where a module keeps some tensors; one that layers share has several places under one name."""
    names = {id(tensor): name for name, tensor in reversed(tensors.items())}

    def search() -> Iterator[Place]:
        for part in module.modules():
            for owner in (part._parameters, part._buffers):
                for key, tensor in owner.items():
                    if id(tensor) in names:
                        yield Place(names[id(tensor)], owner, key)

    return list(search())
