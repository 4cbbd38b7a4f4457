"""The workers' copy of the user's module, fit for local training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor

from lightning_fed._lightning import is_param_in_hook_signature, pl
from lightning_fed.core.tree import Tensors
from lightning_fed.hooks import LOCAL_HOOKS, overrides
from lightning_fed.wire import Job
from lightning_fed.wire.metric_states import States
from lightning_fed.worker.attributes import set_attributes
from lightning_fed.worker.copying import copied
from lightning_fed.worker.log_calls import LogCalls
from lightning_fed.worker.module_tensors import ModuleTensors
from lightning_fed.worker.own_methods import OwnMethods
from lightning_fed.worker.own_metrics import OwnMetrics
from lightning_fed.worker.snapshot import Snapshot
from lightning_fed.worker.trainer_view import TrainerView
from lightning_fed.worker.transfers import Transfers


@final
class ModuleCopy:
    """A copy of the user's module, and the facts about it that an engine needs.

    ``self.log`` on the copy writes into a recorder, and ``self.trainer`` is a view in which the local training is the
    fit.

    Args:
        module: The user's module, placed on its device and in its precision.
        trainer: The server's Trainer.
        recorder: The recorder of the copy's logged values.
        channels_last: Whether images and convolutions lie in memory with their channels last.
        quiet: Whether nothing is shown of what the module's code logs by the Trainer, whatever the job sets.

    Raises:
        ValueError: If the module cannot be copied.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        trainer: pl.Trainer,
        recorder: LogCalls,
        channels_last: bool = False,
        quiet: bool = False,
    ) -> None:
        self.module = copied(module, trainer)
        if channels_last:
            self.module.to(memory_format=torch.channels_last)
        self.trainer = TrainerView(trainer, self.module)
        self.device = trainer.strategy.root_device
        self.precision = trainer.precision_plugin
        self.tensors = ModuleTensors(self.module, module)
        """The copy's tensors."""
        self._snapshot: Snapshot | None = None
        self._attributes: Mapping[str, Any] = {}
        self._attributes_before: Mapping[str, Any] = {}
        self._promised = False
        self._quiet = quiet
        self._configured: set[str] = set()
        self.changed: list[str] = []
        """The attributes that training has changed, in any worker so far, and that were set back."""
        self._recorder = recorder
        self.metrics = OwnMetrics(self.module, recorder)
        """Its torchmetrics objects."""
        self.hooks: dict[str, Callable[..., Any]] = {
            name: getattr(self.module, name) for name in LOCAL_HOOKS if overrides(self.module, name)
        }
        """The user's own hooks around a batch and an optimizer step."""
        self.transfers = Transfers(self.module, trainer, channels_last)
        """Transfer of batches to the device."""
        # With plain precision the context does nothing; a step without it is faster.
        self._autocasts = type(self.precision).forward_context is not pl.plugins.precision.Precision.forward_context
        self._takes_index = is_param_in_hook_signature(self.module.training_step, "batch_idx", min_args=2)
        self.methods = OwnMethods(self.module, recorder, self.trainer)
        """The copy's own methods, in place of the server's."""
        self._ours = (recorder, self.trainer, self.methods)

    # ---- a worker is closed ----------------------------------------------------------------------------------------

    @property
    def parameters(self) -> Tensors:
        """The parameters that are trained, by name."""
        return self.tensors.parameters

    @property
    def buffers(self) -> Tensors:
        """The buffers as they are now, by name."""
        return self.tensors.buffers

    def begin(self, job: Job) -> bool:
        """Take over which parameters are trained, which buffers there are, and the attributes of the server's module.

        Args:
            job: The server's job.

        Returns:
            Whether other parameters are trained than before, or there are other buffers.
        """
        self._promised = bool(job.promise)
        self.trainer.be_quiet(self._quiet or (self._promised and not job.promise.get("release_metrics")))
        if self._snapshot is None:
            self._snapshot = Snapshot(self.module, self._ours)
        if job.attributes is not self._attributes and (job.attributes or self._attributes):
            set_attributes(self.module, self._attributes_before)
            self._attributes_before = set_attributes(self.module, job.attributes)
            self._attributes = job.attributes
            self.retake()
        is_new = self.tensors.begin(job.model)
        if is_new:
            self.retake()
        return is_new

    def start(self, job: Job, worker: str) -> None:
        """Begin a worker's training: tensors are the global model's, or its own, and metrics are empty.

        Args:
            job: The server's job.
            worker: The worker's name.
        """
        own = job.start.get(worker)
        if own is None:
            self.tensors.start(job.model.parameters, job.model.buffers)
        else:
            parameters = job.model.layout.unflatten(own.parameters)
            self.tensors.start(parameters, {**job.model.buffers, **own.buffers})
        self.metrics.reset()

    def set_back(self) -> list[str]:
        """End a worker's training: make the module what it was, but for the values of trained parameters and buffers.

        Returns:
            The attributes that were changed, and are set back.

        Raises:
            ValueError: If there are some, and a promise of privacy was made; or if a parameter was replaced.
        """
        replaced = self.tensors.set_back()
        if self._snapshot is None or (replaced is None and self._snapshot.is_unchanged()):
            return []
        changed = [name for name in self._snapshot.changed() if name not in self._configured]
        self._snapshot.set_back()
        if replaced is not None:
            raise ValueError(
                f"training put another parameter in place of {replaced!r}, which neither the worker's optimizers nor "
                "the server would have; change its values in place, as by self.layer.weight.data.mul_(0.9) or copy_()"
            )
        if changed and self._promised:
            raise ValueError(
                f"training changed the module's attribute {changed[0]!r}, and what a worker leaves there no promise of "
                "privacy covers; keep it in a buffer, log it, or leave it alone in local training"
            )
        self.changed.extend(name for name in changed if name not in self.changed)
        return changed

    def metric_states(self) -> States:
        """Return what the worker's torchmetrics objects hold, as far as it may leave the worker."""
        return {} if self.trainer.is_quiet else self.metrics.states()

    def configured(self) -> bool:
        """Note what ``configure_optimizers`` has set on the module; returns whether there is such a thing."""
        if self._snapshot is None or self._snapshot.is_unchanged():
            return False
        self._configured.update(self._snapshot.changed())
        return True

    def retake(self) -> None:
        """Note the module as it is now: it is set back to this state from now on."""
        self._snapshot = Snapshot(self.module, self._ours)
        self.tensors.keep()

    @contextmanager
    def in_place(self, tensors: Tensors) -> Iterator[None]:
        """Make the module use other tensors in place of its own, as ``torch.func.functional_call`` does.

        Args:
            tensors: By the names of :attr:`parameters` and :attr:`buffers`.
        """
        # Faster than functional_call, which looks for the places at every call.
        places = [(owner, key, tensors[name]) for name, owner, key in self.tensors.places if name in tensors]
        own = [owner[key] for owner, key, _ in places]
        for owner, key, tensor in places:
            owner[key] = tensor
        try:
            yield
        finally:
            for (owner, key, _), tensor in zip(places, own, strict=True):
                owner[key] = tensor

    def training_step(self, batch: Any, index: int) -> Any:
        """The user's ``training_step``, with the arguments that it takes."""
        return self.module.training_step(batch, index) if self._takes_index else self.module.training_step(batch)

    def call(self, hook: str, *arguments: Any, default: Callable[[], Any] | None = None, **options: Any) -> Any:
        """Call the user's own hook, or else do what Lightning's would do.

        Args:
            hook: Its name.
            arguments: Its arguments.
            default: The action of Lightning's own hook, if it has one.
            options: Its arguments by name.
        """
        if hook not in self.hooks:
            return None if default is None else default()
        outer, self._recorder.hook = self._recorder.hook, hook
        try:
            return self.hooks[hook](*arguments, **options)
        finally:
            self._recorder.hook = outer

    def forward_context(self) -> AbstractContextManager[Any]:
        """Autocast in mixed precision, else nothing."""
        return self.precision.forward_context() if self._autocasts else nullcontext()


def loss_of(output: Any) -> Tensor | None:
    """The loss in what ``training_step`` returned: a tensor, a dict with a ``loss``, or None to skip the step.

    Raises:
        TypeError: If it is something else.
        ValueError: If the loss has more than one element.
    """
    if isinstance(output, dict):
        if output.get("loss") is None:
            raise TypeError("training_step returned a dict without a 'loss'; to skip a step, return None")
        output = output["loss"]
    if output is None:
        return None
    if not isinstance(output, Tensor):
        raise TypeError(f"training_step must return a tensor, a dict with 'loss', or None, not {type(output).__name__}")
    if output.numel() != 1:
        raise ValueError(f"training_step returned a loss of shape {tuple(output.shape)}; reduce it to a scalar")
    return output.reshape(()) if output.ndim else output
