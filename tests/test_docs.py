"""What ``docs/extending.md`` and ``docs/results.md`` show, works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rows, Scalar, fit

from lightning_fed import FederatedDataModule, FederatedModule, RoundRobin, cli
from lightning_fed.aggregation import UniformMean
from lightning_fed.engines import Sequential
from lightning_fed.privacy import Accountant

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """Everything that the page defines, as one program."""
    defined: dict[str, Any] = {"__name__": "extending"}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), defined)
    return defined


def test_the_page_holds_its_own_contracts(page: dict[str, Any]) -> None:
    page["test_the_contracts"]()


def test_each_is_under_thirty_lines() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    classes = [block[block.index("class ") :] for block in blocks if "class " in block]
    assert len(classes) == 13
    assert max(len(code.strip().splitlines()) for code in classes) < 30


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_mifa_by_hand(page: dict[str, Any], engine: Any) -> None:
    """Workers in turn: each round goes along the mean of everybody's latest update, 0 for one that had no turn."""
    module = Scalar(lr=0.5)
    data = FederatedDataModule(
        {"a": Rows([4.0]), "b": Rows([-2.0])}, cohort_size=1, sampler=RoundRobin(), rounds_per_epoch=3
    )
    fit(FederatedModule(module, algorithm=page["MIFA"](), engine=engine), data)
    x, latest = 0.0, {"a": 0.0, "b": 0.0}
    for name, optimum in (("a", 4.0), ("b", -2.0), ("a", 4.0)):
        latest[name] = 0.5 * (x - optimum)
        x -= sum(latest.values()) / 2
    assert module.x.item() == pytest.approx(x)


def test_the_mean_around_the_median_by_hand(page: dict[str, Any]) -> None:
    combine = page["MeanAroundMedian"](attackers=1).combination(torch.empty(0))
    # The medians are 2 and 5, and farthest from them lie 90 and -8
    rows = torch.tensor([[1.0, 5.0], [2.0, -8.0], [90.0, 8.0]])
    assert combine(rows).tolist() == [1.5, 6.5]


def test_free_riders_by_hand(page: dict[str, Any]) -> None:
    """Alone a would go half of its way to 4; the rider stands still, and then goes as a has gone before."""
    places, module = [], Scalar(lr=0.5)
    federated = FederatedModule(module, aggregator=page["Attacked"](UniformMean(), page["FreeRiders"](std=0), ["b"]))
    for _ in range(2):
        fit(federated, FederatedDataModule({"a": Rows([4.0]), "b": Rows([-9.0])}), max_steps=1)
        places.append(module.x.item())
    assert places == [(2 + 0) / 2, 1 + (1.5 + 2) / 2]
    assert page["aggregator"].attackers == ("bob",)
    assert page["workers"]["bob"][1].tolist() == list(range(9, 1, -1))


def test_day_and_night(page: dict[str, Any]) -> None:
    sampler = page["DayAndNight"](rounds=2)
    halves = [{position >= 5 for position in sampler.sample(10, 4, number, seed=0)} for number in range(6)]
    assert halves == [{False}, {False}, {True}, {True}, {False}, {False}]


def test_slow_lines_are_slow_in_every_round(page: dict[str, Any]) -> None:
    lines = page["SlowLines"](share=0.5)
    work = [{lines.respond(worker, number, seed=0).work for number in range(3)} for worker in map(str, range(20))]
    assert {tuple(one) for one in work} == {(0.5,), (1.0,)}


def test_cards_are_dealt_in_turn(page: dict[str, Any]) -> None:
    partition = page["InTurn"](workers=3)(np.zeros(7))
    assert [partition[worker].tolist() for worker in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]


def test_a_timed_engine_trains_as_the_engine_within(page: dict[str, Any]) -> None:
    timed = page["Timed"](Sequential())
    models = []
    for engine in (timed, "sequential"):
        fed = FederatedModule(Scalar(lr=0.5), engine=engine)
        fit(fed, FederatedDataModule({"bob": Rows([1.0]), "alice": Rows([3.0])}), max_epochs=3)
        models.append(fed.module.state_dict()["x"])
    assert torch.equal(*models)
    assert len(timed.seconds) == 3


def test_laplace_noise_by_hand(page: dict[str, Any]) -> None:
    """ε = 2 / z for each of k releases, at δ = 0; and no checkpoint is read without the class."""
    accountant = Accountant("rdp")
    accountant.charge(page["LocalLaplace"](4.0), count=3)
    assert accountant.epsilon(1e-9) == pytest.approx(3 * 2 / 4, rel=0.02)  # RDP is a little too high
    resumed = Accountant("rdp")
    resumed.load_state_dict(accountant.state_dict())
    assert resumed.history == accountant.history
    state = accountant.state_dict()
    state["history"][0]["mechanism"] = "extending.Gone"
    with pytest.raises(ValueError, match=r"releases of extending\.Gone, which .*: import extending before going on"):
        resumed.load_state_dict(state)
    with pytest.raises(
        ValueError, match=r'LocalLaplace has no privacy loss distribution: take Accountant\(kind="rdp"\)'
    ):
        Accountant().charge(page["LocalLaplace"](4.0))


def test_a_promise_of_ones_own_trains_and_is_asked_for_on_the_command_line(
    page: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    module = Scalar(lr=0.5)
    federated = FederatedModule(module, privacy=page["LaplaceDP"](clip=1.0, noise_multiplier=1e-3, delta=1e-5))
    fit(federated, FederatedDataModule({"a": Rows([4.0]), "b": Rows([4.0])}), max_steps=1)
    assert module.x.item() == pytest.approx(1.0, abs=0.02), "the update of 2 is clipped to 1"
    assert federated.private_run is not None
    assert federated.private_run.accountant.kind == "rdp"
    assert federated.private_run.accountant.history == ((page["LocalLaplace"](1e-3), 1),)
    cli.main(["privacy", "--promise", "laplace", "--rounds", "3", "--population", "9", "--noise-multiplier", "4"])
    assert "accounted by RDP for one worker or another in its place" in capsys.readouterr().out


def words(text: str) -> list[str]:
    """A text without numbers, whose last digits depend on the processor."""
    return re.sub(r"[\d.]+", "", text).split()


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_results_of_single_workers_print_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    text = (PAGE.parent / "results.md").read_text()
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    defined: dict[str, Any] = {"__name__": "results"}
    shown = [code for kind, code in blocks if kind == "text"]
    for (kind, code), (following, _) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "python":
            capsys.readouterr()
            exec(compile(code, "results.md", "exec", dont_inherit=True), defined)
            if following == "text":
                assert words(capsys.readouterr().out) == words(shown.pop(0))
    assert not shown
