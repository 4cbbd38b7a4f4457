"""Promises over secure aggregation, in whole fits: what is released is what is released without it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit
from over_nodes import connected
from private import Net, began, people, weights
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import FedPer, Scaffold
from lightning_fed.core.processes import Processes
from lightning_fed.engines.sequential import Sequential
from lightning_fed.node.named_parts import known_classes, outbox_of
from lightning_fed.privacy import DPFTRL, AdaptiveClip, CentralDP, DistributedDP, LocalDP, Privacy, RecordDP, SkellamSum
from lightning_fed.secure import AbortError, SecureAggregation
from lightning_fed.selection import Availability, Poisson, Response, Uniform
from lightning_fed.server.secure_sum import SecureSum
from lightning_fed.server.session_choice import sessions
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates
from lightning_fed.wire.parts import description_of
from lightning_fed.worker.sealing import Sealing

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*NOT private"),
    pytest.mark.filterwarnings("ignore:.*remembers about each worker"),
]
SEEDED: dict[str, Any] = {"delta": 1e-5, "insecure_deterministic_noise": True}
SHARED = DistributedDP(clip=0.3, survivors=3, noise_multiplier=0.5, **SEEDED)
CENTRAL = CentralDP(clip=0.05, noise_multiplier=0.2, **SEEDED)
PROMISES: dict[str, Privacy] = {
    "all count the same": CENTRAL,
    "by examples": replace(CENTRAL, weight_cap=9),
    "a bound that moves": replace(CENTRAL, clip=AdaptiveClip(initial=0.05, count_std=0.5)),
    "by a tree": DPFTRL(clip=0.05, noise_multiplier=0.2, **SEEDED),
}


def trained(
    privacy: Privacy, secure: SecureAggregation | None, rounds: int = 3, n: int = 6, data: Any = None, **options: Any
) -> tuple[Tensor, FederatedModule]:
    module = Net()
    fed = FederatedModule(module, privacy=privacy, secure_aggregation=secure, **{"engine": "sequential", **options})
    fit(fed, FederatedDataModule(people(n), **(data or {})), max_steps=rounds)
    return weights(module), fed


# ---- noise that workers share ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["sequential", "vectorized", pytest.param("isolated", marks=pytest.mark.slow)])
@pytest.mark.parametrize("protocol", [False, True])
def test_shared_noise_is_the_same_to_the_last_bit(engine: str, protocol: bool) -> None:
    plain, _ = trained(SHARED, None, engine=engine)
    sealed, fed = trained(SHARED, SecureAggregation(protocol=protocol), engine=engine)
    assert torch.equal(plain, sealed)
    assert not torch.equal(plain, weights(Net()))
    assert fed.private_run is not None
    assert fed.private_run.accountant.history == ((SkellamSum(0.5, 0.3 * 2**16, 21), 3),)


@pytest.mark.filterwarnings("ignore:SecureAggregation. in a simulation checkpoints hold")
@pytest.mark.parametrize("algorithm", [Scaffold(), FedPer(["head.*"])], ids=lambda a: type(a).__name__)
def test_whatever_the_algorithm_sends_or_keeps(algorithm: Any) -> None:
    plain, _ = trained(SHARED, None, algorithm=algorithm)
    sealed, _ = trained(SHARED, SecureAggregation(), algorithm=algorithm)
    assert torch.equal(plain, sealed)


def test_with_real_noise_no_two_runs_are_the_same() -> None:
    open_ = replace(SHARED, insecure_deterministic_noise=False)
    assert not torch.equal(trained(open_, SecureAggregation())[0], trained(open_, SecureAggregation())[0])


@pytest.mark.parametrize("promise", [SHARED, CENTRAL], ids=lambda p: type(p).__name__)
def test_nodes_elsewhere_seal_what_a_simulation_does(promise: Privacy, tmp_path: Path) -> None:
    simulated, _ = trained(promise, SecureAggregation(threshold=0.6), rounds=2, n=5, data={"sampler": Uniform()})
    module = Net()
    engine, workers = connected(Net, people(5), tmp_path)
    fed = FederatedModule(module, privacy=promise, secure_aggregation=SecureAggregation(threshold=0.6), engine=engine)
    fit(fed, FederatedDataModule(workers, sampler=Uniform()), max_steps=2)
    assert torch.equal(weights(module), simulated)
    terms = engine._terms_now()
    assert terms.secure is not None
    other = {**terms.secure, "arguments": {**terms.secure["arguments"], "promise": description_of(CentralDP(9.0, 0.1))}}
    found = outbox_of(replace(terms, secure=other), known_classes(()))
    assert found.sealing is not None
    assert found.sealing.promise == promise, "whatever a server says beside it"


# ---- noise of the server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES)
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_the_servers_noise_is_put_on_the_sum_as_without(promise: Privacy, engine: str) -> None:
    """Six workers, and 32 bits: each number is off by less than a step of 2⁻²⁷ C, once when it is rounded in the sum of
    each round and once in the margin of the clip, which local training carries on; and float32 rounds the model."""
    plain, before = trained(promise, None, engine=engine)
    sealed, fed = trained(promise, SecureAggregation(), engine=engine)
    torch.testing.assert_close(sealed, plain, rtol=0, atol=1e-6)
    assert float((plain - weights(Net())).abs().max()) > 1e-3
    assert fed.private_run is not None
    assert before.private_run is not None
    assert fed.private_run.accountant.history == before.private_run.accountant.history
    assert fed.private_run.bound == pytest.approx(before.private_run.bound, rel=1e-12)
    if promise.moving:
        assert fed.private_run.bound != promise.bound()


def test_examples_that_are_hidden_in_local_training() -> None:
    promise = RecordDP(clip=1.0, sampling_rate=0.5, noise_multiplier=0.1, **SEEDED)
    plain, _ = trained(promise, None)
    sealed, _ = trained(promise, SecureAggregation(clip=100.0))
    torch.testing.assert_close(sealed, plain, rtol=0, atol=1e-5)  # a step is 100 · 2⁻²⁸


# ---- rounds that are given up ----------------------------------------------------------------------------------------


class Lost(Availability):
    """Some workers are lost on the way."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def respond(self, worker: str, number: int, seed: int) -> Response:
        return Response("lost" if worker in self.names else "replies")


@pytest.mark.parametrize("promise", [SHARED, CENTRAL], ids=lambda p: type(p).__name__)
def test_a_round_that_is_given_up_releases_nothing_and_is_charged(
    promise: Privacy, caplog: pytest.LogCaptureFixture
) -> None:
    """Of six, five are needed: with two lost no noise is released either, which a sum of nobody would be."""
    with caplog.at_level(logging.WARNING, "lightning_fed"):
        after, fed = trained(promise, SecureAggregation(), rounds=1, data={"availability": Lost("w1", "w4")})
    assert torch.equal(after, weights(Net()))
    assert "it changes nothing" in caplog.text
    assert fed.private_run is not None
    assert [count for _, count in fed.private_run.accountant.history] == [1]


@pytest.mark.parametrize("names", [3, 6])
def test_a_cohort_that_is_too_large_for_the_ring_or_too_small_is_given_up(names: int) -> None:
    promise = CENTRAL
    sealing = Sealing(SecureAggregation(least=4), cohort=5, promise=promise)
    job = Job(0, 0, 0, GlobalModel({"w": torch.zeros(2)}), LocalTraining(), promise={"bound": 1.0})
    numbers = torch.ones(names, dtype=torch.float64)
    workers = tuple(f"w{i}" for i in range(names))
    sent = sealing.sealed(Updates(0, workers, torch.ones(names, 2), {}, numbers, numbers, numbers, numbers), job)
    summing = SecureSum(promise.aggregator(began(promise)), sealing, sessions(sealing, Sequential()))
    with pytest.raises(AbortError, match=f"{names} workers take part, and from 4 to 5 were agreed on"):
        summing.finish(summing.fold([sent], job), Processes())


def test_cohorts_that_coins_draw_have_room_and_are_never_given_up() -> None:
    """Each of 60 workers with a chance of 5/6: below 28 or above 60 are none of 10¹² rounds."""
    data = {"cohort_size": 50, "sampler": Poisson()}
    plain, _ = trained(CENTRAL, None, n=60, data=data, rounds=2)
    sealed, _ = trained(CENTRAL, SecureAggregation(), n=60, data=data, rounds=2)
    torch.testing.assert_close(sealed, plain, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"least=40\): coins may draw fewer .* who was not drawn; give least="):
        trained(CENTRAL, SecureAggregation(least=40), n=60, data=data)
    with pytest.raises(ValueError, match=r"least=2\): .* give a larger cohort_size, or sampler=Uniform\(\)"):
        trained(CENTRAL, SecureAggregation(), data={"cohort_size": 3})


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("promise", "secure", "message"),
    [
        (LocalDP(1.0, 1.0, delta=1e-5), SecureAggregation(), "LocalDP does not go with secure_aggregation="),
        (CENTRAL, SecureAggregation(clip=1.0), r"clip=1\.0\): .* leave clip= out of SecureAggregation"),
        (SHARED, SecureAggregation(bits=12), "cohort_size=6: a sum of up to .* units does not fit into bits=12"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anyone_trains(promise: Any, secure: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trained(promise, secure)
