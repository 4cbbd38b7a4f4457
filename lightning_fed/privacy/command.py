"""The command ``lightning-fed privacy``: what a run would cost, or what noise it needs; no model, no data."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, final

from typing_extensions import override

from lightning_fed.privacy.accounting import Accountant, Kind
from lightning_fed.privacy.calibration import noise_for
from lightning_fed.privacy.extra import import_extra
from lightning_fed.privacy.mechanisms import FixedSizeGaussian, Gaussian, Mechanism, SubsampledGaussian
from lightning_fed.privacy.page import statements_of, text_of

_NEIGHBOURS = {
    "add/remove": "one worker's contributions or zeros in their place",
    "zero-out": "one worker's contributions or zeros in their place",
    "replace-one": "one worker or another in its place",
}


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows ``lightning-fed privacy``.

    Raises:
        SystemExit: With status 2 if an argument is wrong; stderr then names it and the fix.
    """
    if any(argument.partition("=")[0] == "--of" for argument in arguments):
        _tell_of_a_run(arguments)
        return
    parser = _parser()
    args = parser.parse_args(list(arguments))
    population, cohort_size = args.population, args.cohort_size or args.population
    if cohort_size > population:
        parser.error(f"--cohort-size {cohort_size} is more than --population {population}: give at most the population")
    if args.sampling == "fixed" and args.accountant == "pld":
        parser.error("--accountant pld knows no cohorts of fixed size: give --accountant rdp, or --sampling poisson")
    if args.delta is None and population == 1:
        parser.error("--population 1 has no default delta: give --delta, above 0 and below 1")
    delta = population**-1.1 if args.delta is None else args.delta
    kind: Kind = args.accountant or ("rdp" if args.sampling == "fixed" else "pld")
    make, sampling = _sampling(args.sampling, cohort_size, population)
    if args.plot is not None and not args.plot.absolute().parent.is_dir():
        parser.error(f"--plot {args.plot}: there is no folder {args.plot.parent}; make it first")
    try:
        noise = args.noise_multiplier or _rounded_up(noise_for(args.epsilon, delta, args.rounds, make, kind))
        mechanism = make(noise)
        after = {n: _epsilon(mechanism, n, delta, kind) for n in _some_rounds(args.rounds, 4)}
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    print(f"Every round {sampling}.")
    if args.epsilon is not None:
        print(f"epsilon = {args.epsilon:g} after {args.rounds} rounds needs noise multiplier {noise:.4f}.")
    else:
        print(
            f"Noise multiplier {noise:g}: noise of {noise:g} times the clipping norm on the sum of a round's updates."
        )
    origin = "--delta" if args.delta is not None else "the default, 1 / population^1.1"
    print(f"delta = {delta:.3g} ({origin}); accounted by {kind.upper()} for {_NEIGHBOURS[mechanism.relation]}.")
    print(f"\n{'rounds':>10}  {'epsilon':>10}")
    for rounds, epsilon in after.items():
        print(f"{rounds:>10}  {_rounded_up(epsilon):>10.4f}")
    if args.plot is not None:
        title = f"noise multiplier {noise:g}, δ = {delta:.3g}, {kind.upper()}\n{sampling}"
        try:
            curve = [(n, _epsilon(mechanism, n, delta, kind)) for n in _some_rounds(args.rounds, 24)]
            _draw(curve, title, args.epsilon, args.plot)
        except (ImportError, OSError, ValueError) as error:
            parser.error(f"--plot {args.plot}: {error}")
        print(f"\nThe curve is in {args.plot}.")


@final
class _Parser(argparse.ArgumentParser):
    """Says what is wrong as the rest of the command line does."""

    @override
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message}\n\n{self.prog} --help lists all options\n")
        raise SystemExit(2)


def _tell_of_a_run(arguments: Sequence[str]) -> None:
    parser = _Parser(
        prog="lightning-fed privacy", description="What a run has spent, from its ledger.", allow_abbrev=False
    )
    parser.add_argument("--of", type=Path, metavar="RUN", required=True, help="a run's folder, ledger or checkpoint")
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(list(arguments))
    try:
        print(text_of(statements_of(args.of), args.json))
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        parser.error(f"--of {args.of}: {error}")


def _parser() -> _Parser:
    parser = _Parser(
        prog="lightning-fed privacy",
        description="What differential privacy costs a federated run: the epsilon of a noise multiplier, or the noise "
        "multiplier for an epsilon. Needs no model and no data. Or what a run has spent: lightning-fed privacy --of "
        "RUN [--json], where RUN is its folder, its ledger or a checkpoint.",
        allow_abbrev=False,
    )
    parser.add_argument("--rounds", type=_positive_int, required=True, help="rounds of the run")
    parser.add_argument("--population", type=_positive_int, required=True, help="number of all workers")
    parser.add_argument("--cohort-size", type=_positive_int, help="workers in a round; with poisson: on average (all)")
    noise = parser.add_mutually_exclusive_group(required=True)
    noise.add_argument("--noise-multiplier", type=_positive, help="standard deviation of the noise / clipping norm")
    noise.add_argument("--epsilon", type=_positive, help="say which noise multiplier keeps within this epsilon")
    parser.add_argument("--delta", type=_probability, help="default: 1 / population^1.1")
    parser.add_argument(
        "--sampling",
        choices=("poisson", "fixed", "none"),
        default="poisson",
        help="how cohorts are drawn: each worker by its own coin (default), a fixed number without replacement, or in "
        "any way, so that nothing is gained by it",
    )
    parser.add_argument("--accountant", choices=("pld", "rdp"), help="default: pld, the tighter; with fixed: rdp")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw epsilon over rounds")
    return parser


def _sampling(kind: str, cohort_size: int, population: int) -> tuple[Callable[[float], Mechanism], str]:
    """What makes the mechanism from a noise multiplier, and the sampling in words."""
    if kind == "poisson":
        rate = cohort_size / population
        make: Callable[[float], Mechanism] = partial(SubsampledGaussian, sampling_rate=rate)
        words = f"each of {population} workers takes part with probability {rate:g}"
    elif kind == "fixed":
        make = partial(FixedSizeGaussian, cohort_size=cohort_size, population=population)
        words = f"exactly {cohort_size} of {population} workers take part, drawn anew"
    else:
        make = Gaussian
        words = f"{cohort_size} of {population} workers take part; nothing is claimed for how they are chosen"
    return make, words if cohort_size < population else f"all of {population} workers take part"


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer")
    return int(text)


def _positive(text: str) -> float:
    return _number(text, math.inf, "a positive number")


def _probability(text: str) -> float:
    return _number(text, 1.0, "a number above 0 and below 1; take less than 1 / population")


def _number(text: str, below: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < below:
        raise argparse.ArgumentTypeError(f"{text!r} must be {what}")
    return value


def _epsilon(mechanism: Mechanism, rounds: int, delta: float, kind: Kind) -> float:
    accountant = Accountant(kind)
    accountant.charge(mechanism, rounds)
    return accountant.epsilon(delta)


def _some_rounds(rounds: int, parts: int) -> list[int]:
    """Rounds from the first to the last, closer at the start, where ε grows fastest."""
    return sorted({max(1, math.ceil(rounds * (part / parts) ** 2)) for part in range(parts + 1)})


def _rounded_up(value: float) -> float:
    """To four decimals. A guarantee or a noise multiplier that is rounded down is one that does not hold."""
    return math.ceil(value * 1e4) / 1e4 if math.isfinite(value) else value


def _draw(curve: Sequence[tuple[int, float]], title: str, budget: float | None, path: Path) -> None:
    # A figure of its own with Agg's canvas: nothing of pyplot's, so a notebook's figures and backend stay as they are.
    figure = import_extra("matplotlib.figure").Figure(figsize=(7, 4.5), layout="constrained")
    import_extra("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rounds, epsilons = zip(*curve, strict=True)
    axes.plot(rounds, epsilons, marker="o", markersize=3)
    axes.annotate(f"{epsilons[-1]:.2f}", curve[-1], xytext=(0, -14), textcoords="offset points", ha="center")
    if budget is not None:
        axes.axhline(budget, linestyle="--", linewidth=1, color="gray", label=f"budget {budget:g}")
        axes.legend(loc="lower right")
    axes.set(xlabel="rounds", ylabel="ε", xlim=(0, None), ylim=(0, None))
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
