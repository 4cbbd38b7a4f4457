"""Results of rounds and evaluations, for users and callbacks in Python."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from lightning_fed.core.direction import worst_decile
from lightning_fed.server.distributions import Distribution
from lightning_fed.server.evaluation.report import EvaluationReport
from lightning_fed.server.history import History
from lightning_fed.server.round_result import StepResult


@final
class Results:
    """Results of the rounds that a FederatedModule has run, and of its last evaluation.

    Args:
        hidden_by: The name of the promise that hides what single workers log; None: it may be shown.
    """

    def __init__(self, hidden_by: str | None) -> None:
        self._hidden_by = hidden_by
        self._round: int | None = None
        self._is_loaded = False  # the model, from a checkpoint: no row is about it
        self.history = History()
        """A row for each round."""
        self.evaluation = EvaluationReport(note=self._note("nothing has been evaluated yet"))
        """The last evaluation."""

    def _note(self, otherwise: str) -> str:
        return otherwise if self._hidden_by is None else f"{self._hidden_by} hides the results of single workers"

    def begin(self, round: int) -> None:
        """Begin a fit, or go on with one.

        Args:
            round: The number of its first round.
        """
        self._round = round - 1 if round else None
        self._is_loaded = False
        self.history.begin(round)

    def load(self, rounds: int) -> None:
        """Record that the model comes from a checkpoint, for an evaluation.

        Args:
            rounds: The number of rounds in which it was trained.
        """
        self._round = rounds - 1 if rounds else None
        self._is_loaded = True

    def note_round(self, round: int, epoch: int, result: StepResult) -> None:
        """Add a row.

        Args:
            round: The number of the round.
            epoch: The Trainer's epoch.
            result: Its result, as far as it may be shown.
        """
        self._round = round
        numbers: dict[str, float] = {"round": round, "epoch": epoch}
        if self._hidden_by is None:
            report = result.report
            if result.examples:
                numbers["loss"] = result.loss
            numbers |= {
                "cohort_size": len(report),
                "examples": result.examples,
                "dropped": len(report.failures) + len(report.dropped),
                "stragglers": len(report.stragglers),
                "seconds": result.seconds,
            }
        down, up = result.traffic
        numbers |= {"bytes_down": down, "bytes_up": up}
        self.history.append(numbers, {name: logged.part.value for name, logged in result.logged.items()})

    def begin_evaluation(self, report: EvaluationReport) -> None:
        """Store the results of single workers; those over all data follow in :meth:`end_evaluation`.

        Args:
            report: The report, as far as it goes.
        """
        if self._hidden_by is not None:
            report = replace(report, workers={}, examples={})
        why = "the data are central, and no worker's own were evaluated"
        note = "nothing was logged about their data" if report.workers else self._note(why)
        self.evaluation = replace(report, round=self._round, note=note)

    def end_evaluation(self, metrics: dict[str, float], spreads: dict[str, Distribution]) -> None:
        """Complete the report, and add its values to the row of its round.

        Args:
            metrics: The logged values over all data.
            spreads: The distributions over workers.
        """
        self.evaluation = replace(self.evaluation, metrics=metrics)
        if not self._is_loaded:
            deciles = {name: worst_decile(name) for name in spreads}
            worst = {f"workers/{name}/{label}": spreads[name][label] for name, label in deciles.items()}
            self.history.add({**metrics, **worst})
