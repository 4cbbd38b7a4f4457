"""A YAML file of settings, read with the line of every key, for messages.

Of two equal keys a YAML parser silently takes the last. In a policy that would drop a limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import yaml

Keys: TypeAlias = tuple[str, ...]
"""A key with those of the sections that it stands in: ``("promise", "clip")``."""

_TEXT = "tag:yaml.org,2002:str"


@final
@dataclass(frozen=True)
class SettingsFile:
    """The content of a file of settings.

    Args:
        name: The file's name, without its folders, which stay private.
        content: The settings.
        lines: The line of each key, from 1.
    """

    name: str
    content: Mapping[str, Any]
    lines: Mapping[Keys, int]

    @classmethod
    def read(cls, path: Path) -> SettingsFile:
        """Read a file.

        Args:
            path: The file.

        Raises:
            ValueError: If it cannot be read, or is no YAML with named settings; the message names file and line.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no YAML file: it holds bytes that are no text") from error
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        lines: dict[Keys, int] = {}
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if not isinstance(node, yaml.MappingNode) or not node.value:
                raise ValueError(f"{path} holds no settings: write one in each line, such as 'least_workers: 10'")
            _note_lines(path, node, (), lines)
            return cls(path.name, loader.construct_document(node), lines)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = "" if mark is None else f", line {mark.line + 1}"
            raise ValueError(f"{path}{line} is no YAML: {error.problem or error.context}") from error
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error

    def where(self, *keys: str) -> str:
        """Return the place of a key, or of the innermost section around it that the file has.

        Args:
            keys: The key, with those of its sections before it.
        """
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.lines:
                return f"{self.name}, line {self.lines[keys[:length]]}"
        return self.name


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads 1e-5 as a number, which YAML 1.1 takes for a text since it has no point."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _note_lines(path: Path, node: yaml.MappingNode, around: Keys, lines: dict[Keys, int]) -> None:
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != _TEXT:
            raise ValueError(f"{path}, line {line}: a setting has a name, such as 'least_workers: 10'")
        keys = (*around, key.value)
        if keys in lines:
            raise ValueError(
                f"{path}, line {line}: {'.'.join(keys)} stands in line {lines[keys]} already; leave one of them out"
            )
        lines[keys] = line
        if isinstance(value, yaml.MappingNode):
            _note_lines(path, value, keys, lines)
