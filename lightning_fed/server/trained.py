"""The parameters that are trained: callbacks and hooks of the server may freeze and unfreeze layers during a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, final

from torch import nn
from torch.optim import Optimizer

from lightning_fed.core.tree import Tensors
from lightning_fed.server.checkpoint.format import INSTEAD


@final
class TrainedParameters:
    """The parameters of the global model that are trained, now and when the server optimizer was made.

    As in a plain fit, where an optimizer over all parameters passes over frozen ones, a parameter that is unfrozen by
    its ``requires_grad`` alone is stepped on from then on, with the options of the first group.

    Args:
        module: The user's module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._first: list[str] = []  # in the whole run, also that of which a checkpoint is
        self._ever: set[str] = set()
        self._seen: list[str] = []
        self._groups = 0
        self._names: dict[int, str] = {}  # of those that the optimizer has: a hook may put another in place of one

    def now(self) -> Tensors:
        """Return the parameters that are trained now, by name."""
        return {name: p for name, p in self._module.named_parameters() if p.requires_grad}

    @property
    def ever(self) -> AbstractSet[str]:
        """The names of the parameters that have been trained at any time in this run."""
        return self._ever

    def optimized_by(self, make: Callable[[Tensors], Optimizer]) -> Optimizer:
        """Make a server optimizer over the parameters that are trained now.

        Args:
            make: Makes it from parameters by name.
        """
        trained = self.now()
        self._first = self._seen = list(trained)
        self._ever = set(trained)
        optimizer = make(trained)
        self._names = {id(parameter): name for name, parameter in trained.items()}
        self._groups = len(optimizer.param_groups)
        return optimizer

    def join(self, trained: Tensors, optimizers: Sequence[Optimizer]) -> None:
        """Make the server optimizer step on all parameters that are trained now.

        Args:
            trained: The result of :meth:`now`.
            optimizers: The server optimizer, as the Trainer has it.
        """
        names = list(trained)
        if names == self._seen:
            return
        self._seen = names
        self._ever.update(names)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        names_of = self._names_of()
        there = {names_of.get(id(parameter)) for group in groups for parameter in group["params"]}
        groups[0]["params"].extend(p for name, p in trained.items() if name not in there)
        self._names = names_of

    @contextmanager
    def as_at_first(self) -> Iterator[None]:
        """Temporarily restore ``requires_grad`` of all parameters as it was when the server optimizer was made.

        A copy made meanwhile can then detect which parameters have been unfrozen since.
        """
        now = set(self.now())
        self._require(set(self._first))
        try:
            yield
        finally:
            self._require(now)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def state_dict(self, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
        """Return the state for a checkpoint.

        Args:
            optimizers: The server optimizer, as the Trainer has it.
        """
        names = self._names_of()
        return {
            "first": self._first,
            "now": list(self.now()),
            "ever": sorted(self._ever),
            "groups": [
                [[names[id(p)] for p in g["params"]] for g in optimizer.param_groups] for optimizer in optimizers
            ],
        }

    def load_state_dict(
        self, state: Mapping[str, Any] | None, optimizers: Sequence[Optimizer], saved: Sequence[Mapping[str, Any]]
    ) -> None:
        """Go on with the layers frozen, and in the groups of the server optimizer, as they were.

        Args:
            state: The result of :meth:`state_dict`; None: the checkpoint is of an older format.
            optimizers: The server optimizer, which has not loaded its state yet.
            saved: This state.

        Raises:
            ValueError: If other layers than in the run of the checkpoint are frozen at the start.
        """
        if state is None or not state["groups"]:
            return
        if set(state["first"]) != set(self._first):
            other = min(set(state["first"]) ^ set(self._first))
            now = "trained" if other in self._first else "frozen"
            before = "frozen" if other in self._first else "trained"
            raise ValueError(
                f"{other!r} is {now} from the start of this run, and was {before} from the start of the checkpoint's; "
                f"set requires_grad as it was. {INSTEAD}"
            )
        parameters = dict(self._module.named_parameters())
        for optimizer, groups, own in zip(optimizers, state["groups"], saved, strict=False):
            made = optimizer.param_groups[: self._groups]
            later = [{k: v for k, v in group.items() if k != "params"} for group in own["param_groups"][len(made) :]]
            optimizer.param_groups = [
                {**group, "params": [parameters[name] for name in names]}
                for group, names in zip([*made, *later], groups, strict=False)
            ]
        self._ever = set(state["ever"])
        self._require(set(state["now"]))

    def _names_of(self) -> dict[int, str]:
        """The names of the module's parameters, and of those in whose place others are now, by id."""
        return {**self._names, **{id(parameter): name for name, parameter in self._module.named_parameters()}}

    def _require(self, names: set[str]) -> None:
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad is not (name in names):
                parameter.requires_grad_(name in names)
