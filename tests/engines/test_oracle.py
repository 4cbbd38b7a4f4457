"""The oracle: a worker in a process that holds its data only and gets bytes only gives what `Sequential` gives.

`Isolated` equals `Sequential` bit for bit and `Vectorized` to 1e-9 in double precision, for every algorithm, promise
and member. `make test` takes every pair of an algorithm and a promise, and each member with several of both;
`make oracle` takes every triple.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import assert_equal
from menagerie import MEMBERS, ONE_BY_ONE, cohort, member
from oracle import ALGORITHMS, ENGINES, PROMISES, assert_bits, outcome, updates

from lightning_fed.engines import Auto, Isolated, Sequential, Vectorized

pytestmark = pytest.mark.usefixtures("double")


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


def hold(isolated: Isolated, algorithm: str, promise: str, name: str, **options: Any) -> None:
    expected = outcome(Sequential(), algorithm, promise, name, **options)
    alone = outcome(isolated, algorithm, promise, name, **options)
    if "refused" in expected:
        assert alone.get("refused") == expected["refused"]
        return
    assert "refused" not in alone, alone["refused"]
    assert_bits(alone, expected)
    together = outcome(Vectorized(), algorithm, promise, name, **options)
    if "refused" in together:
        assert name in ONE_BY_ONE or promise == "record", together["refused"]
        assert ONE_BY_ONE.get(name, "") in together["refused"] or promise == "record"
        assert_bits(outcome(Auto(), algorithm, promise, name, **options), expected)
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


@pytest.mark.parametrize(
    ("algorithm", "promise", "name", "compressed"),
    [
        ("FedAvg", "open", "transformer", "eden"),
        ("Scaffold", "open", "dropout", "fed back"),
        ("FedPer", "open", "batch norm", "fed back"),
        ("FedDyn", "open", "complex", "one bit, fed back"),
        ("Ditto", "open", "padding", "rounded"),
        ("FedRep", "open", "transformer", "low rank"),
        ("FedAvg", "local", "complex", "eden"),
        ("Scaffold", "central", "late buffers", "eden"),
        ("FedAvg", "record", "adam", "one bit, fed back"),
    ],
)
def test_every_engine_gives_the_same_of_compressed_updates(
    isolated: Isolated, algorithm: str, promise: str, name: str, compressed: str
) -> None:
    hold(isolated, algorithm, promise, name, compressed=compressed)


# ---- a worker is closed ----------------------------------------------------------------------------------------------


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
