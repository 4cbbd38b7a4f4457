"""The command ``lightning-fed privacy``: the cost of a run, or the noise that it requires, without model or data."""

from __future__ import annotations

import argparse
import ast
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, final

from typing_extensions import override

from lightning_fed.core.arguments import nearest
from lightning_fed.privacy.accounting import KINDS, Kind
from lightning_fed.privacy.clipping import AdaptiveClip
from lightning_fed.privacy.curve import draw
from lightning_fed.privacy.factorization import BandedToeplitz, BufferedToeplitz, Factorization
from lightning_fed.privacy.page import statements_of, text_of
from lightning_fed.privacy.question import Question, made, missing, promise_of, promises, rounded_up
from lightning_fed.privacy.run import Setting
from lightning_fed.selection import CohortSampler, Poisson, RoundRobin, Uniform
from lightning_fed.wire import LocalTraining

# Stands for a sampler without a guarantee.
_SAMPLERS = {"poisson": Poisson, "fixed": Uniform, "in-turn": RoundRobin, "none": CohortSampler}
_OF_THE_PROMISE = ("factorization", "sampling_rate", "survivors")
_OF_THE_COMMAND = ("noise_multiplier", "epsilon", "delta", "accountant")
_MOST = 10**15


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
    try:
        question = _question(parser, args)
        answer = _answer(question, args)
    except (ArithmeticError, ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    print(answer)


def _question(parser: _Parser, args: argparse.Namespace) -> Question:
    population, cohort_size = args.population, args.cohort_size or args.population
    if cohort_size > population:
        parser.error(f"--cohort-size {cohort_size} is more than --population {population}: give at most the population")
    if args.epsilon is None and args.noise_multiplier is None:
        parser.error("one of the arguments --noise-multiplier --epsilon is required")
    if args.epsilon is not None and args.noise_multiplier is not None and args.delta is not None:
        parser.error("--delta is the answer to --noise-multiplier and --epsilon: leave out one of the three")
    if args.local_steps is not None and args.local_epochs is not None:
        parser.error("--local-steps and --local-epochs say both how long workers train: give one of them")
    kind = promise_of(args.promise)
    if args.accountant == "pld" and args.sampling == "fixed" and kind.sampler is Poisson:
        parser.error("--accountant pld knows no cohorts of fixed size: give --accountant rdp, or --sampling poisson")
    both = args.noise_multiplier is not None and args.epsilon is not None
    for name in {*_OF_THE_COMMAND, *_OF_THE_PROMISE}.intersection(dict(args.set or ())):
        parser.error(f"--set {name}=... is not used, since there is an option for it: give --{name.replace('_', '-')}")
    if args.delta is None and population == 1 and not both:
        parser.error("--population 1 has no default delta: give --delta, above 0 and below 1")
    if args.plot is not None and not args.plot.absolute().parent.is_dir():
        parser.error(f"--plot {args.plot}: there is no folder {args.plot.parent}; make it first")
    if args.plot is not None and (args.plot.is_dir() or not args.plot.suffix):
        parser.error(f"--plot {args.plot} must be the name of a file, such as {args.plot / 'epsilon.png'}")
    delta = args.delta if args.delta is not None or kind.unit != "worker" else population**-1.1
    settings = {
        "clip": args.adaptive_clip or 1.0,
        "noise_multiplier": args.noise_multiplier or 1.0,
        "delta": 1e-5 if both else delta,  # δ is then the question
        "accountant": args.accountant,
        **{name: getattr(args, name) for name in _OF_THE_PROMISE},
        **dict(args.set or ()),
    }
    for name in missing(kind, settings):
        option = f"--{name.replace('_', '-')}" if name in (*_OF_THE_PROMISE, "delta") else f"--set {name}=..."
        parser.error(f"{kind.__name__} needs {name}, for which there is no default: give {option}")
    promise = made(kind, settings)
    if args.local_steps or args.local_epochs:
        costs = {promise.releases(LocalTraining(steps=steps)) for steps in (1, 2)}
        if len(costs) == 1:
            parser.error(
                f"--local-{'steps' if args.local_steps else 'epochs'}: what {kind.__name__} costs does not depend on "
                "how long workers train; leave it out"
            )
    if args.adaptive_clip is not None and not promise.moving:
        parser.error(f"--adaptive-clip: {kind.__name__} has a bound that does not move; leave it out")
    sampler = promise.sampler or Uniform if args.sampling is None else _SAMPLERS[args.sampling]
    everyone = cohort_size == population
    local = LocalTraining() if args.local_epochs is None else LocalTraining(epochs=args.local_epochs)
    if args.local_steps is not None:
        local = LocalTraining(steps=args.local_steps)
    setting = Setting(
        population,
        cohort_size,
        None if everyone else sampler,
        args.rounds,
        seed=0,
        local=local,
        separation=1 if everyone or sampler is CohortSampler else sampler().separation(population, cohort_size),
        dimension=args.parameters,
    )
    if args.parameters is not None:
        costs_of = {promise.mechanism(1.0, setting._replace(dimension=d)) for d in (1, 2)}
        if len(costs_of) == 1:
            parser.error(
                f"--parameters: what {kind.__name__} costs does not depend on how many there are; leave it out"
            )
    assert promise.delta is not None, "given to every promise"
    return Question(promise, setting, promise.delta)


def _answer(question: Question, args: argparse.Namespace) -> str:
    """Return the text to print. All results are computed, and curves drawn, before the first line."""
    rounds = args.rounds
    noise = args.noise_multiplier or question.noise(args.epsilon)
    kind: Kind = question.kind
    both = args.noise_multiplier is not None and args.epsilon is not None
    if both:
        label = "delta"

        def cost(n: int) -> float:
            return question.delta_for(args.epsilon, noise, n)
    else:
        label = "epsilon"

        def cost(n: int) -> float:
            return question.epsilon(noise, n)

    costs = {n: cost(n) for n in _some_rounds(rounds, 4)}
    lines = [f"{type(question.promise).__name__}. Every round {_in_words(question)}."]
    if both:
        lines += [
            f"epsilon = {args.epsilon:g} after {rounds} rounds with noise multiplier {noise:g} holds with "
            f"delta = {_rounded_up_3(costs[rounds])}."
        ]
    elif args.epsilon is not None:
        lines += [f"epsilon = {args.epsilon:g} after {rounds} rounds needs noise multiplier {noise:.4f}."]
    else:
        lines += [f"Noise multiplier {noise:g}: noise of {noise:g} times the clipping norm on what is released."]
    if args.adaptive_clip is not None:
        lines += [_with_the_count(args.adaptive_clip, noise, question.setting.cohort_size)]
    by = f"accounted by {kind.upper()} for {question.neighbours}."
    if both:
        lines += [by[0].upper() + by[1:]]
        if costs[rounds] >= 1 / question.setting.population:
            lines += [f"That delta is not below 1 / population = {1 / question.setting.population:.3g}: too large."]
    else:
        origin = "--delta" if args.delta is not None else "the default, 1 / population^1.1"
        lines += [f"delta = {question.delta:.3g} ({origin}); {by}"]
        rounding = rounded_up(question.accountant(noise, rounds).rounding(question.delta))
        if rounding > 1e-3:
            lines += [f"Losses are rounded up to a grid, by which epsilon is up to about {rounding:.4f} too large."]
    lines += ["", f"{'rounds':>10}  {label:>10}"]
    for n, value in costs.items():
        lines += [f"{n:>10}  {_rounded_up_3(value) if both else format(rounded_up(value), '.4f'):>10}"]
    if args.plot is not None:
        title = f"{type(question.promise).__name__}, noise multiplier {noise:g}, {kind.upper()}\n{_in_words(question)}"
        curve = [(n, cost(n)) for n in _some_rounds(rounds, 24)]
        try:
            draw(curve, "δ" if both else "ε", title, None if both else args.epsilon, args.plot)
        except (ImportError, OSError, ValueError) as error:
            raise ValueError(f"--plot {args.plot}: {error}") from error
        lines += ["", f"The curve is in {args.plot}."]
    return "\n".join(lines)


def _in_words(question: Question) -> str:
    """Return a description of the sampling of a round, or of a worker's part in it."""
    setting = question.setting
    n, population = setting.cohort_size, setting.population
    if question.promise.unit != "worker":
        return f"a worker takes {question.charges(1)} private steps; it is one that takes part in all rounds"
    drawn = None if setting.sampling is None else setting.sampling.drawn
    if setting.sampling is None:
        return f"all of {population} workers take part"
    if drawn == "by coins":
        return f"each of {population} workers takes part with probability {n / population:g}"
    if drawn == "without replacement":
        return f"exactly {n} of {population} workers take part, drawn anew"
    if setting.separation > 1:
        return f"{n} of {population} workers take part, and nobody again within {setting.separation} rounds"
    return f"{n} of {population} workers take part; nothing is claimed for how they are chosen"


def _with_the_count(adaptive: AdaptiveClip, noise: float, cohort_size: int) -> str:
    return (
        f"Updates get {adaptive.update_multiplier(noise, cohort_size):.4f} times the bound, for noise of "
        f"{adaptive.count_std_of(cohort_size):g} on the count of those within it."
    )


@final
class _Parser(argparse.ArgumentParser):
    """Parser with the error messages of the rest of the command line."""

    @override
    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: ([^\s=]+)", message)
        near = nearest(unknown.group(1), list(self._option_string_actions)) if unknown else ""
        sys.stderr.write(f"error: {' '.join(message.split())}{near}\n\n{self.prog} --help lists all options\n")
        raise SystemExit(2)


def _tell_of_a_run(arguments: Sequence[str]) -> None:
    parser = _Parser(
        prog="lightning-fed privacy", description="What a run has spent, from its ledger.", allow_abbrev=False
    )
    parser.add_argument("--of", type=Path, metavar="RUN", required=True, help="a run's folder, ledger or checkpoint")
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(list(arguments))
    try:
        text = text_of(statements_of(args.of), args.json)
    except (ImportError, OSError, ValueError) as error:
        parser.error(f"--of {args.of}: {error}")
    except (KeyError, TypeError) as error:
        parser.error(
            f"--of {args.of}: it is damaged, or no record of lightning_fed's ({error!r}); give another of its run"
        )
    print(text)


def _parser() -> _Parser:
    parser = _Parser(
        prog="lightning-fed privacy",
        description="What differential privacy costs a federated run: the epsilon of a noise multiplier, the noise "
        "multiplier for an epsilon, or the delta of both. Needs no model and no data. Or what a run has spent: "
        "lightning-fed privacy --of RUN [--json], where RUN is its folder, its ledger or a checkpoint.",
        allow_abbrev=False,
    )
    parser.add_argument("--rounds", type=_positive_int, required=True, help="rounds of the run")
    parser.add_argument("--population", type=_positive_int, required=True, help="number of all workers")
    parser.add_argument("--cohort-size", type=_positive_int, help="workers in a round; with poisson: on average (all)")
    parser.add_argument("--noise-multiplier", type=_noise, help="standard deviation of the noise / clipping norm")
    parser.add_argument(
        "--epsilon",
        type=_positive,
        help="say which noise multiplier keeps within this epsilon; with --noise-multiplier: say the delta",
    )
    parser.add_argument("--delta", type=_probability, help="default: 1 / population^1.1")
    parser.add_argument(
        "--promise",
        default="CentralDP",
        metavar="{" + ",".join(promises()) + "}",
        help="what is promised; CentralDP by default",
    )
    parser.add_argument(
        "--sampling",
        choices=tuple(_SAMPLERS),
        help="how cohorts are drawn: each worker by its own coin, a fixed number without replacement, in turn, or in "
        "any way, so that nothing is gained by it; by default as the promise does it",
    )
    parser.add_argument(
        "--accountant", choices=KINDS, help="default: pld, the tighter; with cohorts of fixed size: rdp"
    )
    parser.add_argument(
        "--adaptive-clip",
        type=_adaptive,
        nargs="?",
        const=AdaptiveClip(),
        metavar="COUNT_STD",
        help="with a bound that follows the norms, and this noise on the count of those within it (cohort size / 20)",
    )
    parser.add_argument("--survivors", type=_positive_int, help="of DistributedDP: honest workers that surely reply")
    parser.add_argument(
        "--parameters",
        type=_positive_int,
        help="of DistributedDP: how many are trained (SCAFFOLD sends twice as many), rather too many than too few",
    )
    parser.add_argument(
        "--factorization",
        type=_factorization,
        metavar="BANDS",
        help="of DPFTRL, in place of the tree: this number of bands, or blt",
    )
    parser.add_argument(
        "--sampling-rate", type=_rate, help="of RecordDP: the probability of an example to be in a batch"
    )
    parser.add_argument("--local-steps", type=_positive_int, help="of RecordDP: a worker's steps in a round")
    parser.add_argument("--local-epochs", type=_positive_int, help="of RecordDP: a worker's epochs in a round (1)")
    parser.add_argument(
        "--set", type=_setting, action="append", metavar="NAME=VALUE", help="any other setting of the promise"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw epsilon over rounds")
    return parser


def _positive_int(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer")
    return value


def _positive(text: str) -> float:
    return _number(text, math.inf, "a positive number")


def _noise(text: str) -> float:
    value = _positive(text)
    if not 1e-9 <= value <= 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive number from 1e-9 to 1e9")
    return value


def _probability(text: str) -> float:
    return _number(text, 1.0, "a number above 0 and below 1; take less than 1 / population")


def _rate(text: str) -> float:
    return _number(text, math.nextafter(1.0, 2.0), "a number above 0 and at most 1")


def _factorization(text: str) -> Factorization:
    return BufferedToeplitz() if text == "blt" else BandedToeplitz(_positive_int(text))


def _adaptive(text: str) -> AdaptiveClip:
    return AdaptiveClip(count_std=_positive(text))


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return (name, ast.literal_eval(value)) if equals and name.isidentifier() else _no_setting(text)
    except (SyntaxError, ValueError):
        return _no_setting(text)


def _no_setting(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(f"{text!r} must be a name, '=' and a number")


def _number(text: str, below: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < below:
        raise argparse.ArgumentTypeError(f"{text!r} must be {what}")
    return value


def _some_rounds(rounds: int, parts: int) -> list[int]:
    """Return rounds from the first to the last, denser at the start, where ε grows fastest."""
    return sorted({max(1, math.ceil(rounds * (part / parts) ** 2)) for part in range(parts + 1)})


def _rounded_up_3(value: float) -> str:
    """Round up to three digits."""
    shown = f"{value:.2e}"
    return shown if float(shown) >= value else f"{value * (1 + 5e-3):.2e}"
