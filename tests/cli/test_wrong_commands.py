"""What is wrong with a command, a config or a checkpoint is said in one sentence, with status 2, and nothing runs."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from lightning_fed.cli import command, main
from lightning_fed.cli.config_files import ConfigFile
from lightning_fed.cli.failures import is_refusal
from lightning_fed.models import LinearRegression
from lightning_fed.wire import WorkerError

ROOT = Path(__file__).parent.parent.parent
TOY = yaml.safe_load((ROOT / "configs" / "toy.yaml").read_text())
TOY["trainer"] = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False}
TOY["trainer"] |= {"enable_model_summary": False}
BOB = TOY["data"]["workers"]["bob"]


pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the toy config as toy.yaml; nothing is said about seeds and devices."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "c.yaml", TOY)
    levels = {name: logging.getLogger(name).level for name in ("lightning.fabric", "pytorch_lightning")}
    environment = dict(os.environ)
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield tmp_path
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    os.environ.clear()
    os.environ.update(environment)


def write(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content))


def changed(key: str, value: Any) -> dict[str, Any]:
    """The toy config with another value at a place of it."""
    config = copy.deepcopy(TOY)
    *within, last = key.split(".")
    section: Any = config
    for name in within:
        section = section.setdefault(name, {})
    section[last] = value
    return config


def without(key: str) -> dict[str, Any]:
    config = changed(key, None)
    *within, last = key.split(".")
    section: Any = config
    for name in within:
        section = section[name]
    del section[last]
    return config


def made(class_path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that is wrong; return the sentence that it is answered with."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    said = capsys.readouterr().err
    assert left.value.code == 2, said
    assert "Traceback" not in said
    (sentence,) = re.findall(r"^error: (.*)$", said, re.MULTILINE)
    after = said[said.index("error: ") :].splitlines()[1:]
    named = [word for word in arguments[:1] if word in ("fit", "validate", "test", "predict", "privacy")]
    option = "--help-all" if named and named != ["privacy"] else "--help"
    assert [line for line in after if line] == [" ".join(("lightning-fed", *named, option, "lists all options"))]
    return str(sentence)


CONFIGS: dict[str, tuple[Any, str]] = {
    # options and sections
    "a misspelt section": ({**TOY, "modell": {"module": 1}}, r"'modell.module'; did you mean 'model.module'"),
    "an empty section": ({**TOY, "modell": {}}, r"'modell'; did you mean 'model'\? \(c.yaml, line \d+\)"),
    "an unknown empty section": ({**TOY, "foo": {}}, r"there is no option 'foo' \(c.yaml, line \d+\)"),
    "a section without a value": ({**TOY, "foo": None}, r"there is no option 'foo'"),
    "empty within empty": ({**TOY, "foo": {"a": {"b": {}}}}, r"there is no option 'foo'"),
    "an empty part of a section": (changed("data.worker", {}), r"'data.worker'; did you mean 'workers'\?"),
    "a misspelt key of a class": (
        {**TOY, "model": {**TOY["model"], "algoritm": {"class_path": "FedProx"}}},
        r"no option 'model.algoritm.class_path'; did you mean 'model.algorithm'\?",
    ),
    "a misspelt option": (changed("trainer.max_epoch", 3), r"max_epoch'; did you mean 'trainer.max_epochs'\?"),
    "a misspelt option without a value": (changed("trainer.max_epoch", None), r"did you mean 'trainer.max_epochs'\?"),
    "a number for a section": ({**TOY, "model": 3}, r"model must be a section with keys, not 3"),
    "a string for a section": ({**TOY, "trainer": "x"}, r"trainer=x must be a section"),
    "a list for a section": (
        {**TOY, "trainer": [1]},
        r"c.yaml, line \d+: trainer must be a section with keys",
    ),
    "nothing for a section": ({**TOY, "model": None}, r"model.module is missing"),
    "a number for a key": ({**TOY, 1: 2}, r"c.yaml, line \d+: the key 1 must be a word"),
    "yes for a key": ({**TOY, True: {}}, r"the key true must be a word"),
    "a number for an option": ({**TOY, "model": {**TOY["model"], 1: 3}}, r"the key 1 must be a word"),
    # classes
    "no module": (without("model.module"), r"model.module is missing"),
    "no class of this name": (changed("model.algorithm", made("FedMagic")), r"class 'FedMagic'; did you mean 'FedAvg'"),
    "a misspelt class": (changed("model.algorithm", "fedprx"), r"'fedprx'; did you mean 'FedProx'"),
    "a misspelt path": (
        changed("model.module.class_path", "lightning_fed.models.LinearRegresion"),
        r"no lightning_fed.models.LinearRegresion; did you mean 'LinearRegression'",
    ),
    "a misspelt module of a path": (
        changed("model.module.class_path", "lightning_fed.algoritms.FedAvg"),
        r"no lightning_fed.algoritms; did you mean 'algorithms'|no module 'lightning_fed.algoritms'.*did you mean",
    ),
    "a misspelt package": (
        changed("model.module.class_path", "lightningfed.models.LinearRegression"),
        r"no module 'lightningfed'.*did you mean 'lightning_fed'",
    ),
    "no such package": (
        changed("model.module.class_path", "nowhere.Net"),
        r"no module 'nowhere'",
    ),
    "a number for a class": (changed("model.module.class_path", 3), r"its class_path must be the path of a class"),
    "no class path": (changed("model.module.class_path", ""), r"there is no class ''"),
    "a class of another kind": (
        changed("model.algorithm", made("lightning_fed.aggregation.Median")),
        r"model.algorithm: lightning_fed.aggregation.Median is no Algorithm \(c.yaml, line \d+\)",
    ),
    "an abstract class": (changed("model.algorithm", "lightning_fed.algorithms.Algorithm"), r"Algorithm is abstract"),
    "a list for a class": (changed("model.algorithm", [1]), r"must be an Algorithm, given by its class_path"),
    "an argument that is missing": (changed("model.algorithm", "FedProx"), r"model.algorithm: FedProx needs mu"),
    "arguments that are missing": (
        changed("model.module.init_args", {}),
        r"LinearRegression needs in_features, out_features",
    ),
    "a misspelt argument": (
        changed("data.workers.bob.init_args.row", [0]),
        r"data.workers.bob: ToyDataModule has no argument 'row'; did you mean 'rows'\? \(c.yaml, line \d+\)",
    ),
    "a misspelt argument without a value": (
        changed("data.workers.bob.init_args.row", None),
        r"no argument 'row'; did you mean 'rows'",
    ),
    "a list for arguments": (changed("model.module.init_args", [1]), r"its init_args must be a section"),
    "an engine's misspelt name": (
        changed("model.engine", "isolate"),
        r"model.engine=isolate must be .*'isolated'\?",
    ),
    "an engine's misspelt class": (
        changed("model.engine", made("lightning_fed.engines.Vectorised")),
        r"did you mean 'Vectorized'",
    ),
    "a misspelt sampler": (changed("data.sampler", "Unifrom"), r"did you mean 'Uniform'"),
    "a misspelt promise": (changed("model.privacy", made("CentralDp", clip=1.0)), r"did you mean 'CentralDP'"),
    "a misspelt threshold": (
        changed("model.secure_aggregation", {"clip": 1.0, "treshold": 0.7}),
        r"SecureAggregation has no argument 'treshold'; did you mean 'threshold'",
    ),
    "a low threshold": (
        changed("model.secure_aggregation", made("SecureAggregation", clip=1.0, threshold=0.5)),
        r"threshold=0\.5\) must be above 0\.5 and at most 1",
    ),
    "sums without a cap": (
        changed("model.secure_aggregation", {"clip": 1.0}),
        r"WeightedMean counts workers by their numbers of examples, .*weight_cap",
    ),
    "a misspelt transform": (changed("model.transforms", [made("ClipNrm")]), r"did you mean 'ClipNorm'"),
    "one transform in place of a list": (changed("model.transforms", made("ClipNorm")), r"must be a list"),
    "a misspelt server optimizer": (
        changed("model.server_optimizer", made("torch.optim.Sgdd")),
        r"no torch.optim.Sgdd; did you mean 'SGD'",
    ),
    "a misspelt argument of a server optimizer": (
        changed("model.server_optimizer", made("torch.optim.SGD", lrr=1)),
        r"SGD has no argument 'lrr'; did you mean 'lr'",
    ),
    "a function for a server optimizer": (changed("model.server_optimizer", "torch.relu"), r"torch.relu does not make"),
    "a scheduler's missing argument": (
        changed("model.server_lr_scheduler", made("torch.optim.lr_scheduler.StepLR")),
        r"StepLR needs step_size",
    ),
    "a misspelt logger": (
        changed("trainer.logger", made("pytorch_lightning.loggers.TensorbordLogger")),
        r"did you mean 'TensorBoardLogger'",
    ),
    "no such callback": (changed("trainer.callbacks", [made("Nope")]), r"there is no class 'Nope'"),
    # types
    "a word for a number": (
        changed("trainer.max_epochs", "two"),
        r"trainer.max_epochs=two must be a whole number",
    ),
    "a fraction for a whole number": (changed("data.cohort_size", 1.5), r"data.cohort_size=1.5 must be a whole number"),
    "half a step": (changed("model.local_steps", 2.5), r"model.local_steps=2.5 must be a whole number"),
    "a list for a number": (changed("trainer.max_epochs", [1]), r"trainer.max_epochs=\[1\] must be a whole number"),
    "a word for a module's number": (
        changed("model.module.init_args.in_features", "two"),
        r"model.module.init_args.in_features=two must be a whole number \(c.yaml, line \d+\)",
    ),
    "a word for an algorithm's number": (
        changed("model.algorithm", made("FedProx", mu="abc")),
        r"mu='abc' must be a ",
    ),
    "yes for a number": (changed("model.algorithm", made("FedProx", mu=True)), r"mu=True must be a number"),
    "not a number": (changed("model.algorithm", made("FedProx", mu=float("nan"))), r"mu=nan must be at least 0"),
    "infinity": (changed("model.algorithm", made("FedProx", mu=float("inf"))), r"mu=inf must be at least 0 and finite"),
    "a word for a seed": (
        {**TOY, "seed_everything": "x"},
        r"seed_everything=x must be true or false or a",
    ),
    "another word": (changed("model.on_worker_error", "drp"), r"must be 'raise' or 'drop'; did you mean 'drop'"),
    "a number for a path": (changed("model.state_dir", 3), r"model.state_dir=3 must be a text"),
    # ranges
    "a negative weight": (changed("model.algorithm", made("FedProx", mu=-1)), r"mu=-1 must be at least 0"),
    "no epoch": (changed("model.local_epochs", 0), r"local_epochs=0: a worker must train"),
    "no memory": (changed("model.state_memory_mb", 0), r"state_memory_mb=0 must be at least 1"),
    "a negative number of curves": (changed("model.log_workers_up_to", -1), r"log_workers_up_to=-1 must be at least 0"),
    "an empty cohort": (changed("data.cohort_size", 0), r"cohort_size=0 must lie between 1 and the population of 2"),
    "a cohort larger than the population": (changed("data.cohort_size", 3), r"cohort_size=3 must lie between 1 and"),
    "a negative seed of the data": (changed("data.seed", -1), r"seed=-1 must be at least 0"),
    "a negative seed": ({**TOY, "seed_everything": -5}, r"seed_everything=-5 must be at least 0"),
    "no noise": (changed("model.privacy", made("CentralDP", clip=1.0)), r"CentralDP needs noise_multiplier="),
    "a negative budget": (
        changed("model.privacy", made("CentralDP", clip=1.0, epsilon=-1)),
        r"epsilon=-1\) must be positive and finite",
    ),
    "a transform's range": (
        changed("model.transforms", [made("ClipNorm", max_norm=-1)]),
        r"max_norm=-1\.0\) must",
    ),
    "a schedule's range": (
        changed("model.local_lr_schedule", made("ExponentialDecay", gamma=-1)),
        r"gamma=-1.0 must",
    ),
    "a population's range": (
        changed("data.workers", made("lightning_fed.datasets.FCUBE", batch_size=0)),
        r"batch_size=0: give at least 1",
    ),
    "a row that there is not": (changed("data.workers.bob.init_args.rows", [9]), r"rows=\[9\]: give at least one row"),
    # workers
    "no workers": (without("data.workers"), r"data.workers is missing"),
    "workers without a value": (changed("data.workers", None), r"data.workers is missing"),
    "empty workers": (changed("data.workers", {}), r"workers is empty; federated learning needs at least one"),
    "a list of workers": (changed("data.workers", ["bob"]), r"data.workers=\['bob'\] must be a section with names"),
    "a worker without a value": (
        changed("data.workers.bob", None),
        r"data.workers.bob=None must be a Lightning",
    ),
    "a number for a worker": (changed("data.workers.bob", 3), r"data.workers.bob=3 must be a LightningDataModule"),
    "a module for a worker": (
        changed("data.workers.bob", made("lightning_fed.models.LinearRegression")),
        r"data.workers.bob: lightning_fed.models.LinearRegression is no LightningDataModule",
    ),
    "a worker's misspelt class": (
        changed("data.workers.bob", made("lightning_fed.datasets.TojDataModule")),
        r"data.workers.bob: .*did you mean 'ToyDataModule'\? \(c.yaml, line \d+\)",
    ),
    "two wrong workers": (
        changed("data.workers", {"bob": 3, "alice": BOB, "carol": made("nowhere.Data")}),
        r"data.workers.bob=3 .*; data.workers.carol cannot be built either",
    ),
    "a number for a worker's name": (changed("data.workers", {1: BOB}), r"the name 1 must be a string"),
    "yes for a worker's name": (changed("data.workers", {True: BOB}), r"the name True must be a string"),
    "an empty name": (changed("data.workers", {"": BOB}), r"the name '' must be a string that is not empty"),
    # the Trainer
    "a negative number of epochs": (changed("trainer.max_epochs", -5), r"`max_epochs` must be a non-negative integer"),
    "a negative number of steps": (changed("trainer.max_steps", -5), r"`max_steps` must be a non-negative integer"),
    "no such accelerator": (changed("trainer.accelerator", "quantum"), r"invalid accelerator name"),
    "no such strategy": (changed("trainer.strategy", "warp"), r"invalid strategy name"),
    "a strategy that cannot work": (changed("trainer.strategy", "fsdp"), r"fsdp"),
    "no device": (changed("trainer.devices", -2), r"`devices` selected with `CPUAccelerator` should be an int > 0"),
    "no such precision": (changed("trainer.precision", "17"), r"trainer.precision=17 must be 64, 32, 16"),
    # what shows only when the run begins
    "too few workers for Krum": (
        changed("model.aggregator", made("Krum", attackers=1)),
        r"Krum\(attackers=1\) needs n",
    ),
    "more workers than there are": (
        changed("model.min_workers", 3),
        r"min_workers=3 can never be met by a cohort",
    ),
    "layers that there are not": (
        changed("model.algorithm", made("FedPer", personal=["no.*"])),
        r"'no\.\*' matches",
    ),
    "a negative learning rate": (
        changed("model.server_optimizer", made("torch.optim.SGD", lr=-1.0)),
        r"server_optimizer could not be made: ValueError: Invalid learning rate",
    ),
    "what a scheduler refuses": (
        changed("model.server_lr_scheduler", made("torch.optim.lr_scheduler.OneCycleLR", max_lr=0.1)),
        r"server_lr_scheduler could not be made: ValueError: You must define either total_steps",
    ),
    "a negative accumulation": (
        changed("trainer.accumulate_grad_batches", -1),
        r"accumulate_grad_batches=-1\) must",
    ),
}

FILES: dict[str, tuple[bytes, str]] = {
    "tabs": (b"model:\n\tmodule: x\n", r"config c.yaml, line 2 is no YAML: found character '\\t'"),
    "unclosed": (b"model: [1, 2\n", r"config c.yaml, line 2 is no YAML: expected ',' or '\]'"),
    "an open quote": (b"model: 'x\n", r"config c.yaml, line 2 is no YAML"),
    "bad indent": (b"model:\n  a: 1\n b: 2\n", r"config c.yaml, line 3 is no YAML"),
    "empty": (b"", r"config c.yaml is empty"),
    "a comment only": (b"# nothing\n", r"config c.yaml is empty"),
    "a list": (b"- a\n- b\n", r"config c.yaml must have the sections model, data and trainer, and is a list"),
    "a word": (b"hello\n", r"and is a single value"),
    "binary": (b"\x00\x01", r"config c.yaml is no YAML"),
    "bytes that are no text": (b"\xff\xfe\xfa", r"bytes that are no text"),
    "two documents": (b"a: 1\n---\nb: 2\n", r"another document"),
    "an unknown alias": (b"model: *x\n", r"line 1 is no YAML: found undefined alias 'x'"),
    "program code": (b"model: {a: !!python/object/apply:os.mkdir ['x']}\n", r"could not determine a constructor"),
    "an alias within itself": (b"model: &a\n  b: *a\n", r"model.b holds itself"),
    "a section twice": (
        b"model: {}\nmodel: {}\n",
        r"line 2: the key 'model' stands twice in the file, first",
    ),
    "an option twice": (
        b"trainer:\n  max_epochs: 1\n  max_epochs: 2\n",
        r"line 3: the key 'max_epochs' stands twice",
    ),
    "a worker twice": (
        (ROOT / "configs" / "toy.yaml").read_bytes().replace(b"alice:", b"bob:"),
        r"c.yaml, line \d+: the key 'bob' stands twice in the section data.workers, first in line \d+",
    ),
    "a worker twice, once in quotes": (
        b"data:\n  workers:\n    bob: 1\n    'bob': 2\n",
        r"line 4: the key 'bob'",
    ),
}

COMMANDS: dict[str, tuple[list[str], str]] = {
    "no command": ([], r"no command is given; give one of fit, validate, test, predict, .*privacy"),
    "a misspelt command": (["validat"], r"no command 'validat'; .*; did you mean 'validate'"),
    "another command": (["train"], r"there is no command 'train'; give one of fit"),
    "no command but options": (["-c", "c.yaml"], r"no command is given|give -c after the command"),
    "no config": (["fit"], r"model.module and data.workers are missing"),
    "-c without a path": (["fit", "-c"], r"-c/--config: expected one argument"),
    "-c with an empty path": (["fit", "-c", ""], r"-c needs the path of a config"),
    "a folder": (["fit", "-c", "."], r"config . is a folder"),
    "no such file": (
        ["fit", "-c", "nothing.yaml"],
        r"no config 'nothing.yaml', neither in this folder nor among",
    ),
    "a misspelt config": (["fit", "-c", "tpy.yaml"], r"did you mean 'toy.yaml'"),
    "no such folder": (
        ["fit", "-c", "experiment/toy.yaml"],
        r"no config file experiment/toy.yaml, and -c toy is the one that .*; did you mean 'experiments/toy.yaml'\?",
    ),
    "a bundled name in another folder": (["fit", "-c", "x/configs/toy.yaml"], r"no config file x/configs/toy.yaml"),
    "a folder and a file that there are not": (["fit", "-c", "experiment/toy"], r"mean 'experiments/toy.yaml'"),
    "nothing near": (["fit", "-c", "somewhere/else.yaml"], r"no config file somewhere/else.yaml$"),
    "a name in the folder of the bundled ones": (["fit", "-c", "configs/toi"], r"no config 'configs/toi'.*mean 'toy'"),
    "a way around": (["fit", "-c", "configs/../toy.yaml"], r"no config file configs/../toy.yaml"),
    "a bundled name here": (["fit", "-c", "./toy.yaml"], r"no config file ./toy.yaml"),
    "an absolute path": (["fit", "--config=/nowhere/toy.yaml"], r"no config file /nowhere/toy.yaml"),
    "the same key twice on the command line": (
        ["fit", "-c", "{model: {}, model: {}}"],
        r"key 'model' stands twice",
    ),
    "a misspelt option": (["fit", "-c", "c.yaml", "--model.algoritm", "FedAvg"], r"mean '--model.algorithm'"),
    "the beginning of an option": (["fit", "-c", "c.yaml", "--trainer.max_epoch=3"], r"mean '--trainer.max_epochs'"),
    "a class where none is taken": (["fit", "-c", "c.yaml", "--data.class_path=x"], r"no option '--data.class_path'$"),
    "an option of another command": (["fit", "--nope"], r"there is no option '--nope'"),
    "a word too many": (["fit", "-c", "c.yaml", "foo"], r"there is no option 'foo'"),
    "a file for a folder": (
        ["fit", "-c", "c.yaml", "--trainer.default_root_dir=c.yaml/runs"],
        r"Not a directory: .*c.yaml",
    ),
    "a wrong value": (
        ["fit", "-c", "c.yaml", "--trainer.max_epochs=abc"],
        r"trainer.max_epochs=abc must be a whole",
    ),
    "a misspelt class": (
        ["fit", "-c", "c.yaml", "--model.algorithm=FedAv"],
        r"class 'FedAv'; did you mean 'FedAvg'",
    ),
    "a section in a file that there is not": (
        ["fit", "-c", "c.yaml", "--data", "no.yaml"],
        r"data=no.yaml must be a",
    ),
    "validate without a checkpoint": (["validate", "-c", "c.yaml"], r"validate needs --ckpt_path"),
    "test without a checkpoint": (["test", "-c", "c.yaml"], r"test needs --ckpt_path"),
    "predict without a checkpoint": (["predict", "-c", "c.yaml"], r"predict needs --ckpt_path"),
    "privacy without anything": (["privacy"], r"--rounds"),
}


@pytest.mark.parametrize(("config", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_is_wrong(config: Any, message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "c.yaml", config)
    assert re.search(message, said := refused(capsys, "fit", "-c", "c.yaml")), said


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_config(content: bytes, message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "c.yaml").write_bytes(content)
    assert re.search(message, said := refused(capsys, "fit", "-c", "c.yaml")), said


@pytest.mark.parametrize(("arguments", "message"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_that_is_wrong(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "experiments").mkdir()
    write(here / "experiments" / "toy.yaml", TOY)
    assert re.search(message, said := refused(capsys, *arguments)), said


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="there is no file here that even root cannot read")
def test_a_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert "config /proc/self/mem cannot be read: " in refused(capsys, "fit", "-c", "/proc/self/mem")


def test_a_section_in_a_file_of_its_own_may_not_have_a_key_twice(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "data.yaml").write_text("workers:\n  bob: 1\n  bob: 2\n")
    assert "data.yaml, line 3: the key 'bob' stands twice" in refused(
        capsys, "fit", "-c", "c.yaml", "--data", "data.yaml"
    )


# ---- checkpoints -----------------------------------------------------------------------------------------------------


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


KEYS = {"global_step": 0, "epoch": 0, "pytorch-lightning_version": pl.__version__, "loops": {}, "optimizer_states": []}
PLAIN = {"state_dict": LinearRegression(2, 1).state_dict(), **KEYS, "lr_schedulers": [], "callbacks": {}}


def saved(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def half_of_a_larger_one(path: Path) -> None:
    half(path)
    path.write_bytes(path.read_bytes().ljust(50_000, b"\0"))


def half(path: Path) -> None:
    torch.save(PLAIN, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, r"ckpt_path=it.ckpt: there is no such file"),
    "a folder": (Path.mkdir, r"ckpt_path=it.ckpt is a folder"),
    "empty": (Path.touch, r"ckpt_path=it.ckpt is an empty file"),
    "a text": (lambda path: path.write_text("root:x:0:0\n"), r"it.ckpt is no checkpoint, or a damaged one"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 4), r"it.ckpt is no checkpoint, or a damaged one"),
    "truncated": (half, r"it.ckpt is no checkpoint, or a damaged one"),
    "a large one, truncated": (half_of_a_larger_one, r"it.ckpt is no checkpoint, or a damaged one"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps({"state_dict": {}})), r"no checkpoint"),
    "a list": (saved([1]), r"is no checkpoint of a Trainer: it has no state_dict"),
    "parameters alone": (saved(PLAIN["state_dict"]), r"it has no state_dict"),
    "some keys": (saved({"state_dict": {}}), r"it has no global_step"),
    "program code": (saved({**PLAIN, "x": Code()}), r"holds objects of program code"),
    "another module's": (saved({**PLAIN, "state_dict": {}}), r"checkpoint"),
}


@pytest.mark.parametrize("subcommand", ["fit", "validate"])
@pytest.mark.parametrize(("make", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_that_is_none(
    make: Callable[[Path], Any], message: str, subcommand: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(here / "it.ckpt")
    assert re.search(message, said := refused(capsys, subcommand, "-c", "c.yaml", "--ckpt_path", "it.ckpt")), said
    assert not (here / "unpickled").exists()


def test_a_checkpoint_of_a_plain_fit_is_no_federated_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(PLAIN, here / "it.ckpt")
    assert "FederatedModule" in refused(capsys, "fit", "-c", "c.yaml", "--ckpt_path", "it.ckpt")


# ---- what is right ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy.yaml", "toy", "configs/toy.yaml", "configs/toy"])
def test_a_bundled_config_is_taken_by_its_name_alone_and_that_is_said(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["fit", "-c", name, "--print_config"])
    said = capsys.readouterr()
    assert left.value.code == 0
    note = rf"config '{name}': the one that .*, .*/configs/toy.yaml; there is no such file here\n"
    assert re.fullmatch(note, said.err)
    assert "LinearRegression" in said.out


def test_a_file_of_the_same_name_wins_and_nothing_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "toy.yaml", changed("trainer.max_epochs", 77))
    with pytest.raises(SystemExit):
        main(["fit", "-c", "toy.yaml", "--print_config"])
    said = capsys.readouterr()
    assert said.err == ""
    assert "max_epochs: 77" in said.out


def test_empty_sections_that_are_known_are_taken(here: Path) -> None:
    write(here / "c.yaml", {**changed("model.algorithm.init_args", {}), "optimizer": None} | {"ckpt_path": None})
    with pytest.raises(SystemExit):
        main(["fit", "-c", "c.yaml", "--print_config"])


def test_a_class_of_the_command_line_takes_the_place_of_one_in_the_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "c.yaml", changed("model.algorithm", made("FedProx", mu=0.1)))
    with pytest.raises(SystemExit) as left:
        main(["fit", "-c", "c.yaml", "--model.algorithm=FedAvg", "--print_config"])
    assert left.value.code == 0, capsys.readouterr().err


def test_the_line_of_every_key_is_that_of_the_file() -> None:
    file = ConfigFile.parsed("c.yaml", "model:\n  a: 1\n  b:\n    - c: 2\ndata: {d: 3}\n")
    assert file.where(["model"]) == "c.yaml, line 1"
    assert file.where(["model", "b", "0", "c"]) == "c.yaml, line 4"
    assert file.where(["data", "d", "unknown"]) == "c.yaml, line 5"
    assert file.where(["trainer"]) == ""


# ---- the user's own code ---------------------------------------------------------------------------------------------


def test_an_error_in_the_users_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(*_: Any) -> Any:
        raise ValueError("a fault in the user's training_step")

    monkeypatch.setattr(LinearRegression, "training_step", bad)
    with pytest.raises(WorkerError, match="a fault in the user's training_step"):
        main(["fit", "-c", "c.yaml", "--model.engine=sequential"])


def test_an_error_of_another_kind_is_no_answer_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_refusal(KeyError("x"))
    assert is_refusal(ValueError("mu=-1 must be at least 0"))

    def broken(*_: Any) -> Any:
        raise AssertionError("a fault of ours")

    monkeypatch.setattr(command, "read_checkpoint", broken)
    with pytest.raises(AssertionError, match="a fault of ours"):
        main(["fit", "-c", "c.yaml", "--ckpt_path=it.ckpt"])


def test_there_are_more_than_a_hundred_of_them() -> None:
    assert len(CONFIGS) + len(FILES) + len(COMMANDS) + 2 * len(CHECKPOINTS) > 140


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "data.workers",
            made(
                "lightning_fed.datasets.PartitionedPopulation",
                source=made("lightning_fed.datasets.DigitsDataModule"),
                partition="lightning_fed.datasets.IID",
            ),
            r"data.workers.init_args.partition: IID needs workers \(c.yaml, line \d+\)",
        ),
        (
            "model.module",
            made("foreign.Net"),
            "model.module: foreign.Net is a LightningModule of lightning.pytorch, but lightning_fed runs on "
            "pytorch_lightning, and the two do not mix: set the environment variable LIGHTNING_FED_PL=",
        ),
    ],
    ids=["forgotten arguments", "the other Lightning"],
)
def test_the_cause_is_named_and_no_value_of_a_parser(
    key: str, value: Any, sentence: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, foreign = ModuleType("lightning.pytorch"), ModuleType("foreign")
    vars(theirs)["LightningModule"] = type("LightningModule", (), {})
    vars(foreign)["Net"] = type("Net", (vars(theirs)["LightningModule"],), {"__module__": "foreign"})
    monkeypatch.setitem(sys.modules, "lightning.pytorch", theirs)
    monkeypatch.setitem(sys.modules, "foreign", foreign)
    write(here / "c.yaml", changed(key, value))
    assert re.match(sentence, refused(capsys, "fit", "-c", "c.yaml"))


def test_a_config_of_this_folder_goes_before_one_of_its_name_that_comes_with_the_package(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "digits.yaml", changed("trainer.max_epochs", "few"))
    with pytest.raises(SystemExit):
        main(["fit", "-c", "digits"])
    said = capsys.readouterr().err
    assert "config 'digits': taking the file digits.yaml\n" in said
    assert "error: trainer.max_epochs=few must be a whole number or None (digits.yaml, line" in said
