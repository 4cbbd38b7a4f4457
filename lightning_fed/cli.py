"""The command line: ``lightning-fed fit -c configs/toy.yaml``, or ``python -m lightning_fed fit ...``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, final

import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_fed._lightning import LightningArgumentParser, LightningCLI, pl, rank_zero_warn
from lightning_fed.callbacks import RoundProgressBar
from lightning_fed.module import FederatedModule
from lightning_fed.privacy import command as privacy_command
from lightning_fed.server.datamodule import FederatedDataModule

COMMANDS = ("fit", "validate", "test", "predict")
_CONFIG_FLAGS = ("-c", "--config")
_PACKAGE = Path(__file__).parent


@final
class FederatedParser(LightningArgumentParser):
    """Lightning's parser, with errors that are shorter than the list of all options and that name the worker."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and leave with status 2."""
        if not self.exit_on_error:  # a parser within the parser: whoever called it tells
            super().error(message, ex)
        workers = "".join(f"\n  data.workers.{name}: {why}" for name, why in _wrong_workers(sys.argv[1:]))
        if "data.workers" in message and workers:
            message = f"these workers cannot be built:{workers}"
        sys.stderr.write(f"error: {message}\n\n{self.prog} --help lists all options\n")
        raise SystemExit(2)


@final
class FederatedCLI(LightningCLI):
    """A LightningCLI with a FederatedModule as ``model`` and a FederatedDataModule as ``data``.

    Args:
        args: The arguments; None: those of the process.
        run: Whether to run the subcommand, or only to build the trainer, the model and the data.
    """

    def __init__(self, args: Sequence[str] | None = None, run: bool = True) -> None:
        usage = "lightning-fed {} [-c CONFIG] [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]"
        super().__init__(
            FederatedModule,
            FederatedDataModule,
            args=None if args is None else list(args),
            run=run,
            seed_everything_default=0,
            # A second run of the same config replaces its record; without this it fails.
            save_config_kwargs={"overwrite": True},
            # `--optimizer` would replace the server's configure_optimizers.
            auto_configure_optimizers=False,
            # With it every nested module that calls save_hyperparameters() receives the outer ones.
            load_from_checkpoint_support=False,
            parser_class=FederatedParser,
            parser_kwargs={
                "prog": "lightning-fed",
                "description": "Federated learning for PyTorch Lightning: train and evaluate from a YAML file. "
                "`lightning-fed privacy --help` is about what differential privacy would cost.",
                **{command: {"usage": usage.format(command)} for command in COMMANDS},
            },
            trainer_defaults={
                "callbacks": [RoundProgressBar()],
                "logger": {
                    "class_path": f"{pl.__name__}.loggers.TensorBoardLogger",
                    "init_args": {"save_dir": "logs", "name": "lightning_fed", "default_hp_metric": False},
                },
            },
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; a config that is no file here but comes with the package is taken from there."""
        given = sys.argv[1:] if args is None else args
        if isinstance(given, list):
            self.config = parser.parse_args(list(_with_bundled_configs(given)))
        else:
            super().parse_arguments(parser, given)

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; an argument that one of them refuses is a mistake in the command."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            self.parser.error(_refusal(error))

    def _parse_ckpt_path(self) -> None:
        """Let the config and the command line win over the checkpoint's hyperparameters, and say where they differ.

        Lightning lets the checkpoint win, silently, and takes its hyperparameters for those of the outermost module.
        """
        config = self.config[self.config.subcommand] if self.config.get("subcommand") else self.config
        path = config.get("ckpt_path")
        if not path or not Path(path).is_file():
            return
        saved = torch.load(path, map_location="cpu", weights_only=True).get("hyper_parameters", {})
        now = (config.get("model.module.init_args") or {}) if config.get("model") else {}
        for name in sorted(set(saved) & set(vars(now) if now else {})):
            if saved[name] != now[name]:
                rank_zero_warn(
                    f"model.module.init_args.{name} is {now[name]!r}, but {path} was written with {saved[name]!r}; "
                    f"the run goes on with {now[name]!r}"
                )


def _refusal(error: ValueError) -> str:
    """What a constructor said, without what jsonargparse writes around it where an argument may also be None."""
    said = [line.removeprefix("  - ") for line in str(error).splitlines() if line.startswith("  - ")]
    return "\n".join(line for line in said if "NoneType" not in line) or str(error)


def _config_paths(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Where the arguments name a config: the position, what stands before the path, and the path."""
    for position, argument in enumerate(arguments):
        if argument.startswith("--config="):
            yield position, "--config=", argument.removeprefix("--config=")
        elif position and arguments[position - 1] in _CONFIG_FLAGS:
            yield position, "", argument


def _with_bundled_configs(arguments: Sequence[str]) -> list[str]:
    """Replace a config's path that is no file here by that of the bundled config of this name, if there is one."""
    result = list(arguments)
    for position, before, path in _config_paths(arguments):
        # In a wheel the configs lie in the package, in a checkout beside it.
        bundled = [folder / "configs" / Path(path).name for folder in (_PACKAGE, _PACKAGE.parent)]
        found = next((str(candidate) for candidate in bundled if candidate.is_file()), None)
        if found is not None and not Path(path).is_file():
            result[position] = before + found
    return result


def _wrong_workers(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The workers of the config files that cannot be built, each with the reason.

    jsonargparse reports an error in a worker as one of the whole mapping, with hundreds of workers in it.
    """
    for _, _, path in _config_paths(_with_bundled_configs(arguments)):
        content = yaml.safe_load(Path(path).read_text()) if Path(path).is_file() else None
        data = content.get("data") if isinstance(content, dict) else None
        workers = data.get("workers") if isinstance(data, dict) else None
        if not isinstance(workers, dict) or "class_path" in workers:
            continue
        for name, worker in workers.items():
            parser = ArgumentParser(exit_on_error=False)
            parser.add_argument("--worker", type=pl.LightningDataModule)
            try:
                parser.parse_object({"worker": worker})
            except Exception as error:
                lines = [line.strip(" -") for line in str(error).splitlines()]
                yield name, " ".join(line for line in lines if line and not line.startswith("Parser key"))


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: The arguments; None: those of the process.
    """
    given = sys.argv[1:] if args is None else list(args)
    if given[:1] == ["privacy"]:
        privacy_command.main(given[1:])
    else:
        FederatedCLI(args)
