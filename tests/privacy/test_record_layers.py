"""Whatever a module does with a batch: one example moves the clipped sum by at most C, measured, or it is refused."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from examples_mixed import REFUSED, RIGHT, Mixing, N, Sequences
from helpers import fit
from private import Seen, weights
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedBN
from lightning_fed.engines import Isolated
from lightning_fed.privacy import RecordDP
from lightning_fed.privacy.grid import grid_step

pytestmark = pytest.mark.filterwarnings("ignore:.*NOT private", "ignore:.*Lazy modules")

CLIP = 0.5


def promise(**options: Any) -> RecordDP:
    return RecordDP(**{"clip": CLIP, "sampling_rate": 1.0, "delta": 1e-5, "noise_multiplier": 1.0, **options})


def built(kind: Any) -> Any:
    torch.manual_seed(0)
    return kind()


def moved(module: Mixing, data: pl.LightningDataModule, privacy: RecordDP | None = None, **options: Any) -> Tensor:
    """By how much one step of SGD(1) has moved the parameters, as real numbers."""
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer_options = {"precision": options.pop("precision")} if "precision" in options else {}
    federated = FederatedModule(module, privacy=privacy or promise(), local_steps=1, **options)
    fit(federated, FederatedDataModule({"bob": data}), **trainer_options)
    steps = [before[name] - p.detach() for name, p in module.named_parameters()]
    return torch.cat([(torch.view_as_real(s) if s.is_complex() else s).flatten().double() for s in steps])


def clipped_sum(name: str, without: int | None = None, **options: Any) -> Tensor:
    """What a step releases before the noise."""
    examples = N if without is None else N - 1
    return moved(built(RIGHT[name]), Sequences(without), **options) * examples


def largest_change(name: str, **options: Any) -> float:
    """How far one example moves the clipped sum, if it is left out: the example with most effect."""
    everyone = clipped_sum(name, **options)
    return max(float((everyone - clipped_sum(name, without, **options)).norm()) for without in range(N))


@pytest.mark.parametrize("name", RIGHT)
def test_one_example_moves_the_sum_by_no_more_than_the_bound(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The weights are float32, which adds an error of 1e-7 of them; sums are of up to four times C."""
    Seen(monkeypatch, factor=0.0)
    assert 0.9 * CLIP < largest_change(name) <= CLIP + 1e-5, "clipped to C, and not to less"


def test_mixed_precision_clips_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms are not rounded to the 8 bits of a bfloat16, which would let half a percent pass."""
    Seen(monkeypatch, factor=0.0)
    assert 0.9 * CLIP < largest_change("plain", precision="bf16-mixed") <= CLIP + 1e-5


@pytest.mark.parametrize(
    "name", ["plain", "sequences flattened into the batch", "batch second", "LSTM", "tied weights"]
)
def test_the_sum_is_that_of_examples_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The definition (Abadi et al. 2016, algorithm 1), by hand."""
    Seen(monkeypatch, factor=0.0)
    module = built(RIGHT[name])
    expected = torch.zeros(sum(p.numel() for p in module.parameters()), dtype=torch.float64)
    x, y = Sequences().set.tensors
    for i in range(N):
        alone = copy.deepcopy(module)
        alone.training_step([x[i : i + 1], y[i : i + 1]], 0).backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in alone.parameters()]
        gradient = torch.cat([g.flatten().double() for g in gradients])
        expected += gradient * min(1.0, CLIP / float(gradient.norm()))
    torch.testing.assert_close(moved(module, Sequences()) * N, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_hidden_is_refused_by_name(name: str) -> None:
    kind, message = REFUSED[name]
    with pytest.raises((ValueError, WorkerError)) as refused:
        moved(built(kind), Sequences())
    assert re.search(message, str(refused.value), re.S), str(refused.value)


def test_statistics_that_stay_with_the_worker_are_refused_too() -> None:
    """FedBN keeps them from leaving, but gradients depend on them."""
    for name in ("BatchNorm", "InstanceNorm with statistics"):
        with pytest.raises(ValueError, match=r"RecordDP: Normed\.norm is a \w+Norm1d, .*(use GroupNorm|track_running)"):
            FederatedModule(built(REFUSED[name][0]), privacy=promise(), algorithm=FedBN(["norm.*"]))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_is_refused_at_the_start(precision: str) -> None:
    """Even if workers that fail are dropped."""
    with pytest.raises(ValueError, match=r"RecordDP: net\.weight is b?float16, .*use Trainer\(precision='32-true'\)"):
        moved(Mixing(), Sequences(), precision=precision, on_worker_error="drop")


def test_a_module_that_is_in_half_precision_by_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"RecordDP: net\.weight is bfloat16"):
        moved(Mixing().to(torch.bfloat16), Sequences())


# ---- numbers ---------------------------------------------------------------------------------------------------------


class Constant(pl.LightningModule):
    """Its gradient is ``slope`` in every place, whatever the example."""

    def __init__(self, size: int, slope: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size, dtype=dtype))
        self.slope = slope

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.w * self.slope).real.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class One(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(1)))


@pytest.mark.parametrize(
    ("size", "slope", "clip"),
    [
        (4_000_000, 1e-2, 1.0),  # a float32 sum of as many squares is some percent too small
        (100, 3e38, 1e-6),  # the factor is no float32, and the squares are none either
        (10_000, 1e30, 2.25e-4),
        (7, 1e-30, 1e-31),
    ],
)
def test_the_bound_holds_whatever_the_scale(
    monkeypatch: pytest.MonkeyPatch, size: int, slope: float, clip: float
) -> None:
    """To a float32's rounding of each number."""
    Seen(monkeypatch, factor=0.0)
    norm = float(moved(Constant(size, slope), One(), promise(clip=clip)).norm())  # type: ignore[arg-type]
    assert 0.999 * clip < norm <= clip * (1 + 2**-23)


@pytest.mark.parametrize("size", range(1000, 1008))
def test_the_bound_holds_after_rounding_to_a_coarse_grid(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A thousand equal numbers are rounded alike, for some of these sizes all of them up: by up to 1e-4 of C."""
    Seen(monkeypatch, factor=0.0)
    module = Constant(size, 1.0, torch.float64)
    step = moved(module, One(), promise(noise_multiplier=1e4), precision="64-true")  # type: ignore[arg-type]
    assert 0.999 * CLIP < float(step.norm()) <= CLIP


def test_complex_parameters_get_noise_in_both_parts() -> None:
    """zC = 0.5 in each part; of 2000 numbers the estimate is within 0.05 of it but once in 10⁹."""
    step = torch.view_as_complex(moved(Constant(2000, 0.0, torch.cfloat), One()).view(-1, 2))  # type: ignore[arg-type]
    assert abs(float(step.real.std()) - CLIP) < 0.05
    assert abs(float(step.imag.std()) - CLIP) < 0.05


def test_what_is_released_lies_on_a_grid() -> None:
    """So that its last bits tell no more than the value does; in float64, which adds no rounding of its own."""
    step = moved(Constant(1000, 1.0, torch.float64), One(), precision="64-true")  # type: ignore[arg-type]
    steps = step / grid_step(CLIP, CLIP, 1000)
    assert torch.equal(steps, steps.round())
    assert steps.unique().numel() > 900


# ---- every engine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sequences flattened into the batch", "batch second", "two views"])
def test_engines_agree(isolated: Isolated, name: str) -> None:
    seeded = promise(insecure_deterministic_noise=True)
    one, auto, alone = (clipped_sum(name, privacy=seeded, engine=e) for e in ("sequential", "auto", isolated))
    torch.testing.assert_close(auto, one, rtol=0, atol=0)
    torch.testing.assert_close(alone, one, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["BatchNorm without anything", "a buffer that is replaced", "an attribute"])
def test_engines_refuse_alike(isolated: Isolated, name: str) -> None:
    kind, message = REFUSED[name]
    for engine in ("sequential", "auto", isolated):
        with pytest.raises((ValueError, WorkerError), match=message):
            moved(built(kind), Sequences(), engine=engine)


def test_the_global_model_is_as_it_was_after_a_refusal() -> None:
    module = built(REFUSED["a parameter that is written to"][0])
    before = weights(module)
    with pytest.raises(WorkerError, match="worker 'bob'"):
        moved(module, Sequences())
    assert torch.equal(weights(module), before)
