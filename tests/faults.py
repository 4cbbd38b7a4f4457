"""Workers with something wrong: a small module, data for its workers, and what may be wrong with them."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lightning_fed._lightning import pl

MARK = 777.0
"""All numbers of a batch for which a step does something wrong."""


class Net(pl.LightningModule):
    """A linear classifier; deterministic, in float64 where that is the default."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.1, -0.2, 0.3], [-0.3, 0.2, 0.1]]))
            self.layer.bias.zero_()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = nn.functional.cross_entropy(self.layer(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class UnspeakableError(RuntimeError):
    """Cannot say what has happened."""

    def __str__(self) -> str:
        raise LookupError("no words")


class Stepping(Net):
    """Does something wrong in a step on a batch of marks, which no stack of workers can take."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return STEPS[self.fault](self, batch, loss) if bool((batch[0] == MARK).all()) else loss


class Scaling(Net):
    """Multiplies the loss on a batch of marks; for a stack of workers too."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        marked = (batch[0] == MARK).all()
        return super().training_step(batch, batch_idx) * torch.where(marked, self.factor, 1.0)


def _raise(error: BaseException) -> Any:
    raise error


STEPS: dict[str, Callable[[Any, Any, Tensor], Any]] = {
    "raises": lambda module, batch, loss: _raise(RuntimeError("the step fails")),
    "raises without words": lambda module, batch, loss: _raise(UnspeakableError()),
    "None": lambda module, batch, loss: None,
    "a vector": lambda module, batch, loss: nn.functional.cross_entropy(
        module.layer(batch[0]), batch[1], reduction="none"
    ),
    "a string": lambda module, batch, loss: "loss",
    "detached": lambda module, batch, loss: loss.detach(),
    "a dict": lambda module, batch, loss: {"los": loss},
    "a float": lambda module, batch, loss: float(loss.detach()),
    "exits": lambda module, batch, loss: sys.exit(5),
    "is interrupted": lambda module, batch, loss: _raise(KeyboardInterrupt()),
    "ends an iteration": lambda module, batch, loss: _raise(StopIteration()),
    "ends a generator": lambda module, batch, loss: _raise(GeneratorExit()),
    "recurses": lambda module, batch, loss: STEPS["recurses"](module, batch, loss),
    "ends the process": lambda module, batch, loss: os._exit(9),
}


def examples(seed: int, n: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(n, 3, generator=generator, dtype=torch.float64).to(torch.get_default_dtype())
    return numbers, torch.randint(0, 2, (n,), generator=generator)


class Good(pl.LightningDataModule):
    """Four examples in shuffled batches of two."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.numbers, self.labels = examples(seed)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.numbers, self.labels), batch_size=2, shuffle=True)


class Failing(Good):
    """Raises where a hook of the datamodule is called."""

    def __init__(self, hook: str, error: BaseException) -> None:
        super().__init__(9)
        self.hook, self.error = hook, error

    def prepare_data(self) -> None:
        self._fail("prepare_data")

    def setup(self, stage: str) -> None:
        self._fail("setup")

    def train_dataloader(self) -> Any:
        self._fail("train_dataloader")
        return super().train_dataloader()

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        self._fail("transfer_batch_to_device")
        return batch

    def _fail(self, hook: str) -> None:
        if hook == self.hook:
            raise self.error


class Giving(Good):
    """Gives something else than a good loader."""

    def __init__(self, make: Callable[[Good], Any]) -> None:
        super().__init__(9)
        self.make = make

    def train_dataloader(self) -> Any:
        return self.make(self)


class Items(Dataset[Any]):
    """Examples that something happens to on their way."""

    def __init__(self, data: Good, change: Callable[[int, Tensor, Tensor], Any]) -> None:
        self.data, self.change = data, change

    def __len__(self) -> int:
        return len(self.data.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.change(index, self.data.numbers[index], self.data.labels[index])


def _items(change: Callable[[int, Tensor, Tensor], Any], **options: Any) -> Callable[[], Good]:
    return lambda: Giving(partial(_loader_of_items, change, options))


def _loader_of_items(change: Any, options: dict[str, Any], data: Good) -> Any:
    return DataLoader(Items(data, change), batch_size=2, **options)


def _tensors(change: Callable[[Tensor, Tensor], Any]) -> Callable[[], Good]:
    return lambda: Giving(partial(_loader_of_tensors, change))


def _loader_of_tensors(change: Any, data: Good) -> Any:
    return DataLoader(TensorDataset(*change(data.numbers, data.labels)), batch_size=2)


class Growing(Good):
    """A data set that is longer or shorter from the second round on."""

    def __init__(self, first: int, later: int) -> None:
        super().__init__(9)
        self.numbers, self.labels = examples(9, n=8)
        self.first, self.later = first, later

    def train_dataloader(self) -> Any:
        return DataLoader(Lengthy(self), batch_size=2, shuffle=True)


class Lengthy(Dataset[Any]):
    def __init__(self, data: Growing) -> None:
        self.data = data

    def __len__(self) -> int:
        trainer = self.data.trainer
        return self.data.later if trainer is not None and trainer.global_step else self.data.first

    def __getitem__(self, index: int) -> Any:
        return self.data.numbers[index], self.data.labels[index]


# ---- functions at the top level, so that they can be sent to another process -----------------------------------------


def as_it_is(index: int, x: Tensor, y: Tensor) -> Any:
    return x, y


def disk_gone(index: int, x: Tensor, y: Tensor) -> Any:
    if index == 3:
        raise OSError("disk gone")
    return x, y


def ragged(index: int, x: Tensor, y: Tensor) -> Any:
    return (x[:2] if index % 2 else x), y


def narrow(index: int, x: Tensor, y: Tensor) -> Any:
    return x[:2], y


def half(index: int, x: Tensor, y: Tensor) -> Any:
    return x.to(torch.float16), y


def out_of_range(index: int, x: Tensor, y: Tensor) -> Any:
    return x, torch.tensor(99)


def not_a_number(index: int, x: Tensor, y: Tensor) -> Any:
    return x * float("nan"), y


def raising(error: BaseException, index: int, x: Tensor, y: Tensor) -> Any:
    if index == 3:  # in the second batch: the first one has been trained on
        raise error
    return x, y


def recursing(index: int, x: Tensor, y: Tensor) -> Any:
    return recursing(index, x, y)


def exiting(index: int, x: Tensor, y: Tensor) -> Any:
    sys.exit(7)


def ending_the_process(index: int, x: Tensor, y: Tensor) -> Any:
    os._exit(9)


def no_gradients(index: int, x: Tensor, y: Tensor) -> Any:
    torch.set_grad_enabled(False)
    return x, y


def other_dtype(index: int, x: Tensor, y: Tensor) -> Any:
    torch.set_default_dtype(torch.float16)
    return x, y


def everything(index: int, x: Tensor, y: Tensor) -> Any:
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float16)
    torch.set_num_threads(3)
    torch.manual_seed(5)
    random.seed(1)
    os.chdir("/")
    warnings.simplefilter("error")
    return x, y


def narrow_rows(x: Tensor, y: Tensor) -> Any:
    return x[:, :2], y


def half_rows(x: Tensor, y: Tensor) -> Any:
    return x.half(), y


def huge_rows(x: Tensor, y: Tensor) -> Any:
    return x * 1e308 * 1e10, y


def one_row_out_of_range(x: Tensor, y: Tensor) -> Any:
    return x, y.index_fill(0, torch.tensor(3), 99)


def _nothing(data: Good) -> Any:
    return None


def _a_number(data: Good) -> Any:
    return 5


def _empty(data: Good) -> Any:
    return DataLoader(Subset(TensorDataset(data.numbers, data.labels), []), batch_size=2)


def _empty_shuffled(data: Good) -> Any:
    return DataLoader(TensorDataset(data.numbers[:0], data.labels[:0]), batch_size=2, shuffle=True)


def _all_dropped(data: Good) -> Any:
    return DataLoader(TensorDataset(data.numbers, data.labels), batch_size=100, drop_last=True)


def _no_batches(data: Good) -> Any:
    return iter(())


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a worker.

    Args:
        data: Makes its datamodule.
        says: What is said of it, as a regular expression; None: it trains, and what it does to others is undone.
        module: Makes the module.
        stacks: Whether a stack of workers can take the module's steps at all.
        ends_process: Whether it ends its process, which only an engine with processes for workers can go on after.
        twin: Makes data for which a worker does the same without the fault, if it trains; None: it counts for nothing.
    """

    data: Callable[[], Good]
    says: str | None
    module: Callable[[], Net] = Net
    stacks: bool = True
    ends_process: bool = False
    twin: Callable[[], Good] | None = None


def _marked() -> Good:
    return Giving(_marks)


def _marks(data: Good) -> Any:
    return DataLoader(TensorDataset(torch.full_like(data.numbers, MARK), data.labels), batch_size=2)


def _in_a_step(fault: str, says: str | None, **options: Any) -> Fault:
    return Fault(_marked, says, partial(Stepping, fault), stacks=False, **options)


_untouched = _items(as_it_is)
_DIVERGED = "its update has NaN or Inf in it, so its local training diverged"

FAULTS: dict[str, Fault] = {
    "prepare_data": Fault(partial(Failing, "prepare_data", RuntimeError("no data")), "RuntimeError: no data"),
    "setup": Fault(partial(Failing, "setup", RuntimeError("no data")), "RuntimeError: no data"),
    "setup exits": Fault(partial(Failing, "setup", SystemExit(3)), "its code raised SystemExit: 3, as if to end"),
    "train_dataloader": Fault(partial(Failing, "train_dataloader", KeyError("file")), "KeyError: 'file'"),
    "loader exits": Fault(partial(Failing, "train_dataloader", SystemExit()), "its code raised SystemExit, as if"),
    "transfer": Fault(partial(Failing, "transfer_batch_to_device", ValueError("no")), "ValueError: no"),
    "no loader": Fault(partial(Giving, _nothing), r"gives no train_dataloader\(\)"),
    "a number": Fault(partial(Giving, _a_number), r"train_dataloader\(\) returned a int"),
    "empty": Fault(partial(Giving, _empty), "it has no training examples"),
    "empty shuffled": Fault(partial(Giving, _empty_shuffled), "it has no training examples"),
    "all dropped": Fault(partial(Giving, _all_dropped), "gives no batch from 4 examples"),
    "no batches": Fault(partial(Giving, _no_batches), "gave no batch in pass 1|is not known beforehand"),
    "disk gone": Fault(_items(disk_gone), "OSError: disk gone"),
    "disk gone elsewhere": Fault(_items(disk_gone, num_workers=2), "OSError: Caught OSError in DataLoader worker"),
    "ragged": Fault(_items(ragged), "stack expects each tensor to be equal size"),
    "narrow": Fault(_items(narrow), "shapes cannot be multiplied|batch2 tensor"),
    "narrow tensors": Fault(_tensors(narrow_rows), "shapes cannot be multiplied|batch2 tensor"),
    "other dtype": Fault(_items(half), "must have the same dtype|expected scalar type"),
    "tensors of another dtype": Fault(_tensors(half_rows), "must have the same dtype|expected scalar type"),
    "out of range": Fault(_items(out_of_range), "out of bounds"),
    "one out of range": Fault(_tensors(one_row_out_of_range), "out of bounds"),
    "NaN": Fault(_items(not_a_number), _DIVERGED),
    "huge": Fault(_tensors(huge_rows), _DIVERGED),
    "NaN loss": Fault(_marked, _DIVERGED, partial(Scaling, float("nan"))),
    "infinite loss": Fault(_marked, _DIVERGED, partial(Scaling, float("inf"))),
    "infinite gradient": Fault(_marked, _DIVERGED, partial(Scaling, 1e307)),
    "MemoryError": Fault(_items(partial(raising, MemoryError())), "failed in round 0: MemoryError$"),
    "StopIteration": Fault(_items(partial(raising, StopIteration())), "its dataset raised StopIteration"),
    "KeyboardInterrupt": Fault(_items(partial(raising, KeyboardInterrupt())), "its code raised KeyboardInterrupt"),
    "GeneratorExit": Fault(_items(partial(raising, GeneratorExit("x"))), "its code raised GeneratorExit: x"),
    "no words": Fault(_items(partial(raising, UnspeakableError())), "failed in round 0: UnspeakableError$"),
    "RecursionError": Fault(_items(recursing), "RecursionError: maximum recursion depth exceeded"),
    "sys.exit": Fault(_items(exiting), "its code raised SystemExit: 7"),
    "os._exit": Fault(_items(ending_the_process), "its process ended .*exit code 9", ends_process=True),
    "step raises": _in_a_step("raises", "RuntimeError: the step fails"),
    "step raises without words": _in_a_step("raises without words", "failed in round 0: UnspeakableError$"),
    "step gives a vector": _in_a_step("a vector", r"loss of shape \(2,\); reduce it to a scalar"),
    "step gives a string": _in_a_step("a string", "must return a tensor, a dict with 'loss', or None, not str"),
    "step gives no graph": _in_a_step("detached", "does not require grad"),
    "step gives no loss": _in_a_step("a dict", "returned a dict without a 'loss'"),
    "step gives a float": _in_a_step("a float", "must return a tensor, a dict with 'loss', or None, not float"),
    "step exits": _in_a_step("exits", "its code raised SystemExit: 5"),
    "step is interrupted": _in_a_step("is interrupted", "its code raised KeyboardInterrupt, as if"),
    "step ends an iteration": _in_a_step("ends an iteration", "StopIteration$"),
    "step ends a generator": _in_a_step("ends a generator", "its code raised GeneratorExit"),
    "step recurses": _in_a_step("recurses", "RecursionError"),
    "step ends the process": _in_a_step("ends the process", "its process ended .*exit code 9", ends_process=True),
    "step gives None": _in_a_step("None", None),
    "grows": Fault(partial(Growing, 4, 8), None, twin=partial(Growing, 4, 8)),
    "shrinks": Fault(partial(Growing, 8, 2), None, twin=partial(Growing, 8, 2)),
    "gradients off": Fault(_items(no_gradients), None, twin=_untouched),
    "default dtype": Fault(_items(other_dtype), None, twin=_untouched),
    "everything at once": Fault(_items(everything), None, twin=_untouched),
}
