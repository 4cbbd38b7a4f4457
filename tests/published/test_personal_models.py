"""A tiny version of the study of personal models: each worker's own model beside the loop by hand, in double."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import personal
import pytest
import torch
from by_hand import Share, in_order
from by_hand_algorithms import ditto, partly_averaged
from personal import Loop, Setting, Workers
from torch import nn

from lightning_fed.algorithms import Algorithm, Ditto, FedAvg, FedBN, FedRep

pytestmark = pytest.mark.usefixtures("double")

ROUNDING = {"rtol": 0, "atol": 1e-11}
"""Some tens of steps, and sums in another order, on numbers of the size of 1."""

SIZES, BATCH = (8, 12, 22), 4
ROUNDS = 4


def deal(train: Share, test: Share, seed: int) -> Workers:
    """Three workers that differ in their numbers of examples, in their scales and in what they call a class."""
    generator = torch.Generator().manual_seed(seed)
    mine, held_out = [], []
    for i, size in enumerate(SIZES):
        for part, count in ((mine, size), (held_out, 10)):
            label = torch.arange(count) % 5
            x = torch.randn(count, 6, generator=generator) + nn.functional.one_hot(label, 6)
            part.append(((i + 1) * x, (label + i) % 5))
    return mine, held_out


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))


def normalizing() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))


CASES: dict[str, tuple[Callable[[], nn.Module], Algorithm, Loop]] = {
    "FedAvg": (normalizing, FedAvg(), partly_averaged),
    "FedBN": (normalizing, FedBN(), partial(partly_averaged, stays=["1."])),
    "FedRep": (
        plain,
        FedRep(["network.2.*"], head_epochs=2),
        partial(partly_averaged, stays=["2."], head_first=in_order(BATCH, 2)),
    ),
    "Ditto": (plain, Ditto(0.3), partial(ditto, lam=0.3)),
    "alone": (plain, Ditto(0.0), partial(ditto, lam=0.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_loop_by_hand(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(personal, "digits", lambda folder: ((), ()))
    monkeypatch.setattr(personal, "shuffled", lambda batch_size, epochs, seed: in_order(batch_size, epochs))
    monkeypatch.setattr(personal, "EVERY", 1)
    network, algorithm, loop = CASES[name]
    setting = Setting(deal, network, BATCH, lr=0.1)
    curve, federated = personal.trained("", ROUNDS, 0, setting=setting, algorithm=algorithm, shuffle=False)
    expected, states = personal.looped("", ROUNDS, 0, setting=setting, loop=loop)
    assert curve == [(at, pytest.approx(accuracy)) for at, accuracy in expected]
    start, own = network().state_dict(), []
    for i, theirs in enumerate(states):
        own.append(federated.personal_module(f"worker_{i:02d}").network.state_dict())
        assert own[i].keys() == theirs.keys()
        for key, mine in own[i].items():
            assert not torch.equal(mine, start[key]), "nothing was trained"
            torch.testing.assert_close(mine, theirs[key], **ROUNDING)
    differs = [key for key in start if not torch.equal(own[0][key], own[1][key])]
    stays = {"FedAvg": ("-",), "FedBN": ("1.",), "FedRep": ("2.",)}.get(name, ("0.", "2."))
    assert differs == [key for key in start if key.startswith(stays)]


def test_the_populations() -> None:
    """Workers hold no example twice; a code renames classes, and a gain multiplies inputs, of both parts alike."""
    label = torch.arange(3000) % 10
    train, test = (torch.arange(3000.0).unsqueeze(1) + 1, label), (-torch.arange(3000.0).unsqueeze(1) - 1, label)
    for deal_out, size, tested in ((personal.two_codes, 30, 100), (personal.own_codes, 30, 100)):
        mine, held_out = deal_out(train, test, 0)
        for part, each in ((mine, size), (held_out, tested)):
            assert [len(y) for _, y in part] == [each] * 20
            assert len(torch.cat([x for x, _ in part]).unique()) == 20 * each
        codes = []
        for (x, y), (held, called) in zip(mine, held_out, strict=True):
            code = dict(zip((held.abs().flatten().int() - 1).remainder(10).tolist(), called.tolist(), strict=True))
            assert [code[digit] for digit in (x.flatten().int() - 1).remainder(10).tolist()] == y.tolist()
            codes.append(tuple(sorted(code.items())))
        assert len(set(codes)) == (2 if deal_out is personal.two_codes else 20)
    mine, held_out = personal.gains(train, test, 0)
    for part, source in ((mine, train), (held_out, test)):
        assert len(part) == len(personal.GAINS)
        for gain, (x, _) in zip(personal.GAINS, part, strict=True):
            assert torch.isin(x / gain, source[0]).all()
