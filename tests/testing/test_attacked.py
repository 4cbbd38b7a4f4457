"""Attacks around an aggregator: what is replaced and what is not, the same on every engine, and after a checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cohorts import AwayInRound1, HalfOfBefore, job, stack
from helpers import Rows, Scalar, assert_equal, fit, trainer
from jsonargparse import ArgumentParser
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import (
    Aggregator,
    Bucketing,
    Bulyan,
    CenteredClipping,
    GeometricMedian,
    Krum,
    Median,
    NearestNeighborMixing,
    NormalizedMean,
    RobustAggregator,
    TrimmedMean,
    UniformMean,
    WeightedMean,
)
from lightning_fed.algorithms import FedAvg, FedNova, FedPer, Scaffold
from lightning_fed.core.processes import Processes
from lightning_fed.engines import Isolated
from lightning_fed.privacy import CentralDP, LocalDP
from lightning_fed.secure import SecureAggregation
from lightning_fed.testing import Points, check_aggregator, made_up
from lightning_fed.testing.attacks import (
    ALIE,
    IPM,
    Attack,
    Attacked,
    BitFlip,
    Gaussian,
    LabelFlip,
    Mimic,
    SameValue,
    Scaled,
    Seen,
    SignFlip,
)
from lightning_fed.testing.workload import layered
from lightning_fed.wire import Aggregate, Job, Updates, WorkerError

ATTACKS: list[Attack] = [
    *(SignFlip(scale=2), Scaled(factor=5), SameValue(value=0.1), Gaussian(std=0.1)),
    *(IPM(epsilon=0.5), ALIE(), BitFlip(bits=[32, 23], coordinates=20), Mimic(warm_up=2)),
]
INNER: list[Aggregator[Any]] = [
    *(WeightedMean(), UniformMean(), NormalizedMean(momentum=0.5), Median(), TrimmedMean(2)),
    *(Krum(2), Bulyan(2), GeometricMedian(weighted=True), CenteredClipping(radius=1e6)),
    *(Bucketing(Krum(1), size=2), NearestNeighborMixing(Median(), attackers=2)),
]

each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
each_inner = pytest.mark.parametrize("inner", INNER, ids=lambda inner: type(inner).__name__)


def combined(aggregator: Aggregator[Any], sent: Job, *stacks: Updates) -> Aggregate:
    of_round = aggregator.of_round(sent, {})
    return of_round.finish(of_round.fold(iter(stacks), sent), Processes())


def of(aggregator: Aggregator[Any], rows: list[list[float]], weight: list[float] | None = None) -> list[float]:
    """The aggregate of workers w0, w1, ..."""
    delta = torch.tensor(rows, dtype=torch.float64)
    sent = job({"w": torch.zeros(delta.shape[1], dtype=torch.float64)})
    aggregate: list[float] = combined(aggregator, sent, stack(delta, weight or [1.0] * len(rows))).delta.tolist()
    return aggregate


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_lies_take_the_place_of_the_attackers_updates() -> None:
    assert of(Attacked(UniformMean(), SignFlip(scale=10), ["w1"]), [[3, 1], [1, 2]]) == [-3.5, -9.5]
    assert of(Attacked(UniformMean(), IPM(epsilon=2), ["w1", "w2"]), [[3, 1], [1, 2], [8, 8]]) == [-3, -1]
    assert of(Attacked(Median(), SameValue(value=-5), ["w0"]), [[3], [4], [5]]) == [4]


def test_an_attacker_counts_as_much_as_it_says() -> None:
    """(1 · 3 - 3 · 2)/4."""
    assert of(Attacked(WeightedMean(), SignFlip(), ["w1"]), [[3], [2]], weight=[1, 3]) == [-0.75]


def test_all_attackers_see_their_own_updates() -> None:
    assert of(Attacked(UniformMean(), IPM(epsilon=2), ["w0", "w1"]), [[3, 1], [1, 3]]) == [-4, -4]


def test_groups_with_different_attacks() -> None:
    """To the outer group the inner one looks honest: its mean is (3 + 5)/2."""
    groups = Attacked(Attacked(UniformMean(), SignFlip(), ["w1"]), IPM(epsilon=1), ["w2"])
    assert of(groups, [[3], [5], [100]]) == pytest.approx([(3 - 5 - 4) / 3])


def test_what_an_attack_sees() -> None:
    """All rows by name, with what an algorithm has sent besides, on whatever stacks they come."""
    saw: list[Seen] = []

    @dataclass(frozen=True)
    class Looks(Attack):
        def lies(self, seen: Seen) -> Tensor:
            saw.append(seen)
            return seen.own

    sent = replace(job({"w": torch.zeros(2)}), extra=("besides",), round=7)
    updates = replace(made_up(sent, ["d", "a", "c", "b"]))
    rows = [updates.rows(torch.arange(4) == i) for i in (2, 0, 3, 1)]
    for stacks in ([updates], rows):
        combined(Attacked(Median(), Looks(), ["c", "b", "x"]), sent, *stacks)
        seen = saw.pop()
        assert (seen.honest_workers, seen.attackers, seen.workers, seen.round) == (("a", "d"), ("b", "c"), 4, 7)
        both = torch.cat([updates.delta, updates.extra["besides"]], dim=1)
        assert torch.equal(seen.honest, both[[1, 0]])
        assert torch.equal(seen.own, both[[3, 2]])


# ---- what stays -----------------------------------------------------------------------------------------------------


@each_inner
@each_attack
def test_without_attackers_it_is_the_inner_aggregator_bit_for_bit(inner: Aggregator[Any], attack: Attack) -> None:
    sent = replace(job({"w": torch.zeros(30)}, {"mean": torch.zeros(3), "n": torch.tensor(1)}), extra=("besides",))
    updates = made_up(sent, [f"w{i:02}" for i in range(11)])
    alone, attacked = (combined(each, sent, updates) for each in (inner, Attacked(inner, attack, ["elsewhere"])))
    assert_same(alone, attacked)


@each_inner
def test_the_suite_holds_of_it(inner: Aggregator[Any]) -> None:
    """Without attackers, with ones that send what they learn, and with ones that copy: if all agree, the same."""
    check_aggregator(lambda: Attacked(inner, SignFlip(), ["elsewhere"]))
    check_aggregator(lambda: Attacked(inner, Scaled(factor=1), ["w00", "w03"]))
    check_aggregator(lambda: Attacked(inner, Mimic(), ["w00", "w03"]))


@each_attack
def test_all_but_update_and_extra_is_as_if_honest(attack: Attack) -> None:
    sent = replace(job({"w": torch.zeros(30)}, {"mean": torch.zeros(3), "n": torch.tensor(1)}), extra=("besides",))
    updates = made_up(sent, [f"w{i:02}" for i in range(7)])
    before = updates.delta.clone()
    honest, attacked = (
        combined(each, sent, updates) for each in (UniformMean(), Attacked(UniformMean(), attack, ["w01", "w04"]))
    )
    assert not torch.equal(attacked.delta, honest.delta)
    assert not torch.equal(attacked.extra["besides"], honest.extra["besides"]) or isinstance(attack, BitFlip)
    torch.testing.assert_close(attacked.buffers, honest.buffers, rtol=0, atol=0)
    assert torch.equal(updates.delta, before), "what came in was written to"


def test_numbers_that_do_not_travel_stay() -> None:
    """Of w, which travels, it is (1 + 5)/2; v stays, and so does the number that makes room for complex parameters."""
    sent = job({"w": torch.zeros(1), "v": torch.zeros(1)})
    updates = replace(stack(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), [1, 1]), stays=frozenset({"v"}))
    attacked = Attacked(UniformMean(), SameValue(value=5), ["w1"])
    assert combined(attacked, sent, updates).delta.tolist() == [3, 0]
    uneven = job({"c": torch.zeros(1, dtype=torch.complex64), "w": torch.zeros(1)})
    rows = torch.tensor([[1.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 0.0]])
    assert combined(attacked, uneven, stack(rows, [1, 1])).delta.tolist() == [3, 3, 3, 0]


@each_attack
def test_layers_that_stay_with_workers_stay(attack: Attack) -> None:
    module = layered().double()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    federated = FederatedModule(module, FedPer(["head.*"]), aggregator=Attacked(UniformMean(), attack, ["w1", "w3"]))
    fit(federated, points(), max_steps=2)
    after = dict(module.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("head"))
    assert not torch.equal(after["body.weight"], before["body.weight"])


def points() -> FederatedDataModule:
    return FederatedDataModule({f"w{i}": Points(i) for i in range(6)})


def test_the_rule_is_that_of_the_innermost() -> None:
    """By which buffers that appear late are combined, and an algorithm that lies in its mean is recognized."""
    nested = Attacked(Attacked(Median(), SignFlip(), ["w1"]), IPM(epsilon=1), ["w2"])
    assert nested.rule == Median()
    assert isinstance(nested.rule, RobustAggregator)
    assert Attacked(NormalizedMean(), SignFlip(), ["w1"]).counts_steps
    assert not Attacked(Median(), SignFlip(), ["w1"]).counts_steps
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FederatedModule(Scalar(), FedNova(), aggregator=Attacked(NormalizedMean(), SignFlip(), ["w1"]))
    with pytest.warns(UserWarning, match="what FedNova does lies in its mean"):
        FederatedModule(Scalar(), FedNova(), aggregator=Attacked(Median(), SignFlip(), ["w1"]))


def test_buffers_that_appear_late_follow_the_rule_of_the_innermost() -> None:
    class Late(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not hasattr(self, "seen"):
                self.register_buffer("seen", batch[0].mean())
            return super().training_step(batch, batch_idx)

    data = {"a": Rows([1.0]), "b": Rows([2.0]), "c": Rows([90.0])}
    medians = []
    for aggregator in (Median(), Attacked(Median(), SignFlip(), ["c"])):
        federated = FederatedModule(Late(), aggregator=aggregator)
        fit(federated, FederatedDataModule(data), max_steps=1)
        medians.append(float(federated.module.seen))
    assert medians == [2.0, 2.0]


# ---- engines, processes, checkpoints --------------------------------------------------------------------------------


def run(attack: Attack, engine: Any = "sequential", rounds: int = 3, resume: Path | None = None, **options: Any) -> Any:
    """Train in double precision, with BatchNorm, cohorts of 5 of 6 workers, of whom up to two attack."""
    federated = FederatedModule(
        layered(dropout=0.0).double(), aggregator=Attacked(Median(), attack, ["w1", "w3"]), engine=engine, **options
    )
    data = FederatedDataModule({f"w{i}": Points(i) for i in range(6)}, cohort_size=5)
    one = trainer(max_steps=rounds)
    one.fit(federated, data, ckpt_path=resume)
    return federated, one


def state(federated: FederatedModule) -> dict[str, Any]:
    return {"model": federated.module.state_dict(), "memory": federated.server_state}


@each_attack
def test_workers_trained_together_give_the_same(attack: Attack) -> None:
    assert_equal(state(run(attack, "vectorized")[0]), state(run(attack)[0]))


@pytest.mark.slow
def test_workers_in_processes_of_their_own_give_the_same_bit_for_bit() -> None:
    one, other = (state(run(Mimic(warm_up=2), engine)[0]) for engine in ("sequential", Isolated(processes=1)))
    torch.testing.assert_close(other, one, rtol=0, atol=0)


@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold()])
def test_an_attack_changes_the_run(algorithm: Any) -> None:
    honest = FederatedModule(layered(dropout=0.0).double(), algorithm=algorithm)
    fit(honest, points(), max_steps=3)
    for attack in ATTACKS:
        module = layered(dropout=0.0).double()
        attacked = Attacked(algorithm.aggregator(), attack, ["w1", "w3"])
        fit(FederatedModule(module, algorithm=algorithm, aggregator=attacked), points(), max_steps=3)
        assert not torch.equal(module.body.weight, honest.module.body.weight), attack


@each_attack
def test_a_resumed_run_is_the_same_bit_for_bit(attack: Attack, tmp_path: Path) -> None:
    whole, _ = run(attack, rounds=4)
    run(attack, rounds=2)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(attack, rounds=4, resume=tmp_path / "half.ckpt")
    torch.testing.assert_close(state(resumed), state(whole), rtol=0, atol=0)
    remembers = isinstance(attack, Mimic)
    names = ["copied", "direction", "rounds"] if remembers else []
    assert sorted(whole.server_state) == [f"aggregator.attack.{name}" for name in names]


def test_each_remembers_its_own() -> None:
    """Also under a name that Mimic has, too.

    Attackers copy the only honest worker, so that the mean is its update: to 1, by 0 + 1/2, by 0.5 - 1/4 back.
    """
    attacked = Attacked(Attacked(HalfOfBefore("copied"), Mimic(), ["b"]), Mimic(warm_up=2), ["c"])
    federated = FederatedModule(Scalar(), aggregator=attacked)
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([1.0]), "c": Rows([7.0])})
    places = []
    for _ in range(3):
        fit(federated, data, max_steps=1)
        places.append(float(federated.module.x.detach()))
    assert places == [1.0, 1.5, 1.25]
    assert sorted(name.removeprefix("aggregator.") for name in federated.server_state) == [
        *(f"attack.{name}" for name in ("copied", "direction", "rounds")),
        *(f"inner.attack.{name}" for name in ("copied", "direction", "rounds")),
        "inner.inner.copied",
    ]
    assert int(federated.server_state["aggregator.attack.rounds"]) == 2


def test_a_round_that_is_given_up_is_not_remembered() -> None:
    federated = FederatedModule(Scalar(), aggregator=Attacked(Median(), Mimic(warm_up=9), ["a"]))
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])}, availability=AwayInRound1())
    fit(federated, data, max_steps=3)
    assert int(federated.server_state["aggregator.attack.rounds"]) == 2


def test_chance_is_that_of_the_seed_and_the_round() -> None:
    def lies(seed: int, cohort: int) -> list[float]:
        sent = replace(job({"w": torch.zeros(2)}), seed=seed, cohort=cohort)
        return combined(
            Attacked(Krum(0), Gaussian(std=1), ["w0", "w1", "w2"]), sent, stack(torch.zeros(3, 2), [1] * 3)
        ).delta.tolist()

    torch.manual_seed(1)
    one = lies(0, 0)
    torch.manual_seed(2)
    assert lies(0, 0) == one
    assert len({tuple(lies(seed, cohort)) for seed in (0, 1) for cohort in (0, 1)}) == 4


def test_it_can_be_named_in_a_config() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(Aggregator, "aggregator")
    attacks, flip = "lightning_fed.testing.attacks", {"bits": [32]}
    arguments = {
        "aggregator": {"class_path": "lightning_fed.aggregation.Median"},
        "attack": {"class_path": f"{attacks}.BitFlip", "init_args": flip},
        "attackers": ["w3", "w1"],
    }
    config = parser.parse_object({"aggregator": {"class_path": f"{attacks}.Attacked", "init_args": arguments}})
    made = parser.instantiate(config).aggregator
    assert made == Attacked(Median(), BitFlip(bits=[32]), ["w1", "w3"])


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_name_that_no_worker_has_is_refused_before_anything_trains() -> None:
    class Untouched(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            pytest.fail("it trained")

    data = FederatedDataModule({"alice": Rows([1.0]), "bob": Rows([2.0])})
    for attackers in (["alice", "bobb"], ["bobb"]):
        federated = FederatedModule(Untouched(), aggregator=Attacked(Median(), SignFlip(), attackers))
        with pytest.raises(ValueError, match="attackers has 'bobb', which is no worker; did you mean 'bob'"):
            fit(federated, data)
    nested = Attacked(Attacked(Median(), SignFlip(), ["carol"]), SignFlip(), ["bob"])
    with pytest.raises(ValueError, match="attackers has 'carol', which is no worker; there are 2 workers: alice, bob"):
        fit(FederatedModule(Untouched(), aggregator=nested), data)


@pytest.mark.parametrize(
    "promise", [CentralDP(clip=1.0, noise_multiplier=1.0), LocalDP(clip=1.0, noise_multiplier=1.0)]
)
def test_promises_are_refused(promise: Any) -> None:
    with pytest.raises(ValueError, match=r"aggregator=Attacked does not go with \w+DP: it treats an update by whose"):
        FederatedModule(Scalar(), aggregator=Attacked(UniformMean(), SignFlip(), ["a"]), privacy=promise)


def test_secure_aggregation_is_refused() -> None:
    attacked = Attacked(UniformMean(), SignFlip(), ["a"])
    with pytest.raises(ValueError, match="Attacked needs each worker's update, and secure_aggregation shows sums only"):
        FederatedModule(Scalar(), aggregator=attacked, secure_aggregation=SecureAggregation(clip=4.0))


def test_too_small_a_cohort_is_refused_for_the_inner_one() -> None:
    with pytest.raises(ValueError, match="n=2 workers"):
        Attacked(Krum(1), SignFlip(), ["a"]).check(2)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"attackers": "w1"}, TypeError, r"attackers='w1' must be a list of names of workers, such as \['w3', 'w7'\]"),
        ({"attackers": []}, ValueError, "attackers is empty: name a worker that attacks"),
        ({"attackers": ["w1", 3]}, TypeError, "attackers=3 must be a string"),
        ({"attackers": [""]}, ValueError, "attackers='' must be a string that is not empty"),
        ({"attack": LabelFlip(10)}, TypeError, r"attack=LabelFlip.* changes data.*poison\(workers"),
        ({"attack": SignFlip}, TypeError, r"attack must be an Attack, such as SignFlip\(\)"),
        ({"aggregator": FedAvg()}, TypeError, r"aggregator must be an Aggregator, such as Median\(\)"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Attacked(**{"aggregator": Median(), "attack": SignFlip(), "attackers": ["w1"], **arguments})


def test_other_wrappers_stand_inside() -> None:
    with pytest.raises(TypeError, match="aggregator"):
        Bucketing(Attacked(Median(), SignFlip(), ["a"]))


def test_names_are_kept_in_order_and_once() -> None:
    assert Attacked(Median(), SignFlip(), ["b", "a", "b"]) == Attacked(Median(), SignFlip(), {"a", "b"})


def test_numbers_that_are_not_finite_name_attacker_and_round() -> None:
    federated = FederatedModule(Scalar(), aggregator=Attacked(Median(), Scaled(factor=1e300), ["b"]))
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([1.0])})
    with pytest.raises(
        WorkerError, match=r"worker 'b' failed in round 0: Scaled\(factor=1e\+300\) made numbers .* not finite"
    ):
        fit(federated, data)


def test_lies_of_another_shape_are_refused() -> None:
    @dataclass(frozen=True)
    class Short(Attack):
        def lies(self, seen: Seen) -> Tensor:
            return torch.zeros(1)

    with pytest.raises(
        ValueError, match=r"Short\(\).lies\(\) gave the shape \(1,\) for \(1, 2\): give one row for each"
    ):
        of(Attacked(Median(), Short(), ["w1"]), [[1, 2], [3, 4]])


def assert_same(one: Aggregate, other: Aggregate) -> None:
    """Bit for bit."""
    for part in ("delta", "buffers", "extra"):
        torch.testing.assert_close(getattr(other, part), getattr(one, part), rtol=0, atol=0)
