"""Modules of all the ways in which examples of a batch meet; in a file of its own, which child processes import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed._lightning import pl

N = STEPS = 4  # as many examples as steps in a sequence, so that no count can tell one from the other
WIDTH = 4


class Sequences(pl.LightningDataModule):
    """Sequences ``[STEPS, WIDTH]``, each with a label and a number, of which some are left out."""

    def __init__(self, without: int | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        x = 3.0 * torch.randn(N, STEPS, WIDTH, generator=generator)
        y = 5.0 * torch.randn(N, generator=generator)
        kept = [i for i in range(N) if i != without]
        self.set = TensorDataset(x[kept], y[kept])

    def train_dataloader(self) -> Any:
        return DataLoader(self.set, batch_size=N)


class Mixing(pl.LightningModule):
    """Something on sequences; its loss has large gradients, so that examples are clipped."""

    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = nn.Linear(WIDTH, 1)
        self.head: nn.Module = nn.Linear(WIDTH, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return 10 * (self.predict(x) - y).square().mean()

    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x).mean(dim=(1, 2))
        return out

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Flattened(Mixing):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return 10 * (self.net(x.reshape(-1, WIDTH)).squeeze(1) - y.repeat_interleave(STEPS)).square().mean()


class BatchSecond(Mixing):
    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.transpose(0, 1)).mean(dim=(0, 2))
        return out


class Shuffled(Mixing):
    """Between two layers: both see as many examples as there are, in another order."""

    def predict(self, x: Tensor) -> Tensor:
        hidden = x.mean(dim=1) * self.net.weight  # type: ignore[operator]
        order = torch.randperm(len(x))
        out: Tensor = self.head(hidden[order]).squeeze(1)[order.argsort()]
        return out


class Mixup(Mixing):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return super().training_step([0.7 * x + 0.3 * x.flip(0), 0.7 * y + 0.3 * y.flip(0)], batch_idx)


class TwoViews(Mixing):
    """A contrastive loss (InfoNCE), in which all other examples are negatives, beside a plain one."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].mean(dim=1)
        views = (torch.cat([x, x.flip(1)]) * self.net.weight) @ self.head.weight.T * x.repeat(2, 1)  # type: ignore
        alike = views @ views.T - 1e9 * torch.eye(len(views))
        contrast = nn.functional.cross_entropy(alike, torch.arange(len(views)).roll(len(x)))
        return super().training_step(batch, batch_idx) + contrast


class Pooled(Mixing):
    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.mean(dim=0, keepdim=True)).mean(dim=(1, 2)).expand(len(x))
        return out


class Centred(Mixing):
    """Batch statistics without a layer for them."""

    def predict(self, x: Tensor) -> Tensor:
        return super().predict(x - x.mean(dim=0) / 2)


class CalledTwice(Mixing):
    def predict(self, x: Tensor) -> Tensor:
        return super().predict(x) + super().predict(x.square())


class Tied(Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.net.weight

    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(x * self.net.weight)).mean(dim=(1, 2))
        return out


class Bare(Mixing):
    """A parameter of the module itself, and a layer whose weight is used without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def predict(self, x: Tensor) -> Tensor:
        return (x * self.scale) @ self.net.weight.sum(dim=0) @ torch.ones(STEPS)  # type: ignore[operator]


class Recurrent(Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(x)[0][:, -1]).squeeze(1)
        return out


class RecurrentSecond(Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.GRU(WIDTH, WIDTH)

    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(x.transpose(0, 1))[0][-1]).squeeze(1)
        return out


class Attending(Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(x, x, x)[0]).mean(dim=(1, 2))
        return out


class AttendingAcross(Mixing):
    """Attention along the batch, for want of ``batch_first``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.MultiheadAttention(WIDTH, 2)

    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(x, x, x)[0]).mean(dim=(1, 2))
        return out


class Positions(Mixing):
    """Embeddings of places, looked up once for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Embedding(STEPS, WIDTH)

    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x * self.net(torch.arange(STEPS).unsqueeze(0))).mean(dim=(1, 2))
        return out


class Sparse(Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.EmbeddingBag(5, WIDTH, sparse=True)

    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(x[..., 0].abs().long().clamp(max=4))).squeeze(1)
        return out


class Convolved(Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(STEPS, 2, 2), nn.GroupNorm(1, 2), nn.LayerNorm(3), nn.InstanceNorm1d(2))
        self.head = nn.Linear(3, 1)

    def predict(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(x).square()).mean(dim=(1, 2))
        return out


class Complex(Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.phases = nn.Parameter(torch.polar(torch.ones(WIDTH), torch.arange(4.0)))

    def predict(self, x: Tensor) -> Tensor:
        turned = x * self.phases
        return super().predict(turned.real + turned.imag)


class Summed(Mixing):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return 1e6 * (self.predict(x) - y).square().sum()


class Weighted(Mixing):
    """A mean weighted by labels, which divides by the weights of the whole batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.net(x.mean(dim=1)) * torch.tensor([1.0, -1.0])
        return nn.functional.cross_entropy(logits, (y > 0).long(), weight=torch.tensor([0.01, 100.0]))


class Listed(Mixing):
    """A loop over the examples, some of which are skipped."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        losses = [(self.predict(x.unsqueeze(0)) - y).square().sum() for x, y in zip(*batch, strict=True) if y > 0]
        return torch.stack(losses).mean() if losses else None


RIGHT: Mapping[str, Callable[[], Mixing]] = {
    "plain": Mixing,
    "sequences flattened into the batch": Flattened,
    "batch second": BatchSecond,
    "shuffled between layers": Shuffled,
    "mixup": Mixup,
    "two views": TwoViews,
    "pooled to one": Pooled,
    "batch statistics": Centred,
    "called twice": CalledTwice,
    "tied weights": Tied,
    "bare parameters": Bare,
    "LSTM": Recurrent,
    "GRU, batch second": RecurrentSecond,
    "attention": Attending,
    "attention along the batch": AttendingAcross,
    "positions looked up once": Positions,
    "sparse gradients": Sparse,
    "convolution and norms": Convolved,
    "complex": Complex,
    "a sum, scaled": Summed,
    "weighted by labels": Weighted,
    "examples that are skipped": Listed,
}
"""Modules whose examples are hidden right, whatever they do with a batch."""


class OwnNorm(nn.BatchNorm1d):
    """A subclass."""


class Normed(Mixing):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def predict(self, x: Tensor) -> Tensor:
        return super().predict(self.norm(x))


class MovesBuffer(Mixing):
    """A centre that follows the examples (DINO, prototypes), and that gradients depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(WIDTH))

    def predict(self, x: Tensor) -> Tensor:
        self.centre = 0.9 * self.centre + 0.1 * x.mean(dim=(0, 1))
        return super().predict(x - self.centre)


class MovesBufferInPlace(MovesBuffer):
    def predict(self, x: Tensor) -> Tensor:
        self.centre.data.mul_(0.9).add_(x.mean(dim=(0, 1)), alpha=0.1)
        return Mixing.predict(self, x - self.centre)


class MovesParameter(Mixing):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.net.weight.data.add_(batch[0].mean())  # type: ignore[union-attr, operator]
        return super().training_step(batch, batch_idx)


class MovesTeacher(Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(WIDTH, 1).requires_grad_(False)

    def predict(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.teacher.weight.add_(x.mean())
        return super().predict(x) + self.teacher(x).mean(dim=(1, 2))


class MovesAfterTheLastStep(Mixing):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            self.net.weight.add_(outputs["loss"])  # type: ignore[operator]


class Remembers(Mixing):
    """A bank of features as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.bank: list[Tensor] = []

    def predict(self, x: Tensor) -> Tensor:
        self.bank.append(x.detach())
        return super().predict(x - torch.cat(self.bank).mean(dim=0))


class Looked(Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Embedding(5, WIDTH, max_norm=1.0)


_AVERAGES = r"averages BatchNorm statistics \(norm\.running_mean\), .* use GroupNorm"
_DEPENDS = r"Normed\.norm is a {}, in which one example's output depends on others; use GroupNorm or LayerNorm"

REFUSED: Mapping[str, tuple[Callable[[], Mixing], str]] = {
    "BatchNorm": (lambda: Normed(nn.BatchNorm1d(STEPS)), _AVERAGES),
    "BatchNorm without statistics": (
        lambda: Normed(nn.BatchNorm1d(STEPS, track_running_stats=False)),
        _DEPENDS.format("BatchNorm1d"),
    ),
    "BatchNorm without anything": (
        lambda: Normed(nn.BatchNorm1d(STEPS, affine=False, track_running_stats=False)),
        _DEPENDS.format("BatchNorm1d"),
    ),
    "a subclass of BatchNorm": (lambda: Normed(OwnNorm(STEPS)), _AVERAGES),
    "a subclass of BatchNorm without anything": (
        lambda: Normed(OwnNorm(STEPS, affine=False, track_running_stats=False)),
        _DEPENDS.format("OwnNorm"),
    ),
    "SyncBatchNorm": (
        lambda: Normed(nn.SyncBatchNorm(STEPS, track_running_stats=False)),
        _DEPENDS.format("SyncBatchNorm"),
    ),
    "lazy BatchNorm": (
        lambda: Normed(nn.LazyBatchNorm1d(affine=False, track_running_stats=False)),
        _DEPENDS.format("LazyBatchNorm1d"),
    ),
    "a frozen BatchNorm": (
        lambda: Normed(nn.BatchNorm1d(STEPS, track_running_stats=False).eval().requires_grad_(False)),
        _DEPENDS.format("BatchNorm1d"),
    ),
    "InstanceNorm with statistics": (
        lambda: Normed(nn.InstanceNorm1d(STEPS, track_running_stats=True)),
        r"statistics \(norm\.running_mean\)",
    ),
    "an embedding that renormalises": (Looked, r"Looked\.net is a Embedding, which changes .*leave max_norm out"),
    "a buffer that is replaced": (MovesBuffer, r"training changed centre besides the optimizer's steps"),
    "a buffer that is written to": (MovesBufferInPlace, r"training changed centre besides the optimizer's steps"),
    "a parameter that is written to": (MovesParameter, r"training changed net\.weight besides the optimizer's steps"),
    "a teacher that follows examples": (MovesTeacher, r"training changed teacher\.weight besides"),
    "a parameter moved by a hook": (MovesAfterTheLastStep, r"training changed net\.weight besides"),
    "an attribute": (Remembers, r"training changed the module's attribute 'bank"),
}
"""Modules that are refused, and a pattern of what is said."""
