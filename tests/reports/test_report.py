"""A report of a run: numbers by hand, what is shown of many workers, and what is said of odd runs."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from records_by_hand import ACCURACIES, EVALUATIONS, LEAVES, ROUNDS, RUN, evaluation_of, record, round_of

from lightning_fed.record import read
from lightning_fed.reports.run.build import report_of, rows_of_all
from lightning_fed.reports.run.facts import MissingFactError
from lightning_fed.reports.run.html import as_html
from lightning_fed.reports.run.markdown import as_markdown
from lightning_fed.reports.run.plain import as_json
from lightning_fed.reports.run.view import View


def text_of(folder: Path, **options: Any) -> str:
    return as_markdown(report_of(read(folder), **options))


def page_of(folder: Path, **options: Any) -> str:
    return as_html(report_of(read(folder), **options))


def lines(text: str, section: str) -> list[str]:
    """The lines of a section."""
    return text.partition(f"## {section}\n")[2].partition("\n## ")[0].splitlines()


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_tiles(tmp_path: Path) -> None:
    """Accuracies 0.5, 0.75, 0.75, 1: p10 lies 0.3 of the way from 0.5 to 0.75; the variance is 1/32."""
    head = text_of(record(tmp_path / "run")).partition("## Curves")[0]
    for row in (
        "| val_acc, pooled | 0.7 |",
        "| worst decile of workers | 0.575 |",
        "| spread (std) over workers | 0.1768 |",
        "| rounds | 3 |",
        "| sent up / down | 3 / 6 MB |",
        "| privacy | none promised |",
    ):
        assert row in head


def test_a_loss_is_bad_where_it_is_high(tmp_path: Path) -> None:
    """Losses 0.5, 0.25, 0.25, 0: p90 lies 0.7 of the way from 0.25 to 0.5."""
    text = text_of(record(tmp_path / "run"), metric="val_loss")
    assert "| worst decile of workers | 0.425 |" in text
    assert lines(text, "Workers")[3].startswith("| ann |")


def test_curves(tmp_path: Path) -> None:
    text = text_of(record(tmp_path / "run"))
    assert "| rounds | pooled | worst decile | p10 to p90 of workers, low | p10 to p90 of workers, high |" in text
    assert "| 1 | 0.25 | 0.25 | 0.25 | 0.25 |" in text
    assert "| 3 | 0.7 | 0.575 | 0.575 | 0.925 |" in text
    assert "| 2 | 0.5 |" in text  # the loss of the second round


def test_workers_and_how_often_they_took_part(tmp_path: Path) -> None:
    rows = lines(text_of(record(tmp_path / "run")), "Workers")
    assert rows[1] == "| worker | took part, of 3 rounds | absent | failed | straggler | val_acc |"
    assert rows[3:7] == [
        "| ann | 1 | 0 | 1 | 0 | 0.5 |",
        "| cyd | 0 | 1 | 0 | 0 | 0.75 |",
        "| dee | 0 | 0 | 0 | 0 | 0.75 |",
        "| bob | 3 | 0 | 0 | 1 | 1 |",
    ]
    assert rows[8].startswith("2 of 4 workers took part at least once; 1 training failed; 1 time a worker was away")


def test_a_worker_of_two_accumulated_cohorts_took_part_in_one_round(tmp_path: Path) -> None:
    """Ann is in both cohorts of the first round, and once away; in the second she fails, and is away."""
    failed = [{"worker": "ann", "reason": "no disk"}]
    rounds = [
        {**ROUNDS[0], "cohort": ["ann", "bob", "ann", "bob"], "dropped": ["ann"], "stragglers": [], "failures": []},
        {**ROUNDS[1], "cohort": ["ann", "bob", "ann"], "dropped": ["ann"], "stragglers": [], "failures": failed},
    ]
    view = View(read(record(tmp_path / "run", rounds=rounds)))
    assert (view.took_part("ann"), view.took_part("bob")) == (1, 2)


def test_numbers_of_examples_are_shown_where_they_are_recorded(tmp_path: Path) -> None:
    last = {**EVALUATIONS[-1], "examples": {"ann": 12, "bob": 3}}
    rows = lines(text_of(record(tmp_path / "run", evaluations=[last])), "Workers")
    assert rows[1].startswith("| worker | examples evaluated | took part")
    assert rows[3].startswith("| ann | 12 |")
    assert rows[4].startswith("| cyd |  |")


def test_fairness(tmp_path: Path) -> None:
    """Jain: the sum is 3, the squares' 2.375, so 9 / (4 · 2.375); a loss has no index."""
    rows = lines(text_of(record(tmp_path / "run")), "Fairness")
    assert "| val_acc | 0.5 | 0.575 | 0.75 | 0.925 | 1 | 0.1768 | 0.9474 | ann, cyd, dee |" in rows
    assert "| val_loss | 0 | 0.075 | 0.25 | 0.425 | 0.5 | 0.1768 |  | ann, cyd, dee |" in rows


def test_cost_and_cost_to_a_target(tmp_path: Path) -> None:
    folder = record(tmp_path / "run")
    text = text_of(folder, target=0.7)
    for row in ("| from the beginning to the end | 60 s |", "| in rounds | 9 s |", "| sent to the workers | 6 MB |"):
        assert row in text
    assert "val_acc ≥ 0.7 was first evaluated after 3 rounds, 9 MB up and down, 9 s in rounds." in text
    assert "val_acc ≥ 0.9 was not reached in 3 rounds." in text_of(folder, target=0.9)
    assert "val_loss ≤ 0.9 was first evaluated after 1 round, 3 MB" in text_of(folder, metric="val_loss", target=0.9)
    with pytest.raises(ValueError, match="no metric to reach"):
        text_of(record(tmp_path / "blind", evaluations=[]), target=1.0)


def test_what_left(tmp_path: Path) -> None:
    rows = lines(text_of(record(tmp_path / "run")), "What left each worker")
    assert rows[1] == (
        "The messages of bob in round 0, as on the wire: 108 bytes left it, and it was sent 208. "
        "All numbers are of one worker and one round."
    )
    assert "| change of trained parameters | 1 | 2 | 8 | aggregated |" in rows
    assert "| in all |  |  | 108 |  |" in rows
    assert "| w | float32 | 2 | 8 | aggregated |" in rows
    assert "| rows, labels and batches | 2 | the data |" in rows
    assert any(row.startswith("**Not all alike.**") for row in rows), "a MB in a round is more than 108 bytes"
    assert any("each worker's val_loss, val_acc and its number of examples" in row for row in rows)


def test_many_tensors_are_shown_by_their_pattern(tmp_path: Path) -> None:
    rows = [{**LEAVES["up"][1], "name": f"layers.{i}.weight"} for i in range(50)]
    text = text_of(record(tmp_path / "run", leaves={**LEAVES, "up": rows, "bytes_up": 400}))
    assert r"| layers.\*.weight (50 tensors) | float32 | 2 | 400 | aggregated |" in text


def test_how_to_repeat_it(tmp_path: Path) -> None:
    text = "\n".join(lines(text_of(record(tmp_path / "run")), "How to repeat it"))
    assert "**Command.** lightning-fed fit -c toy" in text
    assert "| seed | 7 |" in text
    assert "Python 3.11.7; lightning_fed==0.1.0 lightning==2.6.6 torch==2.13.0" in text
    assert "abc123" in text


# ---- many workers, none, and odd names -------------------------------------------------------------------------------


def many(folder: Path, n: int) -> Path:
    """Workers of which number i has the accuracy i / n."""
    values = {f"w{i:03}": {"val_acc": i / n} for i in range(n)}
    return record(folder, [round_of(0, ["w000", "w001"])], [evaluation_of(0, {"val_acc": 0.5}, values)])


def test_a_run_whose_weights_had_no_seed_does_not_repeat(tmp_path: Path) -> None:
    text = text_of(record(tmp_path / "run", seeds={"seed": None, "data/seed": 0}))
    assert "| seed | none |" in text
    assert "**Does not repeat.** **The initial weights had no seed" in text
    assert "Does not repeat" not in text_of(record(tmp_path / "seeded", seeds={"seed": 0, "data/seed": 0}))


def test_a_setting_that_repeats_another_is_left_out(tmp_path: Path) -> None:
    table = {
        "workers": 4,
        "population": 4,
        "seed": 7,
        "data/seed": 8,
        "noise_multiplier": 2,
        "privacy/noise_multiplier": 2,
    }
    text = text_of(record(tmp_path / "run", settings=table, seeds={"seed": 7, "data/seed": 8}))
    rows = [line.split(" | ")[0] for line in lines(text, "What was run")]
    assert "| population" in rows
    assert "| workers" not in rows
    assert {"| seed", "| data/seed", "| privacy/noise_multiplier"} <= set(rows)
    assert "| noise_multiplier" not in rows


def test_few_workers_have_their_names_below_their_bars_and_the_worst_is_seen(tmp_path: Path) -> None:
    values = {"ann": 0.0, "bob <x>": 1.0}
    line = evaluation_of(2, {"val_acc": 0.5}, {name: {"val_acc": value} for name, value in values.items()})
    page = page_of(record(tmp_path / "run", ROUNDS, [line]))
    assert ">ann</text>" in page
    assert ">bob &lt;x&gt;</text>" in page
    (height,) = re.findall(r'height="([\d.]+)" fill="[^"]*"><title>ann: 0<', page)
    assert float(height) >= 2


def test_names_that_begin_alike_are_told_apart_by_their_ends(tmp_path: Path) -> None:
    workers = {f"worker_{number:02}": {"val_acc": number / 30} for number in range(30)}
    page = page_of(record(tmp_path / "run", evaluations=[evaluation_of(2, {"val_acc": 0.5}, workers)]))
    labels = re.findall(r'text-anchor="middle">(\d\d)</text>', page)
    assert labels == [f"{number:02}" for number in range(0, 30, 3)]
    assert "workers, the worst first (worker_…)" in page


def test_of_many_workers_the_ten_worst_and_the_ten_best(tmp_path: Path) -> None:
    text = text_of(many(tmp_path / "run", 51))
    shown = re.findall(r"^\| (w\d+) \|", text, flags=re.MULTILINE)
    assert shown == [f"w{i:03}" for i in (*range(10), *range(41, 51))]
    rows = rows_of_all(read(tmp_path / "run"))
    assert rows is not None
    assert rows.splitlines()[:2] == ['worker,"took part, of 1 round",val_acc', "w000,1,0.0"]
    assert len(rows.splitlines()) == 52
    assert rows_of_all(read(many(tmp_path / "fifty", 50))) is None


def test_of_very_many_workers_the_page_stays_small(tmp_path: Path) -> None:
    assert len(page_of(many(tmp_path / "run", 2000))) < 40_000


class Strict(HTMLParser):
    """Opens and closes every element, and takes nothing from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "object", "b2")
        assert not {name for name, _ in attrs} & {"href", "src", "onload", "onclick"}
        if tag not in ("meta", "line", "rect", "polyline", "polygon", "circle") or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("line", "rect", "polyline", "polygon", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


NASTY = "<script>alert('ä')</script> & | ` \" _x_\n[a](b)"


def test_names_and_settings_are_text(tmp_path: Path) -> None:
    values = {NASTY: {"val_acc": 0.5}, "b": {"val_acc": 1.0}}
    folder = record(
        tmp_path / "run",
        [round_of(0, [NASTY])],
        [evaluation_of(0, {"val_acc": 0.5}, values)],
        name=NASTY,
        settings={"algorithm": "FedAvg", "model": NASTY, NASTY: 1},
        command=NASTY,
        leaves={**LEAVES, "worker": NASTY},
        error=NASTY,
        outcome="failed",
    )
    page = page_of(folder)
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert parser.said.count("<script>alert('ä')</script>") >= 7
    assert "http" not in page
    text = text_of(folder)
    assert "<script>" not in text.replace("\\<", "")
    assert r"\<script>alert('ä')\</script> \& \| \` " in text
    cells = {row.replace(r"\|", "").count("|") for row in lines(text, "Workers") if row.startswith("|")}
    assert cells == {4}, "worker, took part, val_acc"
    assert json.loads(as_json(report_of(read(folder))))["title"] == NASTY


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    text = text_of(record(tmp_path / "run", name="$m_x$"))
    assert text.startswith(r"# \$m_x\$")


def test_central_data_alone(tmp_path: Path) -> None:
    folder = record(tmp_path / "run", evaluations=[evaluation_of(2, {"val_acc": 0.5})])
    text = text_of(folder)
    assert "| val_acc, pooled | 0.5 |" in text
    assert "worst decile" not in text
    assert "not recorded: workers were not evaluated one by one" in text
    assert "<circle" in page_of(folder), "a curve of one point"


def test_nothing_evaluated_and_no_round(tmp_path: Path) -> None:
    folder = record(tmp_path / "run", [], [], leaves=None, outcome="failed", error="ValueError: no data")
    text = text_of(folder)
    assert "**Failed.** **The run has failed after 0 rounds: ValueError: no data.**" in text
    for says in ("Nothing was evaluated", "No worker was asked to train", "No worker has come back"):
        assert says in text
    Strict().feed(page_of(folder))


def test_losses_that_are_no_numbers_and_metrics_of_some_workers(tmp_path: Path) -> None:
    rounds = [round_of(0, ["ann"], loss=None), round_of(1, ["ann"])]
    values = {"ann": {"val_acc": None}, "bob": {"val_acc": 0.5}, "cyd": {}}
    folder = record(tmp_path / "run", rounds, [evaluation_of(1, {"val_acc": None, "val_loss": 1.0}, values)])
    Strict().feed(page_of(folder))
    assert "| bob | 0 | 0.5 |" in text_of(folder)


def test_a_run_that_has_diverged(tmp_path: Path) -> None:
    """No value of an earlier evaluation stands for the last one, and the workers that are lost are named."""
    lost = {name: {"val_loss": None, "val_acc": 0.1} for name in ACCURACIES}
    last = evaluation_of(2, {"val_loss": None, "val_acc": 0.1}, lost)
    text = text_of(record(tmp_path / "run", evaluations=[EVALUATIONS[0], last]), metric="val_loss")
    assert "| val_loss, pooled | not finite |" in text
    assert "| val_loss, best | 0.9 |" in text
    assert "val_loss was not finite in 1 of 2 evaluations, after the rounds 3" in text
    assert "worst decile of workers |" not in text, "it would be that of an earlier evaluation"
    assert "val_loss is not finite for 4 of 4 workers: ann, bob, cyd, dee." in text
    assert "not evaluated one by one" not in text
    assert "| ann | 1 | 0 | 1 | 0 | not finite |" in text


def test_one_worker_that_has_diverged(tmp_path: Path) -> None:
    """Of 0.75, 0.75 and 1 the p10 is 0.75."""
    workers = {**EVALUATIONS[1]["workers"], "ann": {"val_loss": None, "val_acc": None}}
    last = evaluation_of(2, {"val_loss": None, "val_acc": 0.7}, workers)
    text = text_of(record(tmp_path / "run", evaluations=[EVALUATIONS[0], last]))
    assert "| val_acc, pooled | 0.7 |" in text
    assert "| worst decile of workers, 1 without a finite value left out | 0.75 |" in text
    assert "val_acc is not finite for 1 of 4 workers: ann; what follows leaves them out." in text
    Strict().feed(page_of(tmp_path / "run"))


def test_an_evaluation_after_the_fit_counts_where_there_was_none_in_it(tmp_path: Path) -> None:
    values = {name: {"test_acc": value} for name, value in ACCURACIES.items()}
    tested = evaluation_of(2, {"test_acc": 0.7}, values, stage="test")
    assert "| test_acc, pooled | 0.7 |" in text_of(record(tmp_path / "run", evaluations=[tested]))
    assert "test_acc, pooled" not in text_of(record(tmp_path / "both", evaluations=[*EVALUATIONS, tested]))


def test_cohorts_that_were_too_large_to_be_named(tmp_path: Path) -> None:
    rounds = [*ROUNDS, {**round_of(3, []), "size": 1001, "cohort": None, "dropped": None}]
    assert "The cohorts of 1 round are too large to be named." in text_of(record(tmp_path / "run", rounds))


# ---- runs that did not end, were resumed, or were changed ------------------------------------------------------------


def test_a_run_that_is_not_over(tmp_path: Path) -> None:
    text = text_of(record(tmp_path / "run", outcome="running", finished=None))
    assert "it is still running, or its process was killed" in text
    assert "| ended | not yet |" in text


def test_a_run_that_was_interrupted(tmp_path: Path) -> None:
    text = text_of(record(tmp_path / "run", outcome="interrupted"))
    assert "**Interrupted.** **The run was interrupted after 3 rounds.**" in text


@pytest.mark.parametrize("error", ["KeyboardInterrupt: ", "KeyboardInterrupt"])
def test_an_error_without_words_is_its_kind(tmp_path: Path, error: str) -> None:
    text = text_of(record(tmp_path / "run", outcome="interrupted", error=error))
    assert "**The run was interrupted after 3 rounds: KeyboardInterrupt.**" in text


def test_a_run_that_was_resumed(tmp_path: Path) -> None:
    first = {"fit": "e", "round": 0, "started": "2026-11-26T09:00:00+00:00", "checkpoint": None}
    second = {"fit": "f", "round": 2, "started": "2026-11-26T10:00:00+00:00", "checkpoint": "last.ckpt"}
    rounds = [{**line, "fit": "f" if line["round"] >= 2 else "e"} for line in ROUNDS]
    text = text_of(record(tmp_path / "run", rounds, EVALUATIONS[1:], fits=[first, second]))
    assert "The run was resumed: it is made of 2 fits." in text
    assert "| 2026-11-26T10:00:00+00:00 | 2 | last.ckpt |" in text


def test_a_config_that_was_changed_since(tmp_path: Path) -> None:
    folder = record(tmp_path / "run", config="config.yaml", config_sha256=hashlib.sha256(b"a: 1").hexdigest())
    assert "config.yaml is no longer in" in text_of(folder)
    (folder / "config.yaml").write_bytes(b"a: 1")
    assert "was changed since" not in text_of(folder)
    (folder / "config.yaml").write_bytes(b"a: 2")
    assert "was changed since: it has another SHA-256" in text_of(folder)


# ---- facts that are missing ------------------------------------------------------------------------------------------

_FACTS = ["started", "finished", "outcome", "command", "config", "config_sha256", "commit", "versions", "settings"]


@pytest.mark.parametrize("name", [*_FACTS, "seeds", "data", "leaves", "promise", "ledger", "name"])
def test_without_a_fact_of_the_run_there_is_no_report(name: str, tmp_path: Path) -> None:
    folder = record(tmp_path / "run", **{name: ...})
    with pytest.raises(MissingFactError, match=f"run.json does not say .*'{name}'.*a report does not guess"):
        text_of(folder)


@pytest.mark.parametrize("value", [None, 5, [], {"a": []}, " "])
@pytest.mark.parametrize("name", ["name", "started", "outcome", "command", "versions", "settings", "seeds", "data"])
def test_a_fact_of_the_run_that_is_of_another_kind(name: str, value: Any, tmp_path: Path) -> None:
    folder = record(tmp_path / "run", **{name: value})
    with pytest.raises(MissingFactError, match=r"run\.json does not say "):
        text_of(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finished": None}, r"run\.json does not say when the run ended: its 'outcome' is completed, .* null"),
        ({"outcome": "running"}, r"its 'outcome' is running, and 'finished' is 2026"),
        ({"config": "config.yaml"}, r"of 'config' and 'config_sha256' one is null"),
        ({"seeds": {}}, r"from which seeds it was run: 'seed' is in 'settings', and not in 'seeds'"),
        ({"versions": {"python": "3.11.7"}}, r"which version of lightning_fed ran it"),
        (
            {"versions": {**RUN["versions"], "torch": None}},
            r"'versions' is .* which must be a table, each of a text that is not empty",
        ),
        (
            {"versions": dict.fromkeys(("python", "lightning_fed", "torch", "numpy"), "1")},
            r"which version of Lightning ran it",
        ),
        ({"fits": []}, r"'fits' is empty"),
        ({"leaves": None}, r"'leaves' is null there.*rounds\.jsonl has bytes that were sent up in round 0"),
        (
            {"leaves": {**LEAVES, "up": LEAVES["up"][1:]}},
            r"the parts in 'up' of 'leaves' in .*run\.json have 8 bytes, and 'bytes_up' says 108",
        ),
        ({"leaves": {**LEAVES, "stays": None}}, r"'leaves' in .*run\.json does not say what never leaves it"),
        (
            {"ledger": "privacy-ledger-ab.jsonl"},
            r"run\.json says that nothing was promised .*privacy-ledger-ab\.jsonl is that of a private run",
        ),
        ({"settings": {**RUN["settings"], "privacy": "LocalDP"}}, r"'promise' is null there"),
    ],
)
def test_facts_that_contradict_each_other(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert text_of(record(tmp_path / "whole"))
    with pytest.raises(MissingFactError, match=said):
        text_of(record(tmp_path / "run", **changes))


def test_a_config_in_the_folder_of_a_run_that_says_it_had_none(tmp_path: Path) -> None:
    folder = record(tmp_path / "run")
    (folder / "config.yaml").touch()
    with pytest.raises(MissingFactError, match=r"'config' is null there\), and .*config\.yaml lies beside it"):
        text_of(folder)


_OF_A_ROUND = ["cohort", "dropped", "stragglers", "failures", "seconds", "bytes_up", "bytes_down", "size"]


@pytest.mark.parametrize("name", [*_OF_A_ROUND, "loss"])
def test_without_a_fact_of_a_round_there_is_no_report(name: str, tmp_path: Path) -> None:
    rounds = [ROUNDS[0], {key: value for key, value in ROUNDS[1].items() if key != name}]
    with pytest.raises(MissingFactError, match=rf"the line of round 1 in .*rounds\.jsonl does not say .*'{name}'"):
        text_of(record(tmp_path / "run", rounds))


@pytest.mark.parametrize("name", _OF_A_ROUND)
def test_a_fact_of_a_round_that_is_null(name: str, tmp_path: Path) -> None:
    """The sums over rounds would be lower, and nobody would see it."""
    rounds = [*ROUNDS[:2], {**ROUNDS[2], name: None}]
    with pytest.raises(MissingFactError, match=rf"the line of round 2 in .*rounds\.jsonl does not say .*'{name}'"):
        text_of(record(tmp_path / "run", rounds))


def test_a_worker_that_is_taken_out_of_a_cohort(tmp_path: Path) -> None:
    rounds = [*ROUNDS[:2], {**ROUNDS[2], "cohort": ["ann"]}]
    with pytest.raises(MissingFactError, match=r"round 2 .* names 1 workers, and says that 2 were asked"):
        text_of(record(tmp_path / "run", rounds))


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": None},
        {"stage": None},
        {"metrics": None},
        {"workers": {"ann": None, "bob": {"val_acc": 1.0}}},
        {"workers": {"ann": {"val_acc": "high"}}},
        {"examples": {"ann": None}},
    ],
)
def test_a_fact_of_an_evaluation_that_is_null(change: dict[str, Any], tmp_path: Path) -> None:
    (name,) = change
    lines = [EVALUATIONS[0], {**EVALUATIONS[1], **change}]
    said = rf"the line after round 2 in .*evaluations\.jsonl does not say .*'{name}'"
    with pytest.raises(MissingFactError, match=said):
        text_of(record(tmp_path / "run", evaluations=lines))


def test_lines_that_were_lost(tmp_path: Path) -> None:
    fit = {"fit": "f", "round": 0, "started": "2026-11-26T10:00:00+00:00", "checkpoint": None}
    folder = record(tmp_path / "run", ROUNDS[:2], fits=[{**fit, "rounds": 3, "evaluations": 2}])
    with pytest.raises(MissingFactError, match=r"rounds\.jsonl has 2 lines of the last fit, .* has written 3"):
        text_of(folder)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_round_that_was_lost_of_a_run_that_was_killed(lost: int, tmp_path: Path) -> None:
    rounds = [line for line in ROUNDS if line["round"] != lost]
    with pytest.raises(MissingFactError, match=rf"has no line of round {lost}, and one of round {lost + 1}"):
        text_of(record(tmp_path / "run", rounds, outcome="running", finished=None))


def test_lines_that_an_earlier_fit_has_lost(tmp_path: Path) -> None:
    first = {"fit": "e", "round": 0, "started": "2026-11-26T09:00:00+00:00", "checkpoint": None}
    second = {"fit": "f", "round": 2, "started": "2026-11-26T10:00:00+00:00", "checkpoint": "last.ckpt"}
    rounds = [{**line, "fit": "f" if line["round"] >= 2 else "e"} for line in ROUNDS]
    with pytest.raises(MissingFactError, match=r"evaluations\.jsonl has 0 lines of the fit e, .* has written 1"):
        text_of(
            record(tmp_path / "run", rounds, EVALUATIONS[1:], fits=[{**first, "rounds": 2, "evaluations": 1}, second])
        )
    with pytest.raises(MissingFactError, match=r"has no line of round 1, after which the last fit went on"):
        text_of(record(tmp_path / "run", rounds[:1], EVALUATIONS[:1], fits=[first, second]))


def test_a_metric_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no metric 'val_accc' .*did you mean.*val_acc.*there are: val_loss, val_acc"):
        text_of(record(tmp_path / "run"), metric="val_accc")


def test_rows_of_ten_thousand_workers_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    of_workers = View.of_workers
    monkeypatch.setattr(View, "of_workers", lambda *given: looked.append(1) or of_workers(*given))
    rows = rows_of_all(read(many(tmp_path / "run", 10_000)))
    assert rows is not None
    assert len(rows.splitlines()) == 10_001
    assert len(looked) == 1
