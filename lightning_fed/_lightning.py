"""Choice of the Lightning package that the user runs, made once.

``pytorch_lightning`` and ``lightning.pytorch`` are two disjoint class trees: a module of the one is a stranger to a
Trainer of the other. Everything in this package takes Lightning's names from here, so there is one answer. It is the
one that the program has imported already, else the one that is installed; the environment variable
``LIGHTNING_FED_PL`` (set to ``lightning.pytorch`` or ``pytorch_lightning``) overrides both.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from typing import TYPE_CHECKING

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

ENVIRONMENT_VARIABLE = "LIGHTNING_FED_PL"
NAMES = ("pytorch_lightning", "lightning.pytorch")


def choose() -> str:
    """Name the Lightning package that lightning_fed builds on.

    Returns:
        ``"pytorch_lightning"`` or ``"lightning.pytorch"``.

    Raises:
        ImportError: If ``LIGHTNING_FED_PL`` names neither of the two.
    """
    wanted = os.environ.get(ENVIRONMENT_VARIABLE)
    if wanted:
        if wanted not in NAMES:
            raise ImportError(f"{ENVIRONMENT_VARIABLE}={wanted!r}: use one of {', '.join(NAMES)}")
        return wanted
    imported = [name for name in NAMES if name in sys.modules]
    if imported:
        return imported[0]
    return NAMES[0] if importlib.util.find_spec(NAMES[0]) else NAMES[1]


# `_configure_optimizers` and `_configure_schedulers_*_opt` are private: they read every form that
# `configure_optimizers` may return, and a second reading of our own would drift from the Trainer's.
# `_extract_batch_size` says nothing and stops where it is asked to.
# `_given_hyperparameters_context` has `save_hyperparameters()` take the values of a command line's config.
# `_FxValidator` defines in which hooks `self.log` may be called, and whether about a step or an epoch.
if TYPE_CHECKING or choose() == NAMES[0]:
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import (
        BatchSizeFinder,
        LearningRateFinder,
        StochasticWeightAveraging,
        TQDMProgressBar,
    )
    from pytorch_lightning.cli import (
        ArgsType,
        LightningArgumentParser,
        LightningCLI,
        LRSchedulerCallable,
        OptimizerCallable,
        ReduceLROnPlateau,
        SaveConfigCallback,
        instantiate_class,
    )
    from pytorch_lightning.core.mixins.hparams_mixin import _given_hyperparameters_context
    from pytorch_lightning.core.optimizer import (
        LightningOptimizer,
        _configure_optimizers,
        _configure_schedulers_automatic_opt,
        _configure_schedulers_manual_opt,
    )
    from pytorch_lightning.core.saving import save_hparams_to_yaml
    from pytorch_lightning.loggers import Logger, TensorBoardLogger
    from pytorch_lightning.overrides.distributed import _IndexBatchSamplerWrapper
    from pytorch_lightning.plugins.io import CheckpointIO, TorchCheckpointIO
    from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
    from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
    from pytorch_lightning.trainer.connectors.data_connector import _resolve_overfit_batches
    from pytorch_lightning.trainer.connectors.logger_connector.fx_validator import _FxValidator
    from pytorch_lightning.trainer.states import RunningStage
    from pytorch_lightning.tuner.lr_finder import _LRCallback
    from pytorch_lightning.utilities import move_data_to_device
    from pytorch_lightning.utilities.combined_loader import CombinedLoader
    from pytorch_lightning.utilities.compile import to_uncompiled
    from pytorch_lightning.utilities.data import _extract_batch_size, extract_batch_size
    from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
    from pytorch_lightning.utilities.model_helpers import is_overridden
    from pytorch_lightning.utilities.seed import isolate_rng
    from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
else:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import (
        BatchSizeFinder,
        LearningRateFinder,
        StochasticWeightAveraging,
        TQDMProgressBar,
    )
    from lightning.pytorch.cli import (
        ArgsType,
        LightningArgumentParser,
        LightningCLI,
        LRSchedulerCallable,
        OptimizerCallable,
        ReduceLROnPlateau,
        SaveConfigCallback,
        instantiate_class,
    )
    from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
    from lightning.pytorch.core.optimizer import (
        LightningOptimizer,
        _configure_optimizers,
        _configure_schedulers_automatic_opt,
        _configure_schedulers_manual_opt,
    )
    from lightning.pytorch.core.saving import save_hparams_to_yaml
    from lightning.pytorch.loggers import Logger, TensorBoardLogger
    from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper
    from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
    from lightning.pytorch.trainer.connectors.data_connector import _resolve_overfit_batches
    from lightning.pytorch.trainer.connectors.logger_connector.fx_validator import _FxValidator
    from lightning.pytorch.trainer.states import RunningStage
    from lightning.pytorch.tuner.lr_finder import _LRCallback
    from lightning.pytorch.utilities import move_data_to_device
    from lightning.pytorch.utilities.combined_loader import CombinedLoader
    from lightning.pytorch.utilities.compile import to_uncompiled
    from lightning.pytorch.utilities.data import _extract_batch_size, extract_batch_size
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.model_helpers import is_overridden
    from lightning.pytorch.utilities.seed import isolate_rng
    from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

# A warning of Lightning's own use of torch, from torch 2.9 on. Python shows a warning once, and forgets so after each
# `catch_warnings`: in an evaluation it would come once for each worker.
warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")

__all__ = [
    "ArgsType",
    "BatchSizeFinder",
    "CheckpointIO",
    "CombinedLoader",
    "DDPStrategy",
    "LRSchedulerCallable",
    "LearningRateFinder",
    "LightningArgumentParser",
    "LightningCLI",
    "LightningOptimizer",
    "Logger",
    "MisconfigurationException",
    "OptimizerCallable",
    "ReduceLROnPlateau",
    "RunningStage",
    "SaveConfigCallback",
    "SingleDeviceStrategy",
    "StochasticWeightAveraging",
    "TQDMProgressBar",
    "TensorBoardLogger",
    "TorchCheckpointIO",
    "_FxValidator",
    "_IndexBatchSamplerWrapper",
    "_LRCallback",
    "_MultiProcessingLauncher",
    "_configure_optimizers",
    "_configure_schedulers_automatic_opt",
    "_configure_schedulers_manual_opt",
    "_extract_batch_size",
    "_given_hyperparameters_context",
    "_resolve_overfit_batches",
    "choose",
    "extract_batch_size",
    "instantiate_class",
    "is_overridden",
    "is_param_in_hook_signature",
    "isolate_rng",
    "move_data_to_device",
    "pl",
    "rank_zero_info",
    "rank_zero_warn",
    "refuse_foreign",
    "save_hparams_to_yaml",
    "to_uncompiled",
]


def refuse_foreign(thing: object, base: str, argument: str, may_be: str | None = None) -> None:
    """Refuse a module or datamodule that belongs to the other Lightning, or to none.

    Args:
        thing: The object that the user passed.
        base: The name of the class it must derive from: ``"LightningModule"`` or ``"LightningDataModule"``.
        argument: The argument's name, for the message.
        may_be: The permitted kinds in words, if they are more than such a ``base``.

    Raises:
        TypeError: If ``thing`` is no ``base`` of the Lightning in use; the message names the fix.
    """
    if isinstance(thing, getattr(pl, base)):
        return
    if isinstance(getattr(thing, "_orig_mod", None), getattr(pl, base)):
        raise TypeError(
            f"{argument} is compiled as a whole, and a copy of it could not be trained on a worker: give the {base} "
            "that was compiled, and have the workers' steps compiled by FederatedModule(module, "
            "engine=Sequential(compile=True))"
        )
    other = next(name for name in NAMES if name != pl.__name__)
    theirs = getattr(sys.modules.get(other), base, None)
    if theirs is not None and isinstance(thing, theirs):
        raise TypeError(
            f"{argument} is a {base} of {other}, but lightning_fed runs on {pl.__name__}, and the two do not mix: "
            f"import {other} before lightning_fed, or set the environment variable {ENVIRONMENT_VARIABLE}={other}"
        )
    may_be = may_be or f"a {pl.__name__}.{base}"
    given = f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
    kind = thing if isinstance(thing, type) else type(thing)
    if base == "LightningModule" and issubclass(kind, nn.Module) and not issubclass(kind, pl.LightningModule):
        raise TypeError(f"{argument} must be {may_be}, not {given}, which does not say how it trains; {_AROUND}")
    if isinstance(thing, type):
        given += f": give an object of it, such as {thing.__name__}()"
    raise TypeError(f"{argument} must be {may_be}, not {given}")


_AROUND = """put it into one:

    class Net(pl.LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = torch.nn.functional.mse_loss(self.model(x), y)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    fed = FederatedModule(Net(model))
"""
