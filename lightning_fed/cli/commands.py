"""The commands of ``lightning-fed``, and their execution.

Neither torch nor Lightning is imported here, nor by a command that does not require them: such commands start fast.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import NoReturn, final

from lightning_fed import __version__
from lightning_fed.core.arguments import nearest

PROGRAM = "lightning-fed"
TRAINER = "lightning_fed.cli.command"
"""The module of the commands that are a Trainer's."""


@final
@dataclass(frozen=True)
class Command:
    """A word that may follow ``lightning-fed``.

    Args:
        name: The word.
        module: The module that runs it, imported when the command is given. Its ``main(arguments)`` takes the words
            after the command's name and raises SystemExit, with the status 2 and a sentence on standard error, if
            they are wrong.
        help: A description of one line.
    """

    name: str
    module: str
    help: str

    def run(self, arguments: Sequence[str]) -> None:
        """Run it.

        Args:
            arguments: The words that follow its name.
        """
        words = [self.name, *arguments] if self.module == TRAINER else list(arguments)
        importlib.import_module(self.module).main(words)


COMMANDS = (
    Command("fit", TRAINER, "train a model on the workers' data, round by round"),
    Command("validate", TRAINER, "evaluate a checkpoint on the workers' validation data"),
    Command("test", TRAINER, "evaluate a checkpoint on the workers' test data"),
    Command("predict", TRAINER, "run a checkpoint's predict_step on the workers' data"),
    Command("repeat", "lightning_fed.cli.repeat", "run a fit once for each of several seeds"),
    Command("compare", "lightning_fed.cli.compare", "make a table or a plot of finished runs over seeds"),
    Command("privacy", "lightning_fed.privacy.command", "say what differential privacy costs, or has cost a run"),
    Command("node-account", "lightning_fed.cli.node_account", "say what a node's workers have spent of privacy"),
    Command("report", "lightning_fed.cli.report", "make a page about a run, from its record"),
    Command("node", "lightning_fed.cli.node", "let this machine take part in runs, with the data that is on it"),
    Command("try-deployment", "lightning_fed.cli.try_deployment", "run a config over real processes of this machine"),
    Command("certificates", "lightning_fed.cli.certificates", "make certificates and keys for a trial on machines"),
    Command("configs", "lightning_fed.cli.configs", "list, show or copy the configs that come with lightning_fed"),
    Command("examples", "lightning_fed.cli.examples", "list, show or copy the example programs"),
    Command("completion", "lightning_fed.cli.completion", "print a script for completion in bash, zsh or fish"),
    Command("schema", "lightning_fed.cli.schema", "print a JSON Schema of configs, for editors"),
    Command("doctor", "lightning_fed.cli.doctor", "say what is installed, what is missing, and whether a run can work"),
)


OF_A_TRAINER = tuple(command.name for command in COMMANDS if command.module == TRAINER)
"""Those that take the arguments of a Trainer, most of which ``--help`` leaves out."""

_ANOTHER_WORD = {
    "train": "fit",
    "run": "fit",
    "start": "fit",
    "eval": "validate",
    "infer": "predict",
    "sweep": "repeat",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: The arguments; None: those of the process.

    Raises:
        SystemExit: With the status 2, after one sentence on standard error, if they are wrong.
    """
    given = sys.argv[1:] if args is None else list(args)
    names = [command.name for command in COMMANDS]
    if not given:
        refuse(f"no command is given; give one of {', '.join(names)}")
    word, *rest = given
    if word in ("-h", "--help"):
        print(overview())
    elif word == "--version":
        print(version())
    elif word in names:
        _import_from_here()
        try:
            COMMANDS[names.index(word)].run(rest)
            sys.stdout.flush()
        except BrokenPipeError:  # what reads it has seen enough, such as `head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush fails
            raise SystemExit(1) from None
    elif word.startswith("--print_completion"):  # of jsonargparse, which finds no end in these parsers
        refuse(f"there is no option {word!r}; `{PROGRAM} completion` prints the script of a shell: bash, zsh or fish")
    elif near := nearest(word, ["--help", "--version"]) if word.startswith("--") and not rest else "":
        refuse(f"there is no option {word!r}{near}")
    elif word.startswith("-"):  # such as the -c of a config for several commands
        _import_from_here()
        importlib.import_module(TRAINER).main(given)
    else:
        near = f"; did you mean {_ANOTHER_WORD[word]!r}?" if word in _ANOTHER_WORD else nearest(word, names)
        refuse(f"there is no command {word!r}; give one of {', '.join(names)}{near}")


def overview() -> str:
    """Return the help of the command line: every command in a line."""
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:{width}}  {command.help}" for command in COMMANDS]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND ... | --version",
            "",
            "Federated learning for PyTorch Lightning: train and evaluate from a YAML file.",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help is about one of them.",
        ]
    )


def version() -> str:
    """Return the versions of this package and of those that it stands on, without importing them."""
    found = [f"{name} {_version_of(package)}" for name, package in _BENEATH if _version_of(package)]
    return f"lightning_fed {__version__} ({', '.join(found)})"


_BENEATH = (("torch", "torch"), ("pytorch-lightning", "pytorch-lightning"), ("lightning", "lightning"))


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def refuse(message: str, command: str = PROGRAM) -> NoReturn:
    """Print an error of one sentence, and exit with status 2.

    Args:
        message: The sentence.
        command: The words whose ``--help`` says more.
    """
    help = "--help-all" if command.rpartition(" ")[2] in OF_A_TRAINER else "--help"
    sys.stderr.write(f"error: {message}\n\n{command} {help} lists all options\n")
    raise SystemExit(2)


def _import_from_here() -> None:
    """Let a config name modules in the current folder, as ``python -m lightning_fed`` does by itself."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path and not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, here)
