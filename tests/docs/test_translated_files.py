"""The files of other frameworks that ``docs/from`` translates: each script computes what the original's loop would."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import assert_equal
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *options])
    module.main()


def watched(module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The model that the script makes, and a copy of it as it was made, once ``main`` has run."""
    made: list[Any] = []
    kind = getattr(module, name)

    def make(*args: Any, **kwargs: Any) -> Any:
        model = kind(*args, **kwargs)
        made.extend((model, deepcopy(model)))
        return model

    monkeypatch.setattr(module, name, make)
    return made


def average(states: list[dict[str, Tensor]], weights: list[float]) -> dict[str, Tensor]:
    """The mean of state dicts, as servers that receive whole models compute it."""
    total = sum(weights)
    pairs = list(zip(states, weights, strict=True))
    return {name: sum(state[name] * weight for state, weight in pairs) / total for name in states[0]}


def rounds(model: nn.Module, shares: list[tuple[Any, float]], train: Callable[[nn.Module, Any], None], n: int) -> None:
    """Train ``n`` rounds as the originals do: each client loads the global model, trains it, and sends all of it."""
    for _ in range(n):
        states = []
        for data, _ in shares:
            local = deepcopy(model)
            train(local, data)
            states.append(local.state_dict())
        model.load_state_dict(average(states, [weight for _, weight in shares]))


@pytest.mark.usefixtures("double")
def test_flowers_clients_count_by_their_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("from_flower")
    x = module.images(24)
    shares = {"0": (x[:16],), "1": (x[16:],)}
    monkeypatch.setattr(
        module, "workers", lambda: {name: {"train": part, "val": part} for name, part in shares.items()}
    )
    made = watched(module, "LitAutoEncoder", monkeypatch)
    run(module, monkeypatch, "--rounds", "2", "--local-epochs", "2")
    model, by_hand = made

    def train(local: Any, batch: Any) -> None:
        optimizer = local.configure_optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            local.loss(batch).backward()
            optimizer.step()

    rounds(by_hand, [(part, len(part[0])) for part in shares.values()], train, 2)
    assert_equal(model.state_dict(), by_hand.state_dict())


@pytest.mark.usefixtures("double")
def test_nvflares_sites_are_averaged_after_a_pass_over_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("from_nvflare")
    made = watched(module, "LitNet", monkeypatch)
    kind = module.SiteDataModule
    monkeypatch.setattr(module, "SiteDataModule", lambda seed: kind(seed, count=32))
    run(module, monkeypatch, "--rounds", "2")
    model, by_hand = made
    restored: dict[int, Any] = {}

    def train(local: Any, seed: int) -> None:
        data = kind(seed, count=32)
        data.setup("fit")
        optimizer = torch.optim.SGD(local.parameters(), lr=0.01, momentum=0.9)
        if seed in restored:
            optimizer.load_state_dict(restored[seed])
        for x, y in data.train_dataloader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(local.model(x), y).backward()
            optimizer.step()
        restored[seed] = optimizer.state_dict()

    rounds(by_hand, [(1, 1.0), (2, 1.0)], train, 2)
    assert_equal(dict(model.named_parameters()), dict(by_hand.named_parameters()))


@pytest.mark.parametrize("algorithm", ["fedprox", "scaffold"])
def test_nvflares_other_recipes_are_a_word(
    algorithm: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("from_nvflare")
    kind = module.SiteDataModule
    monkeypatch.setattr(module, "SiteDataModule", lambda seed: kind(seed, count=16))
    run(module, monkeypatch, "--rounds", "1", "--algorithm", algorithm)
    assert re.match(
        rf"{algorithm}, 1 rounds: accuracy 0\.\d+ over both sites\n  site-1: .*\n  site-2: ", capsys.readouterr().out
    )


@pytest.mark.usefixtures("double")
def test_pysyfts_copies_are_averaged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The loop of the tutorial, whose two copies have two examples each."""
    module = script("from_pysyft_averaging")
    made = watched(module, "Net", monkeypatch)
    run(module, monkeypatch)
    net, start = made
    model = start.model
    data = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    target = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    for _ in range(10):
        bobs, alices = deepcopy(model), deepcopy(model)
        for copy, rows in ((bobs, slice(0, 2)), (alices, slice(2, 4))):
            optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
            for _ in range(5):
                optimizer.zero_grad()
                ((copy(data[rows]) - target[rows]) ** 2).sum().backward()
                optimizer.step()
        with torch.no_grad():
            model.weight.copy_((alices.weight + bobs.weight) / 2)
            model.bias.copy_((alices.bias + bobs.bias) / 2)
    assert_equal(net.model.state_dict(), model.state_dict())
    printed = capsys.readouterr().out
    assert len(re.findall(r"^round \d: bob \d\.\d{4}  alice \d\.\d{4}$", printed, re.M)) == 10
    assert str([round(p, 4) for p in model(data).flatten().tolist()]) in printed


@pytest.mark.usefixtures("double")
def test_fedlabs_clients_count_alike_whatever_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("from_fedlab")
    x, y = module.pictures(30, seed=1).tensors
    shares = {"0": (x[:20], y[:20]), "1": (x[20:], y[20:])}
    monkeypatch.setattr(module, "PartitionedPopulation", lambda *_, **__: shares)
    made = watched(module, "MLP", monkeypatch)
    settings = ["--total_clients", "2", "--sample_ratio", "1", "--com_round", "2", "--epochs", "3", "--lr", "0.1"]
    run(module, monkeypatch, *settings)
    model, by_hand = made

    def train(local: Any, batch: tuple[Tensor, Tensor]) -> None:
        optimizer = torch.optim.SGD(local.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(local.layers(batch[0]), batch[1]).backward()
            optimizer.step()

    rounds(by_hand, [(share, 1.0) for share in shares.values()], train, 2)
    assert_equal(model.state_dict(), by_hand.state_dict())


def test_fedlabs_cohort_is_a_tenth(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(script("from_fedlab"), monkeypatch, "--com_round", "2", "--epochs", "1")
    assert capsys.readouterr().out.startswith("100 workers, 10 a round, 2 rounds: accuracy ")


def test_flowers_cohort_is_half(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(script("from_flower"), monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("reconstruction error after 3 rounds, all clients together: 0.")
    assert [line.split(":")[0] for line in lines[1:]] == [f"  worker_{index}" for index in range(4)]


@pytest.mark.usefixtures("double")
def test_fedjaxs_server_steps_by_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three writers of 6, 3 and 1 pictures: their mean difference, weighted by these, is the server's gradient."""
    module = script("from_fedjax")
    dataset, _ = module.pictures(10, seed=1)
    monkeypatch.setattr(module, "pictures", lambda count, seed: (dataset, ["a"] * 6 + ["b"] * 3 + ["c"]))
    made = watched(module, "Net", monkeypatch)
    run(module, monkeypatch, "--rounds", "3")
    model, by_hand = made
    server = torch.optim.Adam(by_hand.parameters(), lr=10**-2.5, betas=(0.9, 0.999), eps=1e-4)
    x, y = dataset.tensors
    for _ in range(3):
        server.zero_grad()
        for rows in (slice(0, 6), slice(6, 9), slice(9, 10)):
            local = deepcopy(by_hand)
            nn.functional.cross_entropy(local.layers(x[rows]), y[rows]).backward()
            for parameter, mine in zip(by_hand.parameters(), local.parameters(), strict=True):
                delta = 10**-1.5 * mine.grad * (len(x[rows]) / 10)
                parameter.grad = delta if parameter.grad is None else parameter.grad + delta
        server.step()
    assert_equal(model.state_dict(), by_hand.state_dict())
