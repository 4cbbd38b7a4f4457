"""The schema of configs, and the other files that are made of the parsers and shipped."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from lightning_fed.cli import main, shipped

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SCHEMA = json.loads(shipped.SCHEMA.read_text(encoding="utf-8"))
TOY = yaml.safe_load((Path(__file__).parents[2] / "configs" / "toy.yaml").read_text())
TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
KEYWORDS = {"type", "enum", "not", "pattern", "anyOf", "allOf", "if", "then", "properties", "additionalProperties"}
KEYWORDS |= {"required", "items", "$ref", "description", "default", "definitions", "title", "$schema", "x-commands"}


def is_valid(value: Any, schema: Any) -> bool:
    """Whether a value is as a schema says; the keywords that ours has, and no more, as in draft 7."""
    assert set(schema) <= KEYWORDS
    if "$ref" in schema:
        return is_valid(value, resolved(schema["$ref"]))
    if "if" in schema:
        return not is_valid(value, schema["if"]) or is_valid(value, schema["then"])
    kinds = schema.get("type", [])
    return (
        (not kinds or any(is_of(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)))
        and ("enum" not in schema or any(value == each and type(value) is type(each) for each in schema["enum"]))
        and ("not" not in schema or not is_valid(value, schema["not"]))
        and (not isinstance(value, str) or re.search(schema.get("pattern", ""), value) is not None)
        and ("anyOf" not in schema or any(is_valid(value, each) for each in schema["anyOf"]))
        and all(is_valid(value, each) for each in schema.get("allOf", ()))
        and (not isinstance(value, list) or all(is_valid(each, schema.get("items", {})) for each in value))
        and (not isinstance(value, dict) or all(is_allowed(key, value[key], schema) for key in value))
        and (not isinstance(value, dict) or set(schema.get("required", ())) <= set(value))
    )


def is_allowed(key: str, value: Any, schema: Any) -> bool:
    if key in schema.get("properties", {}):
        return is_valid(value, schema["properties"][key])
    others = schema.get("additionalProperties", True)
    return others if isinstance(others, bool) else is_valid(value, others)


def is_of(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, TYPES[kind])


def resolved(reference: str) -> Any:
    name = unquote(reference.removeprefix("#/definitions/"))
    return SCHEMA if name == "#" else SCHEMA["definitions"][name]


def changed(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(TOY)
    *within, last = key.split("/")
    section: Any = config
    for name in within:
        section = section.setdefault(name, {})
    section[last] = value
    return config  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_that_comes_along_is_valid(path: Path) -> None:
    assert is_valid(yaml.safe_load(path.read_text()), SCHEMA)


RIGHT: dict[str, tuple[str, Any]] = {
    "a class by its name": ("model/algorithm", "FedProx"),
    "an alias": ("model/algorithm", {"class_path": "lightning_fed.algorithms.LGFedAvg"}),
    "a class of one's own": ("model/module", {"class_path": "mine.Net", "init_args": {"anything": 1}}),
    "a worker of one's own": ("data/workers/carol", {"class_path": "mine.Data", "init_args": {"anything": 1}}),
    "a word in place of an engine": ("model/engine", "sequential"),
    "an optimizer, which is given parameters": (
        "model/server_optimizer",
        {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}},
    ),
    "a logger of the other Lightning": ("trainer/logger", {"class_path": "lightning.pytorch.loggers.CSVLogger"}),
    "several callbacks": ("trainer/callbacks", [{"class_path": "EarlyStopping", "init_args": {"monitor": "x"}}]),
    "nothing": ("data/cohort_size", None),
    "a section for a command": ("fit", {"trainer": {"max_epochs": 1}}),
}
WRONG: dict[str, tuple[str, Any]] = {
    "a section": ("modell", {}),
    "an option": ("trainer/max_epoch", 1),
    "a class": ("model/algorithm", "FedPrx"),
    "an argument": ("model/algorithm", {"class_path": "FedProx", "init_args": {"mue": 0.1}}),
    "an argument's type": ("model/algorithm", {"class_path": "FedProx", "init_args": {"mu": "much"}}),
    "a key beside class_path": ("model/algorithm", {"class_path": "FedProx", "args": {}}),
    "an argument of a population": ("data/workers", {"class_path": "Synthetic", "init_args": {"alhpa": 1.0}}),
    "an argument of a worker": (
        "data/workers/bob",
        {"class_path": "lightning_fed.datasets.ToyDataModule", "init_args": {"row": [0]}},
    ),
    "a word": ("model/engine", "sequentiel"),
    "a number": ("model/local_epochs", "two"),
    "a fraction": ("data/cohort_size", 1.5),
}


@pytest.mark.parametrize(("key", "value"), RIGHT.values(), ids=RIGHT)
def test_it_takes_what_is_right(key: str, value: Any) -> None:
    assert is_valid(changed(key, value), SCHEMA)


@pytest.mark.parametrize(("key", "value"), WRONG.values(), ids=WRONG)
def test_it_refuses_what_is_wrong(key: str, value: Any) -> None:
    assert not is_valid(changed(key, value), SCHEMA)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_validator_of_others_says_the_same(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(yaml.safe_load(path.read_text()), SCHEMA)


def every(schema: Any) -> Iterator[Any]:
    yield schema
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from every(each)


def test_every_reference_leads_somewhere() -> None:
    references = [each["$ref"] for each in every(SCHEMA) if isinstance(each, dict) and "$ref" in each]
    assert len(references) > 100
    for reference in references:
        resolved(reference)


def test_options_are_described_by_their_docstrings() -> None:
    model, data = (SCHEMA["properties"][section]["properties"] for section in ("model", "data"))
    assert model["algorithm"]["description"] == "The computation of a round, such as `FedAvg()`."
    assert model["local_epochs"]["default"] == 1
    assert [name for name, each in {**model, **data}.items() if len(each["description"]) < 10] == []


def test_no_federated_module_is_within_another() -> None:
    assert "lightning_fed.FederatedModule" not in json.dumps(SCHEMA)
    assert "lightning_fed.FederatedDataModule" not in json.dumps(SCHEMA)


def test_it_is_printed_and_lies_where_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    main(["schema"])
    assert json.loads(capsys.readouterr().out) == SCHEMA
    main(["schema", "--path"])
    assert Path(capsys.readouterr().out.strip()) == shipped.SCHEMA


@pytest.mark.skipif(
    shipped.read(shipped.OPTIONS)["versions"] != shipped.versions(), reason="made with other versions, of other options"
)
def test_the_files_are_those_of_today() -> None:
    """In a process of its own, into which no other test has imported classes that may be given."""
    code = "import json; from lightning_fed.cli.shipped import made; print(json.dumps([*made().values()]))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    now = [path.read_text(encoding="utf-8") for path in (shipped.SCHEMA, shipped.OPTIONS)]
    assert json.loads(done.stdout) == now, "run `make command-line` and commit what it writes"
