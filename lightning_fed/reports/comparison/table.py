"""Rows of a comparison: one for each group of runs, with numbers that are not rounded."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from lightning_fed.core.configs import Scalar
from lightning_fed.core.direction import Mode
from lightning_fed.reports.comparison.groups import Group, key_of
from lightning_fed.reports.comparison.rules import Rule
from lightning_fed.reports.comparison.run import Run
from lightning_fed.reports.comparison.spread import Interval, Spread, interval, spread


@final
@dataclass(frozen=True)
class Reached:
    """The rounds in which the runs of a group reached a target.

    Args:
        rounds: The median number of rounds over the runs that reach the target; None if no run does.
        megabytes: The median of the megabytes sent and received by then; None also if they are not recorded.
        runs: The number of runs that reach the target.
        of: The number of all runs.
    """

    rounds: float | None
    megabytes: float | None
    runs: int
    of: int


@final
@dataclass(frozen=True)
class Row:
    """Runs of the same settings over seeds.

    Args:
        differs: Settings in which it differs from the other rows, by name.
        paths: The folders of its runs.
        seeds: The seeds of its runs, each by name.
        values: The metric's value in each run, by the rule.
        metric: Their mean and spread.
        worst: Those of the worst decile over workers, by the same rule; None where it is not known.
        rounds: The mean number of rounds.
        megabytes: The mean of the megabytes of a whole run; None where they are not recorded.
        reached: The rounds in which the target was reached; None without a target.
        seconds: The mean of a run's seconds; None where they are not recorded.
        epsilon: The largest ε that a run spent; None if none had a promise of privacy.
        difference: The mean difference to the first row at equal seeds; None for the first row, and where no seeds are
            equal.
    """

    differs: Mapping[str, Scalar]
    paths: Sequence[str]
    seeds: Sequence[Mapping[str, Scalar]]
    values: Sequence[float]
    metric: Spread
    worst: Spread | None
    rounds: float
    megabytes: float | None
    reached: Reached | None
    seconds: float | None
    epsilon: float | None
    difference: Interval | None


def rows_of(groups: Sequence[Group], rule: Rule, mode: Mode, target: float | None) -> list[Row]:
    """Make the rows.

    Args:
        groups: The groups, the first of which is the one that the others are compared with.
        rule: The rule by which a run's curve becomes one value.
        mode: Whether low or high values are better.
        target: The value to reach; None: none.

    Raises:
        ValueError: If a run has too few evaluations for the rule.
    """
    values = [[_value(run, rule, mode) for run in group.runs] for group in groups]
    key = key_of([run for group in groups for run in group.runs])
    by_seed = [dict(zip(map(key, group.runs), own, strict=True)) for group, own in zip(groups, values, strict=True)]
    pairs = [[own[seed] - by_seed[0][seed] for seed in own if seed in by_seed[0]] for own in by_seed]
    pairs[0] = []
    return [
        _row(group, own, differences, rule, mode, target)
        for group, own, differences in zip(groups, values, pairs, strict=True)
    ]


def _row(
    group: Group, values: Sequence[float], differences: Sequence[float], rule: Rule, mode: Mode, target: float | None
) -> Row:
    runs = group.runs
    metric = spread(values)
    assert metric is not None, "a group has a run"
    return Row(
        differs=group.differs,
        paths=[run.path for run in runs],
        seeds=[run.seeds for run in runs],
        values=values,
        metric=metric,
        worst=_spread_of_all([_worst(run, rule, mode) for run in runs]),
        rounds=statistics.fmean(run.rounds for run in runs),
        megabytes=_mean_of_all([run.megabytes(run.rounds) for run in runs]),
        reached=None if target is None else _reached(runs, rule, mode, target),
        seconds=_mean_of_all([run.seconds for run in runs]),
        epsilon=max((run.spending.epsilon for run in runs if run.spending is not None), default=None),
        difference=interval(differences),
    )


def _value(run: Run, rule: Rule, mode: Mode) -> float:
    try:
        return rule.value(run.values, rule.chosen(run.values, mode))
    except ValueError as error:
        raise ValueError(f"{run.path}: {error}") from error


def _worst(run: Run, rule: Rule, mode: Mode) -> float | None:
    """The worst decile at the evaluations by which the metric is reported."""
    chosen = rule.chosen(run.values, mode)
    worst = [run.evaluations[position].worst for position in chosen]
    known = [value for value in worst if value is not None]
    return statistics.fmean(known) if len(known) == len(worst) else None


def _reached(runs: Sequence[Run], rule: Rule, mode: Mode, target: float) -> Reached:
    found = [(run, rule.first_at(run.values, target, mode)) for run in runs]
    rounds = [(run, run.evaluations[at].rounds) for run, at in found if at is not None]
    megabytes = [run.megabytes(over) for run, over in rounds]
    known = [size for size in megabytes if size is not None]
    return Reached(
        rounds=statistics.median(over for _, over in rounds) if rounds else None,
        megabytes=statistics.median(known) if known and len(known) == len(rounds) else None,
        runs=len(rounds),
        of=len(runs),
    )


def _spread_of_all(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return spread(known) if len(known) == len(values) else None


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
