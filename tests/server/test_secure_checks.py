"""What secure aggregation cannot do is refused at the start of a run, with the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Bulyan, Krum, MajorityVote, Median, NormalizedMean, UniformMean, WeightedMean
from lightning_fed.algorithms import Algorithm, Cyclic, FedAvg, FedBN, FedNova, FedProx, QFedAvg, Scaffold
from lightning_fed.privacy import RecordDP
from lightning_fed.secure import SecureAggregation
from lightning_fed.transforms import ClipNorm, Compressed, KBit
from lightning_fed.wire import WorkerError

CLIP = SecureAggregation(clip=10.0)


REMEMBERED = pytest.mark.filterwarnings("ignore:SecureAggregation. in a simulation checkpoints hold")
PROMISE = RecordDP(clip=1.0, noise_multiplier=1.0, sampling_rate=0.1, delta=1e-5)


def data(workers: int = 3, kind: type[Rows] = Rows, **options: Any) -> FederatedDataModule:
    return FederatedDataModule({f"p{i}": kind([float(i), i + 1.0]) for i in range(workers)}, **options)


def started(module: pl.LightningModule, secure: SecureAggregation = CLIP, workers: int = 3, **options: Any) -> Any:
    """Run one round."""
    options = {"aggregator": UniformMean(), "engine": "sequential"} | options
    fed = FederatedModule(module, secure_aggregation=secure, **options)
    fit(fed, data(workers), max_steps=1)
    return fed


# ---- what needs single updates ---------------------------------------------------------------------------------------


class Foreign(Algorithm):
    """One that says that it is more than a mean."""

    is_mean: ClassVar[bool] = False

    def aggregator(self) -> UniformMean:
        return UniformMean()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *(
            (
                {"aggregator": aggregator},
                f"{type(aggregator).__name__} needs each worker's update, and secure_aggregation shows sums only; use "
                r"aggregator=UniformMean\(\)",
            )
            for aggregator in (Median(), Krum(1), Bulyan(1), MajorityVote(0.1), NormalizedMean())
        ),
        ({"algorithm": FedNova()}, r"NormalizedMean needs .*; use algorithm=FedProx\(mu\) or Scaffold\(\)"),
        ({"algorithm": Cyclic()}, r"Cyclic hands what one worker has trained to the next.*; use FedAvg\(\)"),
        ({"algorithm": QFedAvg(1.0, 0.1, weighted=False)}, r"QFedAvg lets workers count by numbers of their own"),
        ({"algorithm": QFedAvg(1.0, 0.1)}, r"QFedAvg lets workers count by numbers of their own.*; use FedAvg\(\)"),
        ({"algorithm": Foreign()}, r"Foreign computes more than a mean of updates \(is_mean = False\)"),
        ({"algorithm": FedAvg()}, r"WeightedMean counts workers by .*give SecureAggregation\(weight_cap=\.\.\.\)"),
        ({"algorithm": FedProx(0.1)}, r"let all count the same with aggregator=UniformMean\(\)"),
        ({"aggregator": WeightedMean()}, r"WeightedMean counts workers by their numbers of examples"),
        (
            {"secure_aggregation": SecureAggregation(clip=1.0, weight_cap=5), "aggregator": UniformMean()},
            r"weight_cap=5\) says .* and with UniformMean all count the same; leave one of them out",
        ),
        (
            {"transforms": [ClipNorm(1.0), Compressed(KBit(8))], "aggregator": UniformMean()},
            r"Compressed\(KBit\(bits=8\)\) makes codes .* take SecureAggregation\(bits=16\) in its place",
        ),
        (
            {
                "privacy": PROMISE,
                "aggregator": Median(),
            },
            "Median needs each worker's update",
        ),
    ],
)
def test_what_has_no_sum_is_refused_when_it_is_given(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FederatedModule(Scalar(), **{"secure_aggregation": CLIP, **options})


def test_the_same_goes_without_secure_aggregation() -> None:
    for options in ({"aggregator": Median()}, {"algorithm": Cyclic()}, {"transforms": [Compressed(KBit(8))]}):
        FederatedModule(Scalar(), **options)  # type: ignore[arg-type]


def test_a_promise_brings_its_own_aggregator() -> None:
    FederatedModule(
        Scalar(),
        privacy=PROMISE,
        secure_aggregation=CLIP,
    )


# ---- cohorts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secure", "workers", "said"),
    [
        ({}, 1, "a cohort of 1 is too small, since the sum of one worker is its update; .* a larger cohort_size"),
        ({"least": 4}, 3, r"least=4\): a cohort of 3 is too small"),
        ({"neighbours": 4}, 3, r"neighbours=4\): in a cohort of 3 a worker has 2 others; leave neighbours out"),
        ({"bits": 8}, 130, "no unit left for each of 130 workers: take more bits"),
    ],
)
def test_cohorts_that_cannot_be(secure: dict[str, Any], workers: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        started(Scalar(), SecureAggregation(clip=1.0, **secure), workers)


def test_what_is_just_large_enough() -> None:
    for secure in ({"least": 3}, {"neighbours": 2}):
        assert len(started(Scalar(), SecureAggregation(clip=9.0, **secure)).last_report) == 3  # type: ignore[arg-type]
    assert len(started(Scalar(), min_workers=3).last_report) == 3


# ---- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clip", "algorithm", "said"),
    [
        (None, FedAvg(), r"needs clip=, the largest norm of an update, such as clip=10\.0"),
        ({"control": 1.0}, Scaffold(), "needs clip=, the largest norm of an update"),
        (10.0, Scaffold(), r"has clip=10\.0, and 'control' is sent, too: give a bound for each"),
        ({"delta": 1.0}, Scaffold(), "'control' is sent, too"),
        (
            {"delta": 1.0, "controls": 1.0, "control": 1.0},
            Scaffold(),
            "with Scaffold nothing is sent by the name 'controls'; there is 'delta' and 'control'",
        ),
        (
            {"delta": 1.0, "control": 1.0},
            FedAvg(),
            "with FedAvg nothing is sent by the name 'control'; there is 'delta'",
        ),
    ],
)
def test_bounds_that_do_not_go_with_what_is_sent(clip: Any, algorithm: Algorithm, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        started(Scalar(), SecureAggregation(clip=clip), algorithm=algorithm)


def test_bits_that_leave_little_of_an_update_are_warned_of() -> None:
    """With 8 bits three workers have ⌊127 / 3⌋ − 1 = 41 units each, of which a model of 144 numbers wastes √(144 / 6) /
    41 = 12 %; with 9 numbers it is 3 %."""
    said = r"SecureAggregation\(bits=8\): rounding moves an update of 144 numbers by 12% of clip where 3 workers share"
    with pytest.warns(UserWarning, match=said):
        started(Wide(144), SecureAggregation(clip=1.0, bits=8))
    started(Wide(9), SecureAggregation(clip=10.0, bits=8))


class Wide(Scalar):
    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(numbers))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (values,) = batch
        return (self.x.mean() - values.mean()) ** 2


# ---- statistics and counters -----------------------------------------------------------------------------------------


class Normalised(Scalar):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, **options)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (values,) = batch
        return ((self.norm(values.view(-1, 1)) - self.x) ** 2).mean()


@REMEMBERED
def test_batch_norm_needs_a_bound_or_stays() -> None:
    """With momentum 0.1 the running mean of 0 goes a tenth of the way to the means 0.5, 1.5 and 2.5 of the data."""
    with pytest.raises(
        ValueError, match=r"moves the statistics of norm, .*give SecureAggregation\(buffer_clip=.*or use GroupNorm"
    ):
        started(Normalised())
    bounded = SecureAggregation(clip=10.0, buffer_clip=10.0)
    assert float(started(Normalised(), bounded).module.norm.running_mean) == pytest.approx(0.15, abs=1e-7)
    started(Normalised(), SecureAggregation(clip=10.0, weight_cap=2), aggregator=None, algorithm=FedBN())
    started(Normalised(track_running_stats=False))


@pytest.mark.filterwarnings("ignore:Found 1 module")
def test_statistics_in_evaluation_mode_do_not_move() -> None:
    module = Normalised()
    module.norm.eval()
    started(module)


@REMEMBERED
def test_batch_norm_that_goes_by_the_number_of_batches() -> None:
    bounded = SecureAggregation(clip=10.0, buffer_clip=10.0)
    with pytest.raises(ValueError, match=r"norm is a BatchNorm1d\(momentum=None\), .*a momentum such as 0\.1"):
        started(Normalised(momentum=None), bounded)
    started(Normalised(momentum=None), algorithm=FedBN())


class Counting(Scalar):
    """Counts its steps in a buffer."""

    def __init__(self, dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=dtype))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf"), float("nan")]))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += 1
        return super().training_step(batch, batch_idx)


@REMEMBERED
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_buffers_that_have_no_mean_and_move(dtype: torch.dtype) -> None:
    said = rf"moves 'seen', and numbers of {dtype} have no mean; keep it .*FedBN\(personal=\['seen'\]\)"
    with pytest.raises(WorkerError, match=said):
        started(Counting(dtype))
    started(Counting(dtype), algorithm=FedBN(personal=["seen"]))


@REMEMBERED
class Overflowing(Scalar):
    """Has a buffer that becomes infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.scale *= float("inf")
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:SecureAggregation. in a simulation checkpoints hold")
def test_buffers_that_are_no_numbers_cannot_be_added() -> None:
    """One that never was a number, such as a mask of -inf, stays as it is."""
    with pytest.raises(WorkerError, match="its update has NaN or Inf in it"):
        started(Overflowing(), SecureAggregation(clip=10.0, buffer_clip=1.0))
    started(Counting(), SecureAggregation(clip=10.0, buffer_clip=1.0), algorithm=FedBN(personal=["seen"]))


class Teaching(Scalar):
    """Moves a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Parameter(torch.zeros(2), requires_grad=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.teacher += 1.0
        return super().training_step(batch, batch_idx)


class Growing(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.queue = torch.cat([self.queue, self.queue])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Teaching(), "moves 'teacher', which is neither trained nor a buffer, .*on_train_batch_end of a callback"),
        (Growing(), "moves 'queue', which changes its shape, .*on_train_batch_end of a callback"),
    ],
    ids=("teacher", "queue"),
)
def test_what_else_moves(module: pl.LightningModule, said: str) -> None:
    with pytest.raises(WorkerError, match=said):
        started(module)


# ---- evaluation ------------------------------------------------------------------------------------------------------


class Evaluated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("error", (self.x - batch[0]).abs().mean())

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch[0] - self.x


def secured() -> FederatedModule:
    return FederatedModule(Evaluated(), secure_aggregation=CLIP, aggregator=UniformMean(), engine="sequential")


def test_the_workers_own_data_are_not_evaluated() -> None:
    said = r"would show what each of them gives; give central data \(FederatedDataModule\(val=\.\.\.\)\)"
    with pytest.raises(ValueError, match=said + r", or switch it off: Trainer\(limit_val_batches=0\)"):
        fit(secured(), data(kind=EvaluatedRows))
    for evaluate in ("validate", "test"):
        with pytest.raises(ValueError, match=said + "$"):
            getattr(trainer(), evaluate)(secured(), data(kind=EvaluatedRows))


def test_central_data_are_evaluated() -> None:
    run = fit(secured(), data(val=EvaluatedRows([1.0])), max_steps=1)
    assert "error" in run.callback_metrics
    fit(secured(), data(kind=EvaluatedRows), max_steps=1, limit_val_batches=0)


def test_predictions_are_the_workers_own() -> None:
    """They are computed where the data are, and nothing of them is reduced or shown by the server."""
    found: Sequence[Any] = trainer().predict(secured(), data(kind=EvaluatedRows))
    assert [each.tolist() for each in found] == [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
