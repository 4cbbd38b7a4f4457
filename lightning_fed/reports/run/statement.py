"""The privacy statement: every sentence follows from a fact in the ledger, in a checkpoint, or in the run's record."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from lightning_fed.privacy import AUDIENCES, Mechanism, SkellamSum
from lightning_fed.privacy.ledger import PREFIX
from lightning_fed.privacy.page import shown_epsilon
from lightning_fed.reports.run.around import MOST_FOLDERS
from lightning_fed.reports.run.besides import released_besides
from lightning_fed.reports.run.document import Block, Bullets, Paragraph, Section, Tile, counted
from lightning_fed.reports.run.promised import Promised, bounds, is_signed, unended
from lightning_fed.reports.run.view import View

TITLE = "Privacy statement"
_UNITS = {"worker": "each worker, with all of its data", "example": "each single example of a worker"}


def tile(promised: Promised | None) -> Tile:
    """Return the promise, as a tile.

    Args:
        promised: The promise; None: there is none.
    """
    if promised is None:
        return Tile("privacy", "none promised")
    if promised.insecure:
        return Tile("privacy", "NOT PRIVATE", "warning")
    facts = promised.facts
    return Tile(f"ε at δ = {facts['delta']:.3g}", shown_epsilon(facts["epsilon"]))


def statement(view: View, promised: Promised | None) -> Section:
    """Return the promise to the workers, its enforcement, and its limits.

    Args:
        view: The run.
        promised: The promise; None: there is none.
    """
    if promised is None:
        return Section(TITLE, (Paragraph("Nothing was promised."), *_without(view)))
    blocks: list[Block] = [*_warnings(promised), *_promise(promised), *_how(promised), *_besides(view, promised)]
    blocks += [*_not_covered(view, promised), *_history(promised), *_others(promised)]
    return Section(TITLE, (*blocks, Paragraph("…" * 30, "Signed off by (name, date)")))


def _without(view: View) -> Iterator[Paragraph]:
    for ledger in sorted(view.record.folder.glob(f"{PREFIX}*.jsonl")):
        yield Paragraph(
            f"{ledger.name} lies beside the record: an earlier fit has made a promise, and the run went on without it, "
            "so it holds no longer for the model.",
            "PROMISE GIVEN UP",
            "warning",
        )
    yield Paragraph(
        "Updates have left the workers as they were trained: whoever sees them, or the model, may learn about the data."
    )


def _warnings(promised: Promised) -> Iterator[Paragraph]:
    if promised.insecure:
        yield Paragraph(
            "The noise came from the seed of the run, which makes it known: nothing below is promised.",
            "NOT PRIVATE",
            "warning",
        )
    if any(fit["release_metrics"] for fit in promised.fits):
        yield Paragraph(
            "Losses, metrics and counts of workers were shown as they are (release_metrics=True); the promise does not "
            "cover them.",
            "METRICS RELEASED",
            "warning",
        )
    if is_signed(promised) is False:
        yield Paragraph(
            "The accountant does not find what was claimed from the ledger's entries: lines are missing or were "
            "changed. The larger ε holds.",
            "LEDGER DOES NOT AGREE",
            "warning",
        )


def _promise(promised: Promised) -> Iterator[Paragraph]:
    last, facts = promised.last, promised.facts
    unit = _UNITS[last["unit"]]
    yield Paragraph(
        f"Differential privacy ({last['promise']}) for {unit}: ε = {shown_epsilon(facts['epsilon'])} at "
        f"δ = {facts['delta']:.3g}.",
        "Promise",
    )
    if last["audience"] == AUDIENCES[2]:
        yield Paragraph(
            "ε is that of a worker that has taken part in every round; of one that took part in fewer it is smaller.",
            "Each worker by itself",
        )
    yield Paragraph(f"{last['audience'].capitalize()}.", "Hidden from")
    yield Paragraph(_trusted(last["audience"], int(last["least_replies"])), "Who must be trusted")
    yield Paragraph(
        "Whatever was released is, but for a probability of δ, at most e^ε times as likely for one as for the other of "
        f"two populations that differ in this: {facts['neighbours']}.",
        "Neighbours",
    )
    budget = last["budget"]
    text = "None was set." if budget is None else f"Training stops before ε exceeds {budget:g}."
    yield Paragraph(text, "Budget")


def _trusted(audience: str, replies: int) -> str:
    if audience == AUDIENCES[0]:
        return "The server: it sees the updates of single workers, clips them, and adds the noise."
    if audience == AUDIENCES[1]:
        return (
            "Secure aggregation, which lets nobody see more than the sum of a cohort, and that at least "
            f"{replies} honest workers reply, whose noise adds up to that of the sum."
        )
    return "Nobody but the worker itself."


def _how(promised: Promised) -> Iterator[Paragraph]:
    last, releases = promised.last, promised.statement.record.releases
    clipped = ""
    if releases:
        low, high = bounds(releases)
        clipped = f", clipped to an L2 norm of {low:.6g}" if low == high else f", clipped to {low:.6g} to {high:.6g}"
    made = "; ".join(f"{count:,} × {_named(mechanism)}" for mechanism, count in promised.mechanisms) or "nothing"
    noise = f"noise of {last['noise_multiplier']:.6g} times the bound"
    source = "a seed" if promised.insecure else "the system's entropy"
    yield Paragraph(f"{made}{clipped}, with {noise}, drawn from {source}.", "Mechanism")
    drawn = last["sampling"]
    who = f"{last['population']:,} workers"
    cohorts = f"all of {who}" if drawn == "everyone" else f"{last['cohort_size']:,} of {who}, drawn by {drawn}"
    accounted = "; ".join(dict.fromkeys(mechanism.participation for mechanism, _ in promised.mechanisms))
    of_what = "examples in a step" if last["unit"] == "example" else "workers in a round"
    yield Paragraph(
        f"Cohorts were {cohorts}. Accounted for {of_what} is {accounted or 'nothing'}.", "Sampling as accounted"
    )
    version = last["versions"].get("dp-accounting") or "an unknown version"
    agrees = {
        True: "it is what the run has claimed",
        False: "it is NOT what the run has claimed",
        None: "no fit has ended, so the run has claimed nothing yet",
    }[is_signed(promised)]
    yield Paragraph(
        f"ε was added up by {last['accountant'].upper()} of dp-accounting {version} (lightning_fed "
        f"{last['versions'].get('lightning_fed')}). For this page it was computed again from the ledger's entries "
        f"alone, by dp-accounting {metadata.version('dp-accounting')}: {agrees}.",
        "Accountant",
    )


def _named(mechanism: Mechanism) -> str:
    settings = ", ".join(f"{name}={_number(value)}" for name, value in mechanism.settings().items())
    return f"{type(mechanism).__name__}({settings})"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _besides(view: View, promised: Promised) -> Iterator[Paragraph]:
    audience = promised.last["audience"]
    says = "The global model after every round"
    if audience == AUDIENCES[1]:
        says = "The sum of each cohort's updates, and the global model after every round"
    elif audience == AUDIENCES[2]:
        says = "The update of each worker, after its noise, and the global model after every round"
    yield Paragraph(f"{says}: that is what the promise covers.", "Released")
    yield from released_besides(view, promised)
    if not any(fit["release_metrics"] for fit in promised.fits):
        who = ", and who took part" if hides_cohorts(promised) else ""
        yield Paragraph(f"Losses, metrics and counts of workers{who}.", "Not released")


def hides_cohorts(promised: Promised) -> bool:
    """Whether the guarantee relies on secret cohorts.

    Args:
        promised: The promise.
    """
    claims = [not mechanism.participation.startswith("no sampling") for mechanism, _ in promised.mechanisms]
    return promised.last["unit"] == "worker" and all(claims)


def _not_covered(view: View, promised: Promised) -> Iterator[Bullets]:
    leaves = view.fact("leaves", "what left the workers")
    items = []
    for algorithm in dict.fromkeys(fit["remembers"] for fit in promised.fits if fit["remembers"]):
        items.append(
            f"What {algorithm} remembers about each worker lies in checkpoints and in state_dir without noise: give "
            "away the model's state_dict, never such a checkpoint."
        )
    if not hides_cohorts(promised):
        items.append("Who took part in a round: the guarantee takes it as known.")
    items.append("The server's own program: callbacks see cohorts, and hooks and transforms are the user's code.")
    ended = view.fact("outcome", "how the run ended")
    error = " This run has ended with an error, which may name one." if ended == "failed" else ""
    items.append(f"Failures: where a worker's code fails, the server's log names the worker.{error}")
    if leaves is not None and any(each["kind"] == "stays" and "no noise" in each["why"] for each in leaves["stays"]):
        items.append("Buffers: they have stayed with the workers, and the global model has those that it began with.")
    if promised.last["unit"] == "example":
        items.append("Several examples about one person: k of them have up to k times ε, and more δ.")
    if promised.last["audience"] != AUDIENCES[0]:
        items.append("Machines: workers were simulated in one place, by which everything could be seen.")
    integers = all(isinstance(mechanism, SkellamSum) for mechanism, _ in promised.mechanisms)
    items += (_SEARCH, _INTEGERS if integers and promised.mechanisms else _FLOATS, *_ALWAYS)
    yield Bullets(tuple(items), "Not covered")


_SEARCH = (
    "A search: of several runs, or of branches from older checkpoints, each has an account of its own. A checkpoint "
    "that is chosen among those of this run costs the whole run."
)
_FLOATS = (
    "Floating point: noise and sums are rounded to a common grid, and noise never exceeds 8.7 standard deviations; "
    "there is no proof of how close that is to the Gaussian mechanism."
)
_INTEGERS = (
    "The last bits of probabilities: noise and sums are integers, and nothing is rounded, but noise is drawn by "
    "chances that are whole numbers of 2^-80."
)
_ALWAYS = (
    "Side channels: how long a round takes, memory, network traffic.",
    "Dishonest workers: noise does not stop a worker from sending nonsense.",
)


def _history(promised: Promised) -> Iterator[Paragraph]:
    open_fits, fits = len(list(unended(promised))), len(promised.fits)
    releases = counted(len(promised.statement.record.releases), "release")
    says = f"{promised.ledger.name}, with {releases} in {counted(fits, 'fit')}, the first of which began "
    says += f"{promised.fits[0]['time']}."
    if open_fits:
        says += f" {counted(open_fits, 'fit')} did not come to an end, by a crash or since one is still running"
        says += "; all that was released is counted."
    if fits > 1:
        says += " The run was resumed."
    yield Paragraph(says, "Ledger")
    torn = promised.facts["unreadable_lines"]
    if torn:
        yield Paragraph(
            f"{counted(torn, 'line')} of the ledger cannot be read: a process was killed while it wrote, before the "
            "release, or the file is damaged.",
            "Torn lines",
            "warning",
        )
    one = promised.facts.get("checkpoint")
    if one is not None:
        claim = "" if one["agrees"] else f", but it claims {shown_epsilon(one['claimed'])}"
        yield Paragraph(
            f"It was written at ε = {shown_epsilon(one['epsilon'])}{claim}; above stands what the whole run has cost.",
            "This checkpoint",
            "plain" if one["agrees"] else "warning",
        )


def _others(promised: Promised) -> Iterator[Paragraph]:
    others, around = promised.others, promised.around
    place = around.place
    if others.unreadable:
        yield Paragraph(f"{counted(others.unreadable, 'ledger')} in {place} cannot be read.", "Other runs", "warning")
    if not around.is_whole:
        says = f"{place} has more than {MOST_FOLDERS:,} folders, and the others were not looked at."
        yield Paragraph(says, "Other runs", "warning")
    if not others.number:
        yield Paragraph(f"No other private run lies in {place}; runs elsewhere are not counted.", "Other runs")
        return
    epsilon, delta = others.added
    number = "1 other private run lies" if others.number == 1 else f"{others.number} other private runs lie"
    says = (
        f"{number} in {place}: if trained on the same workers, together at most ε = {shown_epsilon(epsilon)} at "
        f"δ = {delta:.3g}, by adding up."
    )
    if others.apart:
        says += f" Not in the sum: {others.apart}, for another unit or other neighbours."
    if others.insecure:
        says += f" Not private at all, as their noise came from a seed: {others.insecure}."
    yield Paragraph(says, "Other runs")
