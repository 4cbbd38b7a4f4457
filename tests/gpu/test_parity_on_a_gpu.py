"""A run on a GPU is the run on the CPU, on every engine, and leaves the GPU's generator as it found it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import TRUSTED, assert_equal, fit, trainer
from menagerie import MEMBERS, ONE_BY_ONE, Dropping, Examples, cohort, member
from oracle import ALGORITHMS, PROMISES, outcome
from runs import assert_same, run

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Engine, Isolated, Sequential, Vectorized
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.privacy import CentralDP

DRAWS = {"attributes", "dropout", "transformer"}
"""Members that draw random numbers as they train, which a GPU draws from another generator."""

ENGINES: Mapping[str, Callable[[], Engine]] = {
    "sequential": Sequential,
    "vectorized": Vectorized,
    "compiled": lambda: Vectorized(compile=True),
    "one by one": lambda: Vectorized(chunk_size=1),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_and_promise_gives_what_it_gives_on_the_cpu(algorithm: str, promise: str) -> None:
    name = "batch norm" if algorithm == "FedBN" else "adam"
    expected = outcome(Sequential(), algorithm, promise, name, accelerator="cpu")
    got = outcome(Sequential(), algorithm, promise, name, accelerator="gpu")
    if "refused" in expected:
        assert got["refused"] == expected["refused"]
        return
    assert_equal(got, expected)
    if promise != "record":
        assert_equal(outcome(Vectorized(), algorithm, promise, name, accelerator="gpu"), expected)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MEMBERS)
def test_every_kind_of_module_gives_what_it_gives_alone(name: str, engine: str) -> None:
    expected = outcome(Sequential(), "Scaffold", "open", name, accelerator="gpu")
    got = outcome(ENGINES[engine](), "Scaffold", "open", name, accelerator="gpu")
    if "refused" in got:
        assert ONE_BY_ONE[name] in got["refused"]
        return
    assert_equal(got, expected)
    if name not in DRAWS:
        assert_equal(got, outcome(Sequential(), "Scaffold", "open", name, accelerator="cpu"))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["torchmetrics", "dropout", "late buffers"])
def test_children_on_the_gpu_give_the_same(isolated: Isolated, name: str) -> None:
    expected = outcome(Sequential(), "Scaffold", "open", name, accelerator="gpu")
    assert_equal(outcome(isolated, "Scaffold", "open", name, accelerator="gpu"), expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_trains_as_a_single_worker_does(precision: Any, engine: str) -> None:
    def trained(engine: Any) -> tuple[dict[str, Any], float]:
        module = member("tied")
        fed = FederatedModule(module, engine=engine, local_epochs=2)
        run = fit(
            fed, FederatedDataModule(cohort()), max_steps=4, max_epochs=-1, accelerator="gpu", precision=precision
        )
        return dict(module.state_dict()), float(run.callback_metrics["train_loss"])

    expected, loss = trained("sequential")
    if precision == "16-mixed" and engine != "sequential":
        with pytest.raises(UnvectorizableError, match="16-mixed scales the loss"):
            trained(ENGINES[engine]())
        return
    got, other = trained(ENGINES[engine]())
    assert loss == loss
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.02)
    assert other == pytest.approx(loss, rel=0.05)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_generator_of_the_gpu_is_as_it_was(engine: str) -> None:
    class Looks(pl.Callback):
        """The state around a round."""

        def on_train_batch_start(self, *_: Any) -> None:
            self.before = torch.cuda.get_rng_state()

        def on_train_batch_end(self, *_: Any) -> None:
            torch.testing.assert_close(torch.cuda.get_rng_state(), self.before, rtol=0, atol=0)
            self.looked = True

    torch.cuda.manual_seed(5)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(5)
    looks = Looks()
    fed = FederatedModule(Dropping(), engine=ENGINES[engine]())
    fit(fed, FederatedDataModule(cohort()), max_steps=3, max_epochs=-1, accelerator="gpu", callbacks=[looks])
    assert looks.looked
    torch.testing.assert_close(torch.rand(3, device="cuda"), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("double")
def test_noise_of_the_systems_entropy_reaches_the_gpu_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(accelerator: str) -> dict[str, Any]:
        monkeypatch.setattr(os, "urandom", lambda n: np.random.default_rng(n).bytes(n))
        module = member("tied")
        privacy = CentralDP(noise_multiplier=100.0, clip=1e-3, delta=1e-5)
        fed = FederatedModule(module, privacy=privacy, engine="sequential")
        data = FederatedDataModule({name: Examples(i, batch_size=7) for i, name in enumerate("abcd")})
        fit(fed, data, max_steps=2, max_epochs=-1, accelerator=accelerator)
        monkeypatch.undo()
        return dict(module.state_dict())

    there, here = trained("gpu"), trained("cpu")
    assert_equal(there, here)
    moved = max(float((there[name] - value).abs().max()) for name, value in member("tied").state_dict().items())
    assert moved > 1e-3


def _fit(rounds: int, accelerator: str, name: str, **options: Any) -> tuple[pl.Trainer, dict[str, Any]]:
    module = member(name)
    fed = FederatedModule(
        module,
        algorithm=ALGORITHMS["Scaffold"](),
        server_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.05),
        engine="sequential",
    )
    path = options.pop("ckpt_path", None)
    run = trainer(max_steps=rounds, max_epochs=-1, accelerator=accelerator)
    run.fit(fed, FederatedDataModule(cohort(), cohort_size=3), ckpt_path=path, **({} if path is None else TRUSTED))
    return run, dict(module.state_dict())


@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize(("first", "then"), [("cpu", "gpu"), ("gpu", "cpu"), ("gpu", "gpu")])
def test_a_run_goes_on_where_another_device_left_off(first: str, then: str, tmp_path: Path) -> None:
    run, _ = _fit(2, first, "batch norm")
    run.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = _fit(4, then, "batch norm", ckpt_path=tmp_path / "half.ckpt")
    assert_equal(resumed, _fit(4, "cpu", "batch norm")[1])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_with_dropout_goes_on_bit_for_bit(tmp_path: Path) -> None:
    run, _ = _fit(2, "gpu", "dropout")
    run.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = _fit(4, "gpu", "dropout", ckpt_path=tmp_path / "half.ckpt")
    torch.testing.assert_close(resumed, _fit(4, "gpu", "dropout")[1], rtol=0, atol=0)


def test_one_process_of_ddp_gives_the_same(tmp_path: Path) -> None:
    def trained(strategy: str) -> dict[str, Any]:
        return run(tmp_path / f"{strategy}.pt", "--accelerator", "gpu", "--strategy", strategy, "--dropout", "0.3")

    alone, process = trained("auto"), trained("ddp")
    assert_same(alone, process)
