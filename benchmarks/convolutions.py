"""Ways to train a stack of convolutions: grouped, as a product of unfolded images, or one after another.

    python benchmarks/convolutions.py [--device cuda] [--workers 50]

Prints milliseconds forward and backward (to images and weights) for 50 workers with a batch of 10 images each, in four
sizes; on a GPU with and without TF32. The decision about engines on a GPU rests on it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d, unfold

BATCH, SIDE = 10, 3
SIZES = ((3, 32, 32), (32, 64, 30), (64, 64, 16), (128, 128, 8))
"""Channels in, channels out, and the side of an image."""


def grouped(x: Tensor, w: Tensor) -> Tensor:
    """Train the stack by ``torch.vmap``; images ``[workers, batch, channels, side, side]``."""
    workers, batch, channels, *sides = x.shape
    y = conv2d(x.transpose(0, 1).reshape(batch, workers * channels, *sides), w.flatten(0, 1), groups=workers)
    return y.view(batch, workers, -1, *y.shape[2:]).transpose(0, 1)


def unfolded(x: Tensor, w: Tensor) -> Tensor:
    """A product of each worker's weights with its images' patches."""
    workers, batch, _, side, _ = x.shape
    patches = unfold(x.flatten(0, 1), SIDE).view(workers, batch, -1, (side - SIDE + 1) ** 2)
    return torch.matmul(w.flatten(2).unsqueeze(1), patches).unflatten(-1, (side - SIDE + 1,) * 2)


def alone(x: Tensor, w: Tensor) -> Tensor:
    """One worker after another."""
    return torch.stack([conv2d(images, weight) for images, weight in zip(x, w, strict=True)])


def milliseconds(way: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor, repeats: int) -> float:
    def wait() -> None:
        if x.is_cuda:
            torch.cuda.synchronize()

    gradient = torch.randn_like(way(x, w))
    for turn in range(repeats + 2):  # the first two are not counted
        if turn == 2:
            wait()
            since = time.perf_counter()
        torch.autograd.grad(way(x, w), (x, w), gradient)
    wait()
    return 1e3 * (time.perf_counter() - since) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    print("| TF32 | channels, side | grouped | unfolded | one after another |\n|---|---|---|---|---|")
    for tf32 in (True, False) if options.device == "cuda" else (False,):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        for channels, out, side in SIZES:
            x = torch.randn(options.workers, BATCH, channels, side, side, device=options.device, requires_grad=True)
            w = torch.randn(options.workers, out, channels, SIDE, SIDE, device=options.device, requires_grad=True)
            expected = alone(x, w)
            for way in (grouped, unfolded):
                torch.testing.assert_close(way(x, w), expected, rtol=0.05, atol=0.5)
            times = [milliseconds(way, x, w, options.repeats) for way in (grouped, unfolded, alone)]
            print(
                f"| {tf32} | {channels} to {out}, {side} | " + " | ".join(f"{ms:.2f}" for ms in times) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
