"""Runs of every algorithm, promise and member of the zoo, and all that they leave."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from helpers import trainer
from menagerie import Anneals, cohort, member
from torch.utils import _pytree as pytree

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import (
    Algorithm,
    Cyclic,
    Ditto,
    FedAvg,
    FedBN,
    FedDyn,
    FedNova,
    FedPer,
    FedProx,
    FedRep,
    LGFedAvg,
    QFedAvg,
    Scaffold,
)
from lightning_fed.engines import Auto, Engine, Sequential, Vectorized
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.population import WorkerPool
from lightning_fed.privacy import DPFTRL, AdaptiveClip, CentralDP, DistributedDP, LocalDP, Privacy, RecordDP
from lightning_fed.transforms import EDEN, ClipNorm, Compressed, KBit, PowerSGD, TopK
from lightning_fed.wire import GlobalModel, Job, LocalTraining, WorkerError

ALGORITHMS: Mapping[str, Callable[[], Algorithm]] = {
    "FedAvg": FedAvg,
    "FedProx": lambda: FedProx(mu=0.1),
    "Scaffold": Scaffold,
    "FedDyn": lambda: FedDyn(alpha=0.05),
    "FedNova": FedNova,
    "QFedAvg": lambda: QFedAvg(q=1.0, lr=0.1),
    "Ditto": lambda: Ditto(lam=0.1),
    "FedBN": FedBN,
    "FedPer": lambda: FedPer(["head.*"]),
    "FedRep": lambda: FedRep(["head.*"], head_epochs=2),
    "LGFedAvg": lambda: LGFedAvg(["body.*"]),
    "Cyclic": Cyclic,
}

SEEDED: dict[str, Any] = {"noise_multiplier": 0.3, "insecure_deterministic_noise": True}

PROMISES: Mapping[str, Callable[[], Privacy | None]] = {
    "open": lambda: None,
    "central": lambda: CentralDP(clip=0.5, release_metrics=True, **SEEDED),
    "adaptive": lambda: CentralDP(clip=AdaptiveClip(0.3, count_std=2.0), **{**SEEDED, "noise_multiplier": 2.0}),
    "local": lambda: LocalDP(clip=0.5, **SEEDED),
    "distributed": lambda: DistributedDP(clip=0.5, survivors=3, **{**SEEDED, "noise_multiplier": 1.0}),
    "ftrl": lambda: DPFTRL(clip=0.5, **SEEDED),
    "record": lambda: RecordDP(clip=0.5, sampling_rate=0.5, delta=1e-5, **SEEDED),
}

COMPRESSED: Mapping[str, Callable[[], Compressed]] = {
    "eden": lambda: Compressed(EDEN(bits=2), least=1),
    "fed back": lambda: Compressed(TopK(0.3), least=1),
    "one bit, fed back": lambda: Compressed(EDEN(bits=1), error_feedback=True, least=1),
    "rounded": lambda: Compressed(KBit(bits=4), least=1),
    "low rank": lambda: Compressed(PowerSGD(rank=1), least=1),
}


def outcome(
    engine: Engine,
    algorithm: str,
    promise: str,
    name: str,
    workers: Any = None,
    rounds: int = 2,
    compressed: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """All that a run leaves, or the words in which it is refused; with options of the Trainer."""
    last = [] if compressed is None else [COMPRESSED[compressed]()]
    module = member(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            federated = FederatedModule(
                module,
                algorithm=ALGORITHMS[algorithm](),
                local_epochs=2,
                transforms=[ClipNorm(5.0), *last] if promise == "open" else last,
                engine=engine,
                privacy=PROMISES[promise](),
            )
            data = FederatedDataModule(cohort() if workers is None else workers)
            run = trainer(max_steps=rounds, max_epochs=-1, callbacks=[Anneals()], **options)
            run.fit(federated, data)
        except (ValueError, WorkerError, UnvectorizableError) as error:
            return {"refused": str(error), "cause": error.__cause__}
    report = federated.last_report
    return {
        "model": dict(module.state_dict()),
        "own": federated.own_state,
        "server": dict(federated.server_state),
        "workers": {worker: tuple(record) for worker, record in sorted(report.workers.items())},
        "bytes": (report.bytes_down, report.bytes_up),
        "metrics": {metric: float(value) for metric, value in run.callback_metrics.items() if "time" not in metric},
    }


def assert_bits(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True, check_device=False)


ENGINES: Mapping[str, Callable[[], Engine]] = {"sequential": Sequential, "vectorized": Vectorized, "auto": Auto}


def updates(engine: Engine, name: str, workers: Mapping[str, pl.LightningDataModule]) -> dict[str, Any]:
    """What leaves each worker in one round."""
    run = trainer()
    module = member(name).to(run.strategy.root_device)
    parameters = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    frozen = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}
    model = GlobalModel(parameters, {n: b.clone() for n, b in module.named_buffers()}, frozen=frozen)
    job = Job(3, 5, 11, model, LocalTraining(epochs=2))
    engine.setup(module, WorkerPool(workers, 10), run)
    results: dict[str, Any] = {}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for result in engine.run(job, list(workers)):
            if isinstance(result, WorkerError):
                results[result.worker] = str(result)
                continue
            parts = (result.delta, result.buffers, result.weight, result.loss, result.metrics)
            for row, worker in enumerate(result.workers):
                results[worker] = pytree.tree_map(lambda rows, row=row: rows[row].clone(), parts)
    engine.teardown()
    return results
