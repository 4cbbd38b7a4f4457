"""Record-level differential privacy: single examples are hidden from all observers of a worker's update.

DP-SGD: Abadi et al., *Deep Learning with Differential Privacy*, 2016, in every worker's local training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import nn

from lightning_fed.core.arguments import number, settle
from lightning_fed.privacy.accounting import Kind
from lightning_fed.privacy.base import AUDIENCES, Privacy, check_settings
from lightning_fed.privacy.mechanisms import Mechanism, SubsampledGaussian
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.wire import Job, LocalTraining, RecordPrivacy


@final
@dataclass(frozen=True)
class RecordDP(Privacy):
    """Trains every worker by DP-SGD: clips the gradients of single examples, and adds noise to their sum.

    Batches are Poisson samples of the worker's examples and replace the loader's batches, ``1/sampling_rate`` of them
    in an epoch, so the cost is the same for every worker; the reported ε is that of a worker that takes part in every
    round. The loader's sampler defines the examples. ``training_step`` is called for each example separately, with a
    batch of one, and the sum of gradients is divided by the expected number of examples. Workers train one after
    another.

    Args:
        clip: The bound C on the L2 norm of each example's gradient.
        sampling_rate: The probability that an example is in a batch.
        delta: δ, less than one over the number of a worker's examples.
        noise_multiplier: The noise's standard deviation in units of C; None: the noise that ``epsilon`` requires.
        epsilon: The budget ε; training stops before the round that would exceed it. None: no budget.
        accountant: ``"pld"`` (tight) or ``"rdp"``; None: the first.
        release_metrics: Whether to log losses, metrics and counts of workers, which no guarantee covers.
        insecure_deterministic_noise: Whether batches and noise come from the seed of the run; it is then not private.

    Raises:
        ValueError: If an argument is out of range.
    """

    clip: float
    sampling_rate: float
    delta: float
    noise_multiplier: float | None = None
    epsilon: float | None = None
    accountant: Kind | None = None
    release_metrics: bool = False
    insecure_deterministic_noise: bool = False

    unit: ClassVar[Literal["worker", "example"]] = "example"
    audience: ClassVar[str] = AUDIENCES[2]
    any_aggregator: ClassVar[bool] = True
    counts_trainings: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self, self.clip)
        delta = number("delta", self.delta, above=0, below=1, owner=self)
        rate = number("sampling_rate", self.sampling_rate, above=0, most=1, owner=self)
        settle(self, delta=delta, sampling_rate=rate)

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        return SubsampledGaussian(noise_multiplier, self.sampling_rate)

    def releases(self, local: LocalTraining) -> int:
        if local.steps is not None:
            return local.steps
        return local.epochs * RecordPrivacy(self.clip, 1.0, self.sampling_rate).steps_per_pass

    def bound(self) -> float:
        return self.clip

    def aggregator(self, run: PrivateRun) -> None:
        return None

    def check_module(self, module: nn.Module) -> None:
        for path, part in module.named_modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                fault = "in which one example's output depends on others; use GroupNorm or LayerNorm instead"
            elif isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats:
                fault = "whose running statistics no noise covers; set track_running_stats=False"
            elif isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.max_norm is not None:
                fault = "which changes the rows that examples look up, and no noise covers that; leave max_norm out"
            else:
                continue
            name = ".".join(filter(None, (type(module).__name__, path)))
            raise ValueError(f"RecordDP: {name} is a {type(part).__name__}, {fault}")
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and torch.finfo(parameter.dtype).bits < 32:
                raise ValueError(
                    f"RecordDP: {name} is {str(parameter.dtype).removeprefix('torch.')}, in which gradients and noise "
                    "would be rounded too coarsely to hide an example; use Trainer(precision='32-true') or 'bf16-mixed'"
                )

    def job(self, job: Job, run: PrivateRun) -> Job:
        seed = run.setting.seed if run.insecure else None
        job = super().job(job, run)
        return replace(
            job,
            record_privacy=RecordPrivacy(self.clip, run.noise_multiplier, self.sampling_rate, seed),
            promise={**job.promise, "releases": run.releases},
        )
