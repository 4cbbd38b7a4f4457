"""The caption of a comparison: its rule, its statistics, and the runs that were left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_fed.core.direction import better
from lightning_fed.reports.comparison.groups import Group
from lightning_fed.reports.comparison.rules import Rule
from lightning_fed.reports.comparison.run import Run
from lightning_fed.reports.comparison.table import Row
from lightning_fed.reports.comparison.together import together


def caption_of(
    groups: Sequence[Group],
    rows: Sequence[Row],
    metric: str,
    rule: Rule,
    target: float | None,
    unlike: Sequence[str],
    left_out: Sequence[str],
) -> str:
    """Return the caption.

    Args:
        groups: The groups.
        rows: Their rows.
        metric: The metric's name.
        rule: The rule by which a run's curve becomes one value.
        target: The value to reach; None: none.
        unlike: The forbidden differences between the runs.
        left_out: The runs that are left out, each with the reason.
    """
    runs = [run for group in groups for run in group.runs]
    of = "training round" if any(each.in_training for run in runs for each in run.evaluations) else "evaluation"
    sentences = [
        *_values(rows, metric, rule, of),
        *_costs(rows, target, rule, of),
        *_privacy(runs),
        *_doubts(groups, runs, unlike, left_out),
    ]
    return " ".join(filter(None, sentences))


def _values(rows: Sequence[Row], metric: str, rule: Rule, of: str) -> Iterator[str]:
    low_is_better = better(metric) == "min"
    several = any(row.metric.n > 1 for row in rows)
    shown = "; mean ± standard deviation of a sample over seeds" if several else " of one run a row"
    way = "lower" if low_is_better else "higher"
    yield f"{metric} ({way} is better) is {rule.in_words(of)} (rule: {rule}){shown} (number of seeds)."
    if any(row.worst for row in rows):
        yield f"Worst decile: a tenth of the workers has this value or a {'higher' if low_is_better else 'lower'} one."
    if any(row.difference for row in rows):
        interval = " [Student's 95 % interval]" if any(row.difference and row.difference.n > 1 for row in rows) else ""
        yield f"Difference: to the first row at equal seeds, mean{interval} (number of pairs)."


def _costs(rows: Sequence[Row], target: float | None, rule: Rule, of: str) -> Iterator[str]:
    if target is not None:
        what = of if rule.count == 1 else f"mean of {rule.count} {of}s"
        yield (
            f"Rounds and MB (sent and received) to {target:g}: up to the first {what} that reaches it, median over the "
            "seeds that do (how many do)."
        )
    elif any(row.megabytes is not None for row in rows):
        yield "MB: sent and received in a run, mean over seeds."
    if any(row.seconds is not None for row in rows):
        yield "Seconds: of a run's rounds and evaluations, mean over seeds."


def _privacy(runs: Sequence[Run]) -> Iterator[str]:
    spendings = [run.spending for run in runs if run.spending is not None]
    if spendings:
        deltas = " or ".join(f"{delta:.3g}" for delta in sorted({spending.delta for spending in spendings}))
        yield f"ε: of a single run, at δ = {deltas}; the largest of a row."
        yield together(spendings)


def _doubts(
    groups: Sequence[Group], runs: Sequence[Run], unlike: Sequence[str], left_out: Sequence[str]
) -> Iterator[str]:
    for difference in unlike:
        yield f"WARNING: compared anyway, although {difference}."
    rounds = sorted({run.rounds for run in runs})
    if len(rounds) > 1:
        yield f"The runs differ in length: from {rounds[0]} to {rounds[-1]} rounds."
    for name in dict.fromkeys(name for run in runs for name in run.code):
        found = list(dict.fromkeys(run.code[name] for run in runs if name in run.code))
        if len(found) > 1:
            yield f"The runs differ in their {name}: {', '.join(found)}."
    replaced = [run.path for group in groups for run in group.replaced]
    if replaced:
        yield f"Left out, since a later run has the same settings and seeds: {', '.join(replaced)}."
    if left_out:
        yield f"Left out: {', '.join(left_out)}."
