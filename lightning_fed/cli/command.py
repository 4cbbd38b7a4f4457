"""A LightningCLI that reports errors of a command in one sentence."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from lightning_fed._lightning import ArgsType, LightningArgumentParser, LightningCLI, pl
from lightning_fed.callbacks import Dashboard, RoundProgress
from lightning_fed.callbacks.prediction_writer import where_predictions_are
from lightning_fed.cli import partition_seed, run_names
from lightning_fed.cli.bundled import CONFIGS
from lightning_fed.cli.checkpoint_file import last_is_found, read_checkpoint
from lightning_fed.cli.classes import import_rooms
from lightning_fed.cli.commands import OF_A_TRAINER, PROGRAM, refuse
from lightning_fed.cli.config_files import ConfigFile, with_files_found
from lightning_fed.cli.failures import is_refusal, one_sentence
from lightning_fed.cli.messages import explained, place_of_module, problem_of_class
from lightning_fed.cli.one_line_parser import options_of
from lightning_fed.cli.quiet import quiet
from lightning_fed.cli.save_config import SaveConfig
from lightning_fed.cli.short_help import short_help
from lightning_fed.core.arguments import nearest
from lightning_fed.lightning_cli import section
from lightning_fed.module import FederatedModule
from lightning_fed.server.datamodule import FederatedDataModule

_USAGE = "{} [-c CONFIG] [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]"


class FederatedCLI(LightningCLI):
    """A LightningCLI with a FederatedModule as ``model`` and a FederatedDataModule as ``data``.

    ``--optimizer`` and ``--lr_scheduler`` are the workers', as those of a LightningCLI are the module's; the server's
    optimizer is ``--model.server_optimizer``. Derive from it for your own command line, as from LightningCLI.

    Args:
        args: The arguments: words, or a config as a dict; None: the words of the process.
        run: Whether to run the subcommand, or only to build the trainer, the model and the data.
        **options: Any other argument of LightningCLI, such as ``seed_everything_default``, ``trainer_defaults``,
            ``save_config_callback`` or ``parser_kwargs``.

    Raises:
        SystemExit: With status 2, after one sentence on standard error, if the command is wrong.

    Example::

        class OwnCLI(FederatedCLI):
            def add_arguments_to_parser(self, parser):
                parser.link_arguments("seed_everything", "model.module.init_args.seed")

        if __name__ == "__main__":
            OwnCLI()
    """

    def __init__(self, args: ArgsType = None, run: bool = True, **options: Any) -> None:
        self._files: list[ConfigFile] = []
        self._own_folder: Path | None = None  # that of the run, if it is named here
        given = sys.argv[1:] if args is None else args
        self._given = list(given) if isinstance(given, Sequence) else []
        parser = {"prog": Path(sys.argv[0]).name, **(options.pop("parser_kwargs", None) or {})}
        self._called = next((word for word in self._given[:1] if word in OF_A_TRAINER), None)
        self._command = " ".join(filter(None, (parser["prog"], self._called)))
        with quiet():
            super().__init__(
                args=args,
                run=run,
                parser_kwargs=_parser_kwargs(parser),
                trainer_defaults={
                    "logger": run_names.LOGGER,
                    "enable_model_summary": False,  # a line of the fit's says what is trained
                    **(options.pop("trainer_defaults", None) or {}),
                },
                # A second run of the same config replaces its record; without this it fails.
                save_config_kwargs={"overwrite": True, **(options.pop("save_config_kwargs", None) or {})},
                **{
                    "model_class": FederatedModule,
                    "datamodule_class": FederatedDataModule,
                    "seed_everything_default": 0,
                    "save_config_callback": SaveConfig,
                    **options,
                },
            )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Build the parser of a subcommand; one that is not called stays without options, which take time to build."""
        if self._called in (None, subcommand):
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        return self.init_parser(**kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; a config that is not a file here but comes with the package is taken from there."""
        self._help_if_asked(parser)
        try:
            with _one_line(self._command):
                if isinstance(args, (dict, Namespace)):
                    self._parse = partial(parser.parse_object, args)
                else:
                    arguments, self._files, notes = with_files_found(self._given)
                    sys.stderr.writelines(f"{note}\n" for note in notes)
                    self._parse = partial(parser.parse_args, arguments)
                try:
                    self.config = self._parse()
                except argparse.ArgumentError:
                    import_rooms()  # a class may be named that nothing has imported
                    self.config = self._parse()
        except argparse.ArgumentError as error:
            message = error.message if error.argument_name is None else str(error)
            refuse(self._explained(parser, message), self._command)
        self._refuse_empty_sections()
        self._refuse_wrong_checkpoint()

    def _help_if_asked(self, parser: LightningArgumentParser) -> None:
        asked = {"-h", "--help", "--help-all"}.intersection(self._given)
        parser = self._of_command(parser)
        if asked and parser._subcommands_action is None:
            usage = f"usage: {_USAGE.format(self._command)}"
            print(parser.format_help() if "--help-all" in asked else short_help(parser, usage, self._command))
            raise SystemExit(0)

    def _of_command(self, parser: LightningArgumentParser) -> LightningArgumentParser:
        """The parser of the subcommand that is given; if there is none, the whole one."""
        command = next((word for word in self._given if word in OF_A_TRAINER), None)
        return parser if command is None or parser._subcommands_action is None else self._subcommand_parsers[command]

    def _explained(self, parser: LightningArgumentParser, message: str) -> str:
        kinds = {action.dest: getattr(action, "_typehint", None) for action in self._of_command(parser)._actions}
        key, sentence = explained(message, {*options_of(parser), "help-all"}, kinds=kinds)
        if key == "seed_everything" and re.search(r"\d\D+\d", message):
            sentence += f"; for a run with each of several seeds: {PROGRAM} repeat --seeds 1,2,3 -- fit ..."
        if not self._files and message.startswith("the following arguments are required"):
            begin = f"start from a config: {self._command} -c toy; `{PROGRAM} configs` lists {len(CONFIGS.files())}"
            sentence = f"{sentence}; {begin}"
        sentence += place_of_module(message, [file.name for file in self._files])
        if message.startswith("the following arguments are required"):
            unknown = self._unknown(_sections(options_of(parser)))
            sentence = "; ".join((sentence, *unknown))
            key = "" if unknown else key
        if key.startswith("data.workers"):
            wrong = [explained(said, (), f"data.workers.{name}") for name, said in _wrong_workers(self._files)]
            if wrong:
                key, sentence = wrong[0]
                others = ", ".join(other.partition(":")[0] for other, _ in wrong[1:])
                sentence += f"; {others} cannot be built either" if others else ""
        return f"{sentence}{self._where(key)}"

    def _where(self, key: str) -> str:
        """The line of the file in which a key stands, unless the command line gives it."""
        option = key.replace(".init_args", "")
        if not key or any(argument.lstrip("-").startswith(option) for argument in self._given):
            return ""
        keys = key.split(".")
        places = [place for file in self._files for start in (0, 1) if (place := file.where(keys[start:]))]
        return f" ({places[-1]})" if places else ""

    def _refuse_empty_sections(self) -> None:
        whole = self.config.as_dict()
        part = whole.get(whole.get("subcommand") or "", whole)
        for sentence in self._unknown({**whole, **part}):
            refuse(sentence, self._command)

    def _unknown(self, known: Mapping[str, Any]) -> list[str]:
        """Refuse each empty section of the files whose name is unknown."""
        return [
            f"there is no option {'.'.join(keys)!r}{nearest(keys[-1], near)} ({file.where(keys)})"
            for file in self._files
            for keys, near in file.empty_and_unknown(known)
        ]

    def _refuse_wrong_checkpoint(self) -> None:
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if subcommand in ("validate", "test", "predict") and not path:
            reason = f"{subcommand} needs --ckpt_path: without one it is about a model that nobody has trained"
            refuse(reason, self._command)
        if path:
            with _one_line(self._command):
                read_checkpoint(str(path), self.config[subcommand].get("weights_only"))

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; an argument that one of them refuses is a mistake in the command."""
        with _one_line(self._command):
            super().instantiate_classes()

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of no class: ``--seed_everything``, and whether it decides the partition, too."""
        super().add_default_arguments_to_parser(parser)
        parser.add_argument(
            "--vary_partition",
            type=bool,
            default=False,
            help="Let seed_everything also decide how data are dealt out to workers, where no seed is given for that.",
        )

    def _set_seed(self) -> None:
        with _one_line(self._command):
            super()._set_seed()
            parsed = section(self)
            if parsed["vary_partition"]:
                given = self._parse(defaults=False).as_dict()
                given = given.get(self.config.get("subcommand") or "", given)
                partition_seed.follow(parsed["data"], given.get("data") or {}, parsed["seed_everything"])

    def _run_subcommand(self, subcommand: str) -> None:
        asks = self.config[subcommand].get("ckpt_path") == "last"
        try:
            with _one_line(self._command), last_is_found(self.trainer) if asks else nullcontext():
                super()._run_subcommand(subcommand)
        except BaseException:
            if self._own_folder is not None and subcommand == "fit" and self.trainer.is_global_zero:
                run_names.take_back(self._own_folder)
            raise
        if subcommand == "predict" and self.trainer.is_global_zero:
            sys.stdout.write(where_predictions_are(self.trainer))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the Trainer, with a bar over all rounds unless the user has switched it off or gives another.

        A dashboard is added, too, unless one is given or nothing is logged.
        """
        trainer = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        callbacks = _listed(trainer.get("callbacks"))
        extra = [self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys]
        given = [*callbacks, *extra, *_listed(self.trainer_defaults.get("callbacks"))]
        is_bare = trainer.get("barebones")
        if is_bare and self._get(self.config, "trainer")["logger"] == self._default_logger():
            kwargs["logger"] = None
        if is_bare:  # nothing is logged, however often a config says
            kwargs["log_every_n_steps"] = None
        is_shown = trainer.get("enable_progress_bar") is not False and not is_bare
        ours: list[pl.Callback] = []
        if is_shown and not any(isinstance(callback, pl.callbacks.ProgressBar) for callback in given):
            ours.append(RoundProgress())
        draws = trainer.get("logger") is not False and not is_bare
        if draws and isinstance(self.model, FederatedModule) and not any(isinstance(c, Dashboard) for c in given):
            ours.append(Dashboard())
        if ours:
            kwargs["callbacks"] = [*callbacks, *ours]
        if "logger" not in kwargs and not trainer.get("fast_dev_run"):
            kwargs |= self._named_logger()
        return super().instantiate_trainer(**kwargs)

    def _named_logger(self) -> dict[str, Any]:
        """Return the logger with the run's name; nothing if the user has named the run, or has another logger."""
        given = self._get(self.config, "trainer")["logger"]
        if not isinstance(given, Namespace) or not isinstance(self.model, FederatedModule):
            return {}
        does = () if self.subcommand in (None, "fit") else (self.subcommand,)
        run = "-".join((type(self.model.algorithm).__name__, *does))
        files = [file.name for file in self._files if file.is_a_file]
        logger = run_names.logger_of(given.as_dict(), files, run)
        self._own_folder = None if logger is None else Path(str(logger.log_dir)).absolute()
        return {} if logger is None else {"logger": logger}

    def _default_logger(self) -> Any:
        return self._parser(self.subcommand).get_defaults()["trainer"]["logger"]


def _listed(callbacks: Any) -> list[Any]:
    return list(callbacks) if isinstance(callbacks, Sequence) else [] if callbacks is None else [callbacks]


def _parser_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the parsers: those that are given, and what makes their messages ours."""
    common = {"allow_abbrev": False}
    description = (
        "Federated learning for PyTorch Lightning: train and evaluate from a YAML file. "
        "`lightning-fed privacy --help` is about what differential privacy would cost."
    )
    each = {
        name: {"usage": _USAGE.format(f"{given['prog']} {name}"), **common, **given.get(name, {})}
        for name in OF_A_TRAINER
    }
    # What is wrong is said here, not by the parser.
    return {"description": description, **common, **given, **each, "exit_on_error": False}


@contextmanager
def _one_line(command: str) -> Iterator[None]:
    """Print an error that is an answer to the user in one sentence; any other goes on with its traceback."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        refuse(_said(error), command)


def _said(error: Exception) -> str:
    """Return a constructor's message without what jsonargparse puts around it where an argument has several types."""
    if says := problem_of_class(str(error)):
        return says
    lines = [line.removeprefix("  - ") for line in str(error).splitlines() if line.startswith("  - ")]
    lines = [line for line in lines if "NoneType" not in line and "instantiatable class" not in line]
    return lines[0] if lines else one_sentence(error)


def _sections(options: Collection[str]) -> dict[str, Any]:
    """Return the names of options by section; None: it is not a section.

    >>> _sections(["model.module", "seed_everything"])
    {'model': {'module': None}, 'seed_everything': None}
    """
    sections: dict[str, Any] = {}
    for option in options:
        section, _, name = option.partition(".")
        if name:
            sections[section] = {**(sections.get(section) or {}), name.partition(".")[0]: None}
        else:
            sections.setdefault(section)
    return sections


def _wrong_workers(files: Sequence[ConfigFile]) -> Iterator[tuple[str, str]]:
    """The workers of the config files that cannot be built, each with what jsonargparse says.

    It reports an error in a worker as one of the whole mapping, with hundreds of workers in it.
    """
    for file in files:
        data = file.content.get("data")
        workers = data.get("workers") if isinstance(data, dict) else None
        if not isinstance(workers, dict) or "class_path" in workers:
            continue
        for name, worker in workers.items():
            if worker is None:
                yield name, "Not a valid subclass of LightningDataModule. Got value: None"
            parser = ArgumentParser(exit_on_error=False)
            parser.add_argument("--worker", type=pl.LightningDataModule)
            try:
                parser.parse_object({"worker": worker})
            except argparse.ArgumentError as error:
                yield name, str(error)


def main(arguments: Sequence[str]) -> None:
    """Run one of the Trainer's commands.

    Args:
        arguments: The command, and what follows it.
    """
    FederatedCLI(list(arguments), parser_kwargs={"prog": PROGRAM})
