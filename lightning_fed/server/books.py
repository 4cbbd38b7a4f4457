"""The books of a private run: its account over several fits, checkpoints and processes, and its ledger on disk."""

from __future__ import annotations

import math
import os
import pickle
import secrets
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from lightning_fed._lightning import pl, rank_zero_info, rank_zero_warn
from lightning_fed.privacy import AUDIENCES, Accountant, Privacy, PrivateRun
from lightning_fed.privacy.account import Account, fresh_name
from lightning_fed.privacy.ledger import VERSION, Ledger, ledger_in, now, read, recomputed
from lightning_fed.server.processes import processes_of

_HANDED_OVER = "lightning_fed.privacy"
_OF_THE_ACCOUNT = ("run", "promise", "unit", "audience", "kind", "stretches", "release_metrics", "ledger")


@final
class Books:
    """Account of a run's releases, over all its Trainers, checkpoints and processes.

    The account is the union of three sets: the releases of this object, those in the checkpoints that it has loaded,
    and further ones in the ledger, which a run released between its last checkpoint and a crash.

    Args:
        privacy: The promise.
    """

    def __init__(self, privacy: Privacy) -> None:
        self._privacy = privacy
        self._name = fresh_name()
        self._saved: dict[str, Any] | None = None
        self._folders: list[Path] = []  # in which the ledger may lie
        self._conflict: str | None = None
        self._secret = secrets.token_bytes(16)  # processes that are started from this one have it too

    def saved(self, run: PrivateRun | None) -> dict[str, Any] | None:
        """Return the account from which the next fit continues; None: nothing has been released.

        Args:
            run: The run of the last fit, if there was one.
        """
        return self._saved if run is None else {**run.state_dict(), **self.account(run)}

    def account(self, run: PrivateRun | None) -> dict[str, Any]:
        """Return the account for a checkpoint: the run, the guarantee, and every stretch.

        Args:
            run: The run of the last fit, if there was one.
        """
        if run is None:
            return {} if self._saved is None else {name: self._saved[name] for name in _OF_THE_ACCOUNT}
        return {
            "run": self._name,
            "promise": type(self._privacy).__name__,
            "unit": self._privacy.unit,
            "audience": self._privacy.audience,
            "kind": run.accountant.kind,
            "stretches": run.account.state_dict(),
            "release_metrics": self._privacy.release_metrics,
            "ledger": None if run.ledger.path is None else str(run.ledger.path.absolute().parent),
        }

    def load(self, state: dict[str, Any] | None, run: PrivateRun | None, fitting: bool, path: Path | None) -> None:
        """Merge the account of a checkpoint; earlier releases are never dropped.

        Args:
            state: The account in the checkpoint; None: it has none.
            run: The run of the last fit, if there was one.
            fitting: Whether training resumes from the checkpoint; else it is evaluated.
            path: The checkpoint's file.

        Raises:
            ValueError: If training resumes and the two accounts cannot be added up.
        """
        name = type(self._privacy).__name__
        if state is None:
            if fitting:
                raise ValueError(
                    f"the checkpoint does not say how much privacy was spent for it, so {name} cannot promise anything "
                    "from here on; begin a new run, or go on without privacy="
                )
            rank_zero_info(f"{name}: the checkpoint has no account of privacy, and this run's stays as it is")
            return
        conflict = self._conflict_with(state)
        if fitting and conflict is not None:
            raise ValueError(conflict)
        self._conflict = conflict
        if conflict is not None:
            return
        own = self.saved(run)
        if own is None:
            self._name = state.get("run", self._name)
        joined = Account()
        for known in (own, state):
            if known is not None:
                joined.join(known)
        self._look_in(state.get("ledger"), *(() if path is None else (path.parent, path.parent.parent)))
        names = {self._name, state.get("run") or self._name}
        joined.include(self._in_ledgers(*names))
        union = {"stretches": joined.state_dict(), "accountant": {"history": joined.total()}}
        if own is None or fitting:
            insecure = state["insecure"] or (own is not None and own["insecure"])
            self._saved = {**dict.fromkeys(_OF_THE_ACCOUNT), **state, **union, "insecure": insecure}
        elif run is None:
            self._saved = {**own, **union}
        else:
            run.join({**state, **union})
        if not fitting:
            self._say_what_choosing_costs(state, joined, names)

    def open(self, run: PrivateRun, trainer: pl.Trainer, outside: Sequence[str], remembers: str | None) -> None:
        """Begin a stretch of rounds: find the ledger, count releases that only it holds, and write the settings.

        Args:
            run: The run that begins.
            trainer: The Trainer.
            outside: The parts of a run that the guarantee does not cover, in words.
            remembers: The name of the algorithm, if it keeps own state of workers, without noise; else None.

        Raises:
            ValueError: If the account holds releases that cannot be added up with the run's.
            OSError: If the ledger cannot be written.
        """
        if self._conflict is not None:
            raise ValueError(self._conflict)
        processes = processes_of(trainer)
        folder = _folder_of(trainer)  # which asks all processes
        if folder is not None:
            self._look_in(folder)
        run.join({"stretches": self._in_ledgers(self._name).state_dict()})
        # Only the first process is sure to see the file.
        stretches, self._name, run.stretch = processes.gather((run.account.state_dict(), self._name, run.stretch))[0]
        run.join({"stretches": stretches})
        run.trial()
        self._saved = None
        if folder is None or processes.rank:
            return
        found = self._ledgers(self._name)
        path = next((path for path in found if os.access(path, os.W_OK)), ledger_in(folder, self._name))
        known = read(path).account if path in found else Account()
        run.ledger = Ledger(path)
        self._write_settings(run, outside, remembers)
        for stretch in run.account.stretches:
            charges = run.account.of(stretch)
            if run.account.only([stretch]).meet(known).of(stretch) != charges:
                run.ledger.write("carried", stretch=stretch, charges=charges)
        self._say_of_branches(run, known)

    def close(self, run: PrivateRun) -> None:
        """End a stretch of rounds: compare the account with the ledger alone, and close the ledger's record.

        Args:
            run: The run.
        """
        path = run.ledger.path
        if path is None:
            return
        claimed = run.spent
        found = recomputed(run.account.meet(read(path).account), run.accountant.kind, run.delta)
        agrees = math.isclose(claimed, found, rel_tol=1e-9, abs_tol=1e-12)
        run.ledger.write(
            "end",
            stretch=run.stretch,
            time=now(),
            epsilon=claimed,
            delta=run.delta,
            accountant=run.accountant.kind,
            recomputed=found,
            agrees=agrees,
        )
        if not agrees:
            rank_zero_warn(
                f"the ledger of privacy {path} accounts for ε = {found:.4g}, but the run has claimed {claimed:.4g}: "
                "it was changed from outside, and the larger number holds"
            )

    def hand_over(self, run: PrivateRun, state_dict: dict[str, Any]) -> None:
        """Add the run to the weights that this process returns to its parent.

        Args:
            run: The run.
            state_dict: The weights, changed in place.
        """
        content = self._secret + self.packed(run)
        state_dict[_HANDED_OVER] = torch.frombuffer(bytearray(content), dtype=torch.uint8)

    def packed(self, run: PrivateRun) -> bytes:
        """Return the run as bytes for the parent process.

        Raises:
            ValueError: If it cannot be sent there.
        """
        try:
            return pickle.dumps((self._name, self._folders, run))
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"this strategy trains in processes of its own, from which {type(self._privacy).__name__}'s account "
                f"cannot come back ({error}); use strategy='ddp' or 'auto'"
            ) from error

    def taken_over(self, state_dict: dict[str, Any]) -> PrivateRun | None:
        """Remove and return the run that a child process has added to the weights; None: there is none.

        Args:
            state_dict: The weights, changed in place.
        """
        packed: Tensor | None = state_dict.pop(_HANDED_OVER, None)
        if packed is None:
            return None
        content = packed.numpy().tobytes()
        secret, content = content[: len(self._secret)], content[len(self._secret) :]
        if not secrets.compare_digest(secret, self._secret):  # not of a process of ours: never unpickle it
            return None
        run: PrivateRun
        self._name, self._folders, run = pickle.loads(content)
        self._saved = None
        return run

    def _conflict_with(self, state: Mapping[str, Any]) -> str | None:
        """Return the reason why a checkpoint's account and this promise's releases do not add up; None: they do."""
        own, unit, audience = type(self._privacy).__name__, self._privacy.unit, self._privacy.audience
        their, their_unit = state.get("promise") or own, state.get("unit") or unit
        their_audience = state.get("audience") or audience
        fix = f"begin a new run, or go on with privacy={their}(...)"
        if their_unit != unit:
            return (
                f"the checkpoint's account is that of {their}, which hides single {their_unit}s, and {own} hides "
                f"{unit}s: what was spent for the one says nothing about the other; {fix}"
            )
        if audience in AUDIENCES and AUDIENCES.index(audience) > AUDIENCES.index(their_audience):
            return (
                f"the checkpoint's rounds were released by {their}, which hides {unit}s from {their_audience}; so "
                f"{own} cannot promise to hide them from {audience} from here on; {fix}"
            )
        kind = self._privacy.accountant or state.get("kind") or "rdp"
        try:
            Accountant(kind).load_state_dict({"history": _total(state)})
        except ValueError as error:
            return f"the checkpoint's account ({their}) cannot go on with {own}: {error}"
        return None

    def _look_in(self, *folders: str | Path | None) -> None:
        self._folders += [Path(f) for f in folders if f is not None and Path(f) not in self._folders]

    def _ledgers(self, name: str) -> list[Path]:
        return [path for folder in self._folders if (path := ledger_in(folder, name)).is_file()]

    def _in_ledgers(self, *names: str) -> Account:
        """Return the releases of these runs' unfinished fits."""
        account = Account()
        for path in chain.from_iterable(map(self._ledgers, names)):
            account.include(read(path).unended)
        return account

    def _write_settings(self, run: PrivateRun, outside: Sequence[str], remembers: str | None) -> None:
        setting, sampling = run.setting, run.setting.sampling
        run.ledger.write(
            "run",
            version=VERSION,
            run=self._name,
            stretch=run.stretch,
            time=now(),
            promise=type(self._privacy).__name__,
            unit=self._privacy.unit,
            audience=self._privacy.audience,
            mechanism=str(run.mechanism),
            relation=run.relation,
            population=setting.population,
            cohort_size=setting.cohort_size,
            sampling="everyone" if sampling is None else sampling.__name__,
            rounds=setting.rounds,
            noise_multiplier=run.noise_multiplier,
            bound=run.bound,
            moving=run.moving,
            delta=run.delta,
            budget=run.budget,
            accountant=run.accountant.kind,
            insecure=run.insecure,
            outside=list(outside),
            release_metrics=self._privacy.release_metrics,
            least_replies=self._privacy.least_replies(),
            remembers=remembers,
            versions=_software(),
        )

    def _say_of_branches(self, run: PrivateRun, known: Account) -> None:
        everything = Account()
        everything.include(known)
        everything.include(run.account)
        if everything != run.account:
            both = recomputed(everything, run.accountant.kind, run.delta)
            rank_zero_info(
                f"{type(self._privacy).__name__}: this fit goes on from an older checkpoint of a fit that has ended, "
                f"so it is a branch with an account of its own (ε = {run.spent:.4g} so far); with what was released "
                f"after that checkpoint {run.ledger.path} holds ε = {both:.4g}"
            )

    def _say_what_choosing_costs(self, state: Mapping[str, Any], account: Account, names: Collection[str]) -> None:
        kind, delta = state.get("kind") or self._privacy.accountant or "rdp", state["delta"]
        for path in chain.from_iterable(map(self._ledgers, names)):
            account.include(read(path).account)
        whole = recomputed(account, kind, delta)
        rank_zero_info(
            f"{type(self._privacy).__name__}: a checkpoint that is chosen among those of a run costs the whole run: "
            f"ε = {whole:.4g} at δ = {delta:.3g} so far, where this one was written at ε = {state['epsilon']:.4g}"
        )


def _total(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    account = Account()
    account.join(state)
    return account.total()


def _folder_of(trainer: pl.Trainer) -> Path | None:
    """Return the folder of a run: its logger's, else the Trainer's ``default_root_dir``; None: it leaves no files."""
    folder = trainer.log_dir or trainer.default_root_dir
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if "://" in str(folder):
        rank_zero_info(f"the ledger of privacy is not written, since {folder} is no folder of this machine")
        return None
    return Path(folder)


def _software() -> dict[str, str | None]:
    """Return the versions of the software that accounts: by name; None for what is not installed as a package."""
    ours = sys.modules[__name__.partition(".")[0]]  # an import would be one of everything that is above this room
    try:
        accountant = metadata.version("dp-accounting")
    except metadata.PackageNotFoundError:
        accountant = None
    return {"lightning_fed": vars(ours)["__version__"], "dp-accounting": accountant}
