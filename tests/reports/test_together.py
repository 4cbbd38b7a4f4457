"""What several private runs cost together."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded import record

from lightning_fed.privacy import Accountant, SubsampledGaussian
from lightning_fed.reports.comparison import compare
from lightning_fed.reports.comparison.run import Spending
from lightning_fed.reports.comparison.together import together

pytest.importorskip("dp_accounting")


def charges(count: int) -> Any:
    accountant = Accountant("rdp")
    accountant.charge(SubsampledGaussian(1.0, 0.1), count)
    return accountant.state_dict()["history"]


ONE = Spending(2.0, 1e-5, charges=charges(10), accountant="rdp")


def epsilon(count: int) -> str:
    accountant = Accountant("rdp")
    accountant.charge(SubsampledGaussian(1.0, 0.1), count)
    return f"{math.ceil(accountant.epsilon(1e-5) * 1e4) / 1e4:.4f}"


def test_ledgers_are_composed() -> None:
    """Ten releases and twenty are thirty."""
    said = together([ONE, replace(ONE, charges=charges(20))])
    assert said == (
        f"Whoever was in both private runs is protected by ε = {epsilon(30)} at δ = 1e-05, their releases composed by "
        "rdp."
    )


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            replace(ONE, charges=()),
            "ε = 4.0000 at δ = 2e-05, the plain sum over the runs, since not all of their ledgers",
        ),
        (
            replace(ONE, delta=1e-6),
            "ε = 4.0000 at δ = 1.1e-05, the plain sum over the runs, since their accountants or δ",
        ),
        (replace(ONE, epsilon=math.inf, charges=()), "ε = ∞ at δ = 2e-05"),
        (replace(ONE, unit="example"), "is not said, since some hide an example and some a worker"),
        (replace(ONE, insecure=True), "Noise of some runs came from a seed: these are not private."),
    ],
)
def test_what_cannot_be_composed_is_added_up_or_not_said(other: Spending, says: str) -> None:
    assert says in together([ONE, other])


def test_one_account_is_counted_once() -> None:
    assert together([replace(ONE, key="a"), replace(ONE, key="a")]) == ""
    assert together([ONE]) == ""


def test_the_caption_reads_the_ledgers(tmp_path: Path) -> None:
    promise = {"unit": "worker", "delta": 1e-5, "accountant": "rdp", "insecure": False, "epsilon": 2.0}
    for seed in (0, 1, 2):
        folder = record(tmp_path / str(seed), [0.5], seed, promise=promise, ledger=f"privacy-ledger-{seed}.jsonl")
        lines = [
            {"kind": "run", "run": str(seed), "stretch": "s"},
            {"kind": "release", "stretch": "s", "mechanism": charges(1)[0], "charges": 10},
        ]
        (folder / f"privacy-ledger-{seed}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compare([tmp_path])
    assert found.rows[0].epsilon == 2.0
    assert "ε: of a single run, at δ = 1e-05; the largest of a row." in found.caption
    assert f"Whoever was in all 3 private runs is protected by ε = {epsilon(30)} at δ = 1e-05" in found.caption
    (tmp_path / "1" / "privacy-ledger-1.jsonl").unlink()
    assert "ε = 6.0000 at δ = 3e-05, the plain sum" in compare([tmp_path]).caption
