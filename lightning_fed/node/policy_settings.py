"""Checks of the settings of a node's policy, one by one, from YAML or from Python."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from lightning_fed.algorithms import Algorithm
from lightning_fed.core.arguments import flag, listed, nearest, number, one_of, text, whole
from lightning_fed.node.required_promise import RequiredPromise
from lightning_fed.node.required_secure_aggregation import RequiredSecureAggregation
from lightning_fed.node.settings_file import SettingsFile
from lightning_fed.privacy import Accountant
from lightning_fed.transforms import UpdateTransform
from lightning_fed.wire.parts import name_of_class

T = TypeVar("T")


def _modules(name: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    fingerprints = _names(name, value, "fingerprints, such as ['sha256:4f...']")
    for fingerprint in fingerprints:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", fingerprint):
            raise ValueError(
                f"{name} has {fingerprint!r}, which is no fingerprint; one is 'sha256:' and 64 digits of 0-9 and a-f, "
                "as the node says it of its module when it starts"
            )
    return fingerprints


def _algorithms(name: str, value: object) -> tuple[str, ...] | None:
    return None if value is None else _classes(name, value, Algorithm, "algorithms, such as ['FedAvg']")


def _transforms(name: str, value: object) -> bool | tuple[str, ...]:
    return value if isinstance(value, bool) else _classes(name, value, UpdateTransform, "transforms, True or False")


def _attributes(name: str, value: object) -> bool | tuple[str, ...] | None:
    if value is None or isinstance(value, bool):
        return value
    return _names(name, value, "paths of attributes, such as ['net.dropout.p'], True or False")


def _classes(name: str, value: object, base: type, what: str) -> tuple[str, ...]:
    names = _names(name, value, what)
    known = [name_of_class(kind) for kind in _subclasses(base)]
    for each in names:
        if each not in known and "." not in each:  # else it is someone's own, which may be imported later
            raise ValueError(f"{name} has {each!r}, which is none of {', '.join(sorted(known))}{nearest(each, known)}")
    return names


def _subclasses(base: type) -> list[type]:
    found: list[type] = []
    waiting: list[type] = base.__subclasses__()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        found.append(kind)
    return [kind for kind in found if not inspect.isabstract(kind)]


def _names(name: str, value: object, what: str) -> tuple[str, ...]:
    names = tuple(text(f"{name}[{i}]", each) for i, each in enumerate(listed(name, value, what=what)))
    if not names:
        raise ValueError(f"{name} is empty, so that nothing is allowed; name some, or leave {name} out to allow all")
    return names


def _promise(name: str, value: object) -> RequiredPromise | None:
    if value is not None and not isinstance(value, RequiredPromise):
        raise TypeError(f"{name} must be a RequiredPromise, not {type(value).__name__}")
    return value


def _secure_aggregation(name: str, value: object) -> RequiredSecureAggregation | None:
    if value is True:
        return RequiredSecureAggregation()
    if value is not None and not isinstance(value, RequiredSecureAggregation):
        raise TypeError(f"{name} must be True or a RequiredSecureAggregation, not {type(value).__name__}")
    return value


def _sizes(name: str, value: object) -> str | int | None:
    if isinstance(value, str):
        return one_of(name, value, ("exact", "hidden"), says=" must be 'exact', 'hidden' or a whole number")
    return None if value is None else whole(name, value, least=1)


def _or_none(check: Callable[..., object], **bounds: Any) -> Callable[[str, object], object]:
    return lambda name, value: None if value is None else check(name, value, **bounds)


CHECKS: dict[str, Callable[[str, object], object]] = {
    "modules": _modules,
    "algorithms": _algorithms,
    "transforms": _transforms,
    "least_workers": lambda name, value: whole(name, value, least=1),
    "promise": _promise,
    "secure_aggregation": _secure_aggregation,
    "most_rounds": _or_none(whole, least=1),
    "most_epsilon": _or_none(number, above=0),
    "delta": _or_none(number, above=0, below=1),
    "evaluation": _or_none(flag),
    "prediction": flag,
    "sizes": _sizes,
    "attributes": _attributes,
    "failures": _or_none(one_of, choices=("told", "hidden")),
}


def check_together(most_epsilon: float | None, delta: float | None) -> None:
    """Check the settings that belong together.

    Raises:
        ValueError: If one is given without the other.
        ImportError: If ε is limited and dp-accounting is not installed.
    """
    if most_epsilon is not None and delta is None:
        raise ValueError(f"most_epsilon={most_epsilon:g} needs a delta, less than 1 over the number of examples")
    if delta is not None and most_epsilon is None:
        raise ValueError(f"delta={delta:g} is that of most_epsilon, which is missing; give both, or none")
    if most_epsilon is not None:
        Accountant("rdp")  # raises if dp-accounting is not installed: now, and not in a round


def check_failures(failures: str | None, promise: RequiredPromise | None) -> None:
    """Check that failures can be hidden, if the policy hides them.

    Raises:
        ValueError: If the workers add no noise that could hide them.
    """
    if failures == "hidden" and (promise is None or promise.unit != "worker"):
        raise ValueError(
            "failures='hidden' needs a promise that hides workers, such as LocalDP, whose noise leaves in their place; "
            + ("there is none" if promise is None else f"{promise.promise} hides single examples")
        )


def _promise_of(file: SettingsFile, value: object) -> RequiredPromise:
    """Build the required promise from the section of a file.

    Args:
        file: The file.
        value: The section.

    Raises:
        TypeError: If it is no section, or a setting is of a wrong type.
        ValueError: If it lacks a setting, or has one that is unknown or out of range; with its line where it has one.
    """
    example = "{class: LocalDP, clip: 1.0, noise_multiplier: 4.0}"
    settings = {"class": "promise", **{each.name: each.name for each in fields(RequiredPromise)[1:]}}
    section = _section(file, "promise", "a promise", value, settings, example)
    for name in ("class", "clip", "noise_multiplier"):
        if name not in section:
            raise ValueError(f"promise has no {name}; add it, as in {example}")
    return _made(file, "promise", RequiredPromise, {settings[name]: each for name, each in section.items()})


def _secure_aggregation_of(file: SettingsFile, value: object) -> RequiredSecureAggregation:
    """Build the required secure aggregation from the section of a file, or from ``true``.

    Raises:
        TypeError: If it is neither.
        ValueError: If it has a setting that is unknown or out of range; with its line where it has one.
    """
    about = "secure_aggregation"
    if value is True:
        return RequiredSecureAggregation()
    settings = {each.name: each.name for each in fields(RequiredSecureAggregation)}
    section = _section(file, about, "secure aggregation", value, settings, "{threshold: 0.7}, or true")
    return _made(file, about, RequiredSecureAggregation, section)


def _section(
    file: SettingsFile, section: str, what: str, value: object, settings: Mapping[str, str], example: str
) -> dict[str, Any]:
    """Check the names of a section's settings."""
    if not isinstance(value, dict):
        raise TypeError(f"{section} must be a section, such as {example}, not {type(value).__name__}")
    for name, each in value.items():
        place = file.where(section, name)
        if name not in settings:
            raise ValueError(f"{place}: {what} has no setting {name!r}{known(name, settings)}")
        if each is None:
            raise ValueError(f"{place}: {name} has no value; give it one, or leave it out")
    return value


def _made(file: SettingsFile, section: str, kind: Callable[..., T], settings: Mapping[str, Any]) -> T:
    """Build a setting from its section; an error names the line."""
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        about = re.match(r"\w+", str(error))
        raise ValueError(f"{file.where(section, about.group() if about else '')}: {error}") from error


SECTIONS: dict[str, Callable[[SettingsFile, object], object]] = {
    "promise": _promise_of,
    "secure_aggregation": _secure_aggregation_of,
}
"""Settings that are sections of a file."""


def known(name: str, known: Mapping[str, object]) -> str:
    """Return the end of a message about an unknown name: the closest known name, or all of them.

    Args:
        name: The unknown name.
        known: The known names.
    """
    return nearest(name, known) or f"; there are {', '.join(known)}"


def with_place(place: str, error: Exception) -> str:
    """Return the message of an error after its place in a file, unless the message has a place already.

    Args:
        place: The file and the line.
        error: The error.
    """
    message = str(error)
    return message if message.startswith(place.partition(",")[0]) else f"{place}: {message}"


def in_yaml(value: object) -> str:
    """Return the value of a setting in the form of a YAML file.

    Args:
        value: The value.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (RequiredPromise, RequiredSecureAggregation)):
        return str(value)
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
