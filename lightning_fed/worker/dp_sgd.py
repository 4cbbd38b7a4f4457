"""DP-SGD in a worker's local training, with Opacus: gradients of single examples, clipped and noised."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sized
from typing import Any, cast, final

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from lightning_fed._lightning import pl
from lightning_fed.core.tree import Tensors
from lightning_fed.population.batches import Batches
from lightning_fed.privacy import Noise
from lightning_fed.wire import Job, RecordPrivacy


@final
class RecordPrivateGradients:
    """Hides single examples in the steps of a module.

    Opacus computes the gradient of each example, clips and adds them up; the noise is ours, from the system's entropy.

    Args:
        module: The workers' copy of the module; hooks are put on its layers.
        parameters: Its trained parameters, by name.

    Raises:
        ImportError: If Opacus is not installed.
        ValueError: If the module has a layer for which Opacus has no gradients of single examples.
    """

    def __init__(self, module: pl.LightningModule, parameters: Tensors) -> None:
        try:
            from opacus.grad_sample import GradSampleModule
            from opacus.optimizers import DPOptimizer
        except ImportError as error:
            raise ImportError(
                f'RecordDP needs Opacus ({error}): pip install "lightning_fed[record-privacy]"', name=error.name
            ) from error
        _refuse_layers(module)
        self._make = DPOptimizer
        # A layer that is called on data, which have no gradient, makes torch say so at every step.
        warnings.filterwarnings("ignore", "Full backward hook is firing when gradients are computed")
        self._hooks = GradSampleModule(module)
        self._parameters = parameters
        self._optimizer: Any = None
        self._settings: RecordPrivacy
        self._noise = Noise()
        self._keys: tuple[int | str, ...] = ()
        self._steps = 0

    def begin(self, job: Job, worker: str, optimizer: Optimizer, examples: int) -> None:
        """Get ready for one worker's training.

        Args:
            job: What the server sent.
            worker: The worker's name.
            optimizer: Its optimizer.
            examples: The number of its examples.
        """
        assert job.record_privacy is not None
        self._settings = settings = job.record_privacy
        self._noise = Noise(settings.seed)
        self._keys, self._steps = (job.cohort, worker), 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._optimizer = self._make(
                optimizer,
                noise_multiplier=settings.noise_multiplier,
                max_grad_norm=settings.clip,
                expected_batch_size=max(1, round(settings.sampling_rate * examples)),
            )
        self.zero_grad()

    def batches(self, batches: Batches) -> Iterator[tuple[Any, None]]:
        """One pass of Poisson samples of a worker's examples; a sample may be empty.

        Args:
            batches: The worker's own batches.

        Raises:
            ValueError: If examples cannot be drawn one by one.
        """
        from opacus.data_loader import DPDataLoader

        loader = batches.loader
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            raise ValueError(
                "RecordDP draws examples one by one, so its train_dataloader must give a DataLoader over a dataset"
            )
        rate, examples = self._settings.sampling_rate, len(cast(Sized, loader.dataset))
        # Opacus's loader makes batches of no examples. But whom it draws follows from a seed, of which torch's
        # generator takes 32 bits, and amplification is worth no more than the secret of who was drawn.
        collate = DPDataLoader(loader.dataset, sample_rate=rate, collate_fn=loader.collate_fn).collate_fn
        for _ in range(int(1 / rate)):
            drawn = self._noise.uniform(examples, *self._keys, "batch", self._steps) < rate
            yield collate([loader.dataset[row] for row in drawn.nonzero().flatten().tolist()]), None

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def hide_(self) -> None:
        """Put clipped and noised gradients in place of those of the backward pass; without one, noise alone.

        Raises:
            ValueError: If a parameter has a gradient that Opacus has not seen, which would leave it unprotected.
        """
        for name, parameter in self._parameters.items():
            seen: Any = parameter
            if getattr(seen, "grad_sample", None) is None:
                if parameter.grad is not None:
                    raise ValueError(
                        f"{name} has a gradient for which Opacus has none of single examples, so RecordDP cannot hide "
                        "them: put it into a torch.nn.Module that is called in training_step"
                    )
                seen.grad_sample = parameter.new_zeros(self._length(), *parameter.shape)
        self._optimizer.clip_and_accumulate()
        std = self._settings.noise_multiplier * self._settings.clip
        for name, parameter in self._parameters.items():
            total: Any = parameter
            noise = self._noise.gaussian(parameter.numel(), std, *self._keys, name, self._steps)
            parameter.grad = (total.summed_grad + noise.view(parameter.shape).to(parameter)).view_as(parameter)
        self._optimizer.scale_grad()
        self._steps += 1

    def _length(self) -> int:
        samples = [getattr(parameter, "grad_sample", None) for parameter in self._parameters.values()]
        return max((len(sample) for sample in samples if sample is not None), default=0)


def _refuse_layers(module: pl.LightningModule) -> None:
    from opacus.validators import ModuleValidator

    name = type(module).__name__
    for path, part in module.named_modules():
        own = [key for key, p in part._parameters.items() if p is not None and p.requires_grad]
        if own and isinstance(part, pl.LightningModule):  # training_step is no forward pass that Opacus could watch
            raise ValueError(
                f"RecordDP: {'.'.join(filter(None, (path, own[0])))} is a parameter of a {type(part).__name__} itself, "
                "for which there are no gradients of single examples; put it into a torch.nn.Module that is called in "
                "training_step"
            )
        # Opacus passes over layers without trained parameters, but BatchNorm mixes examples without any.
        mixes = isinstance(part, nn.modules.batchnorm._BatchNorm)
        trained = any(parameter.requires_grad for parameter in part.parameters())
        validator = ModuleValidator.VALIDATORS.get(type(part)) if mixes or trained else None
        errors = [] if validator is None else validator(part)
        if errors:
            instead = "GroupNorm or LayerNorm" if "Norm" in type(part).__name__ else "the one in opacus.layers"
            raise ValueError(
                f"RecordDP: {name}.{path} is a {type(part).__name__}, for which there are no gradients of single "
                f"examples ({str(errors[0]).split('.')[0]}); use {instead} instead"
            )
