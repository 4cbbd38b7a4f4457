"""Comparisons of runs: numbers that can be computed by hand, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from matplotlib.axes import Axes
from pytorch_lightning.loggers import CSVLogger
from recorded import record

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import FedAvg, FedProx
from lightning_fed.datasets import ToyDataModule
from lightning_fed.models import LinearRegression
from lightning_fed.reports.comparison import compare

GOLDEN = """\
| algorithm       | val_acc           | worst decile (p10) | rounds to 0.8 | MB to 0.8 | seconds | difference                  |
| --------------- | ----------------- | ------------------ | ------------- | --------- | ------- | --------------------------- |
| FedAvg          | 0.800 ± 0.100 (3) | 0.760 ± 0.100      | 20 (2 of 3)   | 20        | 4.5     | –                           |
| FedProx(mu=0.1) | 0.850 ± 0.087 (3) | 0.810 ± 0.087      | 20 (3 of 3)   | 20        | 4.5     | +0.050 [−0.074, +0.174] (3) |
"""  # noqa: E501
CAPTION = (
    "val_acc (higher is better) is a run's last evaluation (rule: last); mean ± standard deviation of a sample over "
    "seeds (number of seeds). Worst decile: a tenth of the workers has this value or a lower one. Difference: to the "
    "first row at equal seeds, mean [Student's 95 % interval] (number of pairs). Rounds and MB (sent and received) to "
    "0.8: up to the first evaluation that reaches it, median over the seeds that do (how many do). Seconds: of a run's "
    "rounds and evaluations, mean over seeds."
)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two algorithms with three seeds each."""
    for seed, values in enumerate(([0.5, 0.6, 0.7], [0.6, 0.81, 0.8], [0.6, 0.85, 0.9])):
        record(tmp_path / "FedAvg" / f"seed={seed}", values, seed)
    for seed, values in enumerate(([0.5, 0.6, 0.8], [0.6, 0.8, 0.8], [0.6, 0.9, 0.95])):
        record(tmp_path / "FedProx" / f"seed={seed}", values, seed, "FedProx(mu=0.1)", settings={"algorithm/mu": 0.1})
    return tmp_path


def test_the_table_is_the_one_that_is_computed_by_hand(two: Path) -> None:
    """FedAvg: 0.7, 0.8, 0.9; FedProx: 0.8, 0.8, 0.95, and so 0.1, 0, 0.05 more: 0.05 ± 4.303 * 0.05 / √3."""
    assert compare([two], target=0.8).as_markdown() == f"{GOLDEN}\n{CAPTION}"


def test_rows_have_numbers_that_are_not_rounded(two: Path) -> None:
    first, second = compare([two]).rows
    assert first.values == [0.7, 0.8, 0.9]
    assert first.differs == {"algorithm": "FedAvg"}
    assert (first.metric.n, first.rounds, first.megabytes, first.reached) == (3, 30, 30, None)
    assert first.metric.sd == pytest.approx(0.1, abs=1e-12)
    assert second.difference is not None
    assert second.difference.low == pytest.approx(0.05 - 4.302652729749 * 0.05 / math.sqrt(3), abs=1e-12)
    assert second.worst is not None
    assert second.worst.mean == pytest.approx(0.81, abs=1e-12)
    assert first.seconds == pytest.approx(30 * 0.1 + 3 * 0.5, abs=1e-9)


@pytest.mark.parametrize(
    ("rule", "values", "words"),
    [
        ("last", [0.7, 0.8, 0.9], "last evaluation (rule: last)"),
        ("best", [0.7, 0.81, 0.9], "too good for that (rule: best)"),
        ("mean:2", [0.65, 0.805, 0.875], "mean of a run's last 2 evaluations (rule: mean:2)"),
    ],
)
def test_the_rule_decides_and_stands_in_the_caption(two: Path, rule: str, values: list[float], words: str) -> None:
    found = compare([two], rule=rule)
    assert found.rows[0].values == pytest.approx(values, abs=1e-12)
    assert words in found.caption


def test_a_mean_reaches_a_target_when_the_mean_does(two: Path) -> None:
    reached = compare([two], rule="mean:2", target=0.7).rows[0].reached
    assert reached is not None
    assert (reached.rounds, reached.megabytes, reached.runs, reached.of) == (20, 20, 2, 3)  # never, 0.705, 0.725


def test_a_mean_of_losses_is_reached_only_when_there_are_enough(tmp_path: Path) -> None:
    for seed in (0, 1):
        record(tmp_path / str(seed), [3.0, 2.0, 0.5], seed, metric="val_error")
    reached = compare(tmp_path, "val_error", rule="mean:2", target=2.0).rows[0].reached
    assert reached is not None
    assert reached.rounds == 30  # 2.5, 1.25


def test_costs_of_a_run_whose_first_rounds_lie_elsewhere_are_not_known(tmp_path: Path) -> None:
    for seed in (0, 1):
        path = record(tmp_path / str(seed), [0.5, 0.6], seed) / "rounds.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[10:]))
    (row,) = compare(tmp_path, target=0.6).rows
    assert (row.megabytes, row.seconds) == (None, None)
    assert row.reached is not None
    assert (row.reached.rounds, row.reached.megabytes) == (20, None)


def test_low_values_are_the_better_ones_of_a_loss(tmp_path: Path) -> None:
    for seed, values in enumerate(([3.0, 1.0, 2.0], [4.0, 3.0, 2.0])):
        record(tmp_path / str(seed), values, seed, metric="val_error")
    found = compare([tmp_path], "val_error", rule="best", target=2.0)
    assert found.rows[0].values == [1.0, 2.0]
    assert found.rows[0].reached is not None
    assert found.rows[0].reached.rounds == 25
    assert found.rows[0].worst is not None
    assert found.rows[0].worst.mean == pytest.approx(1.5 + 0.04, abs=1e-12)  # a tenth is at or above
    assert "lower is better" in found.caption


def test_one_seed_has_no_deviation_and_no_interval(tmp_path: Path) -> None:
    record(tmp_path / "a", [0.5], 0)
    record(tmp_path / "b", [0.75], 0, "Scaffold")
    text = compare([tmp_path]).as_markdown()
    assert "| 0.5000 (1)" in text
    assert "| +0.2500 (1)" in text
    assert "±" not in text
    assert "interval" not in text


def test_a_target_that_no_run_reaches(tmp_path: Path) -> None:
    for seed in (0, 1):
        record(tmp_path / str(seed), [0.5], seed)
    assert "– (0 of 2)" in compare([tmp_path], target=0.9).as_markdown()


def test_seeds_that_only_one_row_has_make_no_pair(tmp_path: Path) -> None:
    for seed in (0, 1):
        record(tmp_path / "a" / str(seed), [0.5], seed)
    for seed in (1, 2):
        record(tmp_path / "b" / str(seed), [0.75], seed, "Scaffold")
    difference = compare([tmp_path]).rows[1].difference
    assert difference is not None
    assert (difference.mean, difference.n) == (0.25, 1)


def test_rows_are_named_by_everything_that_differs_once(tmp_path: Path) -> None:
    one = {"algorithm/mu": 0.1, "model/lr": 0.1, "model": "Net(lr=0.1)"}
    other = {"algorithm/mu": 1.0, "model/lr": 0.2, "model": "Net(lr=0.2)"}
    record(tmp_path / "a", [0.5], 0, "FedProx(mu=0.1)", settings=one)
    record(tmp_path / "b", [0.5], 0, "FedProx(mu=1.0)", settings=other)
    record(tmp_path / "c", [0.5], 0, "FedProx(mu=1.0)", settings={**other, "local_epochs": 2})
    rows = compare([tmp_path]).rows
    assert [dict(row.differs) for row in rows] == [
        {"algorithm": "FedProx(mu=0.1)", "local_epochs": 1, "model": "Net(lr=0.1)"},
        {"algorithm": "FedProx(mu=1.0)", "local_epochs": 1, "model": "Net(lr=0.2)"},
        {"algorithm": "FedProx(mu=1.0)", "local_epochs": 2, "model": "Net(lr=0.2)"},
    ]


def test_configs_tell_runs_apart_where_settings_do_not(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        for seed in (0, 1):
            folder = record(tmp_path / f"{rate}-{seed}", [0.5], seed, config="config.yaml")
            config = {"seed_everything": seed, "model": {"module": {"secret": rate}}, "trainer": {"logger": seed}}
            (folder / "config.yaml").write_text(json.dumps(config))
    rows = compare([tmp_path]).rows
    assert [dict(row.differs) for row in rows] == [
        {"model.module.secret": 0.1},
        {"model.module.secret": 0.2},
    ]
    assert [row.metric.n for row in rows] == [2, 2]


def test_seeds_within_settings_do_not_divide_a_row(tmp_path: Path) -> None:
    for seed in (0, 1):
        text = "Dirichlet(workers=11, alpha=0.3" + (f", seed={seed})" if seed else ")")
        record(tmp_path / str(seed), [0.5], seed, settings={"partition": text, "partition/seed": seed})
    (row,) = compare([tmp_path]).rows
    assert row.metric.n == 2


@pytest.mark.parametrize(
    ("settings", "data", "says"),
    [
        ({"partition": "IID(workers=11)"}, {}, r"partition is Dirichlet\(workers=11, alpha=0.3\) in .*/a, and IID"),
        ({"partition": "Dirichlet(workers=11, alpha=1.0)", "partition/alpha": 1.0}, {}, r"alpha=1.0\) in .*/b; give"),
        ({"partition": "Dirichlet(workers=11, alpha=0.3, seed=1)", "partition/seed": 1}, {}, r"partition is .*seed=1"),
        ({"population": 12}, {"population": 12}, r"population is 11 in .*/a, and 12 in .*/b; give"),
        ({"population/source": "Digits"}, {}, r"population/source"),
        ({"val": "DigitsDataModule"}, {}, r"val is none in .*/a, and DigitsDataModule in .*/b"),
        ({"eval_cohort_size": 5}, {}, r"eval_cohort_size"),
        ({}, {"names_checksum": 8}, r"the checksum of the workers' names is 7 in .*/a, and 8 in .*/b"),
        ({}, {"sizes": {"total": 111}}, r"numbers of training examples"),
    ],
)
def test_what_differs_in_data_is_refused_or_shown_with_a_warning(
    tmp_path: Path, settings: dict[str, Any], data: dict[str, Any], says: str
) -> None:
    record(tmp_path / "a", [0.5, 0.6])
    record(tmp_path / "b", [0.5, 0.6], 0, "Scaffold", settings=settings, data=data)
    with pytest.raises(ValueError, match=f"these runs cannot be compared: .*{says}"):
        compare([tmp_path])
    found = compare([tmp_path], anyway=True)
    assert len(found.rows) == 2
    assert "WARNING: compared anyway, although" in found.caption


def test_examples_that_were_evaluated_must_agree(tmp_path: Path) -> None:
    record(tmp_path / "a", [0.5])
    path = record(tmp_path / "b", [0.5], 0, "Scaffold") / "evaluations.jsonl"
    path.write_text(
        path.read_text().replace('"worker3": 10}', '"worker3": 11}').replace('"worker3": 10,', '"worker3": 11,')
    )
    with pytest.raises(ValueError, match=r"numbers of evaluated examples is 110 of 11 workers .*, and 111 of 11"):
        compare([tmp_path])


def test_when_runs_were_evaluated_matters_for_the_best_and_for_a_target(tmp_path: Path) -> None:
    record(tmp_path / "a", [0.5, 0.6])
    record(tmp_path / "b", [0.5, 0.6], 0, "Scaffold", every=5)
    assert "differ in length: from 10 to 20 rounds" in compare([tmp_path]).caption
    for options in ({"rule": "best"}, {"rule": "mean:2"}, {"target": 0.5}):
        with pytest.raises(ValueError, match=r"rounds between evaluations is 10 in .*/a, and 5 in .*/b"):
            compare([tmp_path], **options)  # type: ignore[arg-type]


def test_partitions_may_follow_the_seeds_if_those_of_all_rows_do(tmp_path: Path) -> None:
    for seed in (0, 1):
        dealt = {"partition/seed": seed}
        record(tmp_path / "a" / str(seed), [0.5], seed, settings=dealt, data={"sizes": {"total": seed}})
        record(tmp_path / "b" / str(seed), [0.6], seed, "Scaffold", settings=dealt, data={"sizes": {"total": seed}})
    assert compare([tmp_path]).rows[1].metric.n == 2
    record(tmp_path / "b" / "2", [0.5], 2, "Scaffold", settings={"partition/seed": 2})
    with pytest.raises(ValueError, match="partition/seed"):
        compare([tmp_path])


def test_what_a_promise_hides_is_no_difference(tmp_path: Path) -> None:
    record(tmp_path / "a", [0.5])
    promise = {"unit": "worker", "delta": 1e-5, "accountant": "rdp", "insecure": False, "epsilon": 2.0}
    private = {"privacy": "CentralDP(clip=1.0)"}
    path = record(tmp_path / "b", [0.5], settings=private, with_workers=False, promise=promise) / "run.json"
    content = json.loads(path.read_text())
    del content["settings"]["val"], content["data"]["names_checksum"], content["data"]["sizes"]
    content["settings"]["partition"] = "Dirichlet"  # of objects the class is shown
    path.write_text(json.dumps(content))
    first, second = compare([tmp_path]).rows
    assert [dict(row.differs) for row in (first, second)] == [{"privacy": None}, private]
    assert first.worst is not None
    assert (second.worst, second.epsilon) == (None, 2.0)
    content["settings"]["partition/alpha"] = 1.0
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"partition/alpha is 0.3 in .*/a, and 1 in .*/b"):
        compare([tmp_path])


def test_batch_sizes_may_differ(tmp_path: Path) -> None:
    for size in (10, 20):
        record(tmp_path / str(size), [0.5], settings={"population/batch_size": size})
    assert [dict(row.differs) for row in compare(tmp_path).rows] == [
        {"population/batch_size": 10},
        {"population/batch_size": 20},
    ]


def test_runs_that_have_not_finished_are_left_out_and_named(two: Path) -> None:
    record(two / "more" / "x", [0.1], 3, outcome="failed", error="ValueError: no\nmemory")
    record(two / "more" / "y", [0.1], 4, outcome="running", finished=None)
    found = compare([two])
    assert [row.metric.n for row in found.rows] == [3, 3]
    assert f"{two}/more/x (failed: ValueError: no memory)" in found.caption
    assert f"{two}/more/y (has not ended)" in found.caption


def test_one_that_failed_and_was_run_again_is_not_named(two: Path) -> None:
    record(two / "earlier" / "seed=1", [0.1], 1, outcome="failed", error="ValueError: no memory")
    assert "no memory" not in compare([two]).caption


def test_of_two_runs_with_one_seed_the_later_one_counts(two: Path) -> None:
    record(two / "again", [0.1, 0.2, 0.3], 1, started="2026-11-27T20:00:00+00:00")
    found = compare([two])
    assert found.rows[0].values == [0.7, 0.3, 0.9]
    assert f"Left out, since a later run has the same settings and seeds: {two}/FedAvg/seed=1." in found.caption


def test_runs_without_a_seed_are_runs_of_their_own(tmp_path: Path) -> None:
    for number, value in enumerate((0.5, 0.7)):
        record(tmp_path / "a" / str(number), [value], settings={"seed": None})
        record(tmp_path / "b" / str(number), [value], algorithm="Scaffold", settings={"seed": None})
    rows = compare([tmp_path]).rows
    assert [row.metric.n for row in rows] == [2, 2]
    assert [row.difference for row in rows] == [None, None]


def test_a_folder_that_is_given_twice_counts_once(two: Path) -> None:
    found = compare([two / "FedProx", two, two / "FedAvg" / ".." / "FedAvg"])
    assert [row.differs["algorithm"] for row in found.rows] == ["FedProx(mu=0.1)", "FedAvg"]
    assert [row.metric.n for row in found.rows] == [3, 3]


def test_runs_of_several_commits_are_said(tmp_path: Path) -> None:
    for seed, commit in enumerate(("0123456789abcdef", "fedcba9876543210")):
        record(tmp_path / str(seed), [0.5], seed, commit=commit)
    assert "differ in their commit: 0123456789, fedcba9876." in compare([tmp_path]).caption


def test_a_run_that_diverged_is_shown(tmp_path: Path) -> None:
    record(tmp_path / "0", [0.5, None], 0)
    record(tmp_path / "1", [0.5, 0.6], 1)
    assert "nan" in compare([tmp_path]).as_markdown()
    assert compare([tmp_path], rule="best").rows[0].values == [0.5, 0.6]


def test_a_worker_without_a_value_hides_no_others(tmp_path: Path) -> None:
    record(tmp_path / "0", [0.5], 0)
    path = record(tmp_path / "1", [0.5], 1) / "evaluations.jsonl"
    line = json.loads(path.read_text())
    line["workers"]["worker0"]["val_acc"] = None  # the least, 0.45, so that the tenth percentile of ten is 0.469
    path.write_text(json.dumps(line))
    (row,) = compare(tmp_path).rows
    assert row.worst is not None
    assert row.worst.mean == pytest.approx((0.46 + 0.469) / 2, abs=1e-12)


def test_metrics_of_training_can_be_compared(tmp_path: Path) -> None:
    for seed in (0, 1):
        record(tmp_path / str(seed), [0.5], seed)
    assert compare([tmp_path], "train_loss").rows[0].values == [1.0, 1.0]


def test_csv_is_not_rounded_and_latex_is_escaped(two: Path) -> None:
    found = compare([two], target=0.8)
    lines = list(csv.DictReader(io.StringIO(found.as_csv())))
    assert [line["algorithm"] for line in lines] == ["FedAvg", "FedProx(mu=0.1)"]
    assert float(lines[1]["difference_mean"]) == found.rows[1].difference.mean  # type: ignore[union-attr]
    assert (lines[0]["metric"], lines[0]["rule"], lines[0]["target"], lines[0]["reached"]) == (
        "val_acc",
        "last",
        "0.8",
        "2",
    )
    latex = found.as_latex()
    assert r"val\_acc" in latex
    assert r"0.800 $\pm$ 0.100 (3)" in latex
    assert r"95 \% interval" in latex
    assert "±" not in latex
    assert latex.isascii()


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_curves_are_drawn(two: Path, suffix: str) -> None:
    path = two / f"curves.{suffix}"
    compare([two], target=0.8).draw(path)
    assert path.stat().st_size > 5000
    if suffix == "svg":
        assert "FedProx" in path.read_text() or "<!-- FedProx(mu=0.1) (3) -->" in path.read_text()


def test_the_band_is_one_standard_deviation_to_each_side(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bands: list[list[list[float]]] = []
    monkeypatch.setattr(Axes, "fill_between", lambda self, x, low, high, **_: bands.append([x, low, high]))
    compare([two]).draw(two / "curves.png")
    rounds, low, high = bands[0]
    assert rounds == [10, 20, 30]
    assert low[2] == pytest.approx(0.8 - 0.1, abs=1e-12)  # of 0.7, 0.8, 0.9
    assert high[2] == pytest.approx(0.8 + 0.1, abs=1e-12)


def test_what_was_spent_is_rounded_up(tmp_path: Path) -> None:
    promise = {"unit": "worker", "delta": 1e-5, "accountant": "rdp", "insecure": False, "epsilon": 1.2341}
    record(tmp_path / "a", [0.5], settings={"privacy": "CentralDP(clip=1.0)"}, with_workers=False, promise=promise)
    record(tmp_path / "b", [0.5])
    assert "| 1.235 " in compare([tmp_path]).as_markdown()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"metric": "val_ac"},
            "no run has a metric 'val_ac'; there are val_acc, val_loss, train_loss; did you mean 'val_acc'",
        ),
        ({"rule": "final"}, "rule='final' must be last, best, or mean:K"),
        ({"rule": "lst"}, "did you mean 'last'"),
        ({"rule": "mean:0"}, "rule='mean:0' must be"),
        ({"rule": "mean:10"}, "seed=0: rule=mean:10 needs 10 evaluations, and there are 3"),
        ({"target": math.inf}, "target=inf must be finite"),
    ],
)
def test_what_is_wrong_is_said(two: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        compare([two], **options)


def test_a_metric_that_some_runs_do_not_have(two: Path) -> None:
    record(two / "z", [0.5], 0, "Scaffold", metric="val_f1")
    with pytest.raises(ValueError, match=r"cannot be compared: .*/z has no metric 'val_acc'"):
        compare([two], "val_acc")
    assert "/z (no metric 'val_acc')" in compare([two], "val_acc", anyway=True).caption


def test_one_folder_and_the_file_of_a_record_will_do(two: Path) -> None:
    assert compare(two).rows == compare([two]).rows
    files = [two / "FedAvg" / f"seed={seed}" / "run.json" for seed in (0, 1)]
    assert compare(files).rows[0].values == [0.7, 0.8]


def test_a_metric_of_training_is_said_to_be_one(two: Path) -> None:
    caption = compare([two], metric="train_loss", target=1.0).caption
    assert "train_loss (lower is better) is a run's last training round (rule: last)" in caption
    assert "up to the first training round that reaches it" in caption


def test_a_damaged_record_is_named(two: Path) -> None:
    (two / "FedAvg" / "seed=0" / "run.json").write_text('{"version": 1, "fits": []}')
    with pytest.raises(ValueError, match=r"FedAvg/seed=0/run.json is damaged: it has no outcome; leave this run out"):
        compare(two)


def test_too_few_runs_and_no_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        compare([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match="no record of a run in it or below it"):
        compare([tmp_path])
    record(tmp_path / "a", [0.5])
    with pytest.raises(ValueError, match=r"only one finished run, .*/a$"):
        compare([tmp_path])
    record(tmp_path / "b", [0.5], 1, outcome="interrupted")
    with pytest.raises(ValueError, match=r"only one finished run, .*/a; left out: .*/b \(interrupted\)"):
        compare([tmp_path])


def test_real_runs_of_three_seeds_and_two_algorithms(tmp_path: Path) -> None:
    """Of one federation: seeds vary the initial weights, so that rows have a spread, and pairs the same start."""
    for algorithm in (FedAvg(), FedProx(mu=0.5)):
        for seed in range(3):
            pl.seed_everything(seed)
            logger = CSVLogger(tmp_path, type(algorithm).__name__, f"seed={seed}")
            trainer = pl.Trainer(
                max_epochs=3, accelerator="cpu", logger=logger, log_every_n_steps=1, enable_checkpointing=False
            )
            workers = {"bob": ToyDataModule(rows=[0, 1]), "alice": ToyDataModule(rows=[2, 3])}
            model = FederatedModule(LinearRegression(2, 1), algorithm=algorithm, local_epochs=3)
            trainer.fit(model, FederatedDataModule(workers))
    found = compare([tmp_path], "val_mse", target=0.2)
    assert [dict(row.differs) for row in found.rows] == [{"algorithm": "FedAvg"}, {"algorithm": "FedProx(mu=0.5)"}]
    for row in found.rows:
        assert (row.metric.n, row.rounds) == (3, 3)
        assert row.metric.sd is not None
        assert row.metric.sd > 0
        assert row.worst is not None
        assert row.worst.mean > row.metric.mean
        assert row.megabytes is not None
        assert row.seconds is not None
    assert found.rows[1].difference is not None
    assert found.rows[1].difference.n == 3
    assert found.rows[1].difference.mean > 0, "the proximal term slows this one down"
