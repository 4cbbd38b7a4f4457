"""The oracle: a worker in a process that holds its data only and gets bytes only gives what `Sequential` gives.

`Isolated` equals `Sequential` bit for bit and `Vectorized` to 1e-9 in double precision, for every algorithm, promise
and member. `make test` takes every pair of an algorithm and a promise, and each member with several of both;
`make oracle` takes every triple.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import assert_equal, trainer
from menagerie import MEMBERS, ONE_BY_ONE, Anneals, cohort, member
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
from lightning_fed.engines import Auto, Engine, Isolated, Sequential, Vectorized
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.population import WorkerPool
from lightning_fed.privacy import DPFTRL, AdaptiveClip, CentralDP, DistributedDP, LocalDP, Privacy, RecordDP
from lightning_fed.transforms import ClipNorm
from lightning_fed.wire import GlobalModel, Job, LocalTraining, WorkerError

pytestmark = pytest.mark.usefixtures("double")

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
    "adaptive": lambda: CentralDP(clip=AdaptiveClip(0.3), **{**SEEDED, "noise_multiplier": 2.0}),
    "local": lambda: LocalDP(clip=0.5, **SEEDED),
    "distributed": lambda: DistributedDP(clip=0.5, survivors=3, **{**SEEDED, "noise_multiplier": 1.0}),
    "ftrl": lambda: DPFTRL(clip=0.5, **SEEDED),
    "record": lambda: RecordDP(clip=0.5, sampling_rate=0.5, delta=1e-5, **SEEDED),
}


def _covering() -> Iterator[tuple[str, str, str]]:
    """Triples (algorithm, promise, member) in which every pair with a promise occurs, and more where all are open."""
    members, promises = list(MEMBERS), list(PROMISES)
    for i, algorithm in enumerate(ALGORITHMS):
        for j, promise in enumerate(promises):
            yield algorithm, promise, members[(i + 2 * j) % len(members)]
    mean = ("Scaffold", "FedAvg", "Ditto", "FedPer", "FedDyn", "FedBN")
    for i, name in enumerate(members):
        yield mean[i % len(mean)], promises[1 + i % (len(promises) - 1)], name
        yield list(ALGORITHMS)[(5 * i + 2) % len(ALGORITHMS)], "open", name


COVERING = list(dict.fromkeys(_covering()))
ALL = list(itertools.product(ALGORITHMS, PROMISES, MEMBERS))


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    """One engine for all tests: to start children takes seconds."""
    engine = Isolated(processes=2, persistent=True)
    yield engine
    engine.close()


def outcome(engine: Engine, algorithm: str, promise: str, name: str) -> dict[str, Any]:
    """All that a run of two rounds leaves, or the words in which it is refused."""
    module = member(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            federated = FederatedModule(
                module,
                algorithm=ALGORITHMS[algorithm](),
                local_epochs=2,
                transforms=[ClipNorm(5.0)] if promise == "open" else [],
                engine=engine,
                privacy=PROMISES[promise](),
            )
            data = FederatedDataModule(cohort())
            run = trainer(max_steps=2, max_epochs=-1, callbacks=[Anneals()])
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
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def hold(isolated: Isolated, algorithm: str, promise: str, name: str) -> None:
    expected = outcome(Sequential(), algorithm, promise, name)
    alone = outcome(isolated, algorithm, promise, name)
    if "refused" in expected:
        assert alone.get("refused") == expected["refused"]
        return
    assert "refused" not in alone, alone["refused"]
    assert_bits(alone, expected)
    together = outcome(Vectorized(), algorithm, promise, name)
    if "refused" in together:
        assert name in ONE_BY_ONE or promise == "record", together["refused"]
        assert ONE_BY_ONE.get(name, "") in together["refused"] or promise == "record"
        assert_bits(outcome(Auto(), algorithm, promise, name), expected)
        return
    assert name not in ONE_BY_ONE
    assert_equal(together, expected)


@pytest.mark.parametrize(("algorithm", "promise", "name"), COVERING)
def test_every_engine_gives_the_same(isolated: Isolated, algorithm: str, promise: str, name: str) -> None:
    hold(isolated, algorithm, promise, name)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "promise", "name"), ALL)
def test_every_engine_gives_the_same_for_all(isolated: Isolated, algorithm: str, promise: str, name: str) -> None:
    hold(isolated, algorithm, promise, name)


# ---- a worker is closed ----------------------------------------------------------------------------------------------

ENGINES: Mapping[str, Callable[[], Engine]] = {"sequential": Sequential, "vectorized": Vectorized, "auto": Auto}


def updates(engine: Engine, name: str, workers: Mapping[str, pl.LightningDataModule]) -> dict[str, Any]:
    """What leaves each worker in one round."""
    module = member(name)
    parameters = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    frozen = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}
    model = GlobalModel(parameters, {n: b.clone() for n, b in module.named_buffers()}, frozen=frozen)
    job = Job(3, 5, 11, model, LocalTraining(epochs=2))
    engine.setup(module, WorkerPool(workers, 10), trainer())
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


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("kind", ["isolated", *ENGINES])
def test_no_worker_depends_on_anothers_data(isolated: Isolated, kind: str, name: str) -> None:
    if kind == "vectorized" and name == "hook":
        return  # it is refused before there are workers
    engine = isolated if kind == "isolated" else ENGINES[kind]()
    one, other = updates(engine, name, cohort()), updates(engine, name, cohort(ann=5.0))
    for worker in ("bob", "cyd", "dee"):
        if isinstance(one[worker], str):
            assert kind == "vectorized"
            assert ONE_BY_ONE[name] in one[worker] == other[worker]
        elif kind in ("vectorized", "auto"):
            assert_equal(other[worker], one[worker])  # products of stacks are not always summed in one order
        else:
            assert_bits(other[worker], one[worker])
    if not isinstance(one["ann"], str):
        assert not torch.equal(one["ann"][0], other["ann"][0])


@pytest.mark.parametrize("name", ["dropout", "transformer", "remembering"])
def test_a_worker_is_the_same_in_any_cohort_bit_for_bit(isolated: Isolated, name: str) -> None:
    everyone = updates(isolated, name, cohort())
    for worker in everyone:
        assert_bits(updates(isolated, name, {worker: cohort()[worker]})[worker], everyone[worker])


def test_a_vectorized_worker_that_is_refused_says_why() -> None:
    for name, reason in ONE_BY_ONE.items():
        together = outcome(Vectorized(), "FedAvg", "open", name)
        assert reason in together["refused"], together["refused"]


def test_the_zoo_is_as_it_was_after_a_copy() -> None:
    for name in MEMBERS:
        assert_bits(dict(copy.deepcopy(member(name)).state_dict()), dict(member(name).state_dict()))
