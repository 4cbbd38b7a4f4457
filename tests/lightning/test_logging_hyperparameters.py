"""What loggers are told of the settings of a run."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from helpers import Rows, Scalar, fit
from pytorch_lightning.loggers.logger import Logger

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import FedProx
from lightning_fed.privacy import CentralDP

OURS = {
    "algorithm": "FedAvg",
    "aggregator": "WeightedMean",
    "transforms": "[]",
    "server_optimizer": "SGD(lr=1.0)",
    "server_optimizer/lr": 1.0,
    **{f"server_optimizer/{name}": 0 for name in ("momentum", "dampening", "weight_decay")},
    **{f"server_optimizer/{name}": False for name in ("nesterov", "maximize")},
    "server_lr_scheduler": None,
    "local_epochs": 1,
    "local_steps": None,
    "local_lr_schedule": None,
    "local_optimizer_state": "fresh",
    "local_schedule": "restart",
    "engine": "sequential",
    "engine/asked": "Sequential",
    "engine/compile": False,
    "engine/channels_last": False,
    "privacy": None,
    "secure_aggregation": None,
    "broadcast": None,
    "on_worker_error": "raise",
    "min_workers": 1,
    "worker_timeout": None,
    "log_workers_up_to": 20,
    "state_memory_mb": 256,
    "model/parameters": 1,
    **dict.fromkeys(("workers", "population", "cohort_size"), 2),
    "population/class": "dict",
    "population/worker/batch_size": 1,
    "population/worker/shuffle": False,
    "rounds_per_epoch": 1,
    **dict.fromkeys(("sampler", "availability", "val", "eval_cohort_size")),
    "seed": None,
    "data/seed": 0,
    "cached_workers": 1000,
    "trainer/max_epochs": 1,
    "trainer/max_steps": -1,
    "trainer/accumulate_grad_batches": 1,
    "trainer/gradient_clip_val": None,
    "trainer/gradient_clip_algorithm": None,
    **{f"trainer/limit_{kind}_batches": 1.0 for kind in ("train", "val", "test", "predict")},
    "trainer/val_check_interval": 1.0,
    "trainer/check_val_every_n_epoch": 1,
    "trainer/reload_dataloaders_every_n_epochs": 0,
    "trainer/min_epochs": 0,
    "trainer/min_steps": None,
    "trainer/deterministic": False,
    "trainer/overfit_batches": 0.0,
    "trainer/precision": "32-true",
}
"""All that is logged of a fit of two workers with the defaults, one by one."""


class Told(Logger):
    name, version = "told", 0

    def __init__(self) -> None:
        self.hyperparameters: dict[str, Any] = {}

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.hyperparameters = dict(params)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass


class Saving(Rows):
    def __init__(self, values: Any, **settings: Any) -> None:
        super().__init__(values)
        self.save_hyperparameters(settings)


class Named(Scalar):
    def __init__(self, algorithm: str, seed: int) -> None:
        super().__init__()
        self.save_hyperparameters()


class Silent(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"secret": 1}, logger=False)


def told(module: Any, data: FederatedDataModule, **options: Any) -> dict[str, Any]:
    logger = Told()
    fit(FederatedModule(module, **options), data, logger=logger)
    return logger.hyperparameters


def two(**settings: Any) -> dict[str, Rows]:
    return {"a": Saving([1.0], **settings), "b": Saving([2.0], **settings)}


def test_those_of_the_module_and_of_the_federated_training() -> None:
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])})
    logged = told(Scalar(lr=0.5), data, engine="sequential")
    assert len(logged.pop("model/checksum")) == 8
    assert logged == {"lr": 0.5, "x": 0.0, "model": "Scalar", **OURS}
    logged = told(Scalar(), data, algorithm=FedProx(mu=0.1), local_steps=2)
    assert (logged["algorithm"], logged["algorithm/mu"], logged["local_steps"]) == ("FedProx(mu=0.1)", 0.1, 2)


def test_a_name_that_the_module_has_taken_stays_its_own() -> None:
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])}, seed=3)
    pl.seed_everything(5, verbose=False)
    logged = told(Named("adam", seed=7), data)
    assert (logged["algorithm"], logged["federated/algorithm"]) == ("adam", "FedAvg")
    assert (logged["seed"], logged["federated/seed"], logged["data/seed"]) == (7, 5, 3)


def test_what_a_module_keeps_from_loggers_is_kept_from_them() -> None:
    logged = told(Silent(), FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])}), engine="sequential")
    del logged["model/checksum"]
    assert logged == {"model": "Silent", **OURS}


def test_those_of_datamodules_as_far_as_they_agree() -> None:
    data = FederatedDataModule({"a": Saving([1.0], size=8, split=0), "b": Saving([2.0], size=8, split=1)})
    logged = told(Scalar(), data)
    assert logged["size"] == 8
    assert "split" not in logged
    central = FederatedDataModule(two(size=8), val=Saving([3.0], size=9, folder="here"))
    logged = told(Scalar(), central)
    assert logged["folder"] == "here"
    assert "size" not in logged


def test_a_datamodule_that_contradicts_the_module_is_refused_as_in_lightning() -> None:
    with pytest.raises(RuntimeError, match=r"the keys \['lr'\] are present in both"):
        told(Scalar(lr=0.5), FederatedDataModule(two(lr=0.1)))
    assert told(Scalar(lr=0.5), FederatedDataModule(two(lr=0.5)))["lr"] == 0.5
    assert told(Scalar(), FederatedDataModule(two(seed=5)))["seed"] == 5  # no contradiction to ours


@pytest.mark.parametrize("release", [True, False])
@pytest.mark.filterwarnings("ignore:CentralDP")
def test_under_a_promise_workers_keep_theirs(release: bool) -> None:
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=0.1, release_metrics=release)
    logged = told(Scalar(), FederatedDataModule(two(size=8)), privacy=promise)
    assert ("size" in logged) is release
