"""The YAML files of a command line: their search, their reading with the line of every key, and their checks.

A YAML parser silently keeps the last of two equal keys, and an argument parser accepts an empty section: two workers of
one name would become one worker, and a misspelt section would be ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias, final

import yaml

from lightning_fed.cli.bundled import CONFIGS
from lightning_fed.cli.config_names import is_yaml_itself
from lightning_fed.core.arguments import nearest

Keys: TypeAlias = tuple[str, ...]
"""A key with those of the sections that it stands in: ``("trainer", "max_epochs")``."""

_SECTIONS = ("model", "data", "trainer")
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NO_SECTIONS = (_TEXT, "tag:yaml.org,2002:null")  # which a later file or the command line may give
_SUFFIXES = (".yaml", ".yml")
_FLAGS = ("-c", "--config")
_NO_FILE = "of the command line"


@final
@dataclass(frozen=True)
class ConfigFile:
    """The content of a YAML file, and where each key stands.

    Args:
        name: The file's path as the user wrote it.
        content: Its sections.
        lines: The line of each key, from 1.
    """

    name: str
    content: Mapping[Any, Any]
    lines: Mapping[Keys, int] = field(repr=False)

    @property
    def is_a_file(self) -> bool:
        """Whether it is a file, and no YAML in the command itself."""
        return self.name != _NO_FILE

    @classmethod
    def read(cls, path: str) -> ConfigFile:
        """Read a file.

        Args:
            path: Its path, or YAML itself, if it begins with a brace or has several lines.

        Raises:
            ValueError: If there is no such file, or it is no YAML with sections; the message names the line.
        """
        if is_yaml_itself(path):
            return cls.parsed(_NO_FILE, path)
        if not path:
            raise ValueError("-c needs the path of a config, and is given an empty one")
        if Path(path).is_dir():
            raise ValueError(f"config {path} is a folder, not a YAML file")
        if not Path(path).exists():
            raise ValueError(_missing(path))
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"config {path} is no YAML file: it holds bytes that are no text") from error
        except OSError as error:
            raise ValueError(f"config {path} cannot be read: {error.strerror}") from error
        return cls.parsed(path, text)

    @classmethod
    def parsed(cls, name: str, text: str) -> ConfigFile:
        """Read the text of a file; see :meth:`read`."""
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is None:
                raise ValueError(f"config {name} is empty: it must have the sections model, data and trainer")
            if not isinstance(node, yaml.MappingNode):
                kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
                raise ValueError(f"config {name} must have the sections model, data and trainer, and is {kind}")
            lines: dict[Keys, int] = {}
            _refuse_wrong_sections(name, node)
            _note_lines(name, node, (), (), lines)
            content = loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = "" if mark is None else f", line {mark.line + 1}"
            raise ValueError(f"config {name}{line} is no YAML: {error.problem or error.context}") from error
        except yaml.YAMLError as error:
            raise ValueError(f"config {name} is no YAML: {' '.join(str(error).split())}") from error
        return cls(name, content, lines)

    def where(self, keys: Sequence[str]) -> str:
        """Return a text with the line of a key, or of the innermost of its sections; empty if none is here."""
        for length in range(len(keys), 0, -1):
            line = self.lines.get(tuple(keys[:length]))
            if line is not None:
                return f"{self.name}, line {line}"
        return ""

    def empty_and_unknown(self, parsed: Mapping[str, Any]) -> Iterator[tuple[Keys, Sequence[str]]]:
        """Go through the empty sections of which nothing is found in the configuration that was made of this file.

        Args:
            parsed: That configuration, with all defaults.

        Yields:
            The keys of the section, and those that are known at its place.
        """
        yield from _unknown(self.content, parsed, ())


def with_files_found(arguments: Sequence[str]) -> tuple[list[str], list[ConfigFile], list[str]]:
    """Read the configs that a command line names.

    A path without its ending stands for the file with it. A bare name (``toy.yaml``, ``toy``) or one in ``configs/``
    that is not a file here stands for the config of this name that comes with the package; any other path for itself
    alone.

    Args:
        arguments: The command line.

    Returns:
        The command line with the paths of the files that are meant, these files, and a line on each whose path is not
        as it was written.

    Raises:
        ValueError: If there is no such file, or it is none that can be used.
    """
    found, files, notes = list(arguments), [], []
    for position, before, path in config_paths(arguments):
        whole = _with_ending(path)
        if whole != path:
            notes.append(f"config {path!r}: taking the file {whole}")
            path, found[position] = whole, f"{before}{whole}"
        bundled = None if is_yaml_itself(path) or Path(path).is_file() else CONFIGS.find(path)
        if bundled is not None:
            notes.append(
                f"config {path!r}: the one that comes with lightning_fed, {bundled}; there is no such file here"
            )
            found[position] = f"{before}{bundled}"
        files.append(ConfigFile.read(path if bundled is None else str(bundled)))
    for argument in arguments:  # a section may lie in a file of its own: --data workers.yaml
        path = argument.partition("=")[2] if argument.startswith("--") else argument
        if path.endswith(_SUFFIXES) and Path(path).is_file() and path not in [file.name for file in files]:
            ConfigFile.read(path)
    return found, files, notes


def config_paths(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the configs of a command line: the position, the text before the path, and the path."""
    for position, argument in enumerate(arguments):
        flag, equals, path = argument.partition("=")
        if equals and flag in _FLAGS:
            yield position, f"{flag}=", path
        elif argument.startswith("-c") and len(argument) > 2:
            yield position, "-c", argument[2:]
        elif position and arguments[position - 1] in _FLAGS:
            yield position, "", argument


def _with_ending(path: str) -> str:
    """Return the path of the file that is meant where a path lacks its ending; otherwise the path itself."""
    if not path or is_yaml_itself(path) or Path(path).is_file():
        return path
    return next((whole for ending in _SUFFIXES if Path(whole := f"{path}{ending}").is_file()), path)


def _missing(path: str) -> str:
    """Return a message about a missing file, with the nearest name at the wrong part of its path."""
    name = Path(path).name
    bundled = CONFIGS.files()
    if path in (name, f"{CONFIGS.folder}/{name}"):
        known = bundled if "." not in name else [file.name for file in bundled.values()]
        near = nearest(name, [*known, *_names(Path())]) or f"; there are {', '.join(bundled)}"
        return f"there is no config {path!r}, neither in this folder nor among those that come with lightning_fed{near}"
    same = CONFIGS.find(name)
    other = "" if same is None else f", and -c {same.stem} is the one that comes with lightning_fed"
    found = _nearest_path(Path(path))
    return f"there is no config file {path}{other}{f'; did you mean {str(found)!r}?' if found else ''}"


def _nearest_path(path: Path) -> Path | None:
    """Follow a path, with the nearest name in place of each that there is not; None if there is none that is near."""
    found = Path(path.anchor) if path.anchor else Path()
    for part in path.parts[1 if path.anchor else 0 :]:
        if not (found / part).exists():
            names = _names(found)
            close = [name for name in names if Path(name).stem == part] or get_close_matches(part, names, cutoff=0.7)
            if not close:
                return None
            part = close[0]
        found = found / part
    return found if found.is_file() and found.suffix in _SUFFIXES else None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _refuse_wrong_sections(name: str, file: yaml.MappingNode) -> None:
    """Refuse what is not a section in the place of one, and what is not a word in the place of a key."""
    for section, content in file.value:
        line = section.start_mark.line + 1
        if section.value in _SECTIONS and not isinstance(content, yaml.MappingNode) and content.tag not in _NO_SECTIONS:
            kind = "a list" if isinstance(content, yaml.SequenceNode) else content.value
            raise ValueError(f"config {name}, line {line}: {section.value} must be a section with keys, not {kind}")
        inner = content.value if section.value in _SECTIONS and isinstance(content, yaml.MappingNode) else ()
        for key in (section, *(key for key, _ in inner)):
            if key.tag not in (_TEXT, _MERGE):
                word = key.value if isinstance(key, yaml.ScalarNode) else "a list"
                raise ValueError(f"config {name}, line {key.start_mark.line + 1}: the key {word} must be a word")


def _note_lines(name: str, node: yaml.Node, within: Keys, above: Sequence[yaml.Node], lines: dict[Keys, int]) -> None:
    """Note the line of each key.

    Raises:
        ValueError: If one stands twice in a section, or a section in itself.
    """
    if any(node is outer for outer in above):
        raise ValueError(
            f"config {name}, line {node.start_mark.line + 1}: {'.'.join(within)} holds itself, by an alias"
        )
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _note_lines(name, item, (*within, str(position)), above, lines)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        line, word = key.start_mark.line + 1, str(key.value)
        keys = (*within, word)
        if word in first and key.tag != _MERGE:
            where = f"section {'.'.join(within)}" if within else "file"
            raise ValueError(
                f"config {name}, line {line}: the key {word!r} stands twice in the {where}, first in line "
                f"{first[word]}; rename one of the two, or take it away"
            )
        first[word] = lines[keys] = line
        _note_lines(name, value, keys, above, lines)


def _unknown(given: Mapping[Any, Any], parsed: Mapping[str, Any], within: Keys) -> Iterator[tuple[Keys, Sequence[str]]]:
    for key, value in given.items():
        keys = (*within, str(key))
        if key not in parsed:
            if not _leaves(value):
                yield keys, list(parsed)
        elif isinstance(value, Mapping) and isinstance(parsed[key], Mapping) and not _is_other(value, parsed[key]):
            yield from _unknown(value, parsed[key], keys)


def _leaves(value: object) -> bool:
    """Whether there is anything but empty sections."""
    return any(map(_leaves, value.values())) if isinstance(value, Mapping) else value is not None


def _is_other(given: Mapping[Any, Any], parsed: Mapping[str, Any]) -> bool:
    """Whether another class has taken the place of the one in the file, from a later file or the command line."""
    one, other = given.get("class_path"), parsed.get("class_path")
    return one is not None and str(one).rpartition(".")[2] != str(other).rpartition(".")[2]
