"""Whatever a public constructor is given that cannot be right is refused at once, by name.

The table is about every public class: one that is not in it, or that takes a wrong value in silence, makes a test red.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rows, Scalar
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule, RoundRobin, Uniform, privacy
from lightning_fed.aggregation import (
    Bucketing,
    Bulyan,
    CenteredClipping,
    GeometricMedian,
    Krum,
    MajorityVote,
    Median,
    MultiKrum,
    NearestNeighborMixing,
    NormalizedMean,
    TrimmedMean,
    UniformMean,
    WeightedMean,
)
from lightning_fed.algorithms import (
    Cyclic,
    Ditto,
    FedAvg,
    FedBN,
    FedDyn,
    FedNova,
    FedPer,
    FedProx,
    FedRep,
    QFedAvg,
    Scaffold,
)
from lightning_fed.callbacks import Dashboard, PredictionWriter, RoundProgress, RoundProgressBar
from lightning_fed.datasets import (
    FCUBE,
    IID,
    MNIST,
    DigitsDataModule,
    Dirichlet,
    DirichletSizes,
    FashionMNIST,
    FCUBETest,
    FrameDataModule,
    HuggingFaceDataModule,
    LabelsPerWorker,
    LogNormal,
    LongTail,
    NaturalIds,
    NoiseByWorker,
    PartitionedPopulation,
    Shards,
    Synthetic,
    ToyDataModule,
)
from lightning_fed.engines import Auto, Isolated, Sequential, Vectorized
from lightning_fed.models import LinearRegression, MLPClassifier
from lightning_fed.optim import CosineDecay, ExponentialDecay, FedAdagrad, FedAdam, StepDecay, Yogi
from lightning_fed.secure import SecureAggregation
from lightning_fed.selection import (
    Availability,
    CohortSampler,
    MinSeparation,
    Poisson,
    RandomAvailability,
    Response,
    WeightedBySize,
)
from lightning_fed.selection.availability import asked
from lightning_fed.testing import attacks
from lightning_fed.transforms import EDEN, ClipNorm, Compressed, KBit, PowerSGD, RandomK, Sign, TopK, WorkerMomentum
from lightning_fed.wire import LocalTraining

PACKAGES = ("", ".aggregation", ".algorithms", ".callbacks", ".datasets", ".engines", ".models", ".optim")
PACKAGES += (
    ".population",
    ".privacy",
    ".secure",
    ".selection",
    ".state",
    ".testing",
    ".testing.attacks",
    ".transforms",
    ".wire",
)

DP = {"clip": 1.0, "noise_multiplier": 1.0}


def each(arguments: dict[str, Any], *makes: Callable[..., Any]) -> dict[Callable[..., Any], dict[str, Any]]:
    return dict.fromkeys(makes, arguments)


TABLE: dict[Callable[..., Any], dict[str, Any]] = {
    FederatedModule: {"module": Scalar()},
    FederatedDataModule: {"workers": {"bob": Rows([1.0]), "alice": Rows([2.0])}},
    **each({}, Dashboard, PredictionWriter, RoundProgress, RoundProgressBar),
    **each({}, Auto, Isolated, Sequential, Vectorized),
    **each({}, Uniform, RoundRobin, Poisson, WeightedBySize, MinSeparation, RandomAvailability),
    **each({}, Median, UniformMean, WeightedMean, NormalizedMean, GeometricMedian),
    **each({"attackers": 1}, Krum, MultiKrum, Bulyan),
    Bucketing: {"aggregator": Median()},
    NearestNeighborMixing: {"aggregator": Median(), "attackers": 1},
    CenteredClipping: {"radius": 1.0},
    TrimmedMean: {"trim": 1},
    **each({}, Cyclic, FedAvg, FedBN, FedNova, Scaffold),
    Ditto: {"lam": 0.1},
    FedDyn: {"alpha": 0.1},
    FedProx: {"mu": 0.1},
    QFedAvg: {"q": 1.0, "lr": 0.1},
    **each({"personal": ["head.*"]}, FedPer, FedRep),
    ClipNorm: {"max_norm": 1.0},
    WorkerMomentum: {},
    Compressed: {"compressor": EDEN()},
    **each({}, EDEN, KBit, PowerSGD, Sign),
    **each({"fraction": 0.1}, RandomK, TopK),
    MajorityVote: {"scale": 0.1},
    **each({"params": [nn.Parameter(torch.zeros(1))]}, FedAdagrad, FedAdam, Yogi),
    **each({}, attacks.ALIE, attacks.BitFlip, attacks.Mimic, attacks.SignFlip),
    attacks.Attacked: {"aggregator": Median(), "attack": attacks.SignFlip(), "attackers": ["bob"]},
    attacks.Gaussian: {"std": 1.0},
    attacks.IPM: {"epsilon": 0.1},
    attacks.LabelFlip: {"classes": 10},
    attacks.SameValue: {"value": 1.0},
    attacks.Scaled: {"factor": 10.0},
    CosineDecay: {"rounds": 10},
    ExponentialDecay: {"gamma": 0.9},
    StepDecay: {"every": 2},
    LinearRegression: {"in_features": 2, "out_features": 1},
    **each({}, MLPClassifier, ToyDataModule, DigitsDataModule, FCUBE, FCUBETest, Synthetic, NaturalIds),
    PartitionedPopulation: {"source": ToyDataModule(), "partition": IID(workers=2)},
    **each({"folder": "data"}, MNIST, FashionMNIST),
    FrameDataModule: {"train": "patients.csv", "features": ["age"], "label": "ill"},
    HuggingFaceDataModule: {"train": "ylecun/mnist"},
    **each({"workers": 2}, IID, LabelsPerWorker, Shards),
    **each({"workers": 2, "alpha": 0.5}, Dirichlet, DirichletSizes),
    LogNormal: {"workers": 2, "sigma": 1.0},
    NoiseByWorker: {"population": PartitionedPopulation(ToyDataModule(), IID(workers=2))},
    LongTail: {"source": ToyDataModule()},
    LocalTraining: {},
    **each(DP, privacy.CentralDP, privacy.LocalDP, privacy.DPFTRL),
    privacy.DistributedDP: {**DP, "survivors": 2},
    privacy.RecordDP: {**DP, "sampling_rate": 0.1, "delta": 1e-5},
    privacy.AdaptiveClip: {},
    SecureAggregation: {"clip": 1.0},
    privacy.Accountant: {},
    privacy.Noise: {},
    **each({"noise_multiplier": 1.0}, privacy.Gaussian, privacy.LocalGaussian),
    privacy.SubsampledGaussian: {"noise_multiplier": 1.0, "sampling_rate": 0.1},
    privacy.FixedSizeGaussian: {"noise_multiplier": 1.0, "cohort_size": 2, "population": 9},
    **each({"noise_multiplier": 1.0, "units": 10, "dimension": 4}, privacy.LocalSkellam, privacy.SkellamSum),
    privacy.TreeAggregation: {"noise_multiplier": 1.0, "steps": 4},
    privacy.CorrelatedGaussian: {"noise_multiplier": 1.0, "sensitivity": 1.5, "rounds": 4, "separation": 2},
    privacy.BandedToeplitz: {"bands": 2},
    privacy.BufferedToeplitz: {},
    privacy.prefix_errors: {"coefficients": np.ones(3), "separation": 3},
    privacy.audit: {"privacy": privacy.CentralDP(**DP), "population": 4, "trials": 30, "dimension": 4},
    privacy.noise_for: {"epsilon": 1.0, "delta": 1e-5, "rounds": 2, "mechanism": privacy.Gaussian},
    privacy.rounds_for: {"epsilon": 1.0, "delta": 1e-5, "mechanism": privacy.Gaussian(9.0)},
    privacy.analytic_gaussian_sigma: {"epsilon": 1.0, "delta": 1e-5, "sensitivity": 1.0},
}

EXEMPT = {
    "FederatedLoop": "made by FederatedModule, at the start of a fit",
    "EvaluationReport": "made by FederatedModule, at the end of an evaluation",
    "Share": "made by an evaluation; what others send of it is tried in tests/wire/test_codec.py",
    **dict.fromkeys(
        ("Loopback", "OverLoopback"), "made by a test; what nodes say over it is tried in tests/engines/remote"
    ),
    "Response": "a tuple; it is looked at when an Availability gives it as its answer",
    "LabelCounts": "plain data, made by count_labels()",
    "Partition": "takes arrays, of which tests/datasets/test_partition.py tries wrong ones",
    **dict.fromkeys(("SubsetDataModule", "SplitSubsetDataModule"), "made by a PartitionedPopulation"),
    **dict.fromkeys(("Batches", "Names", "Worker", "WorkerPool"), "made by the datamodule"),
    **dict.fromkeys(("OwnState", "OwnTables", "StateFolder"), "made by FederatedModule"),
    **dict.fromkeys(("PrivateRun", "Setting"), "made by a promise, at the start of a fit"),
    **dict.fromkeys(("Prepared", "QuietTrainer", "TrainerOfData"), "made by the datamodule, of a Trainer"),
    "WorkerData": "a type, of what datamodule_of() takes; tests/population/test_given.py tries wrong values",
    "Audit": "what audit() returns",
    "audit_fits": "tests/privacy/test_audit_fits.py tries wrong values, since a right one trains many times",
    **dict.fromkeys(("Layered", "Points"), "the module and the data of the contract suites"),
    **dict.fromkeys(
        ("Aggregate", "Codes", "GlobalModel", "Job", "Layout", "Model", "Updates"), "plain data, for the codec"
    ),
    "Seen": "made by Attacked, in a round",
    "Form": "a tuple, made by Compressed",
    **dict.fromkeys(("Penalty", "RecordPrivacy"), "plain data; who makes it checks it"),
}

ZERO_IS_FINE = {
    **dict.fromkeys([(Krum, "attackers"), (MultiKrum, "attackers"), (Bulyan, "attackers")], "nobody attacks"),
    **dict.fromkeys([(TrimmedMean, "trim"), (NearestNeighborMixing, "attackers")], "the mean"),
    (GeometricMedian, "tolerance"): "all iterations are made",
    **dict.fromkeys([(WorkerMomentum, "momentum"), (WorkerMomentum, "dampening")], "as in torch"),
    **dict.fromkeys([(NormalizedMean, "momentum"), (NormalizedMean, "shrinkage")], "plain SGD"),
    **dict.fromkeys([(FedNova, "momentum"), (FedNova, "mu"), (FedProx, "mu"), (QFedAvg, "q")], "FedAvg"),
    (privacy.LocalSkellam, "beta"): "no rounding is drawn again",
    (privacy.SkellamSum, "beta"): "no rounding is drawn again",
    (Ditto, "lam"): "local training",
    **dict.fromkeys([(RandomAvailability, name) for name in ("absent", "lost", "stragglers")], "nobody is"),
    **dict.fromkeys([(FedAdagrad, "lr"), (FedAdam, "lr"), (Yogi, "lr"), (LinearRegression, "lr")], "as in torch"),
    **dict.fromkeys([(MLPClassifier, name) for name in ("lr", "momentum", "weight_decay")], "as in torch"),
    (FedAdagrad, "beta1"): "no momentum",
    (CosineDecay, "last"): "down to nothing",
    **dict.fromkeys([(FCUBE, "val_fraction"), (PartitionedPopulation, "val_fraction")], "nothing is held out"),
    (PartitionedPopulation, "num_workers"): "no process but this one",
    **dict.fromkeys([(Synthetic, "alpha"), (Synthetic, "beta"), (LogNormal, "sigma")], "no difference"),
    (NoiseByWorker, "std"): "no noise",
    (FederatedModule, "log_workers_up_to"): "no curves of single workers",
    **dict.fromkeys([(RoundProgress, "refresh_rate"), (RoundProgressBar, "refresh_rate")], "nothing is shown"),
}

A_NAME = {
    (FederatedModule, "state_dir"),
    (PredictionWriter, "file"),
    (FrameDataModule, "label"),
    *((kind, "folder") for kind in (MNIST, FashionMNIST)),
    *((HuggingFaceDataModule, name) for name in ("train", "val", "label", "split")),
}
"""Arguments that take any name, of a file or a column, for example."""

ANY_SIGN = {(attacks.Gaussian, "mean"), (attacks.SameValue, "value")}
"""Numbers that may be negative or 0."""

NO_FINITE = (True, "3", [3], object(), torch.tensor(3), 3j, math.nan, math.inf, -math.inf, np.float64("nan"))
NO_NUMBER = (*NO_FINITE, -1, -0.5)
NO_FLAG = ("no", 0, 1, None, [], "true")
NO_PATTERNS = ("head.*", 3, [3], [""], [], {"head": 1}, [None])
NO_OBJECT = (3, "nobody", [3], object())


def public() -> Iterator[tuple[str, str, Any]]:
    for package in PACKAGES:
        module = importlib.import_module(f"lightning_fed{package}")
        for name in module.__all__:
            yield module.__name__, name, getattr(module, name)


def constructors() -> set[Callable[..., Any]]:
    """Every public class that one makes, and the functions that take numbers from the user."""
    found: set[Callable[..., Any]] = set()
    for package, name, value in public():
        is_class = isinstance(value, type) and not inspect.isabstract(value) and not issubclass(value, Exception)
        is_function = inspect.isfunction(value) and package == "lightning_fed.privacy"
        if (is_class or is_function) and name not in EXEMPT:
            found.add(value)
    return found


def test_the_table_is_about_every_public_class() -> None:
    assert {made.__name__ for made in constructors()} == {made.__name__ for made in TABLE}
    names = {name for _, name, _ in public()}
    assert EXEMPT.keys() <= names, "what is no longer public needs no exception"


@pytest.mark.parametrize("make", TABLE, ids=lambda make: make.__name__)
def test_the_right_values_are_taken(make: Callable[..., Any]) -> None:
    make(**TABLE[make])


def wrong_values(make: Callable[..., Any], name: str, kind: str) -> Iterator[Any]:
    """The values that cannot be right for an argument of this annotation."""
    optional = "None" in kind
    if name == "personal":
        yield from NO_PATTERNS
    elif name in ("hidden", "rows", "betas") or (make is attacks.BitFlip and name == "bits"):
        yield from ("3", 3, [True], ["3"], [2.5], [-1], [math.nan], {1: 2})
    elif kind.startswith("bool"):
        yield from (value for value in NO_FLAG if not (optional and value is None))
    elif name in ("params", "ids") or (name == "labels" and "int" not in kind):
        return
    elif name == "label" and "int" in kind:  # a position or a name
        yield from (value for value in NO_FINITE if not isinstance(value, str))
    elif (make, name) in ANY_SIGN:
        yield from (*NO_FINITE, None)
    elif "int" in kind or "float" in kind:
        yield from NO_NUMBER
        if "float" not in kind:
            yield from (2.5, 2.0, np.float32(2.0))
        if (make, name) not in ZERO_IS_FINE and "seed" not in name:
            yield from (0, np.int64(0))
        if not optional:
            yield None
    else:
        yield from (value for value in NO_OBJECT if value != "nobody" or (make, name) not in A_NAME)
        if not optional and not kind.startswith("Callable"):
            yield None


ARGUMENTS = [
    pytest.param(make, name, values, id=f"{make.__name__}({name})")
    for make in TABLE
    for name, parameter in inspect.signature(make).parameters.items()
    if (values := tuple(wrong_values(make, name, str(parameter.annotation))))
]


@pytest.mark.parametrize(("make", "name", "values"), ARGUMENTS)
def test_a_wrong_value_is_refused_by_the_name_of_its_argument(
    make: Callable[..., Any], name: str, values: tuple[Any, ...]
) -> None:
    for value in values:
        try:
            make(**{**TABLE[make], name: value})
        except (TypeError, ValueError) as error:
            message = str(error)
            assert name in message, message
            assert "\n" not in message, message
        else:
            pytest.fail(f"{make.__name__}({name}={value!r}) is taken in silence")


def test_there_are_more_than_two_thousand_of_them() -> None:
    assert sum(len(argument.values[2]) for argument in ARGUMENTS) > 2000


NUMPY = [
    (make, name, parameter)
    for make in TABLE
    for name, parameter in inspect.signature(make).parameters.items()
    if str(parameter.annotation).split(" | ")[0] in ("int", "float") and "AdaptiveClip" not in str(parameter.annotation)
]


@pytest.mark.parametrize(
    ("make", "name", "parameter"), NUMPY, ids=lambda part: getattr(part, "__name__", str(part))[:30]
)
def test_numbers_of_numpy_are_taken_as_pythons_own(make: Callable[..., Any], name: str, parameter: Any) -> None:
    value = TABLE[make].get(name, parameter.default)
    number = np.float64 if str(parameter.annotation).startswith("float") else np.int64
    made = make(**{**TABLE[make], name: number(value or 1)}) if value not in (None, 0.0) else None
    held = vars(made).get(name) if hasattr(made, "__dict__") else None
    assert not isinstance(held, np.generic)


# ---- what the table's values cannot show -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"local_epochs": 1.5}, "local_epochs=1.5: a worker must train for at least one epoch, and a whole number"),
        ({"local_epochs": 2, "local_steps": 5}, "local_epochs=2 and local_steps=5 both say how long"),
        ({"local_steps": 2.5}, "local_steps=2.5: a worker must train for at least one step, and a whole number"),
        ({"engine": "sequental"}, "engine='sequental' must be one of .*; did you mean 'sequential'"),
        ({"engine": Sequential}, "engine must be an Engine, such as Sequential"),
        ({"on_worker_error": "ignore"}, "on_worker_error='ignore' must be one of 'raise', 'drop'"),
        ({"algorithm": FedAvg}, "algorithm must be an Algorithm, such as FedAvg"),
        ({"transforms": [FedAvg()]}, "transforms must be an UpdateTransform, such as ClipNorm"),
        ({"transforms": "clip"}, r"transforms='clip' must be a list of UpdateTransforms, such as \[ClipNorm"),
        (
            {"transforms": [Compressed(EDEN()), Compressed(KBit())]},
            "transforms has Compressed 2 times: codes are not compressed again",
        ),
        ({"transforms": [Compressed(EDEN()), ClipNorm(1.0)]}, "transforms has ClipNorm behind Compressed, .* last"),
        (
            {"transforms": [Compressed(EDEN())], "algorithm": Cyclic()},
            r"Compressed\(EDEN\(bits=2\)\): with Cyclic each worker goes on from what the one before",
        ),
        (
            {"transforms": [WorkerMomentum()], "algorithm": Cyclic()},
            "WorkerMomentum: with Cyclic each worker goes on from what the one before it has sent",
        ),
        (
            {"transforms": [WorkerMomentum()], "algorithm": FedNova()},
            r"WorkerMomentum sends a mean over rounds, and NormalizedMean \(FedNova's\) divides it by the local steps",
        ),
        (
            {"transforms": [Compressed(RandomK(0.1))], "privacy": privacy.CentralDP(**DP)},
            r"Compressed\(RandomK\(fraction=0\.1, scaled=True\)\) makes updates longer, and CentralDP clips",
        ),
        ({"broadcast": 8}, r"broadcast must be a Compressor, such as KBit\(bits=8\)"),
        ({"broadcast": KBit}, r"broadcast must be a Compressor, such as KBit\(bits=8\)"),
        ({"broadcast": Compressed(KBit())}, r"broadcast must be a Compressor, such as KBit\(bits=8\)"),
        *(
            ({"broadcast": biased}, r"broadcast=.*: it leaves numbers of a model out, .* take KBit\(bits=8\)")
            for biased in (TopK(0.1), Sign(), PowerSGD(), RandomK(0.1), RandomK(0.1, scaled=False))
        ),
        (
            {"broadcast": KBit(), "algorithm": Cyclic()},
            r"broadcast=KBit\(bits=8\): with Cyclic each worker goes on from .* leave it out",
        ),
        (
            {"secure_aggregation": {"clip": 1.0}},
            r"secure_aggregation must be a SecureAggregation, such as SecureAggregation\(clip=10\.0\)",
        ),
        ({"module": FederatedModule(Scalar())}, "module is a FederatedModule already"),
        ({"module": Scalar}, r"module must be a .*LightningModule, not the class Scalar: .* such as Scalar\(\)"),
        (
            {"module": nn.Linear(2, 1)},
            "module must be a .*LightningModule, not Linear, which does not say how it trains",
        ),
        ({"module": nn.Linear}, "module must be a .*LightningModule, not the class Linear, which does not say how"),
        (
            {"server_optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))])},
            r"server_optimizer=SGD\(\.\.\.\) must be a function that makes an optimizer",
        ),
    ],
)
def test_what_a_federated_module_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        FederatedModule(**{"module": Scalar(), **arguments})


def nothing(_: Any) -> None:
    return None


def foreign(_: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


def broken(_: Any) -> None:
    raise RuntimeError("no such optimizer")


def both(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([*parameters, nn.Parameter(torch.zeros(1))], lr=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"server_optimizer": nothing}, "server_optimizer must return a torch optimizer .*, not None"),
        ({"server_optimizer": list}, "server_optimizer must return a torch optimizer .*, not a list"),
        ({"server_optimizer": foreign}, "server_optimizer returned a SGD that leaves out 'x'"),
        ({"server_optimizer": both}, "server_optimizer returned a SGD that steps on parameters of another module"),
        ({"server_optimizer": broken}, "server_optimizer could not be made: RuntimeError: no such optimizer"),
        (
            {"server_optimizer": partial(torch.optim.SGD, lr=-1.0)},
            "server_optimizer could not be made: Val",
        ),
        ({"server_lr_scheduler": nothing}, "server_lr_scheduler must return a torch scheduler .*, not None"),
        ({"server_lr_scheduler": broken}, "server_lr_scheduler could not be made: RuntimeError"),
        (
            {"server_lr_scheduler": lambda _: torch.optim.lr_scheduler.StepLR(foreign(0), 1)},
            "server_lr_scheduler returned a scheduler of another optimizer",
        ),
    ],
)
def test_what_makes_no_server_optimizer_is_named_before_anything_trains(arguments: Any, message: str) -> None:
    fed = FederatedModule(Scalar(), **arguments)
    with pytest.raises((TypeError, ValueError), match=message):
        fed.configure_optimizers()


class Answers(Availability):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def respond(self, worker: str, number: int, seed: int) -> Response:
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"Answers.respond\('bob'\) must be a Response, such as Response\(\), not None"),
        (Response("away"), r"Answers.respond\('bob'\).outcome='away' must be one of 'replies', 'absent', 'lost'"),
        (Response(work=2.5), r"Answers.respond\('bob'\).work=2.5 must be at least 0 and at most 1"),
        (Response(work=math.nan), r"Answers.respond\('bob'\).work=nan must be at least 0 and at most 1"),
    ],
)
def test_what_is_no_answer_of_an_availability_is_named(answer: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        asked(Answers(answer), "bob", 0, 0)
    assert asked(Answers(Response("lost")), "bob", 0, 0) == Response("lost")


class Samples(CohortSampler):
    def __init__(self, positions: Any) -> None:
        self.positions = positions

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return self.positions  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (None, r"Samples.sample\(\)=None must be a list of positions in the population, not None"),
        (["bob"], r"Samples.sample\(\)='bob' must be a whole number, not a str"),
        ([0.5], r"Samples.sample\(\)=0.5 must be a whole number"),
        ([True], r"Samples.sample\(\)=True must be a whole number, not a bool"),
        ([2], r"Samples.sample\(\) gave \[2\]: positions must lie in \[0, 2\)"),
    ],
)
def test_what_is_no_cohort_of_a_sampler_is_named(positions: Any, message: str) -> None:
    workers = {"bob": Rows([1.0]), "alice": Rows([2.0])}
    data = FederatedDataModule(workers, cohort_size=1, sampler=Samples(positions))
    with pytest.raises((TypeError, ValueError), match=message):
        list(data.train_dataloader())


def test_positions_of_numpy_are_positions() -> None:
    workers = {"bob": Rows([1.0]), "alice": Rows([2.0])}
    (cohort, *_) = FederatedDataModule(workers, cohort_size=1, sampler=Samples(np.array([1]))).train_dataloader()
    assert cohort.workers == ("alice",)
