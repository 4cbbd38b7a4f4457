"""Remarks on a run in which the server sees sums only: its limits at the start, then values left out of sums."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import final

from lightning_fed._lightning import rank_zero_info, rank_zero_warn
from lightning_fed.secure import SecureAggregation
from lightning_fed.wire.cohort_numbers import CohortNumbers
from lightning_fed.wire.report import RoundReport


def say_what_is_hidden(secure: SecureAggregation, remembered: Collection[str]) -> None:
    """Log the limits of secure aggregation in a simulation, where one process acts for all workers.

    Args:
        secure: The user's settings of it.
        remembered: The names of the workers' own state.
    """
    rank_zero_info(
        "SecureAggregation: keys and masks are exchanged; as in any simulation, this process sees every update"
        if secure.protocol
        else "SecureAggregation: sums are computed as the protocol would; no keys are exchanged, and this process sees "
        "every update"
    )
    if remembered:
        rank_zero_warn(
            "SecureAggregation: in a simulation checkpoints hold what each worker remembers "
            f"({', '.join(remembered)}), which no sum hides; do not give these checkpoints away"
        )


@final
class SecureRemarks:
    """Warns once in a fit of values that sums leave out.

    Args:
        promised: Whether a promise sets the bound of updates; updates beyond the bound are then expected.
    """

    def __init__(self, promised: bool = False) -> None:
        self._promised = promised
        self._said: set[str] = set()

    def note(self, report: RoundReport) -> None:
        """Check a round.

        Args:
            report: The report of its workers.
        """
        logged = {name: shown for replies in report.replies for name, shown in replies.shown.items()}
        for name, shown in sorted(logged.items()) if report.cohorts else ():
            if shown.reduction != "mean":
                self._say(
                    rank_zero_warn,
                    f"what is logged as {name!r} does not leave the workers: with reduce_fx={shown.reduction!r} it is "
                    "no mean, and only means are added; log the mean",
                )
            elif shown.metric is not None:
                self._say(
                    rank_zero_info,
                    f"the states of self.{shown.metric}, which is logged as {name!r}, do not leave the workers: what "
                    "is shown is the mean of their own values, and the server's object stays empty",
                )
        for cohort in report.cohorts:
            if cohort.within < 0.5 and not self._promised:
                self._say(
                    rank_zero_warn,
                    f"{1 - cohort.within:.0%} of a cohort's updates were longer than clip and were shortened to it; "
                    "unless that is meant, give SecureAggregation a larger clip (secure/clipped is drawn)",
                    "clip",
                )
            if cohort.left_out:
                self._say(
                    rank_zero_warn,
                    f"{cohort.left_out} losses or metrics of a cohort are not in its means: they are infinite or above "
                    "metric_range; give SecureAggregation a larger one, or log them in other units",
                    "metric_range",
                )

    def _say(self, say: Callable[[str], None], what: str, about: str | None = None) -> None:
        if (about or what) not in self._said:
            self._said.add(about or what)
            say(f"SecureAggregation: {what}")


def secure_scalars(cohorts: Sequence[CohortNumbers]) -> dict[str, float]:
    """Return the curves about clipped and omitted values in sums.

    Args:
        cohorts: The numbers that cohorts reported together; those with a sum are counted.

    Returns:
        ``secure/clipped``, the part of the workers whose updates were shortened; ``secure/metrics_out_of_range``, the
        number of losses and metrics that were left out; ``secure/bytes_up``, what workers have sent besides vectors,
        of keys, shares and single numbers. Nothing where there is no sum.

    >>> secure_scalars([CohortNumbers(examples=4, weight=2, loss=1.0, within=0.75, left_out=1)])
    {'secure/clipped': 0.25, 'secure/metrics_out_of_range': 1, 'secure/bytes_up': 0}
    """
    summed = [cohort for cohort in cohorts if cohort.examples]
    if not summed:
        return {}
    return {
        "secure/clipped": sum(1 - cohort.within for cohort in summed) / len(summed),
        "secure/metrics_out_of_range": sum(cohort.left_out for cohort in summed),
        "secure/bytes_up": sum(cohort.protocol_bytes_up for cohort in summed),
    }
