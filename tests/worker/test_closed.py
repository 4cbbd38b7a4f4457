"""Whatever training leaves on the module, its parts, their classes or the optimizer, the next worker does not see."""

from __future__ import annotations

import itertools
import random
import warnings
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rows, Scalar, trainer
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_fed.algorithms import FedRep
from lightning_fed.engines import Sequential
from lightning_fed.population import WorkerPool
from lightning_fed.state import OwnState
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates
from lightning_fed.worker.module_tensors import mark
from lightning_fed.worker.outbox import Outbox
from lightning_fed.worker.snapshot import metrics_in

pytestmark = pytest.mark.usefixtures("double")


class InSlots:
    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0.0


class InObject:
    def __init__(self) -> None:
        self.metric = MeanMetric()
        self.numbers = {"total": [0.0]}


class Leaving(Scalar):
    """Leaves something of a batch in one place, and trains with all that it finds there."""

    def __init__(self, place: str) -> None:
        super().__init__(lr=0.1)
        self.place = place
        self.w = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("buffer", torch.zeros(1))
        self.part = nn.Linear(1, 1)
        self.metrics: Any = [MeanMetric(), {"in a dict": MeanMetric()}]
        self.metric = MeanMetric()
        self.slots, self.object = InSlots(), InObject()
        self.bytes, self.array = bytearray(1), array("d", [0.0])
        self.generators = (torch.Generator().manual_seed(0), np.random.default_rng(0), random.Random(0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (values,) = batch
        found = PLACES[self.place](self, float(values.sum()))
        prediction = self.part(values[:, None]).square().mean() + self.w.square().sum()
        return super().training_step(batch, batch_idx) + prediction * (1 + found)  # type: ignore[no-any-return]


def _list(of: Callable[[Leaving], list[float]]) -> Callable[[Leaving, float], float]:
    def leave(module: Leaving, x: float) -> float:
        of(module).append(x)
        return sum(of(module))

    return leave


def _metric(of: Callable[[Leaving], MeanMetric]) -> Callable[[Leaving, float], float]:
    def leave(module: Leaving, x: float) -> float:
        of(module).update(x)
        return float(of(module).compute())

    return leave


def _attribute(of: Callable[[Leaving], Any]) -> Callable[[Leaving, float], float]:
    def leave(module: Leaving, x: float) -> float:
        of(module).left = getattr(of(module), "left", 0.0) + x
        return float(of(module).left)

    return leave


def _slots(module: Leaving, x: float) -> float:
    module.slots.total += x
    return module.slots.total


def _bytes(module: Leaving, x: float) -> float:
    module.bytes += b"x"
    module.array.append(x)
    return len(module.bytes) + sum(module.array)


def _resized(module: Leaving, x: float) -> float:
    module.buffer.resize_(module.buffer.numel() + 1).fill_(x)
    return float(module.buffer.numel())


def _other_data(module: Leaving, x: float) -> float:
    module.buffer.data = torch.full((module.buffer.numel() + 1,), x)
    return float(module.buffer.numel())


def _frozen_data(module: Leaving, x: float) -> float:
    module.frozen.data += torch.tensor([x, -x])  # of the same sum, and torch takes no note
    return float(module.frozen[0])


def _parameter_hook(module: Leaving, x: float) -> float:
    module.w.register_hook(lambda gradient: gradient * x)
    return 0.0


def _accumulated_hook(module: Leaving, x: float) -> float:
    def scale(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad *= x

    module.w.register_post_accumulate_grad_hook(scale)
    return 0.0


def _module_hook(module: Leaving, x: float) -> float:
    module.part.register_forward_hook(lambda *arguments: arguments[2] * x)
    return 0.0


def _buffers_gradient(module: Leaving, x: float) -> float:
    found = 0.0 if module.buffer.grad is None else float(module.buffer.grad)
    module.buffer.grad = torch.full_like(module.buffer, x)
    return found


def _buffer_requires_grad(module: Leaving, x: float) -> float:
    found = float(module.buffer.requires_grad)
    module.buffer.requires_grad_()
    return found


def _new_part(module: Leaving, x: float) -> float:
    if not hasattr(module, "late_part"):
        module.add_module("late_part", nn.Linear(1, 1))
        nn.init.constant_(module.late_part.weight, x)
    return float(module.late_part.weight)


def _other_part(module: Leaving, x: float) -> float:
    module.part = nn.Linear(1, 1)
    nn.init.constant_(module.part.weight, x)
    return 0.0


def _generators(module: Leaving, x: float) -> float:
    one, two, three = module.generators
    return float(torch.rand(1, generator=one)) + two.random() + three.random()


def _eval(module: Leaving, x: float) -> float:
    found = float(module.part.training)
    module.part.eval()
    return found


def _group(module: Leaving, x: float) -> float:
    group = module.optimizers().param_groups[0]
    group["left"] = group.get("left", 0.0) + x
    return float(group["left"])


def _new_group(module: Leaving, x: float) -> float:
    optimizer = module.optimizers()
    if len(optimizer.param_groups) == 1:
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": x})
    return float(len(optimizer.param_groups))


def _optimizer_hook(module: Leaving, x: float) -> float:
    def scale(optimizer: Any, *_: Any) -> None:
        optimizer.param_groups[0]["params"][0].grad.mul_(x)

    module.optimizers().register_step_pre_hook(scale)
    return 0.0


def _default_dtype(module: Leaving, x: float) -> float:
    found = torch.get_default_dtype() is torch.float64
    torch.set_default_dtype(torch.float32)
    return float(found)


PLACES: Mapping[str, Callable[[Leaving, float], float]] = {
    "list in an object": _list(lambda module: module.object.numbers["total"]),
    "metric in a list": _metric(lambda module: module.metrics[0]),
    "metric in a dict in a list": _metric(lambda module: module.metrics[1]["in a dict"]),
    "metric in an object": _metric(lambda module: module.object.metric),
    "attribute of a metric": _attribute(lambda module: module.metric),
    "attribute of a parameter": _attribute(lambda module: module.w),
    "attribute of a buffer": _attribute(lambda module: module.buffer),
    "attribute of the optimizer": _attribute(lambda module: module.optimizers()),
    "attribute of the trainer": _attribute(lambda module: module.trainer),
    "slots": _slots,
    "bytes and an array": _bytes,
    "buffer resized": _resized,
    "buffer with other data": _other_data,
    "frozen data of the same sum": _frozen_data,
    "hook of a parameter": _parameter_hook,
    "hook after accumulation": _accumulated_hook,
    "hook of a part": _module_hook,
    "gradient of a buffer": _buffers_gradient,
    "buffer that requires a gradient": _buffer_requires_grad,
    "new part": _new_part,
    "other part": _other_part,
    "generators": _generators,
    "eval": _eval,
    "value in a group": _group,
    "new group": _new_group,
    "hook of the optimizer": _optimizer_hook,
    "default dtype": _default_dtype,
}


def bobs(place: str, cohort: list[str]) -> Any:
    """What leaves bob, who trains last."""
    torch.manual_seed(0)
    module = Leaving(place)
    parameters = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    model = GlobalModel(parameters, {"buffer": torch.zeros(1)}, frozen={"frozen": module.frozen.detach()})
    engine = Sequential()
    data = {"ann": Rows([3.0, 5.0, 2.0], batch_size=1), "bob": Rows([0.5, 1.5], batch_size=1)}
    engine.setup(module, WorkerPool(data, 10), trainer())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an attribute was changed
        *_, last = engine.run(Job(0, 0, 0, model, LocalTraining()), cohort)
    assert isinstance(last, Updates), last
    return last.delta[-1], last.loss[-1], {name: rows[-1] for name, rows in last.buffers.items()}


@pytest.mark.parametrize("place", PLACES)
def test_the_next_worker_finds_nothing(place: str) -> None:
    alone = bobs(place, ["bob"])
    torch.testing.assert_close(bobs(place, ["ann", "bob"]), alone, rtol=0, atol=0)
    assert torch.get_default_dtype() is torch.float64


def test_all_metrics_are_found() -> None:
    module = Leaving("slots")
    nested = [module.metric, module.metrics[0], module.metrics[1]["in a dict"], module.object.metric]
    assert {id(metric) for metric in metrics_in(module)} == {id(metric) for metric in nested}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64, torch.int8, torch.bool]
)
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_mark_tells_of_one_changed_number_in_each_dtype(dtype: torch.dtype, size: int) -> None:
    for place, strided in itertools.product(range(size), (False, True)):
        tensor = torch.zeros(2 * size, dtype=dtype)[::2] if strided else torch.zeros(size, dtype=dtype)
        before = mark(tensor)
        tensor.data[place] = 1
        assert mark(tensor) != before


class Teaching(Scalar):
    """A teacher that moves in a worker's first training of a round only."""

    def __init__(self) -> None:
        super().__init__(lr=0.5)
        self.head = nn.Parameter(torch.zeros(()))
        self.teacher = nn.Parameter(torch.zeros(()), requires_grad=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if not self.x.requires_grad or (self.head.item() == 0 and self.teacher.item() == 0):
            self.teacher.data += batch[0].mean()
        return super().training_step([batch[0] - self.teacher], batch_idx) + (self.head - 1).square()  # type: ignore[no-any-return]


def test_a_teacher_that_moved_in_a_first_training_is_not_the_next_workers() -> None:
    def trained(cohort: list[str]) -> Any:
        engine, data = Sequential(), {"ann": Rows([3.0]), "bob": Rows([1.0])}
        outbox = Outbox(FedRep(["head"]), own=OwnState(FedRep(["head"]).tables))
        module = Teaching()
        engine.setup(module, WorkerPool(data, 10), trainer(), outbox)
        parameters = {"x": module.x.detach(), "head": module.head.detach()}
        outbox.own.begin(0, None)
        model = GlobalModel(parameters, frozen={"teacher": module.teacher.detach()})
        job = FedRep(["head"]).assign(Job(0, 0, 0, model, LocalTraining()), {})
        results = [result for name in cohort for result in engine.run(job, [name])]
        assert isinstance(results[-1], Updates), results
        return results[-1].delta, results[-1].buffers

    alone = trained(["bob"])
    assert alone[1]["teacher"].tolist() == [1.0]
    torch.testing.assert_close(trained(["ann", "bob"]), alone, rtol=0, atol=0)
