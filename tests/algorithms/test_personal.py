"""FedPer, LGFedAvg, FedBN and FedRep: what stays, what travels, and by what a worker is evaluated."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Rows, assert_equal, fit, trainer
from spy import Spy, length, tensor_bytes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toy import Turns

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms import Algorithm, Ditto, FedAvg, FedBN, FedPer, FedRep, LGFedAvg
from lightning_fed.testing.workload import Points, layered, memory, trained
from lightning_fed.transforms import ClipNorm, UpdateTransform
from lightning_fed.wire import WorkerError

pytestmark = pytest.mark.usefixtures("double")

engines = pytest.mark.parametrize("engine", ["sequential", "vectorized"])

KINDS: dict[str, tuple[Callable[[], Algorithm], str]] = {
    "FedPer": (lambda: FedPer(["head.*"]), "head."),
    "LGFedAvg": (lambda: LGFedAvg(["body.*"]), "body."),
    "FedBN": (FedBN, "norm."),
    "FedRep": (lambda: FedRep(["head.*"]), "head."),
}
each = pytest.mark.parametrize(("make", "stays"), KINDS.values(), ids=KINDS)


def own(federated: FederatedModule, worker: str) -> dict[str, Tensor]:
    """The parameters and buffers of a worker's own model."""
    return federated.personal_module(worker).state_dict()


# ---- what stays, and what travels -----------------------------------------------------------------------------------


@each
@engines
def test_what_stays_never_travels(make: Any, stays: str, engine: Any) -> None:
    spy, start = Spy(WeightedMean()), layered().state_dict()
    federated = trained(make(), 3, aggregator=spy, engine=engine)
    assert spy.seen
    for job, updates in spy.seen:
        for name, delta in job.model.layout.unflatten(updates.delta).items():
            moved = delta.flatten(1).abs().amax(dim=1) > 0
            assert not moved.any() if name.startswith(stays) else moved.all(), name
        for name, buffer in updates.buffers.items():
            same = (buffer == job.model.buffers[name]).reshape(len(updates.workers), -1).all(dim=1)
            assert same.all() if name.startswith(stays) else not same.any(), name
    for name, tensor in federated.module.state_dict().items():
        assert torch.equal(tensor, start[name]) == name.startswith(stays), name


@each
@engines
def test_each_worker_has_its_own(make: Any, stays: str, engine: Any) -> None:
    federated = trained(make(), 2, cohort_size=None, engine=engine)
    shared = federated.module.state_dict()
    first, second = own(federated, "w1"), own(federated, "w2")
    # As many batches were seen, and a bias before a ReLU that is never on does not move: so not every single tensor.
    assert any(not torch.equal(first[name], second[name]) for name in shared if name.startswith(stays))
    for name, tensor in shared.items():
        if not name.startswith(stays):
            assert torch.equal(first[name], tensor), name


class Norms(UpdateTransform):
    """Notes the norm of what leaves the workers."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def worker(self, updates: Any, job: Any, own: Any) -> Any:
        self.norms += updates.delta.norm(dim=1).tolist()
        return updates

    def server(self, aggregate: Any) -> Any:
        return aggregate


@each
def test_a_clipping_norm_counts_what_is_shared_alone(make: Any, stays: str) -> None:
    """However far a worker's own layers move, it does not take from what the others get of it."""
    before, after, spy = Norms(), Norms(), Spy(WeightedMean())
    trained(make(), 1, transforms=[before, ClipNorm(0.1), after], aggregator=spy, cohort_size=None)
    assert min(before.norms) > 0.1
    assert after.norms == pytest.approx([0.1] * 6, rel=1e-5)
    for job, updates in spy.seen:
        shared = [d.flatten(1) for n, d in job.model.layout.unflatten(updates.delta).items() if not n.startswith(stays)]
        assert torch.cat(shared, dim=1).norm(dim=1).tolist() == pytest.approx([0.1] * len(updates.workers), rel=1e-5)


class Two(pl.LightningModule):
    """The model ``body + head``, each moving towards ``target - the other``: numbers for hand and head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Parameter(torch.tensor(0.0))
        self.head = nn.Parameter(torch.tensor(0.0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return ((self.body + self.head - batch[0]) ** 2).mean() / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Value(pl.LightningDataModule):
    def __init__(self, value: float, rows: int = 1) -> None:
        super().__init__()
        self.rows = TensorDataset(torch.full((rows,), value))

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=1)


def two(algorithm: Algorithm, rounds: int, **options: Any) -> tuple[float, dict[str, float], FederatedModule]:
    """The global body and the workers' heads after some rounds of workers that want 1 and -3."""
    module = Two()
    federated = FederatedModule(module, algorithm=algorithm, **options)
    fit(federated, FederatedDataModule({"a": Value(1.0, 2), "b": Value(-3.0, 2)}), max_steps=rounds)
    assert module.head.item() == 0.0
    return module.body.item(), {name: own(federated, name)["head"].item() for name in "ab"}, federated


@engines
def test_fedper_by_hand(engine: Any) -> None:
    def by_hand(rounds: int) -> tuple[float, dict[str, float]]:
        body, heads = 0.0, {"a": 0.0, "b": 0.0}
        for _ in range(rounds):
            bodies = []
            for name, target in (("a", 1.0), ("b", -3.0)):
                mine = body
                for _ in range(2):
                    gradient = mine + heads[name] - target
                    mine, heads[name] = mine - 0.1 * gradient, heads[name] - 0.1 * gradient
                bodies.append(mine)
            body = sum(bodies) / 2
        return body, heads

    # Both go along 1 - (1 - 0.2)^2 of the way to 1, half of it each: 0.18, and three times that for -3.
    assert by_hand(1) == (pytest.approx(-0.18), pytest.approx({"a": 0.18, "b": -0.54}))
    for rounds in (1, 2, 4):
        body, heads, _ = two(FedPer(["head"]), rounds, engine=engine)
        assert (body, heads) == (pytest.approx(by_hand(rounds)[0]), pytest.approx(by_hand(rounds)[1]))


@engines
def test_fedrep_by_hand_trains_the_head_and_then_the_body(engine: Any) -> None:
    def by_hand(rounds: int, head_steps: int) -> tuple[float, dict[str, float]]:
        body, heads = 0.0, {"a": 0.0, "b": 0.0}
        for _ in range(rounds):
            bodies = []
            for name, target in (("a", 1.0), ("b", -3.0)):
                for _ in range(head_steps):
                    heads[name] -= 0.1 * (body + heads[name] - target)
                mine = body
                for _ in range(2):
                    mine -= 0.1 * (mine + heads[name] - target)
                bodies.append(mine)
            body = sum(bodies) / 2
        return body, heads

    # The head: 0 -> 0.1 -> 0.19; then the body: 0 -> 0.081 -> 0.1539; three times that, and less than 0, for b.
    assert by_hand(1, 2) == (pytest.approx(-0.1539), pytest.approx({"a": 0.19, "b": -0.57}))
    for rounds, epochs in ((1, 1), (3, 1), (2, 3)):
        body, heads, _ = two(FedRep(["head"], head_epochs=epochs), rounds, engine=engine)
        expected = by_hand(rounds, 2 * epochs)
        assert (body, heads) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_local_steps_are_those_of_the_body() -> None:
    _, heads, _ = two(FedRep(["head"]), 1, local_steps=5)
    assert heads["a"] == pytest.approx(0.19)  # a pass over two batches, still


class Steps(Two):
    """Notes which parameter moves in each step."""

    moved: list[tuple[str, ...]]
    before: dict[str, Tensor]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        type(self).before = {name: p.detach().clone() for name, p in self.named_parameters()}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = dict(self.named_parameters())
        type(self).moved.append(tuple(n for n, p in self.before.items() if not torch.equal(p, now[n])))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.1)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (FedRep(["head"]), [("head",)] * 2 + [("body",)] * 2),
        (FedPer(["head"]), [("body", "head")] * 2),
        (FedAvg(), [("body", "head")] * 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_parameters_move_in_which_step(algorithm: Algorithm, expected: list[tuple[str, ...]]) -> None:
    """A frozen one is passed over by the optimizer's weight decay too."""
    Steps.moved = []
    module = Steps()
    nn.init.constant_(module.body, 0.5)
    nn.init.constant_(module.head, 0.5)
    fit(FederatedModule(module, algorithm=algorithm), FederatedDataModule({"a": Value(3.0, 2)}))
    assert Steps.moved == expected


@engines
def test_a_worker_goes_on_from_its_own_layers_after_rounds_without_it(engine: Any) -> None:
    module = Two()
    federated = FederatedModule(module, algorithm=FedPer(["head"]), engine=engine)
    data = FederatedDataModule({"a": Value(1.0), "b": Value(5.0), "c": Value(5.0)}, cohort_size=1, sampler=Turns())
    fit(federated, data, max_steps=4)
    body, heads = 0.0, {"a": 0.0, "b": 0.0, "c": 0.0}
    for name, target in (("a", 1.0), ("b", 5.0), ("c", 5.0), ("a", 1.0)):
        gradient = body + heads[name] - target
        body, heads[name] = body - 0.1 * gradient, heads[name] - 0.1 * gradient
    assert module.body.item() == pytest.approx(body)
    assert {name: own(federated, name)["head"].item() for name in "abc"} == pytest.approx(heads)


@engines
def test_fedbn_keeps_statistics_with_the_worker(engine: Any) -> None:
    """Two workers whose inputs lie far apart: each has the mean of its own in the end, and the global one has none."""

    class Norm(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)
            self.head = nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.head(self.norm(batch[0].unsqueeze(1))).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    class Inputs(pl.LightningDataModule):
        def __init__(self, mean: float) -> None:
            super().__init__()
            self.rows = TensorDataset(torch.tensor([mean - 1, mean + 1]))

        def train_dataloader(self) -> Any:
            return DataLoader(self.rows, batch_size=2)

    module = Norm()
    federated = FederatedModule(module, algorithm=FedBN(), engine=engine)
    fit(federated, FederatedDataModule({"low": Inputs(-10.0), "high": Inputs(10.0)}), max_steps=3)
    expected = 10 * (1 - 0.9**3)
    assert own(federated, "high")["norm.running_mean"].item() == pytest.approx(expected)
    assert own(federated, "low")["norm.running_mean"].item() == pytest.approx(-expected)
    assert own(federated, "low")["norm.num_batches_tracked"].item() == 3
    assert own(federated, "low")["norm.num_batches_tracked"].dtype == torch.int64
    assert (module.norm.running_mean.item(), module.norm.num_batches_tracked.item()) == (0.0, 0)


def test_what_is_remembered_is_no_larger_than_what_stays() -> None:
    rows = memory(trained(FedPer(["head.*"]), 1))["workers"]
    assert {table: len(row) for table, parts in rows.items() for row in parts.values()} == {"personal": 6 * 3 + 3}


# ---- patterns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FedPer, FedRep, FedBN])
@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["neck.*"], "'neck.\\*' matches none of the trained parameters"),
        (["head.*", "neck"], "'neck' matches none of the trained parameters"),
        (["head"], "'head' matches none of the trained parameters"),  # not a prefix
        (["*"], "matches every parameter, so there is no global model"),
        (["body.*", "norm.*", "head.*"], "matches every parameter"),
    ],
)
def test_patterns_that_cannot_work_are_refused_at_the_start(kind: Any, patterns: list[str], message: str) -> None:
    module = layered()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=message):
        trained(kind(patterns), 1, module)
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [FedPer, FedRep, FedBN])
@pytest.mark.parametrize("patterns", [[], (), "head.*"])
def test_patterns_that_are_none(kind: Any, patterns: Any) -> None:
    with pytest.raises(ValueError, match="must be a list of name patterns, such as"):
        kind(patterns)


def test_fedbn_without_batch_norm() -> None:
    with pytest.raises(ValueError, match=r"FedBN\(\) finds no layer with running statistics"):
        two(FedBN(), 1)


def test_epochs_out_of_range() -> None:
    with pytest.raises(ValueError, match="head_epochs=0 must be at least 1"):
        FedRep(["head"], head_epochs=0)


class Growing(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 1), nn.Linear(1, 1)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen = torch.cat([self.seen, torch.ones(1)])
        loss: Tensor = self.head(self.body(batch[0].unsqueeze(1))).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("engine", ["sequential", "auto"])
def test_a_buffer_that_grows_in_the_heads_training_is_named(engine: Any) -> None:
    federated = FederatedModule(Growing(), algorithm=FedRep(["head.*"]), engine=engine)
    message = r"worker 'a' failed in round 0: .* gave the buffer seen the shape \(1,\) in place of \(0,\)"
    with pytest.raises(WorkerError, match=message):
        fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])}))


class Retyped(Growing):
    """Whole numbers that become fractions."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.seen = torch.zeros(0, dtype=torch.float16)
        return loss


def test_an_own_buffer_whose_dtype_changes_is_named() -> None:
    federated = FederatedModule(Retyped(), algorithm=FedPer(["head.*", "seen"]), engine="sequential")
    message = r"'a' keeps its own buffer seen, which became torch.float16 from torch.float64 in local training"
    with pytest.raises(WorkerError, match=message):
        fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])}))


# ---- evaluation -----------------------------------------------------------------------------------------------------


class Evaluated(Two):
    """Says what the model is that it is evaluated by, and may fail."""

    broken = False

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.broken:
            raise RuntimeError("in the middle of it")
        self.log("val_head", self.head.detach().clone())
        self.log("val_body", self.body.detach().clone())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_head", self.head.detach().clone())

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.body + self.head).item()


class EvaluatedValue(Value):
    def val_dataloader(self) -> Any:
        return self.train_dataloader()

    test_dataloader = predict_dataloader = val_dataloader


def evaluated(algorithm: Algorithm, **data: Any) -> tuple[FederatedModule, FederatedDataModule]:
    """Two workers that have trained for three rounds, and a third one that never did."""
    federated = FederatedModule(Evaluated(), algorithm=algorithm)
    population = {"a": EvaluatedValue(1.0), "b": EvaluatedValue(-3.0)}
    fit(federated, FederatedDataModule(population, **data), max_steps=3, limit_val_batches=0)
    return federated, FederatedDataModule({**population, "new": EvaluatedValue(0.0)}, **data)


@pytest.mark.parametrize("algorithm", [FedPer(["head"]), FedRep(["head"]), Ditto(0.1)], ids=lambda a: type(a).__name__)
def test_each_worker_is_evaluated_by_its_own(algorithm: Algorithm) -> None:
    federated, data = evaluated(algorithm)
    module = federated.module
    mine = {name: own(federated, name) for name in ("a", "b", "new")}
    heads = {name: tensors["head"].item() for name, tensors in mine.items()}
    assert len(set(heads.values())) == 3
    assert heads["new"] == module.head.item()
    before = copy.deepcopy(module.state_dict())

    (metrics,) = trainer().validate(federated, data, verbose=False)
    assert metrics["val_head"] == pytest.approx(sum(heads.values()) / 3)
    (metrics,) = trainer().test(federated, data, verbose=False)
    assert metrics["test_head"] == pytest.approx(sum(heads.values()) / 3)
    predictions = trainer().predict(federated, data)
    expected = [(tensors["body"] + tensors["head"]).item() for tensors in mine.values()]
    assert predictions == pytest.approx(expected)
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


def test_the_global_model_is_back_even_if_the_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    federated, data = evaluated(FedPer(["head"]))
    before = copy.deepcopy(federated.module.state_dict())
    monkeypatch.setattr(Evaluated, "broken", True)
    with pytest.raises(RuntimeError, match="in the middle of it"):
        trainer().validate(federated, data, verbose=False)
    torch.testing.assert_close(federated.module.state_dict(), before, rtol=0, atol=0)


def test_central_data_see_the_global_model() -> None:
    federated, data = evaluated(FedPer(["head"]), val=EvaluatedValue(0.0))
    (metrics,) = trainer().validate(federated, data, verbose=False)
    assert metrics["val_head"] == federated.module.head.item() == 0.0
    assert metrics["val_body"] == pytest.approx(federated.module.body.item())


def test_evaluation_between_rounds_does_not_disturb_training() -> None:
    ends = []
    for limit in (0, 1.0):
        module = Evaluated()
        federated = FederatedModule(module, algorithm=FedPer(["head"]))
        data = FederatedDataModule({"a": EvaluatedValue(1.0), "b": EvaluatedValue(-3.0)})
        fit(federated, data, max_steps=4, limit_val_batches=limit, num_sanity_val_steps=2 if limit else 0)
        ends.append((module.state_dict(), memory(federated)))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_buffers_of_a_worker_are_those_of_its_evaluation_and_gone_after_it() -> None:
    """BatchNorm in evaluation normalises by the worker's own statistics."""
    federated = trained(FedBN(), 2, cohort_size=None)
    shared = federated.module.norm.running_mean.clone()
    mean = federated.personal_module("w1").norm.running_mean
    assert torch.equal(mean, federated.own_state["personal_buffers"]["w1"][: len(mean)].to(mean))
    assert not torch.equal(mean, shared)
    assert torch.equal(federated.module.norm.running_mean, shared)


# ---- equivalences ---------------------------------------------------------------------------------------------------


@engines
def test_with_one_worker_fedper_is_fedavg(engine: Any) -> None:
    """All layers move on as if they were shared; only where they lie is different."""
    population = {"only": Points(3)}
    fedper, fedavg = (
        trained(algorithm, 4, layered().double(), population, cohort_size=None, engine=engine)
        for algorithm in (FedPer(["head.*", "norm.*"]), FedAvg())
    )
    assert_equal(own(fedper, "only"), dict(fedavg.module.state_dict()))


def test_lgfedavg_is_fedper_on_the_first_layers() -> None:
    assert LGFedAvg is FedPer


def test_what_stays_is_not_counted_as_traffic() -> None:
    spies = {}
    for algorithm in (FedAvg(), FedPer(["head"])):
        module, spy = Two(), Spy()
        federated = FederatedModule(module, algorithm=algorithm, aggregator=spy)
        fit(federated, FederatedDataModule({"a": Value(1.0, 2), "b": Value(-3.0, 2)}), max_steps=1)
        assert federated.last_report.bytes_up == length(spy.updates())
        assert federated.last_report.bytes_down == length(spy.jobs())
        spies[type(algorithm)] = spy
    for worker in ("a", "b"):  # one double less: the body's comes, the head's does not
        assert tensor_bytes(spies[FedAvg].updates()[worker]) == 8 * (2 + 5)  # and four numbers and the learning rate
        assert tensor_bytes(spies[FedPer].updates()[worker]) == 8 * (1 + 5)


def test_a_workers_module_can_be_taken_away() -> None:
    _, heads, federated = two(FedPer(["head"]), rounds=2)
    module: Any = federated.module
    before = copy.deepcopy(module.state_dict())
    taken: dict[str, Any] = {worker: federated.personal_module(worker) for worker in heads}
    assert {worker: own.head.item() for worker, own in taken.items()} == pytest.approx(heads)
    assert len(set(heads.values())) == 2
    assert all(own.body.item() == module.body.item() for own in taken.values())
    next(iter(taken.values())).head.data.fill_(99.0)
    assert module.state_dict() == before
