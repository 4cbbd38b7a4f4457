"""Help on one screen: one line per option, with the most important options of the Trainer."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from itertools import takewhile

from lightning_fed.cli.one_line_parser import options_of

LINES = 62
"""The largest length of the help."""
_WIDTH = 84
_FIRST = {
    "trainer.max_steps": "The number of rounds; -1, the default: no limit but max_epochs",
    "trainer.max_epochs": "The number of epochs, each of --data.rounds_per_epoch rounds and an evaluation",
    "trainer.accelerator": "One of cpu, gpu, mps, auto",
    "trainer.devices": "How many devices, or their numbers",
    "trainer.strategy": "With ddp the workers of a round are divided among processes",
    "trainer.precision": "32-true, 16-mixed, bf16-mixed, 64-true",
    "trainer.logger": "TensorBoardLogger by default, CSVLogger, WandbLogger, or false",
    "trainer.callbacks": "The class of a callback; with += one more of them",
    "trainer.log_every_n_steps": "Rounds between two points of a curve",
    "trainer.check_val_every_n_epoch": "Epochs between two evaluations",
    "trainer.fast_dev_run": "One round and one evaluation, to see whether everything works",
    "trainer.default_root_dir": "The folder for checkpoints, without a logger that has one",
}
_GENERAL = {
    "config": "A YAML file, or the name of one that comes with lightning_fed; it may be given several times",
    "print_config": "Print the configuration that all of this makes, and exit",
    "seed_everything": "The seed; true: another one in each run",
    "optimizer": "The workers' optimizer, in place of configure_optimizers",
    "lr_scheduler": "Its scheduler",
    "ckpt_path": "The checkpoint to go on from, or to evaluate",
    "weights_only": "Whether a checkpoint may hold nothing but numbers; false, if it holds objects and you trust it",
}


def short_help(parser: argparse.ArgumentParser, usage: str, command: str) -> str:
    """Return help with an option in each line.

    Args:
        parser: The parser of the command.
        usage: The line that begins the help.
        command: The words of the command.

    Returns:
        At most :data:`LINES` lines. Options for which there is no room are named.
    """
    actions = [action for action in parser._actions if _is_of_interest(action)]
    groups: dict[str, list[argparse.Action]] = {"trainer": [], "model": [], "data": [], "": []}
    for action in actions:
        groups.get(action.dest.partition(".")[0] if "." in action.dest else "", groups[""]).append(action)
    first = [action for action in groups["trainer"] if action.dest in _FIRST]
    first.sort(key=lambda action: list(_FIRST).index(action.dest))
    sections = [
        ("General options:", groups[""]),
        ("What a round does (--model):", groups["model"]),
        ("Workers and their data (--data):", groups["data"]),
        (f"The Trainer, {len(first)} of its {len(groups['trainer'])} options:", first),
    ]
    end = [
        "",
        f"{command} --help-all lists all {len(options_of(parser))} options; {command} --model.algorithm.help FedProx,",
        "and the like, those of a class. Any of them may stand in a config: lightning-fed configs show toy.",
    ]
    room = LINES - len(end) - 2 - len(sections)
    lines = [usage, ""]
    for position, (title, shown) in enumerate(sections):
        later = sum(len(those) for _, those in sections[position + 1 :])
        fits = min(len(shown), max(room - later, 1))
        lines += [title, *_lines(shown[: fits if fits == len(shown) else fits - 1])]
        if fits < len(shown):
            lines.append(f"  also {', '.join(action.dest for action in shown[fits - 1 :])}")
        room -= fits
    return "\n".join([*lines, *end])


def _is_of_interest(action: argparse.Action) -> bool:
    is_help = any(option.endswith((".help", "--help", "--help-all")) for option in action.option_strings)
    is_section = action.dest in ("trainer", "model", "data")
    return bool(action.option_strings) and not is_help and not is_section and action.help is not argparse.SUPPRESS


def _lines(actions: Iterable[argparse.Action]) -> list[str]:
    return [f"  {_name(action):33} {_about(action)}" for action in actions]


def _name(action: argparse.Action) -> str:
    return ", ".join(option for option in action.option_strings if not option.endswith("+"))


def _about(action: argparse.Action) -> str:
    about = {**_GENERAL, **_FIRST}.get(action.dest) or _phrase(action.help or "")
    if getattr(action, "_is_required", False) or action.required:
        return f"{about} (required)"
    default = action.default
    told = isinstance(default, (int, float, str)) and str(default) not in about and action.dest not in _GENERAL
    return f"{about} ({str(default).lower() if isinstance(default, bool) else default})" if told else about


def _phrase(text: str) -> str:
    """Return as many clauses of a text's first sentence as a line has room for, at least one.

    >>> _phrase("How updates become one; None: the algorithm's own. And so on.")
    "How updates become one; None: the algorithm's own"
    """
    sentence = re.split(r"\.(?:\s|$)", " ".join(text.replace("``", "").split()), maxsplit=1)[0]
    said = _fitting(re.split(r"(?<=;) ", sentence))
    if len(said) > _WIDTH:
        said = _fitting(re.split(r"(?<=,) ", re.sub(r" \([^()]*\)", "", said)))
    return said.rstrip(",;:")


def _fitting(clauses: Sequence[str]) -> str:
    lengths = [len(" ".join(clauses[: count + 1])) for count in range(len(clauses))]
    fitting = list(takewhile(lambda length: length <= _WIDTH, lengths))
    return " ".join(clauses[: max(len(fitting), 1)])
