"""Remarks of an engine on a module, made once, however many workers and rounds show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from lightning_fed._lightning import rank_zero_info, rank_zero_warn


class Remark(UserWarning):
    """Warns of what local training does to a module or to its process."""


@final
class Remarks:
    """Warns of each thing once; not at all where a promise hides the workers' training."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self.silent = False

    def changed(self, names: Sequence[str]) -> None:
        """Warn of attributes that local training has changed, and that were set back.

        Args:
            names: The attributes.
        """
        for name in names:
            self.say(
                f"local training changes the module's attribute {name!r}, which is set back after each worker and "
                "reaches neither the server nor the next worker; log it, or keep it in a buffer, which is averaged"
            )

    def unread(self, names: Sequence[str]) -> None:
        """Warn of torchmetrics objects that local training fills, and of which nobody can read a value.

        Args:
            names: The objects.
        """
        for name in names:
            self.say(
                f"local training updates the metric {name!r} and neither logs nor computes it; what it holds (a list "
                "of examples, or no sum, minimum or maximum) stays with each worker, and the server's is empty: "
                f"self.log('{name}', self.{name}) gives the cohort's mean"
            )

    def restarted(self, scheduler: Sequence[Any] | None) -> None:
        """Warn that a scheduler of the workers begins anew in each round, and if the scheduler therefore has no effect.

        Args:
            scheduler: Its class, and whether a step so far was taken at another rate than the first; None: there
                is none.
        """
        if scheduler is None:
            return
        name, acts = scheduler
        anew = f"the workers' {name} begins anew in each round"
        way_out = "FederatedModule(local_schedule='continue') lets it go on by each worker's own steps"
        if not acts:
            self.say(f"{anew}, and no step so far was taken at another learning rate than the first; {way_out}", name)
        elif name not in self._said and not self.silent:
            self._said.add(name)
            rank_zero_info(f"{anew[0].upper()}{anew[1:]}; {way_out}")

    def skipped(self, worker: str | None) -> None:
        """Warn of a ``training_step`` that returns None, beginning as Lightning does.

        Args:
            worker: The first worker on which it did; None: it has not.
        """
        if worker is not None:
            self.say(
                f"`training_step` returned `None` on worker {worker!r}, whose step was skipped. If this was on "
                "purpose, ignore this warning",
                about="skipped",
            )

    def settings(self, changed: Mapping[str, str]) -> None:
        """Warn of settings of the whole process that a worker's code has changed, and that were set back.

        Args:
            changed: The settings, each with the first worker that changed it.
        """
        for setting, worker in changed.items():
            self.say(
                f"the code of worker {worker!r} changes a setting of the whole process ({setting}), which is set back "
                "after its data and after its training, as other workers and the server share it",
                about=setting,
            )

    def hear(self, noted: Mapping[str, Any]) -> None:
        """Remark on what another process has noted.

        Args:
            noted: The result of :meth:`Sequential.noted`.
        """
        self.changed(noted["changed"])
        self.unread(noted["unread"])
        self.restarted(noted["restarted"])
        self.skipped(noted["skipped"])
        self.settings(noted["settings"])
        for text in noted["warnings"]:
            self.say(text)

    def say(self, text: str, about: str | None = None) -> None:
        """Warn.

        Args:
            text: The warning.
            about: The subject of the warning, of which no other text warns again; None: the text itself.
        """
        if (about or text) not in self._said and not self.silent:
            self._said.add(about or text)
            rank_zero_warn(text, category=Remark)
