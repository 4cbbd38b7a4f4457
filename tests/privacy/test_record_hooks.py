"""A module's own code around a step of DP-SGD: nothing un-noised gets past, and one release is charged once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchmetrics
from helpers import fit
from private import Seen
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed._lightning import pl
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import Algorithm, FedAvg
from lightning_fed.privacy import Noise, RecordDP
from lightning_fed.selection import RandomAvailability
from lightning_fed.wire import Job, LocalTraining

pytestmark = pytest.mark.filterwarnings("ignore:.*NOT private")

NOTES: list[Any] = []  # outside of modules and their classes, which training must not change


class Pull(pl.LightningModule):
    """``w`` from 0 towards targets; lr 1. An example's gradient is ``w − target``, and the numbers are so large that it
    is clipped to −1 or 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.layer.weight)
        NOTES.clear()

    @property
    def w(self) -> float:
        return float(self.layer.weight.detach())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        x, y = batch
        return (self.layer(x) - y).square().mean() / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Targets(pl.LightningDataModule):
    def __init__(self, *targets: float, x: float = 1.0) -> None:
        super().__init__()
        y = torch.tensor(targets).unsqueeze(1)
        self.set = TensorDataset(torch.full_like(y, x), y)

    def train_dataloader(self) -> Any:
        return DataLoader(self.set, batch_size=2)


def run(module: pl.LightningModule, *workers: Targets, rounds: int = 1, **options: Any) -> FederatedModule:
    names = ("sampling_rate", "insecure_deterministic_noise", "release_metrics")
    settings = {"sampling_rate": 1.0, **{name: options.pop(name) for name in names if name in options}}
    privacy = RecordDP(clip=1.0, delta=1e-5, noise_multiplier=1.0, accountant="rdp", **settings)
    federated = FederatedModule(module, privacy=privacy, **{"local_steps": 1, **options})
    people = dict(zip("abc", workers, strict=False))
    availability = options.pop("availability", None)
    fit(federated, FederatedDataModule(people, availability=availability), max_steps=rounds)
    return federated


def charged(federated: FederatedModule) -> int:
    return sum(count for _, count in federated.private_run.accountant.history)  # type: ignore[union-attr]


# ---- examples that are skipped, and that fail --------------------------------------------------------------------


class SkipsBad(Pull):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return super().training_step(batch, batch_idx) if batch[0].isfinite().all() else None


class SkipsLate(Pull):
    """After the forward pass, as is usual."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        return loss if loss.isfinite() else None


@pytest.mark.parametrize("kind", [SkipsBad, SkipsLate, Pull])
def test_an_example_that_is_skipped_drops_no_other(monkeypatch: pytest.MonkeyPatch, kind: type[Pull]) -> None:
    """Nine of ten pull by 1, over ten expected examples. One that is NaN counts as zeros where nobody skips it."""
    seen = Seen(monkeypatch, factor=0.0)
    data = Targets(*10 * [1e3])
    data.set.tensors[0][4] = torch.nan
    module = kind()
    run(module, data)
    assert module.w == pytest.approx(0.9, abs=1e-5)
    assert len(seen.draws) == 1


def test_a_step_in_which_all_are_skipped_is_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """zC over two examples, and charged as any other."""
    Seen(monkeypatch)
    module = SkipsLate()
    federated = run(module, Targets(1.0, 1.0, x=torch.nan))
    assert module.w == pytest.approx(-0.5)
    assert charged(federated) == 1


def test_what_is_skipped_spoils_no_later_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both workers' mean, twice: a takes part with zeros."""
    Seen(monkeypatch, factor=0.0)
    module = SkipsLate()
    run(module, Targets(1e3, 1e3, x=torch.nan), Targets(1e3, 1e3), rounds=2)
    assert module.w == pytest.approx(1.0, abs=1e-5)


class Fails(Pull):
    """Between the forward and the backward pass, in some worker."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = super().training_step(batch, batch_idx)
        if batch[1].min() < 0:
            raise RuntimeError("boom")
        return loss


class FailsBackward(Pull):
    """Between the backward pass and the step."""

    def on_after_backward(self) -> None:
        if float(self.layer.weight.grad) > 0:  # type: ignore[arg-type]
            raise RuntimeError("boom")


@pytest.mark.parametrize("kind", [Fails, FailsBackward])
@pytest.mark.parametrize("order", [(-1e3, 1e3, 1e3), (1e3, -1e3, 1e3), (1e3, 1e3, -1e3)])
@pytest.mark.filterwarnings("ignore:.*round goes on without it")
def test_a_worker_that_fails_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch, kind: type[Pull], order: tuple[float, ...]
) -> None:
    """The two others pull by 1 in each of two rounds; of the one that fails nothing is left."""
    Seen(monkeypatch, factor=0.0)
    module = kind()
    run(module, *(Targets(1e3, y, y) for y in order), rounds=2, on_worker_error="drop")
    assert module.w == pytest.approx(2.0, abs=1e-5)


# ---- closures ----------------------------------------------------------------------------------------------------


class Sam(Pull):
    """Calls the closure, and once more where the optimizer steps."""

    def optimizer_step(self, epoch: Any, batch_idx: Any, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()
        optimizer.step(closure=optimizer_closure)


class SamInside(Pull):
    def optimizer_step(self, epoch: Any, batch_idx: Any, optimizer: Any, optimizer_closure: Any = None) -> None:
        def twice() -> Any:
            optimizer_closure()
            return optimizer_closure()

        optimizer.step(closure=twice)


class NoClosure(Pull):
    def optimizer_step(self, epoch: Any, batch_idx: Any, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step()


class Swallows(Pull):
    """Moves a parameter by itself, and goes on after the refusal."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.layer.weight.data.add_(batch[1].mean())
        return super().training_step(batch, batch_idx)

    def optimizer_step(self, epoch: Any, batch_idx: Any, optimizer: Any, optimizer_closure: Any = None) -> None:
        with suppress(ValueError):
            optimizer.step(closure=optimizer_closure)


class Warm(Pull):
    """Warms the learning rate up, by Lightning's recipe: here to a half."""

    def optimizer_step(self, epoch: Any, batch_idx: Any, optimizer: Any, optimizer_closure: Any = None) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.5
        NOTES.append("closure" if optimizer_closure is not None else None)
        optimizer.step(closure=optimizer_closure)


class Clamps(Pull):
    """Changes parameters after the step, when they are private."""

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        with torch.no_grad():
            self.layer.weight.clamp_(-0.25, 0.25)


class ByLBFGS(Pull):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


class SamOptimizer(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        closure()
        return super().step(closure)


class BySamOptimizer(Pull):
    def configure_optimizers(self) -> Any:
        return SamOptimizer(self.parameters(), lr=1.0)


class ZeroesByItself(Pull):
    def optimizer_zero_grad(self, *_: Any) -> None:
        """Nothing: gradients add up."""


class Manual(Pull):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        self.optimizers().step()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Sam, r"optimizer_step\(\) calls its closure twice in a step, .*call optimizer\.step\(closure=.*once"),
        (SamInside, r"optimizer_step\(\) calls its closure twice"),
        (NoClosure, r"optimizer_step\(\) did not call its closure"),
        (Swallows, r"optimizer_step\(\) did not call its closure, or went on after its error"),
        (ByLBFGS, "with torch's optimizers but LBFGS"),
        (BySamOptimizer, "with torch's optimizers but LBFGS"),
        (ZeroesByItself, r"no optimizer_zero_grad\(\) of the module's own"),
        (Manual, "Manual optimizes manually .* RecordDP has to take the gradient of each example"),
    ],
)
def test_a_release_is_charged_once_or_refused(kind: type[Pull], message: str) -> None:
    module = kind()
    with pytest.raises((ValueError, WorkerError), match=message):
        run(module, Targets(1.0, 2.0), local_steps=3)
    assert module.w == 0.0


def test_one_closure_in_a_step_is_one_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of 1/2; the hook is given a closure."""
    seen = Seen(monkeypatch, factor=0.0)
    module = Warm()
    federated = run(module, Targets(1e3, 1e3), local_steps=3)
    assert module.w == pytest.approx(1.5, abs=1e-5)
    assert len(seen.draws) == charged(federated) == 3
    assert NOTES == 3 * ["closure"]


def test_a_closure_tells_no_loss() -> None:
    """No noise hides it, and the hook could skip the step by it."""

    class Peeks(Pull):
        def optimizer_step(self, epoch: Any, batch_idx: Any, optimizer: Any, optimizer_closure: Any = None) -> None:
            NOTES.append(optimizer_closure())
            optimizer.step()

    run(Peeks(), Targets(1e3, 1e3))
    assert NOTES == [None]


def test_parameters_may_be_changed_after_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    Seen(monkeypatch, factor=0.0)
    module = Clamps()
    run(module, Targets(1e3, 1e3), local_steps=2)
    assert module.w == 0.25


# ---- hooks -------------------------------------------------------------------------------------------------------


class Notes(Pull):
    """Which hooks see which gradient."""

    def _note(self, hook: str) -> None:
        gradient = self.layer.weight.grad
        NOTES.append((hook, None if gradient is None else round(float(gradient), 3)))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        NOTES.append(("start", [example[1].shape for example in batch]))

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self._note("zero")

    def on_before_backward(self, loss: Tensor) -> None:
        self._note("before")

    def on_after_backward(self) -> None:
        self._note("after")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self._note("step")

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        self._note("clip")


def test_hooks_before_the_noise_see_one_example_and_those_after_it_the_noised_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients −5 and 7 are clipped to −1 and 1; the noise of 1 over two examples is left."""
    Seen(monkeypatch)
    run(Notes(), Targets(5.0, -7.0))
    one = torch.Size([1, 1])
    assert [
        ("start", [one, one]),
        ("zero", None),
        *[("before", None), ("after", -5.0)],
        *[("before", None), ("after", 7.0)],
        *[("step", 0.5), ("clip", 0.5)],
    ] == NOTES


@pytest.mark.parametrize("hook", ["on_before_backward", "on_after_backward", "backward"])
def test_what_hooks_do_to_an_examples_gradient_is_clipped(monkeypatch: pytest.MonkeyPatch, hook: str) -> None:
    Seen(monkeypatch, factor=0.0)

    class Grows(Pull):
        def _grow(self) -> None:
            if self.layer.weight.grad is not None:
                self.layer.weight.grad.mul_(1e6)

    def grow(self: Any, *arguments: Any) -> None:
        if hook == "backward":
            arguments[0].backward(retain_graph=True)
            arguments[0].backward()
        self._grow()

    monkeypatch.setattr(Grows, hook, grow, raising=False)
    module = Grows()
    run(module, Targets(5.0, 7.0))
    assert module.w == pytest.approx(1.0, abs=1e-5)


def test_gradients_do_not_pass_from_example_to_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor from step to step: what is left on the parameters is forgotten before each backward pass."""
    Seen(monkeypatch, factor=0.0)

    class Leaves(Pull):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            self.layer.weight.grad = torch.full_like(self.layer.weight, 1e6)
            return super().training_step(batch, batch_idx)

    module = Leaves()
    run(module, Targets(0.25, 0.25))
    assert module.w == pytest.approx(0.25)


class Ends(Pull):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx else None


def test_to_end_a_pass_by_what_examples_say_is_refused() -> None:
    with pytest.raises(WorkerError, match=r"no on_train_batch_start\(\) that returns -1"):
        run(Ends(), Targets(1.0), local_steps=3, sampling_rate=0.5)


class Draws(Pull):
    """Random numbers of training and, in the data set, of augmentation."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        NOTES.append((float(torch.rand(())), float(batch[1])))
        return super().training_step(batch, batch_idx)


class Augmented(Targets):
    def train_dataloader(self) -> Any:
        return DataLoader(self.set, batch_size=2, collate_fn=lambda rows: [rows[0][0][None], torch.rand(1, 1)])


def test_what_training_draws_follows_from_no_seed_of_the_run() -> None:
    """Or who has it could compute from one example's dropout whether another was drawn before."""
    drawn = []
    for insecure in (False, False, True, True):
        pl.seed_everything(3, verbose=False)
        run(Draws(), Augmented(1.0), insecure_deterministic_noise=insecure)
        drawn.append(NOTES[0])
    assert len({number for pair in drawn[:3] for number in pair}) == 6
    assert drawn[2] == drawn[3]


class Logs(Pull):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.log("target", batch[1])
        self.log("count", 1.0, reduce_fx="sum")
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:.*are shown as they are")
def test_released_metrics_are_means_over_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of targets 2, 4 and 6 in one step and 2 in another, each example counts once. Halves of squares from w = 0, which
    the first step moves to 1: 2, 8, 18 and ½."""
    Seen(monkeypatch, factor=0.0)
    everyone, one = torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    monkeypatch.setattr(Noise, "uniform", lambda _, size, *keys: one if keys[-1] else everyone)
    federated = run(Logs(), Targets(2.0, 4.0, 6.0), release_metrics=True, sampling_rate=0.9999999, local_steps=2)
    record = federated.last_report.workers["a"]
    assert record.metrics == {"target": 3.5, "count": 4.0}
    assert record.loss == pytest.approx(28.5 / 4, rel=1e-5)
    assert record.examples == 3


class SetsLr(Pull):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.optimizers().param_groups[0]["lr"] = float(batch[1].abs().max())  # type: ignore[union-attr]
        return super().training_step(batch, batch_idx)


class WarmsUp(Pull):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().param_groups[0]["lr"] = 0.25 + batch_idx  # type: ignore[union-attr]


def test_a_learning_rate_that_examples_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        WorkerError, match=r"training_step\(\) or a hook of the backward pass changed a setting of the op"
    ):
        run(SetsLr(), Targets(5.0, 1e3))
    Seen(monkeypatch, factor=0.0)
    warm = WarmsUp()
    run(warm, Targets(9.0, 9.0), local_steps=2)
    assert warm.w == pytest.approx(2 * 0.25, rel=1e-6), "by the number of the step it may be set: 0, each pass has one"


class TurnsAround(Pull):
    """The sign of the loss is that of all targets so far."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torchmetrics.SumMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.total.update(batch[1])
        loss = super().training_step(batch, batch_idx)
        assert loss is not None
        return loss * self.total.compute().sign()


def test_a_metric_takes_nothing_from_example_to_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten examples move the sum by 1 each, also if the first of them has a target of −10⁶; its own gradient turns."""
    Seen(monkeypatch, factor=0.0)
    module = TurnsAround()
    run(module, Targets(-1e6, *[10.0] * 9))
    assert module.w == pytest.approx(1.0, rel=1e-6)


# ---- as many steps as are charged --------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1, 7), (30, 2)])
@pytest.mark.parametrize(
    ("local", "rate", "steps"),
    [
        ({"local_steps": 5}, 0.5, 5),
        ({"local_steps": None, "local_epochs": 2}, 0.25, 8),
        ({"local_steps": None, "local_epochs": 3}, 0.3, 9),
        ({"local_steps": None, "local_epochs": 1}, 1 / 93, 93),  # 1 / (1 / 93) is 92.99999999999999
        ({"local_steps": None}, 1.0, 1),
    ],
)
def test_every_worker_takes_as_many_steps_as_are_charged(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int], local: dict[str, Any], rate: float, steps: int
) -> None:
    seen = Seen(monkeypatch, factor=0.0)
    federated = run(Pull(), *(Targets(*n * [1.0]) for n in sizes), sampling_rate=rate, rounds=2, **local)
    taken = [sum(worker in keys for _, _, keys in seen.draws) for worker in "ab"]
    assert taken == [2 * steps, 2 * steps]
    assert charged(federated) == 2 * steps


def test_a_straggler_takes_fewer_steps_than_are_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, factor=0.0)
    privacy = RecordDP(clip=1.0, sampling_rate=0.1, delta=1e-5, noise_multiplier=1.0, accountant="rdp")
    federated = FederatedModule(Pull(), privacy=privacy, local_epochs=2)
    data = FederatedDataModule(
        {"a": Targets(1.0), "b": Targets(1.0, 2.0)}, availability=RandomAvailability(stragglers=1.0)
    )
    fit(federated, data, max_steps=1)
    assert max(sum(worker in keys for _, _, keys in seen.draws) for worker in "ab") < 20
    assert charged(federated) == 20


class Longer(Algorithm):
    """Has workers train for longer than the server was told."""

    def assign(self, job: Job, server: Any) -> Job:
        return replace(job, local=LocalTraining(steps=2))

    def aggregator(self) -> UniformMean:
        return UniformMean()


def test_steps_that_are_not_charged_are_refused() -> None:
    with pytest.raises(WorkerError, match=r"a step more than the 1 of a round that are charged; let the algorithm"):
        run(Pull(), Targets(1.0), algorithm=Longer())


def test_an_empty_step_is_charged_and_noised(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    monkeypatch.setattr(Noise, "uniform", lambda _, size, *keys: torch.ones(size, dtype=torch.float64))
    federated = run(Notes(), Targets(1.0, 1.0), sampling_rate=0.5, local_steps=4, algorithm=FedAvg())
    assert len(seen.draws) == charged(federated) == 4
    assert [note for note in NOTES if note[0] == "start"] == 4 * [("start", [])]
