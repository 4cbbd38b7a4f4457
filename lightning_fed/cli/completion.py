"""The command ``lightning-fed completion``: a script by which a shell completes commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from lightning_fed.cli.bundled import CONFIGS, EXAMPLES
from lightning_fed.cli.commands import COMMANDS, PROGRAM, TRAINER
from lightning_fed.cli.one_line_parser import OneLineParser
from lightning_fed.cli.scripts import bash, fish, zsh
from lightning_fed.cli.shipped import OPTIONS, SCHEMA, read

SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
_TEXTS = {
    "--trainer.accelerator": ["auto", "cpu", "gpu", "mps"],
    "--trainer.strategy": ["auto", "ddp", "ddp_spawn", "fsdp", "deepspeed"],
}
"""The values that Lightning accepts besides a class, in options of type string."""
_PLACES = {
    "bash": "echo 'eval \"$(lightning-fed completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(lightning-fed completion zsh)\"' >> ~/.zshrc",
    "fish": "lightning-fed completion fish > ~/.config/fish/completions/lightning-fed.fish",
}


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed completion``.
    """
    install = "; ".join(f"{shell}: {place}" for shell, place in _PLACES.items())
    parser = OneLineParser(
        prog=f"{PROGRAM} completion",
        description="Print a script with which a shell completes commands, options, configs and classes.",
        epilog=f"To install it, {install}",
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=tuple(SHELLS))
    print(script(parser.parse_args(list(arguments)).shell), end="")


def script(shell: str) -> str:
    """Return the script for a shell: ``"bash"``, ``"zsh"`` or ``"fish"``."""
    trainer, values = _of_trainer(read(SCHEMA))
    words = {command.name: trainer[command.name] for command in COMMANDS if command.module == TRAINER}
    words |= {name: [*options, *_words_of(name)] for name, options in read(OPTIONS)["commands"].items()}
    values |= {"-c": list(CONFIGS.files()), "--config": list(CONFIGS.files()), **_TEXTS}
    return SHELLS[shell](
        {command.name: command.help for command in COMMANDS},
        {name: sorted(set(each)) for name, each in words.items()},
        {option: sorted(set(each)) for option, each in sorted(values.items())},
    )


def _words_of(command: str) -> list[str]:
    """The words that a command takes besides options."""
    bundle = next((bundle for bundle in (CONFIGS, EXAMPLES) if bundle.folder == command), None)
    if bundle is not None:
        return ["list", "show", "copy", "--force", *bundle.files()]
    return list(SHELLS) if command == "completion" else []


def _of_trainer(schema: Mapping[str, Any]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the options of each of the Trainer's commands, and the values of options that have a choice."""
    commands = [command.name for command in COMMANDS if command.module == TRAINER]
    common = ["-c", "--config", "--help", "--help-all", "--print_config"]
    options = {command: list(common) for command in commands}
    values = {}
    for option, described in _leaves(schema, "--", set(commands)):
        for command in described.get("x-commands", commands):
            options[command].append(option)
        if found := [word for word in _choices(described, schema) if "." not in word]:
            values[option] = found
    return options, values


def _leaves(schema: Mapping[str, Any], prefix: str, without: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, described in schema["properties"].items():
        if "properties" in described:
            yield from _leaves(described, f"{prefix}{name}.", set())
        elif name not in without:
            yield f"{prefix}{name}", described


def _choices(described: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words that may stand for a value: those of an enumeration, names of classes, true and false."""
    if "$ref" in described:
        name = unquote(described["$ref"].removeprefix("#/definitions/"))
        described = schema["definitions"].get(name, {})
    yield from (str(word) for word in described.get("enum", ()) if word is not None)
    if described.get("type") == "boolean":
        yield from ("true", "false")
    for each in (*described.get("anyOf", ()), *(each for each in described.get("allOf", ()) if "$ref" in each)):
        yield from _choices(each, schema)
    if isinstance(described.get("items"), dict):
        yield from _choices(described["items"], schema)
