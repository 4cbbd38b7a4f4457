"""A JSON Schema of configs, made of a parser's options: for editors, which then complete and check a YAML file.

Types may refer to themselves (a worker may be a FederatedDataModule, which has workers), so every class has a
definition of its own to which the types refer. Classes of the user's are taken as they are: any path with a dot in it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import types
import typing
from collections import abc
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeAlias, final
from urllib.parse import quote

from jsonargparse import ArgumentParser

from lightning_fed.cli.classes import classes_of, path_of

Schema: TypeAlias = dict[str, Any]
_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", Path: "string"}
_PLAIN |= {dict: "object", list: "array", tuple: "array"}
_NAMED = {kind.__name__: kind for kind in _PLAIN}
_ARRAYS = (list, tuple, set, abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence)
_OBJECTS = (dict, abc.Mapping, abc.MutableMapping)
_OTHER_LIGHTNING = ("pytorch_lightning.", "lightning.pytorch.")


def schema_of(parsers: typing.Mapping[str, argparse.ArgumentParser]) -> Schema:
    """Return the schema of the configs that some commands take.

    Args:
        parsers: The parsers of the commands by name.

    Returns:
        A JSON Schema (draft 7). Nothing is required, as a config may be made of several files. ``x-commands`` says
        which commands take an option, where not all of them do.
    """
    definitions = _Definitions()
    whole: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
    for command, parser in parsers.items():
        for keys, action in _options(parser):
            section = whole
            for key in keys[:-1]:
                empty = {"type": "object", "properties": {}, "additionalProperties": False}
                section = section["properties"].setdefault(key, empty)
            known = section["properties"].setdefault(keys[-1], {**definitions.of_option(action), "x-commands": []})
            known.setdefault("x-commands", []).append(command)
    _forget_common(whole, len(parsers))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A config of lightning-fed",
        **whole,
        "properties": {**whole["properties"], **{command: {"$ref": "#"} for command in parsers}},
        "definitions": dict(sorted(definitions.made.items())),
    }


@final
class _Definitions:
    """The schemas of classes, each made once."""

    def __init__(self) -> None:
        self.made: dict[str, Schema] = {}

    def of_option(self, action: argparse.Action) -> Schema:
        """Return the schema of an option, with its description and its default."""
        schema = self._of(getattr(action, "_typehint", None) or action.type or Any)
        if "$ref" in schema:  # beside which nothing else counts
            schema = {"allOf": [schema]}
        if action.help and action.help is not argparse.SUPPRESS:
            schema = {**schema, "description": " ".join(action.help.replace("``", "`").split())}
        default = _plain(action.default)
        return schema if default is None else {**schema, "default": default}

    def _of(self, kind: Any) -> Schema:
        if found := re.fullmatch(r"Unvalidated<(\w+)>", repr(kind)):  # a name that jsonargparse has not looked up
            kind = _NAMED.get(found.group(1), Any)
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if kind in _PLAIN:
            return {"type": _PLAIN[kind]}
        if origin is Literal:
            return {"enum": list(inner)}
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self._of(each) for each in inner]}
        if origin in _ARRAYS:
            items = [each for each in inner if each is not ...]
            return {"type": "array", **({"items": self._of(items[0])} if len(set(items)) == 1 else {})}
        if origin in _OBJECTS:
            return {"type": "object", "additionalProperties": self._of(inner[1])}
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"enum": [each.name for each in kind]}
        if origin is abc.Callable and inner:
            return self._of_classes(inner[-1], skip=len(inner[0]) if isinstance(inner[0], list) else 0)
        return self._of_classes(kind, skip=0) if isinstance(kind, type) else {}

    def _of_classes(self, kind: Any, skip: int) -> Schema:
        classes = classes_of(kind)
        if not classes and not _is_of_a_package(kind):
            return {}
        return self._once(f"a {_name(kind)}", skip, lambda: self._of_names(classes, skip))

    def _of_names(self, classes: typing.Mapping[str, type], skip: int) -> Schema:
        spelt = {name: _spellings(name, each) for name, each in classes.items()}
        known = list(dict.fromkeys(word for words in spelt.values() for word in words))
        own = {"type": "string", "pattern": r"\.", **({"not": {"enum": known}} if known else {})}
        arguments = [
            {
                "if": {"properties": {"class_path": {"enum": words}}},
                "then": {"properties": {"init_args": self._of_arguments(classes[name], skip)}},
            }
            for name, words in spelt.items()
        ]
        section = {
            "type": "object",
            "properties": {
                "class_path": {"anyOf": [{"enum": known}, own]} if known else own,
                "init_args": {"type": ["object", "null"]},
                "dict_kwargs": {"type": "object"},
            },
            "required": ["class_path"],
            "additionalProperties": False,
            **({"allOf": arguments} if arguments else {}),
        }
        return {"anyOf": [*([{"enum": known}] if known else []), own, section]}

    def _of_arguments(self, kind: type, skip: int) -> Schema:
        return self._once(f"arguments of {path_of(kind)}", skip, lambda: self._of_signature(kind, skip))

    def _of_signature(self, kind: type, skip: int) -> Schema:
        """The arguments of a class, but for the first, which whoever makes it gives."""
        parser = ArgumentParser(exit_on_error=False)
        try:
            first = list(inspect.signature(kind).parameters)[:skip]
            parser.add_class_arguments(kind, skip=set(first), fail_untyped=False, sub_configs=True)
        except (ValueError, TypeError, AttributeError):  # its signature is none of those that can be read
            return {"type": ["object", "null"]}
        properties = {keys[0]: self.of_option(action) for keys, action in _options(parser) if len(keys) == 1}
        return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}

    def _once(self, name: str, skip: int, make: abc.Callable[[], Schema]) -> Schema:
        name = f"{name}, {skip} given" if skip else name
        if name not in self.made:
            self.made[name] = {}  # so that what refers to itself comes to an end
            self.made[name] = make()
        return {"$ref": f"#/definitions/{quote(name)}"}


def _options(parser: argparse.ArgumentParser) -> list[tuple[list[str], argparse.Action]]:
    """The options of which each is a value in a config, and the keys under which it stands there."""
    actions = [action for action in parser._actions if getattr(action, "_typehint", None) or action.type is not None]
    return [(action.dest.split("."), action) for action in actions if not action.dest.endswith(".help")]


def _name(kind: Any) -> str:
    return path_of(kind) if isinstance(kind, type) else re.sub(r"\b(?:\w+\.)+", "", str(kind))


def _forget_common(schema: Schema, commands: int) -> None:
    for each in schema.get("properties", {}).values():
        if len(each.get("x-commands", ())) == commands:
            del each["x-commands"]
        _forget_common(each, commands)


def _spellings(name: str, kind: type) -> list[str]:
    """The ways in which a config names a class: by its name, and by paths."""
    paths = [path_of(kind), f"{kind.__module__}.{name}"]
    first, other = _OTHER_LIGHTNING
    paths += [other + path.removeprefix(first) for path in paths if path.startswith(first)]
    home = path_of(kind).rpartition(".")[0]
    return list(dict.fromkeys([name, f"{home}.{name}", *paths]))


def _is_of_a_package(kind: Any) -> bool:
    return str(getattr(kind, "__module__", "")).startswith(("lightning_fed", "torch", "pytorch_lightning", "lightning"))


def _plain(value: object) -> object:
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return None
