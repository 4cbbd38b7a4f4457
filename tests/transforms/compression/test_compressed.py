"""What leaves a worker when updates are compressed: its bytes, what they stand for, and what the worker remembers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit, trainer
from oracle import assert_bits
from private import Seen
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule, transforms
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Bucketing, Median
from lightning_fed.algorithms import FedAvg, FedPer, Scaffold
from lightning_fed.engines import Engine, Isolated, Sequential, Vectorized
from lightning_fed.engines.together import in_blocks
from lightning_fed.privacy import CentralDP, LocalDP
from lightning_fed.selection import Availability, Response
from lightning_fed.server.traffic import planned
from lightning_fed.state import OwnState, OwnTables
from lightning_fed.testing import check_transform, made_up
from lightning_fed.transforms import (
    EDEN,
    ClipNorm,
    Compressed,
    Compressor,
    KBit,
    PowerSGD,
    RandomK,
    Sign,
    TopK,
    UpdateTransform,
)
from lightning_fed.wire import Aggregate, Codes, GlobalModel, Job, LocalTraining, Updates, WireError
from lightning_fed.wire.codec import decode_updates, encode_updates, updates_bytes
from lightning_fed.wire.contents import updates_contents
from lightning_fed.wire.parts import description_of, part_from
from lightning_fed.worker.outbox import Outbox, tables_of

NAMES = ("ann", "bob", "cyd")


def job_of(parameters: dict[str, Tensor], extra: Sequence[str] = (), cohort: int = 0) -> Job:
    return Job(0, cohort, 5, GlobalModel(parameters), LocalTraining(), extra=tuple(extra))


def net(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"weight": torch.zeros(20, 30, dtype=dtype), "bias": torch.zeros(20, dtype=dtype)}


def leaving(transform: Compressed, updates: Updates, job: Job, own: OwnState | None = None) -> Updates:
    state = OwnState(transform.tables) if own is None else own
    state.begin(job.cohort, last=job.cohort - 1 if own is not None else None)
    return transform.worker(updates, job, state.scope())


# ---- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compressor", "length"),
    [
        (EDEN(1), 4 + 1024 // 8),  # 600 numbers are a block of 1024
        (KBit(4), 8 + 300),
        (TopK(0.01), 6 * 4 + 8),  # six places of ten bits
        (RandomK(0.01), 6 * 4),
        (Sign(), 4 + 75),
        (PowerSGD(2), 2 * (20 + 30) * 4),
    ],
    ids=str,
)
def test_the_bytes_of_an_update_by_hand(compressor: Compressor, length: int) -> None:
    """The matrix as codes, the twenty numbers of the bias as they are; and that is what the message holds."""
    job, transform = job_of(net()), Compressed(compressor)
    plain = made_up(job, NAMES)
    left = leaving(transform, plain, job)
    assert left.codes is not None
    assert left.codes.lengths == {"weight": length, "bias": 80}
    assert left.codes.rows["delta"].shape == (3, length + 80)
    assert transform.code_bytes(job, frozenset()) == length + 80
    alone = left.rows(torch.arange(3) == 1)
    message = encode_updates(alone, job)
    assert updates_bytes(left, job)[1] == len(message)
    assert sum(part.bytes for part in updates_contents(alone, job)) == len(message)
    saved = len(encode_updates(plain.rows(torch.arange(3) == 1), job)) - len(message)
    assert abs(saved - (600 * 4 - length)) <= 32  # the header's names, and what aligns it
    assert torch.equal(left.delta[:, 600:], plain.delta[:, 600:])


@pytest.mark.parametrize("extra", [(), ("control",)])
def test_what_arrives_is_what_the_worker_said_bit_for_bit(extra: tuple[str, ...]) -> None:
    job, transform = job_of(net(), extra), Compressed(EDEN(2))
    left = leaving(transform, made_up(job, NAMES), job)
    for row, name in enumerate(NAMES):
        alone = left.rows(torch.arange(3) == row)
        arrived = decode_updates(encode_updates(alone, job), job, workers=[name], coder=transform)
        assert_bits((arrived.delta, arrived.extra), (alone.delta, alone.extra))
        assert arrived.codes is not None
        assert updates_bytes(arrived, job) == updates_bytes(alone, job)
    assert extra == () or not torch.equal(left.extra["control"], left.delta)


def test_what_an_algorithm_sends_besides_has_randomness_of_its_own() -> None:
    job, transform = job_of(net(), ["control"]), Compressed(EDEN(2))
    updates = made_up(job, NAMES)
    left = leaving(transform, replace(updates, extra={"control": updates.delta}), job)
    assert not torch.equal(left.extra["control"], left.delta)
    again = leaving(transform, updates, replace(job, cohort=1, extra=()))
    assert not torch.equal(again.delta, left.delta), "each round draws anew"


def test_each_tensor_and_each_worker_has_randomness_of_its_own() -> None:
    """Else their errors would agree, and would not average out."""
    job = job_of({"one": torch.zeros(512), "other": torch.zeros(512)})
    updates = made_up(job, NAMES)
    same = replace(updates, delta=updates.delta[:1, :512].repeat(3, 2))
    left = leaving(Compressed(EDEN(1)), same, job).delta.view(6, 512)
    assert len({tuple(row.tolist()) for row in left}) == 6


def test_updates_that_came_one_by_one_are_stacked_with_their_codes() -> None:
    job = job_of(net(), ["control"])
    left = leaving(Compressed(EDEN(1)), made_up(job, NAMES), job)
    one_by_one = [left.rows(torch.arange(3) == row) for row in range(3)]
    (stacked,) = in_blocks(iter(one_by_one), job, 3)
    assert isinstance(stacked, Updates)
    assert stacked.codes is not None
    assert left.codes is not None
    assert stacked.codes.lengths == left.codes.lengths
    assert_bits(dict(stacked.codes.rows), dict(left.codes.rows))


@pytest.mark.parametrize(("numbers", "bytes_"), [(1, 4), (255, 1020), (256, 36), (257, 68), (4096, 516), (4097, 552)])
def test_tensors_that_are_short_cross_as_they_are(numbers: int, bytes_: int) -> None:
    job, transform = job_of({"x": torch.zeros(numbers)}), Compressed(EDEN(1))
    updates = made_up(job, NAMES)
    left = leaving(transform, updates, job)
    assert transform.code_bytes(job, frozenset()) == bytes_
    assert torch.equal(left.delta, updates.delta) == (numbers < 256)


def test_codes_that_would_be_longer_are_not_made() -> None:
    """A vector has no low rank, and 99 % of the numbers with their places are more bytes than all of them."""
    job = job_of({"x": torch.zeros(1000)})
    updates = made_up(job, NAMES)
    for compressor in (PowerSGD(4), TopK(0.99)):
        assert torch.equal(leaving(Compressed(compressor), updates, job).delta, updates.delta)


def test_a_layer_of_small_numbers_is_as_good_as_alone() -> None:
    parameters = {"small": torch.zeros(64, 64), "large": torch.zeros(64, 64)}
    job, transform = job_of(parameters), Compressed(EDEN(4))
    updates = made_up(job, NAMES)
    scaled = replace(updates, delta=updates.delta * torch.tensor([1e-4, 1.0]).repeat_interleave(4096))
    left = leaving(transform, scaled, job)
    for layer in (slice(0, 4096), slice(4096, 8192)):
        rest = (left.delta - scaled.delta)[:, layer]
        assert float((rest**2).sum() / (scaled.delta[:, layer] ** 2).sum()) == pytest.approx(0.0095921, rel=0.1)


@pytest.mark.parametrize("compressor", [EDEN(4), KBit(8), TopK(0.5), PowerSGD(2)], ids=str)
def test_complex_parameters_are_pairs(compressor: Compressor) -> None:
    job = job_of({"turn": torch.zeros(16, 10, dtype=torch.complex64), "x": torch.zeros(3)})
    updates, transform = made_up(job, NAMES), Compressed(compressor)
    left = leaving(transform, updates, job)
    alone = left.rows(torch.arange(3) == 2)
    arrived = decode_updates(encode_updates(alone, job), job, coder=transform)
    assert_bits(arrived.delta, alone.delta)
    assert torch.equal(left.delta[:, 320:323], updates.delta[:, 320:323])
    assert not left.delta[:, 323:].any(), "padding does not travel"
    assert float((left.delta - updates.delta)[:, :323].norm() / updates.delta.norm()) < 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_dtypes(dtype: torch.dtype) -> None:
    """The vector of a bfloat16 model is float32, and so are scales; those of a float64 one have eight bytes."""
    job, transform = job_of(net(dtype)), Compressed(EDEN(1))
    left = leaving(transform, made_up(job, NAMES), job)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert left.delta.dtype == wide
    assert transform.code_bytes(job, frozenset()) == 128 + 21 * wide.itemsize


def test_what_stays_is_neither_compressed_nor_sent() -> None:
    job, transform = job_of({"body": torch.zeros(300), "head": torch.zeros(300)}), Compressed(EDEN(1))
    updates = made_up(job, NAMES)
    updates = replace(updates, delta=updates.delta.clone(), stays=frozenset({"head"}))
    updates.delta[:, 300:] = 0
    left = leaving(transform, updates, job)
    assert left.codes is not None
    assert list(left.codes.lengths) == ["body"]
    assert not left.delta[:, 300:].any()
    alone = left.rows(torch.arange(3) == 0)
    assert_bits(decode_updates(encode_updates(alone, job), job, coder=transform).delta, alone.delta)


@pytest.mark.parametrize("compressor", [EDEN(1), KBit(3), TopK(0.1), RandomK(0.1), Sign(), PowerSGD(1)], ids=str)
def test_the_contract_of_transforms(compressor: Compressor) -> None:
    check_transform(lambda: Compressed(compressor, least=1))


def test_it_crosses_to_a_node_as_plain_data() -> None:
    known = {kind.__name__: kind for kind in (Compressed, EDEN)}
    told = description_of(Compressed(EDEN(1), least=8))
    assert part_from(told, known) == Compressed(EDEN(1), least=8)


# ---- bytes from anyone -----------------------------------------------------------------------------------------------


def altered(change: Callable[[dict[str, Tensor]], dict[str, Tensor]], coder: Compressed | None) -> Updates:
    """What is read of a message of which the codes were altered."""
    job, transform = job_of(net(), ["control"]), Compressed(EDEN(1))
    left = leaving(transform, made_up(job, NAMES[:1]), job)
    assert left.codes is not None
    left = replace(left, codes=Codes(change(dict(left.codes.rows))))
    return decode_updates(encode_updates(left, job), job, workers=["ann"], coder=coder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: {**rows, "delta": rows["delta"][:, 1:]}, r"codes of delta have the shape \[1, 211\]"),
        (lambda rows: {**rows, "delta": rows["delta"].repeat(2, 1)}, r"codes of delta have the shape \[2, 212\]"),
        (lambda rows: {**rows, "delta": rows["delta"].to(torch.int8)}, r"in torch.int8, not \[1, 212\] in uint8"),
        (lambda rows: {**rows, "extra/control": rows["delta"][:, :0]}, r"codes of extra/control have the shape"),
    ],
    ids=["shorter", "of two workers", "no bytes", "nothing of the extra"],
)
def test_codes_that_do_not_fit_the_job_are_refused(change: Any, message: str) -> None:
    with pytest.raises(WireError, match=message):
        altered(change, Compressed(EDEN(1)))


def test_both_sides_say_whether_codes_cross() -> None:
    with pytest.raises(WireError, match="the tensor 'delta' is missing"):
        altered(lambda rows: rows, None)
    with pytest.raises(WireError, match=r"codes of delta have the shape \[1, 212\] .*, and compress alike"):
        altered(lambda rows: rows, Compressed(EDEN(2)))
    job = job_of(net())
    plain = encode_updates(made_up(job, NAMES), job)
    with pytest.raises(WireError, match="the tensor 'codes/delta' is missing"):
        decode_updates(plain, job, coder=Compressed(EDEN(1)))


def test_updates_have_codes_of_all_that_they_send() -> None:
    job = job_of(net(), ["control"])
    left = leaving(Compressed(EDEN(1)), made_up(job, NAMES), job)
    assert left.codes is not None
    with pytest.raises(WireError, match=r"have codes of \['delta'\], and not of all that they send"):
        encode_updates(replace(left, codes=Codes({"delta": left.codes.rows["delta"]})), job)


# ---- what was left out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressor", [TopK(0.1), Sign(), EDEN(1), PowerSGD(1), RandomK(0.1, scaled=False)], ids=str)
def test_what_was_sent_and_what_is_left_are_what_was_trained(compressor: Compressor) -> None:
    """Σ sent + e = Σ Δ, for each worker and for what an algorithm sends besides."""
    transform = Compressed(compressor, error_feedback=True)
    own, total, sent = OwnState(transform.tables), 0.0, 0.0
    for cohort in range(6):
        job = job_of(net(torch.float64), ["control"], cohort)
        updates = made_up(job, NAMES, seed=cohort)
        left = leaving(transform, updates, job, own)
        total = total + torch.cat([updates.delta, updates.extra["control"]], dim=1)
        sent = sent + torch.cat([left.delta, left.extra["control"]], dim=1)
    own.settle(5)
    rest = own.rows("residual", NAMES, torch.zeros(2 * 620, dtype=torch.float64))
    assert float(rest.abs().max()) > 0.1
    torch.testing.assert_close(sent + rest, total, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("error_feedback", "most", "least"), [(True, 1e-3, 0.0), (False, 0.5, 0.1)])
def test_error_feedback_converges_where_workers_differ(error_feedback: bool, most: float, least: float) -> None:
    """Ten workers pull at a point towards ten others; the largest tenth of each pull leaves, 1000 rounds at 0.01."""
    generator = torch.Generator().manual_seed(0)
    ends = 3 * torch.randn(10, 100, generator=generator) + torch.randn(100, generator=generator)
    transform = Compressed(TopK(0.1), error_feedback=error_feedback, least=1)
    names, point = [f"w{i}" for i in range(10)], torch.zeros(100)
    own = OwnState(transform.tables)
    for cohort in range(1000):
        job = job_of({"x": point}, cohort=cohort)
        updates = replace(made_up(job, names), delta=point - ends)
        point = point - 0.01 * leaving(transform, updates, job, own).delta.mean(dim=0)
    middle = ends.mean(dim=0)
    assert least <= float(((point - middle) ** 2).sum() / (middle**2).sum()) <= most


@pytest.mark.parametrize(
    ("compressor", "feeds_back"),
    [
        *((compressor, True) for compressor in (TopK(0.1), Sign(), PowerSGD(1), RandomK(0.1, scaled=False))),
        *((compressor, False) for compressor in (EDEN(1), KBit(8), RandomK(0.1))),
    ],
    ids=str,
)
def test_biased_contractions_feed_back_unless_told_otherwise(compressor: Compressor, feeds_back: bool) -> None:
    assert Compressed(compressor).feeds_back is feeds_back
    assert Compressed(compressor).tables == (("residual",) if feeds_back else ())
    assert Compressed(compressor, error_feedback=False).tables == ()


@pytest.mark.parametrize("compressor", [KBit(2), RandomK(0.1)], ids=str)
def test_errors_that_would_grow_are_not_fed_back(compressor: Compressor) -> None:
    with pytest.raises(ValueError, match=r"Compressed\(error_feedback=True\): the error of .* grow without a bound"):
        Compressed(compressor, error_feedback=True)


def test_a_round_by_hand() -> None:
    """The gradient is x minus the mean of the data in one of two coordinates; the larger one leaves first."""

    def run(rounds: int) -> tuple[list[float], list[float]]:
        module = Two()
        fed = FederatedModule(module, transforms=[Compressed(TopK(0.5), least=1)], engine="sequential")
        fit(fed, FederatedDataModule({"bob": Rows([4.0])}), max_steps=rounds)
        (table,) = fed.own_state.values()
        return module.x.tolist(), table["bob"].tolist()

    def big(*values: float) -> list[float]:
        return [number for value in values for number in [value] * 150]

    assert run(1) == (big(3.0, 0.0), big(0.0, -1.25))
    assert run(2) == (big(6.0, 0.0), big(0.0, -2.5))
    assert run(3) == (big(6.0, 3.75), big(-3.0, 0.0))
    assert run(4) == (big(12.0, 3.75), big(0.0, -1.25))


class Two(pl.LightningModule):
    """300 parameters whose update is -3 in the first half, and -1.25 in the second, wherever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(300))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return -(self.x * torch.tensor([3.0, 1.25]).repeat_interleave(150)).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


# ---- whole runs ------------------------------------------------------------------------------------------------------


class Wide(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(6, 64), nn.Linear(64, 5)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return ((self.head(torch.tanh(self.body(x))) - y) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Some(pl.LightningDataModule):
    def __init__(self, seed: int, broken_in: int | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.rows = TensorDataset(torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator))
        self.broken_in, self.rounds = broken_in, 0

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=4, shuffle=True)


def people(n: int = 5) -> dict[str, pl.LightningDataModule]:
    return {f"w{i}": Some(i) for i in range(n)}


def run(
    engine: Engine, compressor: Compressor, workers: Any = None, rounds: int = 3, data: Any = None, **options: Any
) -> tuple[FederatedModule, dict[str, Any]]:
    feedback = options.pop("error_feedback", None)
    fed = FederatedModule(Wide(), transforms=[Compressed(compressor, feedback)], engine=engine, **options)
    fit(fed, FederatedDataModule(workers or people(), **(data or {})), max_steps=rounds, max_epochs=-1)
    report = fed.last_report
    left = {"model": dict(fed.module.state_dict()), "own": fed.own_state, "bytes": report.bytes_up}
    return fed, left


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("compressor", [EDEN(1), TopK(0.2), RandomK(0.2), Sign(), KBit(8)], ids=str)
def test_stacks_of_any_length_leave_the_same(compressor: Compressor) -> None:
    """In double precision, where engines agree up to a rounding that no code shows."""
    _, expected = run(Sequential(), compressor)
    for chunk in (1, 2, 5):
        _, left = run(Vectorized(chunk_size=chunk), compressor)
        torch.testing.assert_close(left, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_processes_that_get_bytes_only_leave_the_same_bit_for_bit() -> None:
    engine = Isolated(processes=1)
    for compressor, algorithm in ((EDEN(2), Scaffold()), (TopK(0.2), FedPer(["head.*"]))):
        _, expected = run(Sequential(), compressor, algorithm=algorithm)
        _, left = run(engine, compressor, algorithm=algorithm)
        assert_bits(left, expected)


def test_the_order_of_workers_does_not_matter_to_what_they_remember() -> None:
    there = run(Sequential(), Sign(), people(), rounds=1)[1]
    back = run(Sequential(), Sign(), dict(reversed(people().items())), rounds=1)[1]
    (table,), (other,) = there["own"].values(), back["own"].values()
    assert_bits({name: table[name] for name in sorted(table)}, {name: other[name] for name in sorted(other)})


def test_the_bytes_of_a_run_are_those_of_the_codes(tmp_path: Any) -> None:
    fed, left = run(Sequential(), EDEN(1), rounds=1)
    assert fed.leaves is not None
    deltas = {row.name: (row.dtype, row.bytes, row.why) for row in fed.leaves.up if row.kind == "delta"}
    assert {name: length for name, (_, length, _) in deltas.items()} == {
        "body.weight": 4 + 64,  # 384 numbers are a block of 512
        "body.bias": 4 * 64,
        "head.weight": 4 + 64,
        "head.bias": 4 * 5,
    }
    assert deltas["body.weight"][0] == "uint8"
    assert deltas["body.weight"][2].endswith("aggregated; as codes of EDEN(bits=1)")
    assert left["bytes"] == 5 * fed.leaves.bytes_up, "all names are as long"
    plain = FederatedModule(Wide(), engine="sequential")
    fit(plain, FederatedDataModule(people()), max_steps=1)
    saved = plain.last_report.bytes_up - left["bytes"]
    assert abs(saved - 5 * 4 * (384 + 320) + 5 * 2 * 68) <= 5 * 32


def test_a_curve_says_how_many_times_shorter_the_messages_are(tmp_path: Path) -> None:
    def drawn(*last: Compressed) -> tuple[FederatedModule, dict[str, str]]:
        fed = FederatedModule(Wide(), transforms=last, algorithm=Scaffold(), engine="sequential")
        logger = pl.loggers.CSVLogger(tmp_path, name=str(len(last)))
        fit(fed, FederatedDataModule(people()), max_steps=1, max_epochs=-1, logger=logger)
        (written,) = (tmp_path / str(len(last))).glob("**/metrics.csv")
        with written.open() as file:
            return fed, {name: value for row in csv.DictReader(file) for name, value in row.items() if value}

    (plain, without), (fed, curves) = drawn(), drawn(Compressed(EDEN(1)))
    ratio = plain.last_report.bytes_up / fed.last_report.bytes_up
    assert ratio > 2
    assert float(curves["comm/compression"]) == fed.last_report.compression == ratio
    assert f"up (compressed {ratio:.3g} times)" in repr(fed.last_report)
    assert "comm/compression" not in without
    assert plain.last_report.compression is None
    assert "compressed" not in repr(plain.last_report)


def test_the_account_of_what_stays_names_who_remembers_it() -> None:
    fed, _ = run(Sequential(), TopK(0.1), rounds=1, algorithm=Scaffold())
    assert fed.leaves is not None
    why = {row.name: row.why for row in fed.leaves.stays}
    assert why["own state: transforms.0.residual"].startswith("what Compressed remembers from round to round")
    assert next(why[name] for name in why if "control" in name).startswith("what Scaffold remembers")


@dataclass(frozen=True)
class OneInRound1(Availability):
    """All reply in round 0, and only the first worker in round 1."""

    def respond(self, worker: str, cohort: int, seed: int) -> Response:
        return Response("replies" if cohort == 0 or worker == "w0" else "absent")


def test_a_round_that_is_given_up_leaves_what_is_remembered() -> None:
    data = {"availability": OneInRound1()}
    once, twice = (run(Sequential(), TopK(0.2), rounds=n, data=data, min_workers=2)[1] for n in (1, 2))
    assert_bits(twice["own"], once["own"])
    counted = run(Sequential(), TopK(0.2), rounds=2, data=data)[1]
    (kept,), (moved,) = once["own"].values(), counted["own"].values()
    assert not torch.equal(moved["w0"], kept["w0"])
    assert torch.equal(moved["w1"], kept["w1"])


def test_what_a_lost_worker_remembers_is_as_it_was() -> None:
    """It trains in round 0 and fails in round 1: what it has left out in round 0 stays."""

    class Breaks(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 1:
                data.rows.tensors[0].fill_(float("nan"))

    def remembered(rounds: int) -> dict[str, Tensor]:
        fed = FederatedModule(Wide(), transforms=[Compressed(TopK(0.2))], engine="sequential", on_worker_error="drop")
        run = trainer(max_steps=rounds, max_epochs=-1, callbacks=[Breaks()])
        run.fit(fed, FederatedDataModule({**people(3), "lost": data}))
        assert rounds == 1 or [failure.worker for failure in fed.last_report.failures] == ["lost"]
        (table,) = fed.own_state.values()
        return table

    data = Some(7)
    before = remembered(1)
    data = Some(7)
    after = remembered(2)
    assert torch.equal(after["lost"], before["lost"])
    assert not torch.equal(after["w0"], before["w0"])


def test_tables_of_two_that_remember_do_not_collide() -> None:
    transforms = (Reminds(), Compressed(TopK(0.1)))
    tables = tables_of(Scaffold(), transforms)
    assert len(set(tables)) == len(tables)
    assert [table for table in tables if table.endswith("residual")] == [
        "transforms.0.residual",
        "transforms.1.residual",
    ]


class Reminds(UpdateTransform):
    """Has a table of the same name."""

    tables = ("residual",)

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        return updates

    def server(self, aggregate: Aggregate) -> Aggregate:
        return aggregate


# ---- promises --------------------------------------------------------------------------------------------------------


def test_noise_is_added_before_a_worker_compresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is 1 and noise of 3, codes of 8 bits and 4 levels say 4; noise behind them would say anything."""
    Seen(monkeypatch)
    promise = LocalDP(clip=100.0, noise_multiplier=0.03, delta=1e-5)
    job = replace(job_of({"x": torch.zeros(300)}), promise={"bound": 100.0, "noise_multiplier": 0.03})
    updates = replace(made_up(job, NAMES), delta=torch.ones(3, 300))
    outbox = Outbox(FedAvg(), (ClipNorm(1e6), Compressed(KBit(8))), promise)
    (left,) = list(outbox(lambda job, workers: iter([updates]), job, NAMES))
    assert isinstance(left, Updates)
    assert left.codes is not None
    arrived = decode_updates(encode_updates(left, job), job, coder=outbox.compression)
    assert_bits(arrived.delta, left.delta)
    assert float(left.delta.mean()) == pytest.approx(4.0, abs=0.1)


@pytest.mark.filterwarnings("ignore:CentralDP")
def test_a_server_clips_what_it_has_decoded() -> None:
    """The worker compresses what is not clipped yet; the release keeps the bound whatever codes stand for."""
    promise = CentralDP(clip=0.01, noise_multiplier=1e-3, delta=0.1, insecure_deterministic_noise=True)
    fed, _ = run(Sequential(), EDEN(1), people(1), rounds=1, privacy=promise)
    before, after = (nn.utils.parameters_to_vector(module.parameters()).detach() for module in (Wide(), fed.module))
    assert 0 < float((after - before).norm()) <= 0.01 * 1.05, "clipped before it was decoded it would be 1.25 times C"


def test_traffic_is_planned_by_codes_where_replies_are_hidden() -> None:
    job, transform = job_of(net(), ["control"]), Compressed(EDEN(1))
    assert planned(job, transform).up == 2 * (4 + 128 + 80)
    assert planned(job).up == 2 * 4 * 620


@pytest.mark.parametrize("compressor", [EDEN(1), TopK(0.1)], ids=str)
def test_the_account_of_a_private_run_is_about_codes(compressor: Compressor, tmp_path: Path) -> None:
    promise = LocalDP(clip=1.0, noise_multiplier=1.0, delta=1e-5)
    fed = FederatedModule(Wide(), transforms=[Compressed(compressor)], engine="sequential", privacy=promise)
    fit(fed, FederatedDataModule(people()), max_steps=1, max_epochs=-1, logger=pl.loggers.CSVLogger(tmp_path))
    assert fed.leaves is not None
    deltas = [row for row in fed.leaves.up if row.kind == "delta"]
    job = job_of(dict(Wide().named_parameters()))
    assert sum(row.bytes for row in deltas) == Compressed(compressor).code_bytes(job, frozenset())
    assert all(row.why.endswith(f"noised for LocalDP; as codes of {compressor}") for row in deltas)
    (written,) = tmp_path.glob("**/metrics.csv")
    with written.open() as file:
        (sent,) = [line["comm/megabytes_up_total"] for line in csv.DictReader(file) if line["comm/megabytes_up_total"]]
    assert float(sent) == pytest.approx(5e-6 * sum(row.bytes for row in deltas)), "of five workers"


def test_a_median_of_what_a_random_choice_makes_longer_is_warned_of() -> None:
    with pytest.warns(
        UserWarning, match=r"RandomK\(.*\) makes updates longer at random, so that Median compares noise"
    ):
        FederatedModule(Scalar(), transforms=[Compressed(RandomK(0.1))], aggregator=Median())
    with pytest.warns(UserWarning, match="so that Bucketing compares noise"):
        FederatedModule(Scalar(), transforms=[Compressed(RandomK(0.1))], aggregator=Bucketing(Median()))


def test_every_compressor_is_public() -> None:
    kinds = {kind for kind in vars(transforms).values() if isinstance(kind, type) and issubclass(kind, Compressor)}
    assert {kind.__name__ for kind in kinds} <= set(transforms.__all__)
    assert {kind for kind in Compressor.__subclasses__() if kind.__module__.startswith("lightning_fed.")} <= kinds
