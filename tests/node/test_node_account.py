"""A node's own account: charged before, forced onto the disk, and never too small, whatever happens to the file."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import queue
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lightning_fed import cli
from lightning_fed.node.account import NodeAccount, WorkerAccount
from lightning_fed.privacy import (
    Accountant,
    FixedSizeGaussian,
    LocalGaussian,
    SubsampledGaussian,
    analytic_gaussian_sigma,
)

DELTA = 1e-5


def by_hand(mechanism: Any, count: int, kind: Any = "pld") -> float:
    accountant = Accountant(kind)
    accountant.charge(mechanism, count)
    return accountant.epsilon(DELTA)


@pytest.fixture
def account(tmp_path: Path) -> NodeAccount:
    return NodeAccount(tmp_path / "account")


def lines_of(account: NodeAccount, worker: str = "bob") -> list[dict[str, Any]]:
    return [json.loads(line) for line in account.path(worker).read_text().splitlines()]


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_nothing_is_spent_at_first(account: NodeAccount) -> None:
    assert account.rounds("bob") == 0
    assert account.epsilon("bob", DELTA) == 0.0
    assert account.workers == ()
    assert not account.folder.exists(), "nothing is written for a question"


def test_two_local_releases_cost_as_one_with_noise_less_by_the_root_of_two(account: NodeAccount) -> None:
    """Gaussians compose to a Gaussian: 1/z² add up, z = 4√2 twice is z = 4 once. Grids round up by less than 1e-3."""
    for cohort in range(2):
        account.charge("bob", LocalGaussian(4 * math.sqrt(2)), 1, "a1", cohort)
    assert account.epsilon("bob", DELTA) == pytest.approx(by_hand(LocalGaussian(4.0), 1), rel=1e-3)


def test_one_local_release_by_the_closed_form(account: NodeAccount) -> None:
    """Balle and Wang 2018, theorem 8: two updates are up to 2C apart. The grid rounds ε up, by less than 1e-3."""
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    epsilon = account.epsilon("bob", DELTA)
    needed, less = (analytic_gaussian_sigma(each, DELTA, sensitivity=2.0) for each in (epsilon, epsilon * (1 - 1e-3)))
    assert needed <= 4.0 <= less


def test_all_runs_of_a_worker_add_up_and_workers_do_not(account: NodeAccount) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    account.charge("bob", LocalGaussian(4.0), 1, "b2", 0)
    account.charge("alice", LocalGaussian(4.0), 1, "a1", 0)
    assert (account.rounds("bob"), account.rounds("alice")) == (2, 1)
    assert account.epsilon("bob", DELTA) == by_hand(LocalGaussian(4.0), 2)
    assert account.epsilon("alice", DELTA) == by_hand(LocalGaussian(4.0), 1)
    assert account.workers == ("alice", "bob")


def test_the_same_cohort_trained_twice_is_charged_twice(account: NodeAccount) -> None:
    for _ in range(2):
        account.charge("bob", LocalGaussian(4.0), 1, "a1", 7)
    assert account.rounds("bob") == 2
    assert account.epsilon("bob", DELTA) == by_hand(LocalGaussian(4.0), 2)


def test_private_steps_are_releases(account: NodeAccount) -> None:
    step = SubsampledGaussian(1.0, 0.01)
    for cohort in range(3):
        account.charge("bob", step, 40, "a1", cohort, unit="example")
    assert account.rounds("bob") == 3
    assert account.epsilon("bob", DELTA) == by_hand(step, 120)


def test_a_training_without_noise_has_no_epsilon_ever_after(account: NodeAccount) -> None:
    account.charge("bob", None, 1, "a1", 0)
    account.charge("bob", LocalGaussian(4.0), 1, "b2", 0)
    assert account.epsilon("bob", DELTA) == math.inf
    assert not account.affords("bob", LocalGaussian(1e6), 1, epsilon=1e9, delta=DELTA)


def test_hiding_examples_hides_no_worker(account: NodeAccount) -> None:
    account.charge("bob", SubsampledGaussian(1.0, 0.01), 40, "a1", 0, unit="example")
    assert account.epsilon("bob", DELTA, unit="worker") == math.inf
    assert account.epsilon("bob", DELTA, unit="example") == account.epsilon("bob", DELTA) < math.inf


def test_what_hides_a_worker_hides_its_examples(account: NodeAccount) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    assert account.epsilon("bob", DELTA, unit="example") == by_hand(LocalGaussian(4.0), 1)


def test_what_cannot_be_added_up_is_refused(account: NodeAccount) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    account.charge("bob", SubsampledGaussian(1.0, 0.01), 40, "a1", 0, unit="example")
    with pytest.raises(ValueError, match="cannot be added up"):
        account.epsilon("bob", DELTA)
    with pytest.raises(ValueError, match="cannot be added up"):
        account.affords("bob", LocalGaussian(4.0), 1, 1.0, DELTA, unit="example")


def test_a_mechanism_that_only_renyi_counts(account: NodeAccount) -> None:
    account.charge("bob", FixedSizeGaussian(1.0, 1, 10), 1, "a1", 0)
    assert account.epsilon("bob", DELTA) == by_hand(FixedSizeGaussian(1.0, 1, 10), 1, "rdp")


def test_affords_up_to_the_last_bit_and_changes_nothing(account: NodeAccount) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    twice = by_hand(LocalGaussian(4.0), 2)
    assert twice < by_hand(LocalGaussian(4.0), 2, "rdp"), "so that the tighter accountant is what decides"
    assert account.affords("bob", LocalGaussian(4.0), 1, twice, DELTA)
    assert not account.affords("bob", LocalGaussian(4.0), 1, math.nextafter(twice, 0), DELTA)
    assert account.rounds("bob") == 1


def test_a_billion_steps_are_refused_at_once(account: NodeAccount) -> None:
    assert not account.affords("bob", SubsampledGaussian(1.0, 0.01), 10**9, 8.0, DELTA, unit="example")


# ---- the file --------------------------------------------------------------------------------------------------------


def test_it_survives_a_restart(account: NodeAccount) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 3)
    again = NodeAccount(account.folder)
    assert again.epsilon("bob", DELTA) == account.epsilon("bob", DELTA) == by_hand(LocalGaussian(4.0), 1)
    (line,) = lines_of(account)
    assert {name: line[name] for name in ("worker", "run", "cohort", "releases", "mechanism", "parameters")} == {
        "worker": "bob",
        "run": "a1",
        "cohort": 3,
        "releases": 1,
        "mechanism": "LocalGaussian",
        "parameters": {"noise_multiplier": 4.0},
    }


def test_what_another_process_has_written_is_seen(account: NodeAccount) -> None:
    other = NodeAccount(account.folder)
    for cohort in range(3):
        account.charge("bob", LocalGaussian(4.0), 1, "a1", cohort)
        other.charge("bob", LocalGaussian(4.0), 1, "a1", cohort)
        assert account.rounds("bob") == other.rounds("bob") == 2 * (cohort + 1)


def test_a_file_that_was_put_in_its_place_or_cut_is_read_anew(account: NodeAccount, tmp_path: Path) -> None:
    other = NodeAccount(tmp_path / "other")
    for cohort in range(5):
        other.charge("bob", LocalGaussian(8.0), 1, "a1", cohort)
    for cohort in range(3):
        account.charge("bob", LocalGaussian(4.0), 1, "a1", cohort)
    path = account.path("bob")
    first = path.read_bytes().splitlines(keepends=True)[0]
    other.path("bob").replace(path)
    assert account.rounds("bob") == 5
    assert account.epsilon("bob", DELTA) == by_hand(LocalGaussian(8.0), 5)
    path.write_bytes(first)
    assert account.rounds("bob") == 1
    assert account.epsilon("bob", DELTA) == by_hand(LocalGaussian(4.0), 1)


@pytest.mark.parametrize("worker", ["../bob", "/etc/passwd", ".", "a b", "Müller", "x" * 300, "", "a%2Fb", "\0"])
def test_any_name_of_a_worker_is_a_file_in_the_folder(account: NodeAccount, worker: str) -> None:
    account.charge(worker, None, 1, "a1", 0)
    assert [path.parent for path in account.folder.iterdir()] == [account.folder]
    assert account.rounds(worker) == 1
    assert account.workers == (worker,)


def test_names_that_begin_alike_have_files_of_their_own(account: NodeAccount) -> None:
    assert len({account.path(worker) for worker in ("x" * 300, "x" * 301, "a/b", "a%2Fb", "A/b")}) == 5


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 30, -2])
def test_a_torn_line_counts_as_the_dearest_training(account: NodeAccount, keep: int) -> None:
    account.charge("bob", LocalGaussian(8.0), 1, "a1", 0)
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 1)
    path = account.path("bob")
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole + last[:keep])
    again = NodeAccount(account.folder)
    assert again.rounds("bob") == 3
    assert again.epsilon("bob", DELTA) == pytest.approx(
        by_hand(LocalGaussian((2 / 16 + 1 / 64) ** -0.5), 1), rel=1e-3
    ), "1/z² add up"
    for _ in range(2):  # what comes next begins a line of its own, also for who has read the torn one
        again.charge("bob", LocalGaussian(8.0), 1, "a1", 2)
    assert again.rounds("bob") == NodeAccount(account.folder).rounds("bob") == 5
    assert len(path.read_bytes().splitlines()) == 5


def test_a_last_line_that_lacks_its_end_only_is_whole(account: NodeAccount) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    path = account.path("bob")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    again = NodeAccount(account.folder)
    assert again.rounds("bob") == 1
    assert again.epsilon("bob", DELTA) == by_hand(LocalGaussian(4.0), 1)
    again.charge("bob", LocalGaussian(4.0), 1, "a1", 1)
    assert again.rounds("bob") == NodeAccount(account.folder).rounds("bob") == 2


def test_an_account_of_which_nothing_can_be_read_has_no_epsilon(account: NodeAccount) -> None:
    account.folder.mkdir()
    account.path("bob").write_text('{"version": 1, "wor')
    assert account.rounds("bob") == 1
    assert account.epsilon("bob", DELTA) == math.inf


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        "17",
        "[" * 10_000,
        '{"version": 1, "unit": "worker", "releases": 1}',
        '{"version": 1, "unit": "nobody", "releases": 1, "mechanism": null}',
        '{"version": 1, "unit": "worker", "releases": 0, "mechanism": null}',
        '{"version": 1, "unit": "worker", "releases": true, "mechanism": null}',
        '{"version": 1, "unit": "worker", "releases": 1, "mechanism": "Nothing", "parameters": {}}',
        '{"version": 1, "unit": "worker", "releases": 1, "mechanism": "LocalGaussian", "parameters": {}}',
        '{"version":1,"unit":"worker","releases":1,"mechanism":"LocalGaussian","parameters":{"noise_multiplier":NaN}}',
    ],
)
def test_a_damaged_line_counts_as_the_dearest_training(account: NodeAccount, line: str) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    with account.path("bob").open("a") as file:
        file.write(f"{line}\n\n")  # and an empty line is none
    assert NodeAccount(account.folder).rounds("bob") == account.rounds("bob") == 2
    assert account.epsilon("bob", DELTA) == by_hand(LocalGaussian(4.0), 2)


def test_mechanisms_that_are_not_defined_are_never_guessed(account: NodeAccount) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    path = account.path("bob")
    path.write_text(path.read_text().replace("LocalGaussian", "ours.Gone"))
    for again in (account, NodeAccount(account.folder)):
        if again is account:
            os.utime(path)
            again = NodeAccount(account.folder)
        with pytest.raises(ValueError, match=r"releases of ours\.Gone, .* import ours before going on"):
            again.rounds("bob")
        with pytest.raises(ValueError, match=r"ours\.Gone"):
            again.charge("bob", LocalGaussian(4.0), 1, "a1", 1)
        assert len(lines_of(account)) == 1


def test_a_newer_format_is_not_read(account: NodeAccount) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    path = account.path("bob")
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match=r"newer lightning_fed \(format 2, .*upgrade it"):
        NodeAccount(account.folder).epsilon("bob", DELTA)


class FullDisk:
    """A disk on which a few bytes fit, and then none: in place of ``os.write``."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._write = os.write

    def __call__(self, descriptor: int, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._write(descriptor, bytes(data)[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 25])
def test_a_full_disk_refuses_the_training(account: NodeAccount, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    before = account.path("bob").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", FullDisk(room))
        with pytest.raises(OSError, match=r"No space left.*nothing is trained that is not in it; make room"):
            account.charge("bob", LocalGaussian(4.0), 1, "a1", 1)
    assert account.path("bob").read_bytes() == before
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 1)
    assert account.rounds("bob") == NodeAccount(account.folder).rounds("bob") == 2


def test_half_a_line_that_cannot_be_taken_back_counts(account: NodeAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", FullDisk(25))
        patch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(OSError, match="No space left"):
            account.charge("bob", LocalGaussian(4.0), 1, "a1", 1)
    assert account.rounds("bob") == NodeAccount(account.folder).rounds("bob") == 2
    assert account.epsilon("bob", DELTA) == by_hand(LocalGaussian(4.0), 2)


def test_a_line_that_is_not_on_the_disk_is_refused(account: NodeAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []

    def fsync(descriptor: int) -> None:
        forced.append(os.fstat(descriptor).st_size)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="nothing is trained that is not in it"):
        account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    assert forced[0] > 0, "after the line was written"


def test_it_is_forced_onto_the_disk_with_its_name(account: NodeAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[bool] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: (forced.append(os.path.isdir(f"/proc/self/fd/{d}")), fsync(d)))
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 1)
    assert forced == [False, True, False], "the folder only when the file is new"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="let the node write there"):
        NodeAccount(tmp_path / "file" / "account").charge("bob", None, 1, "a1", 0)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_is_spent(account: NodeAccount, capsys: pytest.CaptureFixture[str]) -> None:
    for cohort in range(3):
        account.charge("bob", LocalGaussian(4.0), 1, "a1", cohort)
    account.charge("alice", SubsampledGaussian(1.0, 0.01), 40, "a1", 0, unit="example")
    account.charge("eve", None, 1, "a1", 0)
    with account.path("bob").open("a") as file:
        file.write("half a l")
    folder = str(account.folder)
    cli.main(["node-account", folder])
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    four = math.ceil(by_hand(LocalGaussian(4.0), 4) * 1e4) / 1e4
    few = math.ceil(by_hand(SubsampledGaussian(1.0, 0.01), 40) * 1e4) / 1e4
    assert said[:4] == [
        ["worker", "rounds", "hides", "epsilon"],
        ["alice", "1", "example", f"{few:.4f}"],
        ["bob", "4", "worker", f"{four:.4f}"],
        ["eve", "1", "worker", "none", "holds"],
    ]
    assert " ".join(said[5]) == "Over all runs on this node, for delta = 1e-05."
    assert " ".join(said[6]) == "Lines that cannot be read count as the dearest trainings: of bob."
    cli.main(["node-account", folder, "--json", "--delta", "1e-6"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["worker"] for row in rows] == ["alice", "bob", "eve"]
    assert rows[1]["epsilon"] == account.epsilon("bob", 1e-6)
    assert rows[2]["epsilon"] is None


def test_the_command_prints_what_the_page_shows(account: NodeAccount, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "node_policy.md").read_text()
    for worker, rounds in (("alice", 40), ("bob", 20)):
        for cohort in range(rounds):
            account.charge(worker, LocalGaussian(4.0), 1, "a1", cohort)
    cli.main(["node-account", str(account.folder)])
    assert f"```text\n{capsys.readouterr().out}```" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone"], "there is no folder gone; give that of a node's account"),
        ([".", "--deltas", "1"], "did you mean '--delta'?"),
        ([], "the following arguments are required: FOLDER"),
    ],
)
def test_what_is_wrong_with_the_command(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["node-account", *arguments])
    assert raised.value.code == 2
    assert says in capsys.readouterr().err


def test_the_command_on_an_account_without_charges_or_with_a_wrong_delta(
    account: NodeAccount, capsys: pytest.CaptureFixture[str]
) -> None:
    account.folder.mkdir()
    cli.main(["node-account", str(account.folder)])
    assert capsys.readouterr().out == f"No worker has ever been charged in {account.folder}.\n"
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 0)
    with pytest.raises(SystemExit):
        cli.main(["node-account", str(account.folder), "--delta", "2"])
    assert "delta=2.0 must be above 0 and below 1" in capsys.readouterr().err


class TooMuchError(Exception):
    pass


def test_what_a_check_refuses_is_not_charged(account: NodeAccount) -> None:
    def check(so_far: WorkerAccount) -> None:
        if so_far.rounds >= 2:
            raise TooMuchError

    for cohort in range(2):
        account.charge("bob", None, 1, "a1", cohort, check=check)
    with pytest.raises(TooMuchError):
        account.charge("bob", None, 1, "a1", 2, check=check)
    assert account.rounds("bob") == 2


def _charge_until_refused(folder: Path, barrier: Any, done: Any) -> None:
    account = NodeAccount(folder)
    charged = 0

    def check(so_far: WorkerAccount) -> None:
        if so_far.rounds >= 60:
            raise TooMuchError

    barrier.wait()
    try:
        while True:
            account.charge("bob", LocalGaussian(4.0), 1, "a1", charged, check=check)
            charged += 1
    except TooMuchError:
        done.put(charged)


def _next_of(done: Any, processes: Sequence[Any]) -> Any:
    """Wait for an answer as long as all processes live or have done their part: on a busy machine they start slowly."""
    while True:
        try:
            return done.get(timeout=1)
        except queue.Empty:
            assert all(process.exitcode in (None, 0) for process in processes), "one has failed: see its output"


@pytest.mark.slow
def test_processes_do_not_charge_at_once(account: NodeAccount) -> None:
    """Three that may charge 60 times together charge 60 times: no one looks while another has not yet written."""
    context = multiprocessing.get_context("spawn")
    barrier, done = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_charge_until_refused, args=(account.folder, barrier, done), daemon=True)
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    charged = [_next_of(done, processes) for _ in processes]
    for process in processes:
        process.join()
    assert sum(charged) == account.rounds("bob") == len(lines_of(account)) == 60
