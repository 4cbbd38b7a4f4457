"""What left a worker: as on the wire, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit
from spy import Spy
from torch import nn
from zoo import NETS, Points, Zoo

from lightning_fed.algorithms import Algorithm, Ditto, FedAvg, FedBN, FedDyn, FedPer, Scaffold
from lightning_fed.module import FederatedModule
from lightning_fed.privacy import CentralDP, LocalDP, Privacy, RecordDP
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.transforms import ClipNorm
from lightning_fed.wire import report
from lightning_fed.wire.contents import Leaves

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "FedAvg": FedAvg,
    "Scaffold": Scaffold,
    "FedDyn": lambda: FedDyn(alpha=0.1),
    "Ditto": lambda: Ditto(lam=0.1),
    "FedBN": FedBN,
    "FedPer": lambda: FedPer(["net.0.*"]),
}


def looked_into(fed: FederatedModule, *names: str) -> Leaves:
    """What left a worker in the first of two rounds."""
    fit(fed, FederatedDataModule({name: Points(i, 8) for i, name in enumerate(names)}), max_steps=2)
    assert fed.leaves is not None
    return fed.leaves


def named(leaves: Leaves, kind: str) -> set[str]:
    return {row.name for row in (*leaves.up, *leaves.stays) if row.kind == kind}


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_parts_make_up_the_messages(name: str, engine: Any) -> None:
    spy = Spy()
    module = Zoo(NETS["batch norm"](), metrics=True)
    leaves = looked_into(
        FederatedModule(module, algorithm=ALGORITHMS[name](), aggregator=spy, engine=engine), "a", "worker_17"
    )
    assert leaves.worker is not None
    assert (leaves.round, leaves.bytes_up) == (0, len(spy.updates()[leaves.worker]))
    assert leaves.bytes_down == len(spy.jobs()[leaves.worker])


def test_each_part_has_its_name_and_its_bytes() -> None:
    """One float x: its change, four bytes; then four numbers and the learning rate, eight bytes each."""
    fed = FederatedModule(Scalar())
    fit(fed, FederatedDataModule({"bob": Rows([1.0, 2.0, 3.0])}), max_steps=1)
    assert fed.leaves is not None
    header, change, *numbers = fed.leaves.up
    assert (header.kind, header.bytes % 16) == ("header", 0)
    assert (change.kind, change.name, change.dtype, change.bytes) == ("delta", "x", "float32", 4)
    assert [row.name for row in numbers[:4]] == ["examples", "weight", "loss", "steps"]
    assert {row.bytes for row in numbers} == {8}
    assert fed.last_report.bytes_up == fed.leaves.bytes_up
    assert fed.last_report.bytes_down == fed.leaves.bytes_down


def test_personal_layers_and_statistics_stay() -> None:
    leaves = looked_into(FederatedModule(Zoo(NETS["batch norm"]()), algorithm=FedBN()), "bob", "eve")
    own = {"net.1.weight", "net.1.bias", "net.1.running_mean", "net.1.running_var", "net.1.num_batches_tracked"}
    assert own <= named(leaves, "stays")
    assert not own & (named(leaves, "delta") | named(leaves, "buffer"))
    leaves = looked_into(FederatedModule(Zoo(NETS["batch norm"]()), algorithm=FedPer(["net.0.*"])), "bob", "eve")
    assert "net.0.weight" in named(leaves, "stays")
    assert {"net.1.running_mean", "net.1.num_batches_tracked"} <= named(leaves, "buffer")


def test_what_an_algorithm_sends_besides_is_named() -> None:
    leaves = looked_into(FederatedModule(Zoo(NETS["linear"]()), algorithm=Scaffold()), "bob", "eve")
    (extra,) = [row for row in leaves.up if row.kind == "extra"]
    assert (extra.bytes, "Scaffold" in extra.why) == (4 * (8 * 3 + 3), True)
    assert any(row.kind == "sent" and "Scaffold" in row.why for row in leaves.down)
    assert any(row.name.startswith("own state") for row in leaves.stays)


def test_logged_values_and_metric_objects_are_named() -> None:
    leaves = looked_into(FederatedModule(Zoo(NETS["linear"](), metrics=True)), "bob")
    assert {"train_loss", "largest", "accuracy"} <= named(leaves, "metric")
    assert any(name.endswith("accuracy.tp") for name in named(leaves, "metric_state"))


def test_a_parameter_that_is_not_trained_leaves_once_it_moves() -> None:
    net = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
    net[0].weight.requires_grad_(False)
    leaves = looked_into(FederatedModule(Zoo(net)), "bob")
    assert "net.0.weight" not in named(leaves, "delta") | named(leaves, "buffer")
    assert "net.0.bias" in named(leaves, "delta")


PROMISES: dict[str, Callable[[], Privacy]] = {
    "central": lambda: CentralDP(clip=1.0, noise_multiplier=1.0, delta=0.1),
    "weighed": lambda: CentralDP(clip=1.0, noise_multiplier=1.0, delta=0.1, weight_cap=5),
    "local": lambda: LocalDP(clip=1.0, noise_multiplier=1.0, delta=0.1),
    "record": lambda: RecordDP(clip=1.0, sampling_rate=0.5, noise_multiplier=1.0, delta=0.1),
    "released": lambda: CentralDP(clip=1.0, noise_multiplier=1.0, delta=0.1, release_metrics=True),
}


@pytest.mark.filterwarnings("ignore:CentralDP.* losses, metrics and counts of workers are shown")
@pytest.mark.parametrize("name", PROMISES)
def test_under_a_promise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    measure = report.updates_bytes
    monkeypatch.setattr(report, "updates_bytes", lambda *given: lengths.extend(measure(*given)) or lengths[-1:])
    module = Zoo(nn.Sequential(nn.Linear(8, 3), Counter()))
    leaves = looked_into(FederatedModule(module, privacy=PROMISES[name]()), "bob", "eve")
    assert leaves.bytes_up in lengths[:2]
    assert "net.1.count" in named(leaves, "stays")
    hidden = name != "released"
    assert (leaves.worker is None) == (leaves.round is None) == hidden
    assert (not named(leaves, "metric") and not named(leaves, "rate")) == hidden
    examples = next(row.why for row in leaves.up if row.name == "examples")
    assert examples.startswith("hidden") == (hidden and name != "weighed")
    assert not hidden or "bob" not in str(leaves.as_json()) + "eve"


@pytest.mark.filterwarnings("ignore:LocalDP. checkpoints hold what")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_under_a_promise_the_planned_messages_are_those_that_are_sent(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account is that of the plan; the lengths are those of what two workers with names of one length send."""
    up: list[int] = []
    down: list[int] = []
    measure, measure_job = report.updates_bytes, report.job_bytes
    monkeypatch.setattr(report, "updates_bytes", lambda *given: up.extend(measure(*given)) or up[-2:])
    monkeypatch.setattr(report, "job_bytes", lambda *given: down.append(measure_job(*given)) or down[-1])
    net = NETS["batch norm"]() if name == "FedBN" else nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))
    module = Zoo(net)
    promise = LocalDP(clip=1.0, noise_multiplier=1.0, delta=0.1)
    fed = FederatedModule(module, ALGORITHMS[name](), transforms=[ClipNorm(1.0)], privacy=promise, engine="vectorized")
    leaves = looked_into(fed, "bob", "eve")
    assert (leaves.bytes_up, leaves.bytes_down) == (up[0], down[0])
    assert named(leaves, "extra") == ({"control"} if name == "Scaffold" else set())


class Counter(nn.Module):
    """A layer with a buffer."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_names_of_the_cohort_cannot_be_told_from_a_hidden_header() -> None:
    """The longest name of the population stands in for whoever took part."""
    lengths = []
    for first in ("bob", "a" * 60):
        promise = LocalDP(clip=1.0, noise_multiplier=1.0, delta=0.1)
        fed = FederatedModule(Zoo(NETS["linear"]()), privacy=promise, engine="sequential")
        fit(fed, FederatedDataModule({first: Points(0, 8), "b" * 60: Points(1, 8)}), max_steps=1)
        assert fed.leaves is not None
        lengths.append((fed.leaves.bytes_up, fed.leaves.bytes_down))
    assert lengths[0] == lengths[1]
