"""Every kind of operation, stacked: the numbers of one worker after another, or a refusal with its reason.

A rule of vmap that is missing fails by itself; one that is wrong does not, so that each has a row here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_equal
from parity import TORCH_2_4, assert_same, by_worker, needs_compiled_stacks, needs_compiler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from zoo import CLASSES, Points, Zoo

from lightning_fed.engines import Auto, Sequential, Vectorized
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.wire import LocalTraining, WorkerError

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # where vmap has no rule, it goes row by row
]

WORKERS = {name: Points(i, examples) for i, (name, examples) in enumerate({"a": 8, "b": 6, "c": 6, "d": 3}.items())}


class Around(nn.Module):
    """A linear layer, a function or layer in the middle, and a linear layer."""

    def __init__(self, middle: Callable[..., Any], shape: tuple[int, ...] = (8,)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shape = shape
        self.first = nn.Linear(8, int(torch.tensor(shape).prod()))
        self.middle = middle
        state = torch.get_rng_state()
        out = self.between(torch.randn(4, 8)).shape[1]
        torch.set_rng_state(state)
        self.last = nn.Linear(out, CLASSES)

    def between(self, x: Tensor) -> Tensor:
        out = self.middle(self.first(x).view(-1, *self.shape))
        return (out[0] if isinstance(out, tuple) else out).reshape(len(x), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(x))


class Indexed(nn.Module):
    """Looks numbers up in a table."""

    def __init__(self, look_up: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(5, 6))
        self.head = nn.Linear(6, CLASSES)
        self.look_up = look_up

    def forward(self, x: Tensor) -> Tensor:
        found = self.look_up(indices(x), self.table)
        return self.head(found.mean(1) if found.dim() == 3 else found)


class Layer(nn.Module):
    """The same with an embedding layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = layer, nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(indices(x))
        return self.head(found.mean(1) if found.dim() == 3 else found)


def indices(x: Tensor) -> Tensor:
    return x.abs().mul(3).long().clamp(max=4)


class Stepping(nn.Module):
    """Something with the layers of a net, in the course of a step."""

    def __init__(self, step: Callable[[Stepping, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, CLASSES))
        self.fixed = nn.Linear(8, CLASSES).requires_grad_(False)
        self.count = torch.tensor(0.0)
        self.kept = list(self.net.parameters())
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self, x)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, CLASSES, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex128) @ self.weight).abs()


class Transposed(nn.Module):
    """Its parameter is not contiguous, and neither is what dropout makes of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(CLASSES, 8).t())

    def forward(self, x: Tensor) -> Tensor:
        return x @ F.dropout(self.weight, 0.4)


class Noisy(nn.Module):
    """Noise written over a convolution's output, whose rows do not lie as dense in a stack as one worker's do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(2, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 2, 2, 2).repeat(1, 1, 3, 3)
        return (self.layer(x) + self.layer(x).detach().normal_()).flatten(1)[:, :CLASSES]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.decode, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decode(torch.tanh(self.encode(x))))


class Attended(nn.Module):
    def __init__(self, batch_first: bool, **call: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, dropout=0.3)
        self.head, self.call = nn.Linear(4, CLASSES), call

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, 2, 4)
        tokens = tokens if self.attention.batch_first else tokens.transpose(0, 1)
        out = self.attention(tokens, tokens, tokens, **self.call)[0]
        return self.head(out.mean(1 if self.attention.batch_first else 0))


class Decoded(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.TransformerDecoderLayer(4, 2, 8, dropout=0.3, batch_first=batch_first)
        self.head, self.batch_first = nn.Linear(8, CLASSES), batch_first

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, 2, 4) if self.batch_first else x.view(-1, 2, 4).transpose(0, 1)
        out = self.decoder(tokens, tokens * 2)
        return self.head((out if self.batch_first else out.transpose(0, 1)).reshape(len(x), -1))


class Cube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return 7 * gradient * ctx.saved_tensors[0] ** 2  # not the derivative


class OldStyle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient * 5


def fn(function: Callable[[Tensor], Any], *shape: int) -> Callable[[], nn.Module]:
    return lambda: Around(function, shape or (8,))


def layer(make: Callable[[], nn.Module], *shape: int) -> Callable[[], nn.Module]:
    return lambda: Around(make(), shape or (4,))


def embedding(**options: Any) -> Callable[[], nn.Module]:
    return lambda: Layer(nn.Embedding(5, 6, **options))


def bag(**options: Any) -> Callable[[], nn.Module]:
    return lambda: Layer(nn.EmbeddingBag(5, 6, **options))


def look_up(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Indexed(function)


def step(function: Callable[[Any, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Stepping(function)


def encoder(batch_first: bool, **options: Any) -> Callable[[], nn.Module]:
    return layer(lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.3, batch_first=batch_first, **options), 2, 4)


def written(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, ::2] = x[:, ::2]
    return out.mul_(2).add_(x)


def ctc(x: Tensor) -> Tensor:
    n = len(x)
    logs = F.log_softmax(x.view(n, 4, 3).transpose(0, 1), 2)
    lengths = torch.full((n,), 4), torch.full((n,), 2)
    return x * F.ctc_loss(logs, torch.ones(n, 2, dtype=torch.long), *lengths)


def gradient_inside(x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    return gradient


def hooked(x: Tensor) -> Tensor:
    out = x * 2
    if out.requires_grad:
        out.register_hook(lambda gradient: -3 * gradient)
    return out


def square(x: Tensor) -> Tensor:
    return x[:, :4].view(-1, 2, 2) + 5 * torch.eye(2)


def index(x: Tensor) -> Tensor:
    return (x > 0).long()


def in_place_on_fixed(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.fixed.weight.mul_(0.9)
    return module.net(x) + module.fixed(x)


COLUMNS = torch.tensor([0, 0, 2, 3, 4, 5, 6, 7])

RIGHT: dict[str, Callable[[], nn.Module]] = {
    # tables
    "embedding": embedding(),
    "embedding, padding": embedding(padding_idx=0),
    "embedding, negative padding": embedding(padding_idx=-3),
    "embedding by frequency": embedding(scale_grad_by_freq=True),
    "embedding by frequency, padding": embedding(scale_grad_by_freq=True, padding_idx=1),
    "F.embedding": look_up(lambda i, table: F.embedding(i, table)),
    "F.embedding, padding": look_up(lambda i, table: F.embedding(i, table, padding_idx=1)),
    "F.embedding, negative padding": look_up(lambda i, table: F.embedding(i, table, padding_idx=-5)),
    "F.embedding, padding, twice": look_up(
        lambda i, table: F.embedding(i, table, padding_idx=1) + F.embedding(i, table, padding_idx=2) + table[0]
    ),
    "torch.embedding, padding": look_up(lambda i, table: torch.embedding(table, i, 0)),
    "operator embedding, padding": look_up(lambda i, table: torch.ops.aten.embedding(table, i, 0)),
    "F.embedding, padding, of all the same": look_up(
        lambda i, table: F.embedding(torch.tensor([[0, 1, 2]]), table, padding_idx=1).expand(len(i), 3, 6)
    ),
    "F.embedding, padding, of a fixed table": look_up(
        lambda i, table: F.embedding(i, torch.arange(30.0).view(5, 6), padding_idx=1) * table[0]
    ),
    "bag, mean": bag(mode="mean"),
    "bag, sum": bag(mode="sum"),
    "bag, max": bag(mode="max"),
    "bag, padding": bag(mode="sum", padding_idx=1),
    "indexing": look_up(lambda i, table: table[i]),
    "comparison": look_up(lambda i, table: (i.unsqueeze(-1) == torch.arange(5)).to(table.dtype) @ table),
    # layers
    "conv1d": layer(lambda: nn.Conv1d(2, 3, 2), 2, 4),
    "conv1d, circular": layer(lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), 2, 4),
    "conv2d, groups": layer(lambda: nn.Conv2d(2, 4, 2, groups=2), 2, 3, 3),
    "conv2d, dilated": layer(lambda: nn.Conv2d(2, 4, 2, dilation=2), 2, 4, 4),
    "conv3d": layer(lambda: nn.Conv3d(1, 2, 2), 1, 2, 2, 2),
    "transposed conv2d": layer(lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), 2, 2, 2),
    "bilinear": fn(lambda x: F.bilinear(x, x, x.mean(0).expand(3, 8, 8))),
    "batch norm": layer(lambda: nn.BatchNorm1d(4)),
    "batch norm, not tracking": layer(lambda: nn.BatchNorm1d(4, track_running_stats=False)),
    "batch norm 2d": layer(lambda: nn.BatchNorm2d(2), 2, 2, 2),
    "batch norm, cumulative": layer(lambda: nn.BatchNorm1d(4, momentum=None)),
    "instance norm": layer(lambda: nn.InstanceNorm1d(2, affine=True), 2, 4),
    "instance norm, tracking": layer(lambda: nn.InstanceNorm1d(2, track_running_stats=True), 2, 4),
    "group norm": layer(lambda: nn.GroupNorm(2, 4), 4, 3),
    "layer norm": layer(lambda: nn.LayerNorm(4)),
    "rms norm": layer(lambda: nn.RMSNorm(4)),
    "response norm": layer(lambda: nn.LocalResponseNorm(2), 4, 2, 2),
    "weight norm": layer(lambda: parametrizations.weight_norm(nn.Linear(4, 4))),
    "orthogonal": layer(lambda: parametrizations.orthogonal(nn.Linear(4, 4))),
    "rnn cell": layer(lambda: nn.RNNCell(4, 4)),
    "lstm cell": layer(lambda: nn.LSTMCell(4, 4)),
    "gru cell": layer(lambda: nn.GRUCell(4, 4)),
    "prelu": layer(lambda: nn.PReLU(4)),
    "tied weights": Tied,
    "complex parameter": Complex,
    "max pooling 1d": layer(lambda: nn.MaxPool1d(2), 2, 4),
    "max pooling 2d": layer(lambda: nn.MaxPool2d(2), 2, 4, 4),
    "mean pooling": layer(lambda: nn.AvgPool2d(2), 2, 4, 4),
    "power pooling": layer(lambda: nn.LPPool2d(2, 2), 2, 4, 4),
    "adaptive mean": layer(lambda: nn.AdaptiveAvgPool2d(2), 2, 3, 3),
    "adaptive max": layer(lambda: nn.AdaptiveMaxPool2d(2), 2, 3, 3),
    "unpooling": fn(lambda x: F.max_unpool1d(*F.max_pool1d_with_indices(x, 2), 2), 2, 4),
    "nearest": layer(lambda: nn.Upsample(scale_factor=2), 1, 2, 2),
    "bilinear interpolation": layer(lambda: nn.Upsample(scale_factor=2, mode="bilinear"), 1, 2, 2),
    "bicubic interpolation": layer(lambda: nn.Upsample(scale_factor=2, mode="bicubic"), 1, 2, 2),
    "pixel shuffle": layer(lambda: nn.PixelShuffle(2), 4, 2, 2),
    "unfold": layer(lambda: nn.Unfold(2), 1, 2, 4),
    "fold": layer(lambda: nn.Fold((2, 2), 1), 1, 4),
    "reflection": layer(lambda: nn.ReflectionPad1d(1), 1, 4),
    "replication": layer(lambda: nn.ReplicationPad1d(1), 1, 4),
    "grid sample": fn(lambda x: F.grid_sample(x, torch.tanh(x), align_corners=False), 2, 2, 2),
    "affine grid": fn(lambda x: F.affine_grid(x, [len(x), 1, 2, 2], align_corners=False), 2, 3),
    # attention
    "attention": lambda: Attended(True),
    "attention, sequence first": lambda: Attended(False),
    "attention without weights": lambda: Attended(True, need_weights=False),
    "attention with a mask": lambda: Attended(True, attn_mask=torch.tensor([[False, True], [False, False]])),
    "encoder": encoder(True),
    "encoder, norm first": encoder(True, norm_first=True),
    "encoder, sequence first": encoder(False),
    "decoder": lambda: Decoded(True),
    "decoder, sequence first": lambda: Decoded(False),
    "attention function": fn(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), 1, 2, 4),
    "attention function, dropout": fn(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.3), 1, 2, 4),
    "dropout behind attention": fn(lambda x: F.dropout(F.scaled_dot_product_attention(x, x, x)), 2, 2, 4),
    "dropout behind strided attention": fn(
        lambda x: F.dropout(F.scaled_dot_product_attention(*(x.view(-1, 3, 2, 4).transpose(1, 2),) * 3)), 3, 8
    ),
    # functions
    **{
        name: fn(getattr(F, name))
        for name in (
            *("relu", "relu6", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign", "tanhshrink"),
            *("hardshrink", "softshrink", "hardtanh", "hardswish", "hardsigmoid", "logsigmoid", "leaky_relu", "glu"),
        )
    },
    "softmax": fn(lambda x: F.softmax(x, 1)),
    "log-softmax": fn(lambda x: F.log_softmax(x, 1)),
    "normalize": fn(F.normalize),
    "cumsum": fn(lambda x: x.cumsum(1)),
    "cumprod": fn(lambda x: x.cumprod(1)),
    "logcumsumexp": fn(lambda x: x.logcumsumexp(1)),
    "sort": fn(lambda x: x.sort(1)[0]),
    "topk": fn(lambda x: x.topk(4, 1)[0]),
    "median": fn(lambda x: x * x.median(1, keepdim=True)[0]),
    "kthvalue": fn(lambda x: x * x.kthvalue(3, 1, keepdim=True)[0]),
    "max": fn(lambda x: x * x.max(1, keepdim=True)[0]),
    "amax of ties": fn(lambda x: x * x.round().amax(1, keepdim=True)),
    "gather": fn(lambda x: x.gather(1, index(x))),
    "scatter": fn(lambda x: torch.zeros_like(x).scatter(1, index(x), x)),
    "scatter_add": fn(lambda x: torch.zeros_like(x).scatter_add_(1, index(x), x)),
    "scatter_reduce": fn(lambda x: torch.zeros_like(x).scatter_reduce(1, index(x), x, "amax")),
    "index_select": fn(lambda x: x.index_select(1, COLUMNS)),
    "index_add": fn(lambda x: torch.zeros_like(x).index_add(1, COLUMNS, x)),
    "index_put": fn(lambda x: torch.zeros_like(x).index_put((torch.arange(len(x)),), x)),
    "take_along_dim": fn(lambda x: torch.take_along_dim(x, x.argsort(1), 1)),
    "a branch": fn(lambda x: x if x.sum() > 0 else 2 * x),
    "a number that is everyone's": fn(lambda x: x * float(torch.ones_like(x).mean())),
    "where": fn(lambda x: torch.where(x > 0, x, 0.1 * x)),
    "masked_fill": fn(lambda x: x.masked_fill(x > 0, 0.5)),
    "in place": fn(written),
    "einsum": fn(lambda x: torch.einsum("bi,bj->bij", x, x)),
    "bmm": fn(lambda x: torch.bmm(x, x.transpose(1, 2)), 2, 4),
    "baddbmm": fn(lambda x: torch.baddbmm(x[:, :, :2], x, x.transpose(1, 2)), 2, 4),
    "tensordot": fn(lambda x: torch.tensordot(x, x, dims=([1], [1])) @ x),
    "kron": fn(lambda x: torch.kron(x, torch.ones(1, 2))),
    "cdist": fn(lambda x: torch.cdist(x, x + 1), 2, 4),
    "cosine": fn(lambda x: x * F.cosine_similarity(x, x + 1).unsqueeze(1)),
    "norm": fn(lambda x: x / x.norm()),
    "det": fn(lambda x: x * torch.linalg.det(square(x)).unsqueeze(1)),
    "inverse": fn(lambda x: torch.linalg.inv(square(x))),
    "solve": fn(lambda x: torch.linalg.solve(square(x), x[:, 4:6])),
    "singular values": fn(torch.linalg.svdvals, 2, 4),
    "qr": fn(lambda x: torch.linalg.qr(square(x))[1]),
    "cholesky": fn(lambda x: torch.linalg.cholesky(square(x) @ square(x).mT)),
    "eigenvalues": fn(lambda x: torch.linalg.eigvalsh(torch.diag_embed(x[:, :2]) + 1)),
    "matrix exponential": fn(lambda x: torch.matrix_exp(x), 2, 2),
    "fft": fn(lambda x: torch.fft.rfft(x).abs()),
    "complex": fn(lambda x: torch.view_as_real(torch.view_as_complex(x).exp()), 4, 2),
    "stft": fn(lambda x: torch.stft(x, 4, return_complex=True, window=torch.ones(4)).abs()),
    "roll": fn(lambda x: x.roll(1, 1).flip(1)),
    "repeat_interleave": fn(lambda x: x.repeat_interleave(2, 1)),
    "std": fn(lambda x: x / x.std(1, keepdim=True)),
    "prod": fn(lambda x: x * x.prod(1, keepdim=True)),
    "logsumexp": fn(lambda x: x - x.logsumexp(1, keepdim=True)),
    "renorm": fn(lambda x: x.renorm(2, 0, 1.0)),
    "clamp": fn(lambda x: x.clamp(-0.1, 0.1)),
    "quantile": fn(lambda x: x * x.quantile(0.5, dim=1, keepdim=True)),
    "bucketize": fn(lambda x: x * torch.bucketize(x.detach(), torch.linspace(-1, 1, 5))),
    "tril": fn(torch.tril, 2, 4),
    "diagonal": fn(lambda x: x.diagonal(dim1=1, dim2=2), 2, 4),
    # losses
    "huber": fn(lambda x: x * F.huber_loss(x, x + 1)),
    "ctc": fn(ctc, 12),
    "binary cross entropy": fn(lambda x: x * F.binary_cross_entropy_with_logits(x, index(x).to(x.dtype))),
    "ignored classes": fn(lambda x: x * F.cross_entropy(x, index(x)[:, 0], ignore_index=1, reduction="sum")),
    "smoothed and weighted": fn(
        lambda x: x * F.cross_entropy(x, index(x)[:, 0], weight=torch.arange(1.0, 9), label_smoothing=0.1)
    ),
    "kl": fn(lambda x: x * F.kl_div(F.log_softmax(x, 1), F.softmax(x * 2, 1), reduction="batchmean")),
    "margin": fn(lambda x: x * F.multi_margin_loss(x, index(x)[:, 0])),
    "triplet": fn(lambda x: x * F.triplet_margin_loss(x, x + 1, x.flip(1))),
    # gradients, as the user's code sees them
    "which require a gradient": step(
        lambda m, x: m.net(x) * (1 + sum(p.square().sum() for p in m.parameters() if p.requires_grad))
    ),
    "which are parameters": step(
        lambda m, x: m.net(x) * (1 + sum(p.square().sum() for p in m.parameters() if isinstance(p, nn.Parameter)))
    ),
    "a hook on a tensor": fn(hooked),
    "a function with a rule": fn(Cube.apply),
    "a gradient inside": fn(gradient_inside),
    "detached": fn(lambda x: x * x.detach()),
    "without gradients": step(lambda m, x: m.net(x) * m.fixed(x)),
    "fixed parameters that move": step(in_place_on_fixed),
    "checkpoint": fn(lambda x: checkpoint(torch.tanh, x, use_reentrant=False)),
    # random numbers
    "dropout": fn(lambda x: F.dropout(x, 0.3)),
    "dropout, transposed": fn(lambda x: F.dropout(x.t(), 0.3).t()),
    "dropout, permuted": fn(lambda x: F.dropout(x.permute(2, 0, 1), 0.3).permute(1, 0, 2), 2, 4),
    "dropout, sliced": fn(lambda x: F.dropout(x[:, ::2], 0.3)),
    "dropout, sliced and transposed": fn(lambda x: F.dropout(x[:, 1:7:2].t(), 0.3).t()),
    "dropout, expanded": fn(lambda x: F.dropout(x[:, :1].expand(-1, 5), 0.3)),
    "dropout, expanded in between": fn(lambda x: F.dropout(x[:, None, :].expand(-1, 3, -1).mT, 0.3)),
    "dropout, channels last": fn(
        lambda x: F.dropout(x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), 0.3), 3, 2, 2
    ),
    "dropout, in place": fn(lambda x: F.dropout(x * 2, 0.3, inplace=True)),
    "dropout, in place, transposed": fn(lambda x: F.dropout((x * 2).t(), 0.3, inplace=True).t()),
    "dropout of a transposed parameter": Transposed,
    "noise over a convolution": Noisy,
    "dropout behind another layout": fn(lambda x: F.dropout(x.mT + x.mT.contiguous(), 0.3), 2, 4),
    "dropout behind einsum": fn(lambda x: F.dropout(torch.einsum("bij,bkj->ikb", x, x), 0.3).permute(2, 0, 1), 2, 4),
    "dropout1d": layer(lambda: nn.Dropout1d(0.3), 3, 4),
    "dropout2d": layer(lambda: nn.Dropout2d(0.3), 3, 2, 2),
    "dropout2d, transposed": fn(lambda x: F.dropout2d(x.transpose(1, 2), 0.3), 2, 3, 2),
    "dropout3d": layer(lambda: nn.Dropout3d(0.3), 3, 2, 1, 2),
    "alpha dropout": layer(lambda: nn.AlphaDropout(0.3)),
    "alpha dropout, transposed": fn(lambda x: F.alpha_dropout(x.t(), 0.3, training=True).t()),
    "feature alpha dropout": fn(lambda x: F.feature_alpha_dropout(x.mT, 0.3, training=True), 2, 4),
    "bernoulli": fn(lambda x: x * torch.bernoulli(torch.sigmoid(x.detach()))),
    "bernoulli, transposed": fn(lambda x: x * torch.bernoulli(torch.sigmoid(x.detach().t())).t()),
    "bernoulli_": fn(lambda x: x * torch.empty_like(x).bernoulli_(0.4)),
    "bernoulli_ of a view": fn(lambda x: x * torch.zeros_like(x).t().bernoulli_(0.4).t()),
    "rand_like": fn(lambda x: x + torch.rand_like(x)),
    "rand_like, transposed": fn(lambda x: x + torch.rand_like(x.t()).t()),
    "rand_like, expanded": fn(lambda x: x + torch.rand_like(x[:1].expand(len(x), -1))),
    "randn_like": fn(lambda x: x + torch.randn_like(x)),
    "randn_like, permuted": fn(lambda x: x + torch.randn_like(x.permute(2, 0, 1)).permute(1, 2, 0), 2, 4),
    "randn_like, many": fn(lambda x: x + torch.randn_like(x.mT).mT, 8, 8),
    "randn": fn(lambda x: x + torch.randn(8)),
    "rand of the batch": fn(lambda x: x + torch.rand(len(x), 1)),
    "randint": fn(lambda x: x * torch.randint(0, 3, x.shape)),
    "randperm": fn(lambda x: x[torch.randperm(len(x))]),
    "randperm, twice": fn(lambda x: x[torch.randperm(len(x))][:, torch.randperm(8)]),
    "normal_": fn(lambda x: x + torch.empty_like(x.t()).normal_().t()),
    "normal_ of a slice": fn(lambda x: x + torch.zeros(len(x), 16).add(x[:, :1])[:, ::2].normal_()),
    "uniform_": fn(lambda x: x + torch.empty_like(x.mT).uniform_().mT, 2, 4),
    "exponential_": fn(lambda x: x + torch.empty_like(x.t()).exponential_().t()),
    "normal": fn(lambda x: x + torch.normal(x.detach().t(), 1.0).t()),
    "gumbel": fn(lambda x: F.gumbel_softmax(x, hard=True)),
    "fractional pooling": layer(lambda: nn.FractionalMaxPool2d(2, output_size=2), 2, 4, 4),
    "another at every step": step(lambda m, x: m.net(F.dropout(x.t(), 0.3).t() if len(x) % 4 else F.dropout(x, 0.3))),
}
if TORCH_2_4:
    del RIGHT["checkpoint"]  # there it has no rule for vmap


def counting(module: Any, x: Tensor) -> Tensor:
    module.count.add_(1)
    return module.net(x) * module.count


def decayed(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.net[0].weight.mul_(0.9)
    return module.net(x)


def reading_gradients(module: Any, x: Tensor) -> Tensor:
    gradient = module.net[0].weight.grad
    return module.net(x if gradient is None else x * gradient.norm())


def forked(module: Any, x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return module.net(x + torch.randn_like(x))


def seeded(module: Any, x: Tensor) -> Tensor:
    torch.manual_seed(1)
    return module.net(F.dropout(x))


class Backwards(Around):
    """A hook that looks at what goes backwards through a layer."""

    def __init__(self) -> None:
        super().__init__(torch.tanh)
        self.last.register_full_backward_hook(lambda module, inputs, outputs: (-2 * inputs[0],))


VMAP = "vmap"
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "sparse embedding": (embedding(sparse=True), "has sparse gradients"),
    "embedding with a largest norm": (embedding(max_norm=0.5), "writes to parameters"),
    "spectral norm": (layer(lambda: parametrizations.spectral_norm(nn.Linear(4, 4))), "Batching rule not implemented"),
    "rrelu": (layer(nn.RReLU), VMAP),
    "multinomial": (fn(lambda x: x * torch.multinomial(F.softmax(x.detach(), 1), 1)), "draws .* random numbers for"),
    "boolean index": (fn(lambda x: x + x[x > 0].sum()), VMAP),
    "masked_select": (fn(lambda x: x + x.masked_select(x > -99).sum()), VMAP),
    "unique": (fn(lambda x: x * len(torch.unique(index(x)))), VMAP),
    "nonzero": (fn(lambda x: x * len(torch.nonzero(x > 0))), VMAP),
    "a number": (fn(lambda x: x * float(x.detach().sum())), r"by __float__\(\), that is not the same for all"),
    "one-hot": (fn(lambda x: F.one_hot(index(x)[:, 0], 8) * x), VMAP),
    "channels last": (fn(lambda x: x.contiguous(memory_format=torch.channels_last), 3, 2, 2), "memory_format"),
    "a function without a rule": (fn(OldStyle.apply), "setup_context"),
    "a hook on a layer": (Backwards, "setup_context"),
    "parameters that move": (step(decayed), "writes to parameters"),
    "a list of parameters": (step(lambda m, x: m.net(x) * m.kept[0].sum()), "reaches a parameter by a way"),
    "gradients of the step before": (step(reading_gradients), "reads the gradient"),
    "noise of no worker": (fn(lambda x: x + torch.empty(8).normal_()), "on an unbatched tensor"),
    "a generator": (
        step(lambda m, x: m.net(x + torch.rand(x.shape, generator=torch.Generator().manual_seed(1)))),
        "from a generator of its own",
    ),
    "a forked generator": (step(forked), "seeds torch's generator"),
    "a seed": (step(seeded), "seeds torch's generator"),
    "python's generator": (step(lambda m, x: m.net(x) * random.random()), "Python's or NumPy's generator"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_it_is_one_worker_after_another(kind: str) -> None:
    assert_same(Zoo(RIGHT[kind]()), WORKERS)


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_and_auto_goes_on_one_by_one(kind: str) -> None:
    make, reason = REFUSED[kind]
    module = Zoo(make())
    with pytest.raises((WorkerError, UnvectorizableError), match=reason):  # at a step, or already at the start
        by_worker(Vectorized(), module, WORKERS, LocalTraining())
    auto = Auto()
    assert_same(module, WORKERS, engine=auto)
    assert auto.choice == "sequential"


def test_a_tensor_attribute_that_counts_is_refused_and_set_back_one_by_one() -> None:
    module, auto = Zoo(step(counting)()), Auto()
    with pytest.raises(WorkerError, match="would mutate a captured Tensor"):
        by_worker(Vectorized(), module, WORKERS, LocalTraining())
    with pytest.warns(UserWarning, match=r"local training changes the module's attribute 'net\.count'"):
        assert_same(module, WORKERS, engine=auto)
    assert auto.choice == "sequential"
    assert module.net.count == 0


def test_fixed_parameters_that_move_come_back_beside_the_buffers() -> None:
    """Two batches of worker a to c and one of d, with a factor of 0.9 in each."""
    module = Zoo(step(in_place_on_fixed)())
    before = module.net.fixed.weight.detach().clone()
    for engine in (Sequential(), Vectorized()):
        for worker, result in by_worker(engine, module, WORKERS, LocalTraining()).items():
            assert_equal(result["buffers"]["net.fixed.weight"], before * (0.9 if worker == "d" else 0.81))
            assert "net.fixed.bias" not in result["buffers"]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", ["F.embedding, padding", "dropout, transposed", "encoder", "randperm, twice"])
def test_whoever_shares_a_chunk(kind: str, size: int) -> None:
    assert_same(Zoo(RIGHT[kind]()), WORKERS, engine=Vectorized(chunk_size=size))


class Moved(nn.Module):
    """Dropout on the batch as it comes, in the layout that the loader gave it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(x, 0.3) + torch.randn_like(x))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "sliced": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 8),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_keep_the_layout_that_a_loader_gives_them(layout: str) -> None:
    def collate(rows: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        return [LAYOUTS[layout](torch.stack([x for x, _ in rows])), torch.stack([y for _, y in rows])]

    strange = {name: Points(i, 6, collate_fn=collate) for i, name in enumerate("abc")}
    assert_same(Zoo(Moved()), {**strange, "d": Points(4, 6, collate_fn=list_of_stacks)})


def list_of_stacks(rows: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.slow
@needs_compiler
@needs_compiled_stacks
def test_padding_compiled() -> None:
    assert_same(Zoo(RIGHT["embedding, padding"]()), WORKERS, LocalTraining(epochs=3), Vectorized(compile=True))
