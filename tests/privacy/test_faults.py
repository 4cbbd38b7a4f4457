"""Every fault that other libraries have shipped, and the test that would notice it here.

========================================================= ============================================================
fault                                                     test
========================================================= ============================================================
the moving bound with its sign inverted                   ``test_clipping``: too many within the bound lower it
noise by the bound after it has moved                     ``test_private_sum``: noise belongs to the bound that clipped
tensors without dimensions that escape clipping           ``test_clipping``: a tensor without dimensions
BatchNorm counters that eat the bound                     here
NaN that passes, Inf that becomes NaN                     here; ``test_clipping``: what cannot be clipped
a zero update that divides by zero                        ``test_clipping``: a zero one divides nothing
a weight that the worker controls                         ``test_private_sum``: no number of examples counts for more
a weight that is negative or NaN                          the same
shape (1,) broadcast into (4,)                            here
clipping by parameter where all together is claimed       here; ``test_clipping``: all that is released
clipping of weights and not of the update                 ``test_central``: the update is clipped and not the weights
values without noise beside those with                    ``test_privacy_guard``: all that is shown and kept
noise at the workers and again at the server              ``test_local``: noise is added once
the account lost when a run goes on                       ``test_privacy_guard``: resuming spends, resuming without
asking for ε changes the history                          ``test_privacy_guard``: asking is free; ``test_accounting``
a cohort of nobody                                        ``test_central``, ``test_private_sum``, ``test_record``
sampling that is not independent for each worker          ``test_central``: Poisson cohorts are drawn worker by worker
noise from the seed of the training                       ``test_noise``: no seed reaches it; ``test_privacy_guard``
record-level privacy that is silently not applied         ``test_record``: a huge noise destroys
sums in float16 or bfloat16                               ``test_private_sum``: small precision
less noise than is claimed, wherever it is lost           ``test_audit``
========================================================= ============================================================
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit
from private import Net, Seen, began, job, people, released, updates, weights
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed.privacy import CentralDP, LocalDP
from lightning_fed.privacy.clipping import joint_norms
from lightning_fed.wire import RoundError

ENGINES = ["sequential", "vectorized"]
PROMISE = CentralDP(clip=5.0, noise_multiplier=1.0)


def test_counters_and_statistics_take_no_part_in_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    Seen(monkeypatch, factor=0.0)
    statistics = {"running_mean": torch.tensor([[3e4, 4e4]]), "num_batches_tracked": torch.tensor([10_000])}
    sent = updates([[3.0, 4.0]], buffers=statistics)
    assert joint_norms(sent).tolist() == [5.0]
    own = {"running_mean": torch.zeros(2), "num_batches_tracked": torch.tensor(0)}
    delta = released(PROMISE, began(PROMISE), sent, to=job(2, buffers=own)).delta
    torch.testing.assert_close(delta, torch.tensor([0.3, 0.4]), rtol=2e-6, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("privacy", [PROMISE, LocalDP(5.0, 1.0, accountant="rdp")], ids=lambda p: type(p).__name__)
def test_an_update_that_is_no_number_ends_the_run_with_the_workers_name(bad: float, engine: Any, privacy: Any) -> None:
    module = Scalar()
    data = FederatedDataModule({"good": Rows([1.0]), "bad": Rows([bad]), "fine": Rows([2.0])})
    with pytest.raises(WorkerError, match="worker 'bad' failed in round 0: its update has NaN or Inf"):
        fit(FederatedModule(module, privacy=privacy, engine=engine), data)
    assert module.x.item() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_or_is_left_out_and_the_quorum_is_kept(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of three, over the three that are expected; below the quorum the model stays as it was."""
    Seen(monkeypatch, factor=0.0)
    data = FederatedDataModule({"good": Rows([1.0]), "bad": Rows([bad]), "fine": Rows([2.0])})
    module = Scalar()
    fit(FederatedModule(module, privacy=PROMISE, on_worker_error="drop"), data)
    assert module.x.item() == pytest.approx((1 + 2) / 3)
    module = Scalar()
    with pytest.raises(RoundError, match=r"min_workers=3; the global model is as it was"):
        fit(FederatedModule(module, privacy=PROMISE, on_worker_error="drop", min_workers=3), data)
    assert module.x.item() == 0.0


class Shrinking(Scalar):
    """Four numbers, of which a careless step leaves one."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(4))

    def on_train_batch_end(self, *_: Any) -> None:
        self.x.data = self.x.data[:1]


def test_one_number_is_not_taken_for_four() -> None:
    module = Shrinking()
    with pytest.raises(WorkerError, match=r"worker 'a' .* x has shape \(1,\) .* global model's \(4,\)"):
        fit(FederatedModule(module, privacy=PROMISE), FederatedDataModule({"a": Rows([3.0]), "b": Rows([4.0])}))
    with pytest.raises(RuntimeError, match="size"):
        released(PROMISE, began(PROMISE), updates([[3.0], [4.0]]), to=job(4))


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_are_clipped_together(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, four parameters, a bound that each of them alone is within."""
    Seen(monkeypatch, factor=0.0)

    def moved(privacy: CentralDP) -> torch.Tensor:
        module = Net()
        before = weights(module)
        fit(FederatedModule(module, privacy=privacy, engine=engine), FederatedDataModule(people(1)))
        return weights(module) - before

    free = moved(CentralDP(clip=100.0, noise_multiplier=1e-3, delta=1e-5, accountant="rdp"))
    parts = torch.split(free, [p.numel() for p in Net().parameters()])
    bound = max(float(part.norm()) for part in parts) * 1.01
    assert bound < float(free.norm())
    clipped = moved(CentralDP(clip=bound, noise_multiplier=1.0, delta=1e-5))
    torch.testing.assert_close(clipped, free * bound / float(free.norm()), rtol=1e-3, atol=1e-6)
