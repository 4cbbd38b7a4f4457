"""The model as codes on its way to the workers: its bytes, what workers train from, and what becomes of its error."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_equal, fit, trainer
from oracle import ALGORITHMS, assert_bits
from over_nodes import nodes_of
from spy import Spy, length
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.engines import Engine, Isolated, Sequential, Vectorized
from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.privacy import CentralDP, LocalDP
from lightning_fed.secure import SecureAggregation
from lightning_fed.testing import Loopback, OverLoopback
from lightning_fed.transforms import EDEN, Compressed, Compressor, Form, KBit, Sign, TopK
from lightning_fed.transforms.compression.broadcast import Broadcast
from lightning_fed.wire import GlobalModel, Job, LocalTraining, WireError, decode_job, encode_job, job_bytes
from lightning_fed.wire.container import Packed, pack
from lightning_fed.wire.contents import job_contents


def model(dtype: torch.dtype = torch.float32) -> GlobalModel:
    generator = torch.Generator().manual_seed(1)
    return GlobalModel(
        {
            "weight": torch.randn(20, 30, generator=generator).to(dtype),
            "bias": torch.randn(20, generator=generator).to(dtype),
        },
        {"mean": torch.ones(400), "count": torch.tensor(3)},
    )


def job_of(sent: GlobalModel, cohort: int = 4) -> Job:
    return Job(2, cohort, 5, sent, LocalTraining())


def sent_by(compressor: Compressor, own: GlobalModel | None = None, cohort: int = 4) -> Job:
    return job_of(Broadcast(compressor).compressed(model() if own is None else own, 5, cohort), cohort)


# ---- bytes -----------------------------------------------------------------------------------------------------------


def test_a_model_by_hand() -> None:
    """256 levels from 0 to 255 are the numbers themselves; a byte each, the smallest one and the step."""
    numbers = torch.arange(512.0).remainder(256)
    own = GlobalModel({"x": numbers, "short": torch.randn(255)}, {"mean": torch.randn(300)})
    sent = Broadcast(KBit(8)).compressed(own, seed=0, cohort=0)
    assert torch.equal(sent.parameters["x"], numbers)
    assert list(sent.codes) == ["x"], "neither buffers nor short tensors"
    assert sent.codes["x"].tolist()[8:] == numbers.tolist()
    assert sent.codes["x"][:8].view(torch.float32).tolist() == [0.0, 1.0]
    assert sent.parameters["short"] is own.parameters["short"]
    assert sent.buffers == own.buffers
    assert sent.frozen == own.frozen


@pytest.mark.parametrize(
    ("dtype", "saved"),
    [
        (torch.float32, 600 * 4 - 608),
        (torch.float64, 600 * 8 - 616),  # the smallest number and the step have eight bytes
        (torch.bfloat16, 600 * 2 - 608),
        (torch.float16, 600 * 2 - 608),
        (torch.complex64, 600 * 8 - 1208),
        (torch.complex128, 600 * 16 - 1216),
    ],
    ids=str,
)
def test_what_arrives_is_what_workers_are_said_to_train_from(dtype: torch.dtype, saved: int) -> None:
    job, plain = sent_by(KBit(8), model(dtype)), job_of(model(dtype))
    message = encode_job(job)
    arrived = decode_job(message, coder=Broadcast(KBit(8)))
    assert arrived.model.parameters["weight"].dtype == dtype
    assert list(arrived.model.parameters) == ["weight", "bias"]
    assert_bits(dict(arrived.model.parameters), dict(job.model.parameters))
    assert_bits(dict(arrived.model.buffers), dict(plain.model.buffers))
    assert encode_job(arrived) == message
    assert len(message) == job_bytes(job) == sum(part.bytes for part in job_contents(job))
    assert abs(len(encode_job(plain)) - len(message) - saved) <= 48, "but for the header, and what aligns it"
    error = (job.model.parameters["weight"] - plain.model.parameters["weight"]).abs().max()
    assert 0 < float(error) < 0.05, "the numbers are spread over 6, in 255 steps"


def test_lengths_do_not_mix_up_what_is_compressed_and_what_is_not() -> None:
    """They are remembered by names, dtypes and shapes."""
    for job in (job_of(model()), sent_by(KBit(8)), sent_by(KBit(4)), job_of(model())):
        assert job_bytes(job) == len(encode_job(job))


@pytest.mark.parametrize("compressor", [KBit(8), EDEN(4)], ids=str)
def test_each_round_and_each_tensor_has_randomness_of_its_own_and_all_workers_the_same(compressor: Compressor) -> None:
    own = GlobalModel({"one": torch.randn(512), "other": torch.zeros(512)})
    own.parameters["other"].copy_(own.parameters["one"])
    first, again, later = (Broadcast(compressor).compressed(own, 0, cohort) for cohort in (0, 0, 1))
    assert_bits(dict(first.codes), dict(again.codes))
    assert not torch.equal(first.codes["one"], first.codes["other"])
    assert not torch.equal(first.codes["one"], later.codes["one"])


def test_what_codes_would_not_shorten_crosses_as_it_is() -> None:
    own = GlobalModel({"x": torch.randn(300).half()})
    assert Broadcast(Unshortened()).compressed(own, 0, 0).codes == {}
    assert list(Broadcast(Unshortened()).compressed(GlobalModel({"x": torch.randn(300)}), 0, 0).codes) == ["x"]


class Unshortened(Compressor):
    """Two bytes for a number, as half precision has."""

    unbiased, contracts = False, True

    def num_bytes(self, form: Form) -> int:
        return 2 * form.size

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        return rows.bfloat16().flatten(1).view(torch.uint8)

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        return codes.clone().view(torch.bfloat16).to(form.dtype).view(len(codes), *form.shape)


def test_a_model_that_has_diverged_is_not_made_whole_by_its_codes() -> None:
    for wrong in (float("nan"), float("inf")):
        own = model()
        own.parameters["weight"][3, 3] = wrong
        for compressor in (KBit(8), EDEN(2)):
            assert not torch.isfinite(sent_by(compressor, own).model.parameters["weight"]).all()


# ---- bytes from anyone -----------------------------------------------------------------------------------------------


def altered(change: Callable[[dict[str, Any], dict[str, Tensor]], None], coder: Broadcast | None) -> Job:
    packed = Packed(encode_job(sent_by(KBit(8))))
    header = packed.header
    names = [*(f"buffers/{name}" for name in header["buffers"]), "parameters/bias", "codes/weight", "numbers"]
    tensors = {name: packed.take(name) for name in names}
    packed.close()
    change(header, tensors)
    return decode_job(pack(header, tensors), coder=coder)


def test_an_unaltered_message_is_read() -> None:
    assert altered(lambda header, tensors: None, Broadcast(KBit(8))).model.codes.keys() == {"weight"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: t.update({"codes/weight": t["codes/weight"][1:]}), r"'weight' are \[607\] .*makes 608 bytes"),
        (lambda h, t: t.update({"codes/weight": t["codes/weight"].char()}), r"\[608\] of torch.int8"),
        (lambda h, t: t.update({"codes/weight": t["codes/weight"][None]}), r"\[1, 608\]"),
        (lambda h, t: t.pop("codes/weight"), "'codes/weight' is missing"),
        (lambda h, t: h["coded"].update(weight=["float32", [20, 31]]), "makes 628 bytes of the shape"),
        (lambda h, t: h["coded"].update(weight=["float32", [20, 0]]), "no dtype and shape for 'weight'"),
        (lambda h, t: h["coded"].update(weight=["float32", [20, -30]]), "no dtype and shape for 'weight'"),
        (lambda h, t: h["coded"].update(weight=["float32", [1] * 65]), "no dtype and shape for 'weight'"),
        (
            lambda h, t: h["coded"].update(weight=["float32", [2**59, 2**59]]),
            "makes 332306998946228",
        ),
        (lambda h, t: h["coded"].update(weight=["int64", [20, 30]]), "no dtype and shape for 'weight'"),
        (lambda h, t: h["coded"].update(weight=[["float32"], [20, 30]]), "no dtype and shape for 'weight'"),
        (lambda h, t: h["coded"].update(weight=None), "no dtype and shape for 'weight'"),
        (lambda h, t: h["coded"].update(other=["float32", [20, 30]]), "codes of 'other', which is no parameter"),
        (lambda h, t: h.update(coded=["weight"]), "'coded' holds a list, not a dict"),
        (lambda h, t: h.update(coded={}), "'parameters/weight' is missing"),
    ],
)
def test_codes_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    with pytest.raises(WireError, match=message):
        altered(change, Broadcast(KBit(8)))


def test_a_compressed_model_is_not_read_without_the_compressor() -> None:
    with pytest.raises(WireError, match="the job's model is compressed, and nothing says how"):
        decode_job(encode_job(sent_by(KBit(8))))
    with pytest.raises(WireError, match=r"KBit\(bits=4\) makes 308 bytes"):
        decode_job(encode_job(sent_by(KBit(8))), coder=Broadcast(KBit(4)))


# ---- what becomes of the error ---------------------------------------------------------------------------------------


class Wide(pl.LightningModule):
    """Two matrices of more than 256 numbers, with dropout and a normalization between them."""

    def __init__(self, lr: float = 0.1, norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> None:
        super().__init__()
        self.lr = lr
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body, self.norm, self.head = nn.Linear(6, 64), norm(64), nn.Linear(64, 5)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.dropout(torch.tanh(self.norm(self.body(x)))))
        return y

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return ((self(batch[0]) - batch[1]) ** 2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", ((self(batch[0]) - batch[1]) ** 2).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Some(pl.LightningDataModule):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.rows = TensorDataset(torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=4, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=4)


def people(n: int = 4) -> dict[str, pl.LightningDataModule]:
    return {f"w{i}": Some(i) for i in range(n)}


def run(
    engine: Engine | None = None,
    broadcast: Compressor | None = KBit(8),
    rounds: int = 2,
    workers: Any = None,
    module: pl.LightningModule | None = None,
    **options: Any,
) -> tuple[FederatedModule, dict[str, Any]]:
    fed = FederatedModule(module or Wide(), broadcast=broadcast, engine=engine or Sequential(), **options)
    given = people() if workers is None else workers
    done = fit(fed, FederatedDataModule(given), max_steps=rounds, max_epochs=-1, limit_val_batches=0)
    report = fed.last_report
    left = {"model": dict(fed.module.state_dict()), "bytes": (report.bytes_down, report.bytes_up)}
    left |= {"own": fed.own_state, "server": dict(fed.server_state)}
    metrics = {name: float(value) for name, value in done.callback_metrics.items() if "time" not in name}
    return fed, {**left, "metrics": metrics}


@pytest.mark.parametrize("compressor", [KBit(8), KBit(1), EDEN(1)], ids=str)
def test_the_error_of_what_is_sent_never_gets_into_the_model(compressor: Compressor) -> None:
    """Workers that learn nothing send back nothing, however far what they were sent is from the model.

    Deltas relative to the server's own model would make it what was sent, a random walk.
    """
    spy, module = Spy(), Wide(lr=0.0)
    run(broadcast=compressor, rounds=5, module=module, aggregator=spy)
    assert_bits(dict(module.named_parameters()), dict(Wide().named_parameters()))
    assert all(not updates.delta.any() for _, updates in spy.seen)
    sent = [job.model.parameters["body.weight"] for job, _ in spy.seen]
    assert all(not torch.equal(one, module.body.weight) for one in sent)
    assert any(not torch.equal(one, other) for one, other in itertools.pairwise(sent))


class Slides(pl.LightningModule):
    """300 numbers, of which one local step takes 1/2, wherever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.linspace(-1, 1, 300))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.x.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.x.sum())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.mark.usefixtures("double")
def test_the_server_steps_from_its_own_model_by_hand() -> None:
    """``w ← w − mean(Q(w) − local)``, with ``local = Q(w) − 1`` after two steps: down by 1 a round, to rounding."""
    for rounds in (1, 3):
        fed, _ = run(broadcast=KBit(2), rounds=rounds, module=Slides(), workers=people(2))
        torch.testing.assert_close(fed.module.x.detach(), torch.linspace(-1, 1, 300) - rounds, rtol=0, atol=1e-12)


def test_workers_train_from_what_was_sent() -> None:
    spy = Spy()
    run(broadcast=KBit(2), rounds=1, module=Slides(), workers=people(2), aggregator=spy)
    ((job, _),) = spy.seen
    assert torch.equal(job.model.vector, job.model.parameters["x"])
    assert len(job.model.vector.unique()) <= 4, "two bits"
    expected = Broadcast(KBit(2)).compressed(GlobalModel({"x": Slides().x.detach()}), 0, 0)
    assert_bits(dict(job.model.parameters), dict(expected.parameters))


# ---- whole runs ------------------------------------------------------------------------------------------------------


def over_nodes(home: Path, workers: Mapping[str, Any]) -> tuple[OverLoopback, RemotePopulation]:
    link = Loopback(nodes_of(Wide, workers, home))
    return OverLoopback(link), RemotePopulation(link, names=list(workers))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "Cyclic"])
def test_every_engine_gives_the_same(algorithm: str, tmp_path: Path) -> None:
    """Nodes, to which bytes go, and one process, to the last bit; stacks in double precision."""
    options: dict[str, Any] = {"algorithm": ALGORITHMS[algorithm]()}
    _, expected = run(**options)
    _, together = run(Vectorized(), **options)
    assert_equal(together, expected)
    engine, population = over_nodes(tmp_path, people())
    _, there = run(engine, workers=population, **options)
    assert_bits({**there, "own": None}, {**expected, "own": None})
    _, plain = run(broadcast=None, **options)
    assert expected["bytes"][0] < plain["bytes"][0]
    assert expected["bytes"][1] == plain["bytes"][1]


@pytest.mark.slow
def test_processes_that_get_bytes_only_leave_the_same_bit_for_bit() -> None:
    engine = Isolated(processes=1)
    for broadcast, last in ((KBit(8), []), (EDEN(4), [Compressed(TopK(0.2))])):
        _, expected = run(Sequential(), broadcast, transforms=last)
        _, left = run(engine, broadcast, transforms=last)
        assert_bits(left, expected)


def test_the_bytes_of_a_run_are_those_of_the_messages(tmp_path: Path) -> None:
    spy = Spy()
    fed, left = run(rounds=1, aggregator=spy)
    assert fed.leaves is not None
    assert left["bytes"][0] == length(spy.jobs()) == 4 * fed.leaves.bytes_down
    down = {row.name: (row.dtype, row.bytes, row.why) for row in fed.leaves.down if row.kind == "parameter"}
    told = "trained parameter of the global model"
    assert down == {
        "body.weight": ("uint8", 8 + 384, f"{told}; as codes of KBit(bits=8)"),
        "body.bias": ("float32", 256, told),
        "norm.weight": ("float32", 256, told),
        "norm.bias": ("float32", 256, told),
        "head.weight": ("uint8", 8 + 320, f"{told}; as codes of KBit(bits=8)"),
        "head.bias": ("float32", 20, told),
    }
    engine, population = over_nodes(tmp_path, people())
    run(engine, workers=population, rounds=1)
    assert engine.link.bytes_down == left["bytes"][0], "what has really crossed"


def test_it_is_the_servers_own_model_that_is_evaluated(tmp_path: Path) -> None:
    """Here and at nodes: two bits would show."""

    def evaluated(engine: Engine, workers: Any) -> tuple[float, FederatedModule]:
        fed = FederatedModule(Wide(), broadcast=KBit(2), engine=engine)
        data = FederatedDataModule(workers)
        done = trainer(max_steps=1, max_epochs=-1)
        done.fit(fed, data)
        return float(done.validate(fed, data, verbose=False)[0]["val_loss"]), fed

    here, fed = evaluated(Sequential(), people())
    there, _ = evaluated(*over_nodes(tmp_path, people()))
    plain = [trainer().validate(fed.module, Some(i), verbose=False)[0]["val_loss"] for i in range(4)]
    by_hand = sum(plain) / 4
    assert here == pytest.approx(by_hand, rel=1e-6)
    assert there == pytest.approx(by_hand, rel=1e-6)


class Unknown(Compressor):
    """No node has it."""

    unbiased, contracts = True, False

    def num_bytes(self, form: Form) -> int:
        raise NotImplementedError

    encode = decode = num_bytes  # type: ignore[assignment]


def test_a_node_that_lacks_the_compressor_says_so_before_the_first_round(tmp_path: Path) -> None:
    engine, population = over_nodes(tmp_path, people(1))
    with pytest.raises(ValueError, match=r"nodes refuse:\n.*there is no '.*Unknown' at this node; .*Node\(parts="):
        run(engine, Unknown(), workers=population)


@pytest.mark.parametrize("told", [{"class": "FedAvg", "arguments": {}}, {"class": "KBit", "arguments": {"bits": 99}}])
def test_what_a_server_says_of_its_codes_is_looked_at(told: Any, tmp_path: Path, monkeypatch: Any) -> None:
    engine, population = over_nodes(tmp_path, people(1))
    asking = engine._asking

    def lying(ask: str, **more: Any) -> dict[str, Any]:
        fields = asking(ask, **more)
        return {**fields, "terms": {**fields["terms"], "broadcast": told}}

    monkeypatch.setattr(engine, "_asking", lying)
    with pytest.raises(ValueError, match=r"name FedAvg as their broadcast, which is no Comp|KBit cannot be"):
        run(engine, workers=population)


SEEDED: dict[str, Any] = {"noise_multiplier": 0.3, "delta": 1e-2, "insecure_deterministic_noise": True}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"transforms": [Compressed(EDEN(1))]},
        {"transforms": [Compressed(Sign())], "local_optimizer_state": "kept"},
        {"privacy": CentralDP(clip=0.5, **SEEDED)},
        {"privacy": LocalDP(clip=0.5, **SEEDED), "transforms": [Compressed(EDEN(4))]},
        {"secure_aggregation": SecureAggregation(clip=10.0, weight_cap=8)},
    ],
    ids=["compressed", "fed back", "central", "local", "secure"],
)
def test_it_goes_with_what_is_done_to_updates(options: dict[str, Any]) -> None:
    fed, left = run(rounds=3, module=Wide(norm=nn.LayerNorm), **options)
    assert fed.leaves is not None
    assert sum(row.bytes for row in fed.leaves.down if row.kind == "parameter") == 392 + 328 + 3 * 256 + 20
    _, plain = run(broadcast=None, rounds=3, module=Wide(norm=nn.LayerNorm), **options)
    for name, tensor in left["model"].items():
        assert float((tensor - plain["model"][name]).abs().max()) < 0.1, name
        assert not torch.equal(tensor, plain["model"][name])


def test_the_keys_and_masks_of_secure_aggregation_change_nothing() -> None:
    """Its messages name the job by a digest of its bytes, codes and all."""
    both = [SecureAggregation(clip=10.0, weight_cap=8, protocol=flag) for flag in (False, True)]
    one, other = (run(module=Wide(norm=nn.LayerNorm), secure_aggregation=secure)[1] for secure in both)
    assert_bits(other["model"], one["model"])


def test_nodes_and_server_mean_the_same_job_by_its_bytes(tmp_path: Path) -> None:
    def make() -> Wide:
        return Wide(norm=nn.LayerNorm)

    secure = SecureAggregation(clip=10.0, weight_cap=8)
    link = Loopback(nodes_of(make, people(), tmp_path))
    population = RemotePopulation(link, names=list(people()))
    _, there = run(OverLoopback(link), workers=population, module=make(), secure_aggregation=secure)
    _, here = run(module=make(), secure_aggregation=secure)
    assert_bits(there["model"], here["model"])


def test_bfloat16_models_are_sent_as_half_as_many_bytes() -> None:
    fed = FederatedModule(Slides(), broadcast=KBit(8), engine="sequential")
    fit(fed, FederatedDataModule(people()), max_steps=2, max_epochs=-1, precision="bf16-true", limit_val_batches=0)
    assert fed.leaves is not None
    assert {row.name: row.bytes for row in fed.leaves.down}["x"] == 308
    assert fed.module.x.dtype == torch.bfloat16
    torch.testing.assert_close(fed.module.x.detach().float(), torch.linspace(-1, 1, 300) - 2, rtol=0, atol=0.05)


def test_each_cohort_of_a_step_is_sent_codes_of_its_own() -> None:
    spy = Spy()
    fed = FederatedModule(Wide(), broadcast=KBit(2), engine="sequential", aggregator=spy)
    data = FederatedDataModule(people(), cohort_size=2, rounds_per_epoch=2)
    fit(fed, data, max_steps=1, max_epochs=-1, accumulate_grad_batches=2, limit_val_batches=0)
    one, other = ({job.cohort: job.model.codes["body.weight"] for job, _ in spy.seen}[cohort] for cohort in (0, 1))
    assert not torch.equal(one, other)


# ---- what is refused, and where it is said ---------------------------------------------------------------------------


def test_a_run_says_how_it_broadcasts() -> None:
    fed = FederatedModule(Wide(), broadcast=KBit(8))
    told = fed.hparams_initial
    assert told["broadcast"] == "KBit"
    assert told["broadcast/bits"] == 8
    assert FederatedModule(Wide()).hparams_initial["broadcast"] is None


def test_a_run_that_goes_on_otherwise_says_so(tmp_path: Path) -> None:
    fed, path = FederatedModule(Wide(), broadcast=KBit(8), engine="sequential"), tmp_path / "one.ckpt"
    fit(fed, FederatedDataModule(people()), max_steps=1, limit_val_batches=0).save_checkpoint(path)
    other = FederatedModule(Wide(), broadcast=KBit(4), engine="sequential")
    again = trainer(max_steps=2, max_epochs=-1, limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"other settings than those of its checkpoint: broadcast.bits was 8 and is 4"):
        again.fit(other, FederatedDataModule(people()), ckpt_path=path)
