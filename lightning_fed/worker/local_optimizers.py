"""The optimizers of a worker's local training: fresh ones for every worker and round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from lightning_fed._lightning import (
    LightningOptimizer,
    _configure_optimizers,
    _configure_schedulers_automatic_opt,
    _configure_schedulers_manual_opt,
    pl,
)
from lightning_fed.worker.module_copy import ModuleCopy
from lightning_fed.worker.optimizer_parts import bare_step, can_be_set_back, is_torchs, parts_of, scale_lr
from lightning_fed.worker.plateaus import Plateaus

_ELEMENTWISE = (
    *(torch.optim.ASGD, torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW),
    *(torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.Rprop),
    torch.optim.SGD,
)


@final
class LocalOptimizers:
    """Makes the user's own optimizers and schedulers, as new: one optimizer, or any number in manual optimization.

    Args:
        local: The workers' copy of the user's module. Its ``self.optimizers()`` and its Trainer's are kept up to date.
    """

    def __init__(self, local: ModuleCopy) -> None:
        self._tensors = local.tensors
        self._spare = local.tensors.spare  # tensors to be freed with the gradients
        self._module = local.module
        self._trainer = local.trainer
        self.needs_closure = True
        """Whether the optimizer may evaluate the loss itself, as LBFGS does; others take a step from the gradients."""
        self.step: Callable[[], Any]
        """Steps on the gradients, with the first optimizer."""
        self.take: Callable[..., Any] = _take
        """Steps with an optimizer whose ``step`` user code has called; it gets the optimizer, its closure and more."""
        self.is_new = False
        """Whether ``configure_optimizers`` was called for the last ones."""
        self._configured_for: tuple[int, float] | None = None
        self._leaves: list[Tensor] = []
        self.all: list[Optimizer] = []
        """The optimizers of the last :meth:`fresh`."""
        self._initial: list[list[dict[str, Any]]] = []
        self._parts: list[object] = []
        self._wrapped: dict[Optimizer, Any] = {}
        self.plateaus = Plateaus(local.module, local.trainer, self._step_scheduler)
        """Steps the schedulers that go by a metric."""
        self._first_rates: list[float] = []
        self._has_stepped_at_another_rate = False
        self._has_been_scheduled = ""  # the class of the first scheduler that was stepped
        local.trainer.wrap(self.wrapped)

    def fresh(self, cohort: int, lr_factor: float = 1.0) -> list[Optimizer]:
        """Return freshly initialised optimizers.

        The user's ``configure_optimizers`` is called once for every worker. For torch's own optimizers without a
        scheduler once for a cohort is enough: their state is ``state`` and ``param_groups``, and both can be set back.

        Args:
            cohort: The cohort's number.
            lr_factor: By what to multiply the learning rates that the user's code has set, in every step.

        Raises:
            ValueError: If ``configure_optimizers`` gives something that local training cannot use.
        """
        self._wrapped.clear()  # to which user code may have set attributes
        if self._configured_for == (cohort, lr_factor) and self._is_whole():  # to set back is faster than to build anew
            self._trainer.use(self.all, [])
            for optimizer, groups in zip(self.all, self._initial, strict=True):
                optimizer.state.clear()
                for group, initial in zip(optimizer.param_groups, groups, strict=True):
                    group.update(initial)
            self.is_new = False
            return self.all
        self.all = self._configure()
        self._take_in(self._tensors.unfrozen)
        self.is_new = True
        if lr_factor != 1.0:
            for optimizer in self.all:
                scale_lr(optimizer, lr_factor)
        serves_others = all(map(can_be_set_back, self.all)) and not self._trainer.lr_scheduler_configs
        serves_others &= not self._trainer.asked_for_data  # which is another worker's next time
        self._configured_for = (cohort, lr_factor) if serves_others else None
        self._initial = [[dict(group) for group in optimizer.param_groups] for optimizer in self.all]
        self._parts = [parts_of(optimizer) for optimizer in self.all]
        if self._trainer.lr_scheduler_configs:
            self._first_rates = self._rates()
        if self._module.automatic_optimization:
            (optimizer,) = self.all
            groups = optimizer.param_groups if is_torchs(optimizer) else []
            self._leaves = [parameter for group in groups for parameter in group["params"]]
            self.needs_closure = isinstance(optimizer, LBFGS) or not is_torchs(optimizer)
            self.step = bare_step(optimizer)
        return self.all

    def _rates(self) -> list[float]:
        return [group["lr"] for optimizer in self.all for group in optimizer.param_groups if "lr" in group]

    def _is_whole(self) -> bool:
        """Whether every optimizer still has the parts that it was made with.

        User code may have added parameters, groups or settings to one, or taken some away; then setting the values of
        its groups back would not be enough.
        """
        return [parts_of(optimizer) for optimizer in self.all] == self._parts

    @property
    def schedulers(self) -> list[Any]:
        """The schedulers of the last :meth:`fresh`."""
        return [config.scheduler for config in self._trainer.lr_scheduler_configs]

    @property
    def restarted(self) -> tuple[str, bool] | None:
        """The kind of the first scheduler, and whether any step so far was taken at another rate than the first.

        None if there is none.
        """
        if not self._has_been_scheduled:
            return None
        return self._has_been_scheduled, self._has_stepped_at_another_rate

    def forget(self) -> None:
        """Discard the optimizers; the next worker's come from a new call of ``configure_optimizers``."""
        self._configured_for = None

    def stacked(self, cohort: int, lr_factor: float, leaves: Mapping[Tensor, Tensor]) -> Optimizer:
        """Return an optimizer without a past that steps on stacks of parameters in place of the parameters.

        Args:
            cohort: The cohort's number.
            lr_factor: See :meth:`fresh`.
            leaves: The stack of each trained parameter, ``[n, ...]``.

        Raises:
            ValueError: If ``configure_optimizers`` gives something that local training cannot use.
        """
        (optimizer,) = self.fresh(cohort, lr_factor)
        states = {leaves[p]: state for p, state in optimizer.state.items() if p in leaves}
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group["params"] = [leaves[p] for p in group["params"] if p in leaves]
        for leaf, state in states.items():
            optimizer.state[leaf] = {
                name: value.expand_as(leaf).clone() if isinstance(value, Tensor) and name != "step" else value
                for name, value in state.items()
            }
        return optimizer

    @property
    def is_elementwise(self) -> bool:
        """Whether the optimizer treats every number by itself, so that it can step on stacks of workers."""
        return all(type(optimizer) in _ELEMENTWISE for optimizer in self.all)

    def wrapped(self, optimizer: Optimizer) -> Any:
        """Return an optimizer as user code sees it: a ``LightningOptimizer``, whose step is the worker's.

        Args:
            optimizer: One of the last :meth:`fresh` ones.
        """
        if optimizer not in self._wrapped:
            wrapped = self._wrapped[optimizer] = LightningOptimizer(optimizer)
            wrapped._strategy = cast(Any, _Here(self._module, self))
        return self._wrapped[optimizer]

    def zero_grad(self) -> None:
        """Forget the gradients, as the optimizer's own ``zero_grad`` does."""
        if not self._leaves:
            for optimizer in self.all:
                optimizer.zero_grad()
        for leaf in self._leaves:  # faster than zero_grad of torch's own optimizers
            leaf.grad = None
        self._spare.clear()

    def step_schedulers(self, interval: str, count: int) -> None:
        """Step the schedulers that go by this interval; in manual optimization user code does that.

        Args:
            interval: ``"step"`` or ``"epoch"``.
            count: How many steps the worker has taken in this epoch, or how many epochs it has trained.
        """
        configs = self._trainer.lr_scheduler_configs
        if not configs or not self._module.automatic_optimization:
            return
        for config in configs:
            if not config.reduce_on_plateau and config.interval == interval and count % config.frequency == 0:
                self._step_scheduler(config, None)

    def _step_scheduler(self, config: Any, metric: Tensor | None) -> None:
        self.note_rates()
        self._module.lr_scheduler_step(config.scheduler, metric)

    def note_rates(self) -> None:
        """Note whether a step is taken at another rate than the first, if there is a scheduler."""
        configs = self._trainer.lr_scheduler_configs
        if configs and not self._has_stepped_at_another_rate:
            self._has_been_scheduled = self._has_been_scheduled or type(configs[0].scheduler).__name__
            self._has_stepped_at_another_rate = self._rates() != self._first_rates

    def _take_in(self, unfrozen: list[Tensor]) -> None:
        """Step on parameters that were unfrozen in a fit, as a callback has it that gives a Trainer's optimizer more.

        At the server they may be in a group with a learning rate of its own; at the workers they go with the first.
        """
        groups = [group for optimizer in self.all for group in optimizer.param_groups]
        there = {id(parameter) for group in groups for parameter in group["params"]}
        for parameter in unfrozen:
            if id(parameter) not in there and groups:
                groups[0]["params"].append(parameter)

    def _configure(self) -> list[Optimizer]:
        name = type(self._module).__name__
        configured = self._module.configure_optimizers()
        is_manual = not self._module.automatic_optimization
        if configured is None:
            if is_manual:  # user code moves the parameters by itself
                self._trainer.use([], [])
                return []
            raise ValueError(f"{name}.configure_optimizers() returned None; local training needs an optimizer")
        optimizers, schedulers, monitor = _configure_optimizers(cast(Any, configured))
        if is_manual:
            self._trainer.use(optimizers, _configure_schedulers_manual_opt(schedulers))
            return list(optimizers)
        if len(optimizers) != 1:
            raise ValueError(
                f"{name}.configure_optimizers() returned {len(optimizers)} optimizers, which automatic optimization "
                "takes one of: put the parameters into one as parameter groups, or set self.automatic_optimization = "
                "False and step each by hand in training_step"
            )
        configs = _configure_schedulers_automatic_opt(schedulers, monitor)
        self._trainer.use(optimizers, configs)
        return list(optimizers)


@final
class _Here:
    """Takes the place of a Trainer's strategy behind a LightningOptimizer: the step is taken here, for a worker."""

    def __init__(self, module: pl.LightningModule, optimizers: LocalOptimizers) -> None:
        self.lightning_module = module
        self._optimizers = optimizers

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], **options: Any) -> Any:
        return self._optimizers.take(optimizer, closure, **options)


def _take(optimizer: Optimizer, closure: Callable[[], Any], **options: Any) -> Any:
    return optimizer.step(closure=closure, **options)
