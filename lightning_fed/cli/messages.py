"""Messages of jsonargparse about a wrong argument, in one sentence.

Its own messages have a line for every type that was tried, and the whole value, with all workers in it. What is not
recognised here is passed on as it is, in one line.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType

import torch

from lightning_fed._lightning import ENVIRONMENT_VARIABLE, NAMES, pl
from lightning_fed.cli.bundled import CONFIGS
from lightning_fed.cli.classes import classes_of, names_of
from lightning_fed.cli.other_kinds import option_of
from lightning_fed.cli.synonyms import REMARKS, meant, same
from lightning_fed.core.arguments import article, nearest
from lightning_fed.lightning_cli import imported

_KEY = re.compile(r'Parser key "([^"]+)"')
_VALUE = re.compile(r"(?:Given|Got) value: (.*?)(?:\. Got value: .*)?$", re.MULTILINE)
_TYPE = re.compile(r"Expected (?:an? )?(.+?)\.?$")
_PARSED = "Namespace("
_OWNER = re.compile(r"class_path '([^']+)'|class_path='([^']+)'")
_OF_A_CLASS = re.compile(r"\.(class_path|init_args)\b.*")
_NOISE = re.compile(
    r"Parser key|Does not validate|Subtypes:|Errors:|Given value|Subclass types expect|a class path \(str\)|a dict "
    r"with|Expected a dot import|Not a valid subclass|Expected an instantiatable class|Expected a path but|Unable to "
    r"load config|Problem with"
)


def explained(
    message: str, options: Collection[str], key: str = "", kinds: Mapping[str, object] = MappingProxyType({})
) -> tuple[str, str]:
    """Return a message about a wrong argument.

    Args:
        message: What jsonargparse says.
        options: The names of all options, such as ``"trainer.max_epochs"``.
        key: The argument that it is about, if the message does not say so itself.
        kinds: The types of options by their names.

    Returns:
        The argument's key, empty if it is about none; and the sentence.
    """
    for pattern, says in _ABOUT_OPTIONS:
        if found := re.search(pattern, message):
            return says(found.group(1), options)
    keys = list(dict.fromkeys(_KEY.findall(message)))
    key = ".init_args.".join([key, *keys[1:]] if key else keys)
    reasons = [line.strip(" -") for line in _VALUE.sub("", message).splitlines()]
    reasons = [re.sub(r"^Type .* expects a function or a callable class: ", "", reason) for reason in reasons]
    types = [found.group(1) for reason in reasons if (found := _TYPE.match(reason)) and not _NOISE.match(reason)]
    if _OWNER.search(message):  # a class is given, and something is wrong within it: it is no section with names
        types = [kind for kind in types if _plain(kind) != _PLAIN["Mapping"]]
    literals = [literal for kind in types for literal in _literals(kind)]
    owner = next((one or other for one, other in reversed(_OWNER.findall(message))), "")
    value = " ".join((found.group(1) if (found := _VALUE.search(message)) else "").split())
    if value.startswith("Namespace(init_args="):
        return key, (
            f"{key}: a class cannot take the place of the names that an earlier config gives there; leave the earlier "
            "config out, or take its section out of it"
        )
    tellings = [
        (pattern, *tell(found, key, owner))
        for reason in reasons
        for pattern, tell in _ABOUT_CLASSES
        # a word that is no class may be meant as another word, and within a class its arguments are what is wrong
        if (found := re.match(pattern, reason)) and not (literals and pattern == _NO_PATH) and not (types and keys[1:])
    ]
    if tellings:
        pattern, key, sentence = tellings[0]
        return key, _with_those_there_are(sentence, key, kinds) if pattern == _NO_PATH else sentence
    if types:
        near = nearest(value, [literal.strip("'") for literal in literals]) if literals else ""
        return key, f"{_given(key, value)} must be {_choices(types)}{near}"
    for pattern, sentence in _ABOUT_VALUES:
        if found := re.search(pattern, message):
            word = found.group(1)
            return key, sentence.format(key=key, given=_given(key, value), found=word, kind=article(word))
    return key, " ".join((_VALUE.sub("", message) if _PARSED in value else message).split())


def problem_of_class(message: str) -> str:
    """Return the reason why a class of the config cannot be built, such as a missing package; empty if it can.

    Args:
        message: What jsonargparse says when it cannot build one of several types.

    >>> problem_of_class("Problem with given class_path 'a.Writer': No module named 'wandb'")
    'Writer needs wandb: pip install wandb'
    """
    for path, reason in re.findall(r"Problem with given class_path '([^']+)':\s*(.+)", message)[-1:]:
        name = path.rpartition(".")[2]
        found = re.search(r"pip install (?:-U |--upgrade )?'?([^`']+)|No module named '([\w.]+)'", reason)
        if found is None:
            return f"{name}: {reason.strip()}"
        package = (found.group(1) or found.group(2)).rstrip(". ")
        return f"{name} needs {package}: pip install {shlex.quote(package)}"
    return ""


def place_of_module(message: str, configs: Sequence[str]) -> str:
    """Return a text with the config's folder that holds a missing module, as the end of a sentence; empty if none.

    Args:
        message: What jsonargparse says.
        configs: The paths of the config files.
    """
    found = re.search(r"No module named '(\w+)'", message)
    folders = [Path(config).parent for config in configs] if found else []
    for folder in folders:
        if found and folder != Path() and (folder / f"{found.group(1)}.py").is_file():
            return f"; modules are looked for in the current folder, and {found.group(1)}.py lies in {folder}"
    return ""


def _no_option(option: str, options: Collection[str]) -> tuple[str, str]:
    option = option.split("=")[0]
    dashes = option[: len(option) - len(option.lstrip("-"))]
    word = option.lstrip("-")
    if not dashes and CONFIGS.find(word) is not None:
        return word, f"there is no option {option!r}; did you mean '-c {word}'?"
    stem = _OF_A_CLASS.sub("", word)  # what it is of, if it is of a class
    names = [name for name in meant(stem, options) if name != stem]  # that may well be there, and take no class
    ends = [name.rpartition(".")[2] for name in names]
    # A remark says which of several is which, and why it is another word; a misspelt one needs none.
    remarks = REMARKS if len(names) > 1 or not nearest(word.rpartition(".")[2], ends) else {}
    near = " or ".join(f"{dashes + name!r}{f' ({remarks[name]})' if name in remarks else ''}" for name in names)
    return word, f"there is no option {option!r}{f'; did you mean {near}?' if near else ''}"


def _no_command(names: str, options: Collection[str]) -> tuple[str, str]:
    return "", f"no command is given; give one of {', '.join(names.split(','))}"


def _missing(names: str, options: Collection[str]) -> tuple[str, str]:
    missing = [name.partition(".")[2] if name.partition(".")[2] in options else name for name in names.split(", ")]
    return missing[0].rpartition(".")[0], f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"


_ABOUT_OPTIONS: Sequence[tuple[str, Callable[[str, Collection[str]], tuple[str, str]]]] = (
    (r"^Subcommand '.+' does not accept option '(.+)'$", _no_option),
    (r"^[Uu]nrecognized arguments: (\S+)", _no_option),
    (r"^Key '(.+)' is not expected", _no_option),
    (r'^expected "subcommand" to be one of {(.+)}', _no_command),
    (r"^the following arguments are required: (.+)$", _missing),
)


def _no_attribute(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    module, name = found.groups()
    known = _public(sys.modules.get(module), (type, ModuleType))
    return key, f"{key}: there is no {module}.{name}{nearest(name, known)}"


def _no_module(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    known = [name for name in sys.modules if "._" not in name and not name.startswith("_")]
    return key, f"{key}: there is no module {found.group(1)!r}, for {owner}{nearest(found.group(1), known)}"


def _no_class(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    return key, found.group(1)


def _with_those_there_are(word: str, key: str, kinds: Mapping[str, object]) -> str:
    """Return a message about an unknown class for an option, with the nearest and all known ones."""
    says = f"{key}: there is no class {word!r}"
    if other := option_of(word, key, kinds):
        return f"{key}: {word!r} is given as {other}"
    near = nearest(word, list(classes_of(kinds[key])) if key in kinds else _all_classes())
    known = ", ".join(names_of(kinds.get(key)))
    if near:
        return f"{says}{near}{f' There are {known}' if known else ''}"
    there_are = f"; there are {known}" if known else ""
    return f"{says}; one of your own is given with its module, such as mine.Net{there_are}"


def _all_classes() -> list[str]:
    packages = [module for path, module in sys.modules.items() if path.startswith("lightning_fed.")]
    ours = [
        [name for name in vars(package).get("__all__", ()) if isinstance(vars(package).get(name), type)]
        for package in packages
    ]
    theirs = (torch.optim, torch.optim.lr_scheduler, pl.callbacks, pl.loggers, pl.strategies, pl.profilers)
    return sorted({name for names in (*ours, *map(_public, theirs)) for name in names})


def _relative(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    path = found.group(1)
    return key, f"{key}={path} is no path of a class: begin it with a module of the current folder, such as mine.Net"


def _wrong_class(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    path, base = found.groups()
    other = next(name for name in NAMES if name != pl.__name__)
    kind, theirs = imported(path), getattr(sys.modules.get(other), base, None)
    if isinstance(kind, type) and theirs is not None and issubclass(kind, theirs):
        return key, (
            f"{key}: {path} is {article(base)} of {other}, but lightning_fed runs on {pl.__name__}, and the two do not "
            f"mix: set the environment variable {ENVIRONMENT_VARIABLE}={other}"
        )
    return key, f"{key}: {path} is no {base}"


def _no_argument(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    name = found.group(1)
    if not owner:
        return name, f"there is no option {name!r} for all commands; give -c after the command"
    arguments = _arguments(owner)
    near = nearest(name, arguments) or same(name, arguments)
    return f"{key}.init_args.{name}", f"{key}: {owner.rpartition('.')[2]} has no argument {name!r}{near}"


def _needs(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    return key, f"{key}: {owner.rpartition('.')[2] or 'its class'} needs {found.group(1)}"


def _no_function(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    return key, f"{key}: {found.group(1)} does not make what is needed here, {_plain(found.group(2))}"


_NO_PATH = r"Expected a dot import path string: ?(.*)"
_ABOUT_CLASSES: Sequence[tuple[str, Callable[[re.Match[str], str, str], tuple[str, str]]]] = (
    (r"module '(.+)' has no attribute '(.+?)'", _no_attribute),
    (r"No module named '(.+)'", _no_module),
    (r"Import path (\S+) does not correspond to a subclass of (\S+)", _wrong_class),
    (r"Option '(.+)' is not accepted", _no_argument),
    (r"[Tt]he following arguments are required: (.+?)(?:\. Got value.*)?$", _needs),
    (_NO_PATH, _no_class),
    (r".*Unexpected import path format: (.+)", _relative),
    (r"Expected '(.+)' to be a function that returns ([^.]*(?:\.\w+)*\S*?)\.*(?: Got value.*)?$", _no_function),
)


_ABOUT_VALUES = (
    (r"Unable to load config '(.*)'", "{key}={found} must be a section with keys"),
    (
        r"Expected an instantiatable class, but (\S+) is abstract",
        "{key}: {found} is abstract; name a class of its kind",
    ),
    (r"Not a valid subclass of (\w+)", "{given} must be {kind}, given by its class_path and init_args"),
    (r"object has no attribute '(keys)'", "{key}: its init_args must be a section with keys"),
    (r"argument of type '(\w+)' is not iterable", "{key}: its class_path must be the path of a class, with dots"),
)


def _public(namespace: object, kinds: tuple[type, ...] = (type,)) -> list[str]:
    return [name for name, value in vars(namespace).items() if isinstance(value, kinds)] if namespace else []


def _arguments(path: str) -> list[str]:
    """The names of the arguments of a class, whose path jsonargparse has just imported."""
    module, _, name = path.rpartition(".")
    try:
        return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []


def _literals(kind: str) -> Iterator[str]:
    if found := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
        yield from found.group(1).split(", ")


def _choices(types: Sequence[str]) -> str:
    words = list(dict.fromkeys(word for kind in types for word in (list(_literals(kind)) or [_plain(kind)])))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _plain(kind: str) -> str:
    """A type's name as one says it.

    >>> _plain("<class 'int'>"), _plain("<class 'NoneType'>"), _plain("collections.abc.Sequence[str]")
    ('a whole number', 'None', 'Sequence[str]')
    """
    kind = re.sub(r"<class '(.+)'>", r"\1", kind)
    kind = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", kind)
    return _PLAIN.get(kind, kind)


_PLAIN = {"NoneType": "None", "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
_PLAIN |= {"Mapping": "a section with names", "Sequence": "a list", "Iterable": "a list"}


def _given(key: str, value: str) -> str:
    """A key with its value; without, where that is a whole section as a parser holds it, and none that a user wrote."""
    return key if _PARSED in value else f"{key}={_short(value)}"


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}..."
