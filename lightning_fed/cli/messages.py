"""Messages of jsonargparse about a wrong argument, in one sentence.

Its own messages have a line for every type that was tried, and the whole value, with all workers in it. What is not
recognised here is passed on as it is, in one line.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from types import ModuleType

import torch

from lightning_fed._lightning import pl
from lightning_fed.cli.synonyms import REMARKS, meant
from lightning_fed.core.arguments import article, nearest

_KEY = re.compile(r'Parser key "([^"]+)"')
_VALUE = re.compile(r"(?:Given|Got) value: (.*?)(?:\. Got value: .*)?$", re.MULTILINE)
_TYPE = re.compile(r"Expected (?:an? )?(.+?)\.?$")
_OWNER = re.compile(r"class_path '([^']+)'|class_path='([^']+)'")
_NOISE = re.compile(
    r"Parser key|Does not validate|Subtypes:|Errors:|Given value|Subclass types expect|a class path \(str\)|a dict "
    r"with|Expected a dot import|Not a valid subclass|Expected an instantiatable class|Expected a path but|Unable to "
    r"load config|Problem with"
)


def explained(
    message: str, options: Collection[str], key: str = "", classes: Callable[[str], Sequence[str]] = lambda _: ()
) -> tuple[str, str]:
    """Say what is wrong with an argument.

    Args:
        message: What jsonargparse says.
        options: The names of all options, such as ``"trainer.max_epochs"``.
        key: The argument that it is about, if the message does not say so itself.
        classes: Returns the names of the classes that an option may be given.

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
    literals = [literal for kind in types for literal in _literals(kind)]
    owner = next((one or other for one, other in reversed(_OWNER.findall(message))), "")
    value = " ".join((found.group(1) if (found := _VALUE.search(message)) else "").split())
    tellings = [
        (pattern, *tell(found, key, owner))
        for reason in reasons
        for pattern, tell in _ABOUT_CLASSES
        # a word that is no class may be meant as another word, and within a class its arguments are what is wrong
        if (found := re.match(pattern, reason)) and not (literals and pattern == _NO_PATH) and not (types and keys[1:])
    ]
    if tellings:
        pattern, key, sentence = tellings[0]
        known = ", ".join(classes(key)) if pattern == _NO_PATH else ""
        begin = " There are" if sentence.endswith("?") else "; there are"
        return key, f"{sentence}{begin} {known}" if known else sentence
    if types:
        near = nearest(value, [literal.strip("'") for literal in literals]) if literals else ""
        return key, f"{key}={_short(value)} must be {_choices(types)}{near}"
    for pattern, sentence in _ABOUT_VALUES:
        if found := re.search(pattern, message):
            word = found.group(1)
            return key, sentence.format(key=key, value=_short(value), found=word, kind=article(word))
    return key, " ".join(message.split())


def _no_option(option: str, options: Collection[str]) -> tuple[str, str]:
    option = option.split("=")[0]
    dashes = option[: len(option) - len(option.lstrip("-"))]
    word = option.lstrip("-")
    names = meant(word, options)
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
    packages = [module for path, module in sys.modules.items() if path.startswith("lightning_fed.")]
    ours = [
        [name for name in vars(package).get("__all__", ()) if isinstance(vars(package).get(name), type)]
        for package in packages
    ]
    theirs = (torch.optim, torch.optim.lr_scheduler, pl.callbacks, pl.loggers, pl.strategies, pl.profilers)
    known = {name for names in (*ours, *map(_public, theirs)) for name in names}
    near = nearest(found.group(1), sorted(known)) or "; one of your own is given with its module, such as mine.Net"
    return key, f"{key}: there is no class {found.group(1)!r}{near}"


def _relative(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    path = found.group(1)
    return key, f"{key}={path} is no path of a class: begin it with a module of the current folder, such as mine.Net"


def _wrong_class(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    return key, f"{key}: {found.group(1)} is no {found.group(2)}"


def _no_argument(found: re.Match[str], key: str, owner: str) -> tuple[str, str]:
    name = found.group(1)
    if not owner:
        return name, f"there is no option {name!r} for all commands; give -c after the command"
    near = nearest(name, _arguments(owner))
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
    (r"Not a valid subclass of (\w+)", "{key}={value} must be {kind}, given by its class_path and init_args"),
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


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}..."
