"""A node's own policy: what a file may say, what a run may ask for, and what a job may do in a round."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers import fit
from private import Net, job, people, updates

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms import Algorithm, Ditto, FedAvg, FedNova, FedPer, FedProx, FedRep, QFedAvg, Scaffold
from lightning_fed.node import NodeAccount, Policy, PolicyError, RequiredPromise, RequiredSecureAggregation
from lightning_fed.privacy import (
    DPFTRL,
    AdaptiveClip,
    CentralDP,
    DistributedDP,
    LocalDP,
    LocalGaussian,
    LocalSkellam,
    Privacy,
    PrivateRun,
    RecordDP,
    Setting,
    SubsampledGaussian,
)
from lightning_fed.secure import SecureAggregation
from lightning_fed.state import OwnState
from lightning_fed.transforms import ClipNorm
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Penalty, RecordPrivacy, Updates, WorkerError
from lightning_fed.wire.terms import Terms
from lightning_fed.worker.outbox import Outbox
from lightning_fed.worker.sealing import Sealing

PAGE = Path(__file__).parents[2] / "docs" / "node_policy.md"
DELTA = 1e-5
FINGERPRINT = "sha256:" + "0" * 64
TERMS = Terms("a1", 7, FINGERPRINT, {"class": "FedAvg", "arguments": {}}, population=10, cohort_size=5, least_workers=5)

LOCAL = LocalDP(clip=1.0, noise_multiplier=4.0, delta=DELTA)
RECORD = RecordDP(clip=1.0, sampling_rate=0.25, delta=DELTA, noise_multiplier=2.0)
SHARED = DistributedDP(clip=1.0, survivors=4, noise_multiplier=4.0, delta=DELTA)
PROMISES = {"LocalDP": LOCAL, "RecordDP": RECORD, "DistributedDP": SHARED}

INSISTS_ON_LOCAL = RequiredPromise("LocalDP", clip=1.0, noise_multiplier=4.0)
INSISTS_ON_RECORD = RequiredPromise("RecordDP", clip=1.0, noise_multiplier=2.0, sampling_rate=0.25)
INSISTS_ON_SHARED = RequiredPromise("DistributedDP", clip=1.0, noise_multiplier=4.0, survivors=4)
INSISTS = {"LocalDP": INSISTS_ON_LOCAL, "RecordDP": INSISTS_ON_RECORD, "DistributedDP": INSISTS_ON_SHARED}


def sent(promise: Privacy | None, **changes: Any) -> Job:
    """The job that an honest server sends under a promise, with some changes."""
    plain = replace(job(), local=changes.pop("local", LocalTraining()))
    if promise is not None:
        run = began(promise, plain.local)
        plain = promise.job(plain, run)
        plain = replace(plain, promise={**plain.promise, "release_metrics": float(promise.release_metrics)})
    return replace(plain, **changes)


def began(promise: Privacy, local: LocalTraining = LocalTraining()) -> PrivateRun:
    return promise.start(Setting(10, 5, None, rounds=None, seed=7, local=local, dimension=2 * SIZE))


def check_terms(
    policy: Policy,
    promise: Privacy | None = None,
    algorithm: Algorithm = FedAvg(),
    transforms: Any = (),
    **terms: Any,
) -> None:
    policy.check_terms(replace(TERMS, **terms), outbox_of(promise, algorithm, transforms))


def outbox_of(promise: Privacy | None, algorithm: Algorithm = FedAvg(), transforms: Any = ()) -> Outbox:
    """An outbox that seals what leaves, where a promise counts on it."""
    seals = isinstance(promise, DistributedDP)
    sealing = Sealing(SecureAggregation(clip=1.0), cohort=10) if seals else None
    return Outbox(algorithm, transforms, promise, sealing=sealing)


def written(folder: Path, text: str) -> Policy:
    path = folder / "policy.yaml"
    path.write_text(text)
    return Policy.read(path)


# ---- the file --------------------------------------------------------------------------------------------------------

WHOLE = f"""\
modules: [{FINGERPRINT}]
algorithms: [FedAvg, FedProx]
transforms: false
least_workers: 5
promise:
  class: LocalDP
  clip: 1.0
  noise_multiplier: 4
  release_metrics: true
secure_aggregation:
  threshold: 0.7
  neighbours: 16
most_rounds: 100
most_epsilon: 8
delta: 1e-5
evaluation: false
prediction: false
sizes: 1000
attributes: [net.dropout.p]
failures: hidden
"""


def test_every_setting_of_a_file(tmp_path: Path) -> None:
    assert written(tmp_path, WHOLE) == Policy(
        modules=(FINGERPRINT,),
        algorithms=("FedAvg", "FedProx"),
        transforms=False,
        least_workers=5,
        promise=RequiredPromise("LocalDP", clip=1.0, noise_multiplier=4, release_metrics=True),
        secure_aggregation=RequiredSecureAggregation(threshold=0.7, neighbours=16),
        most_rounds=100,
        most_epsilon=8,
        delta=1e-5,
        evaluation=False,
        prediction=False,
        sizes=1000,
        attributes=("net.dropout.p",),
        failures="hidden",
    )


def test_in_words(tmp_path: Path) -> None:
    assert str(Policy()) == "no limits"
    assert str(written(tmp_path, WHOLE)) == (
        f"modules {FINGERPRINT}; algorithms FedAvg, FedProx; no transforms; at least 5 workers behind an aggregate; "
        "LocalDP with clip at most 1.0, noise_multiplier at least 4, metrics shown; secure aggregation with a "
        "threshold of at least 0.7 and at least 16 neighbours; at most 100 rounds of each worker; ε of at most 8 for "
        "δ = 1e-05, over all runs; no evaluation; no prediction; sizes of at most 1000; attributes net.dropout.p; "
        "failures hidden"
    )
    assert "at least 3 workers behind an aggregate, as the server says" in str(Policy(least_workers=3))
    assert repr(Policy(least_workers=3, promise=INSISTS_ON_LOCAL)) == (
        "Policy(least_workers=3, promise=RequiredPromise(promise='LocalDP', clip=1.0, noise_multiplier=4.0))"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"policy\.yaml holds no settings"),
        ("# least_workers: 5\n", r"policy\.yaml holds no settings"),
        ("{}", r"policy\.yaml holds no settings"),
        ("- FedAvg", r"policy\.yaml holds no settings"),
        ("a: [", r"policy\.yaml, line 1 is no YAML: "),
        ("\x00", r"policy\.yaml.* is no YAML: "),
        ("least_worker: 5", r"line 1: there is no setting 'least_worker'; did you mean 'least_workers'\?"),
        ("most_rounds: 1\nzzz: 1", r"line 2: there is no setting 'zzz'; there are modules, algorithms, .*attributes"),
        ("most_rounds: 9\nmost_rounds: 99", r"line 2: most_rounds stands in line 1 already; leave one of them out"),
        ("promise: {class: LocalDP, clip: 1, clip: 9}", r"promise\.clip stands in line 1 already"),
        ("1: 2", r"line 1: a setting has a name"),
        ("<<: {most_rounds: 1}", r"line 1: a setting has a name"),
        ("most_rounds:", r"line 1: most_rounds has no value; give it one, or leave it out"),
        ("most_rounds: 0", r"policy\.yaml, line 1: most_rounds=0 must be at least 1"),
        ("most_rounds: 2.5", r"line 1: most_rounds=2\.5 must be a whole number"),
        ("most_rounds: true", r"line 1: most_rounds=True must be a whole number of at least 1, not a bool"),
        ("most_rounds: .inf", r"line 1: most_rounds=inf must be a whole number"),
        ("least_workers: .nan", r"line 1: least_workers=nan must be a whole number"),
        ("least_workers: '5'", r"line 1: least_workers='5' must be a whole number of at least 1, not a str"),
        ("most_epsilon: .inf\ndelta: 1e-5", r"line 1: most_epsilon=inf must be positive"),
        ("most_epsilon: .nan\ndelta: 1e-5", r"line 1: most_epsilon=nan must be positive"),
        ("most_epsilon: 8", r"line 1: most_epsilon=8 needs a delta"),
        ("delta: 1e-5", r"policy\.yaml.*: delta=1e-05 is that of most_epsilon, which is missing"),
        ("most_epsilon: 8\ndelta: 1", r"line 2: delta=1 must be above 0 and below 1"),
        ("modules: sha256:00", r"line 1: modules='sha256:00' must be a list of fingerprints"),
        ("modules: [sha256:00]", r"line 1: modules has 'sha256:00', which is no fingerprint"),
        ("modules: []", r"line 1: modules is empty, so that nothing is allowed"),
        ("algorithms: [fedavg]", r"line 1: algorithms has 'fedavg', which is none of .*; did you mean 'FedAvg'\?"),
        ("algorithms: [1]", r"line 1: algorithms\[0\]=1 must be a string"),
        ("transforms: [ClipNorms]", r"line 1: transforms has 'ClipNorms', .*did you mean 'ClipNorm'\?"),
        ("transforms: 'no'", r"line 1: transforms='no' must be a list of transforms, True or False"),
        ("evaluation: 'no'", r"line 1: evaluation='no' must be True or False"),
        ("prediction: 0", r"line 1: prediction=0 must be True or False"),
        ("sizes: hiden", r"line 1: sizes='hiden' must be 'exact', 'hidden' or a whole number; did you mean 'hidden'\?"),
        ("sizes: 0", r"line 1: sizes=0 must be at least 1"),
        ("sizes: true", r"line 1: sizes=True must be a whole number"),
        ("attributes: net.p", r"line 1: attributes='net\.p' must be a list of paths of attributes"),
        ("failures: no", r"line 1: failures=False must be one of 'told', 'hidden', not a bool"),
        ("failures: hidden", r"line 1: failures='hidden' needs a promise"),
        (
            "failures: hidden\npromise: {class: RecordDP, clip: 1, noise_multiplier: 1, sampling_rate: 0.1}",
            r"line 1: failures='hidden' needs a promise that hides workers, .*; RecordDP hides single examples",
        ),
        ("promise: LocalDP", r"line 1: promise must be a section, such as \{class: LocalDP"),
        ("promise:\n  clip: 1\n  noise_multiplier: 1", r"line 1: promise has no class; add it"),
        ("promise:\n  class: LocalDP\n  clip: 1", r"line 1: promise has no noise_multiplier; add it"),
        (
            "promise:\n  class: LocalDP\n  noise: 1",
            r"line 3: a promise has no setting 'noise'; there are class, clip, noise_multiplier, sampling_rate",
        ),
        ("promise:\n  class: LocalDP\n  clips: 1", r"line 3: .* 'clips'; did you mean 'clip'\?"),
        ("promise:\n  class: LocalDP\n  clip:\n  noise_multiplier: 1", r"line 3: clip has no value"),
        ("promise:\n  class: localdp\n  clip: 1\n  noise_multiplier: 1", r"line 2: class='localdp' must .*'LocalDP'\?"),
        ("promise:\n  class: CentralDP\n  clip: 1\n  noise_multiplier: 1", r"line 2: .* kept by the server alone"),
        ("promise:\n  class: DPFTRL\n  clip: 1\n  noise_multiplier: 1", r"line 2: .* kept by the server alone"),
        ("promise:\n  class: LocalDP\n  clip: -1\n  noise_multiplier: 1", r"line 3: clip=-1 must be positive"),
        ("promise:\n  class: LocalDP\n  clip: .inf\n  noise_multiplier: 1", r"line 3: clip=inf must be positive"),
        (
            "promise:\n  class: LocalDP\n  clip: 1\n  noise_multiplier: 0",
            r"line 4: noise_multiplier=0 must be positive",
        ),
        ("promise: {class: LocalDP, clip: 1, noise_multiplier: 1, survivors: 2}", r"survivors: LocalDP has no such"),
        ("promise: {class: RecordDP, clip: 1, noise_multiplier: 1}", r"sampling_rate is missing: say which .*at most"),
        ("promise: {class: DistributedDP, clip: 1, noise_multiplier: 1}", r"survivors is missing"),
        (
            "promise: {class: RecordDP, clip: 1, noise_multiplier: 1, sampling_rate: 2}",
            r"line 1: sampling_rate=2 must be above 0 and at most 1",
        ),
        (
            "promise: {class: LocalDP, clip: 1, noise_multiplier: 1, release_metrics: 1}",
            r"line 1: release_metrics=1 must be True or False",
        ),
        ("secure_aggregation: false", r"line 1: secure_aggregation must be a section, such as .*, or true"),
        ("secure_aggregation:\n  treshold: 0.7", r"line 2: .* 'treshold'; did you mean 'threshold'\?"),
        ("secure_aggregation:\n  threshold:", r"line 2: threshold has no value"),
        ("secure_aggregation: {threshold: 0.5}", r"line 1: threshold=0\.5 must be above 0\.5 and at most 1"),
        ("secure_aggregation: {neighbours: 1}", r"line 1: neighbours=1 must be at least 2"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        written(tmp_path, text)
    assert str(raised.value).count("policy.yaml") == 1
    assert "\n" not in str(raised.value)


def test_the_page_shows_every_setting(tmp_path: Path) -> None:
    text = PAGE.read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    policy = written(tmp_path, example)
    names = [field.name for field in fields(policy) if field.init]
    assert [line.partition(":")[0] for line in example.splitlines() if re.match(r"\w", line)] == names
    for name in names:
        assert name == "delta" or re.search(rf"^\| `{name}`", text, flags=re.MULTILINE), name
    (line,) = re.findall(r"^```json\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    account = NodeAccount(tmp_path / "account")
    account.charge("bob", LocalGaussian(4.0), 1, "a1", 3)
    assert list(json.loads(line)) == list(json.loads(account.path("bob").read_text()))
    account.path("bob").write_text(line)
    assert NodeAccount(account.folder).of("bob") == account.of("bob")


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.yaml cannot be read: No such file"):
        Policy.read(tmp_path / "gone.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"bytes\.yaml is no YAML file: it holds bytes"):
        Policy.read(tmp_path / "bytes.yaml")


@pytest.mark.parametrize(
    ("numbers", "beyond"),
    [
        ({"clip": 1.0, "noise_multiplier": 4.0}, None),
        ({"clip": 0.5, "noise_multiplier": 9.0}, None),
        ({"clip": 1.0, "noise_multiplier": None}, None),
        ({"clip": math.nextafter(1.0, 2.0)}, "clip"),
        ({"clip": 0.0}, "clip"),
        ({"clip": -1.0}, "clip"),
        ({"clip": math.nan}, "clip"),
        ({"noise_multiplier": math.nextafter(4.0, 0.0)}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"noise_multiplier": math.inf}, "noise_multiplier"),
    ],
)
def test_numbers_beyond_a_limit(numbers: dict[str, float | None], beyond: str | None) -> None:
    assert INSISTS_ON_LOCAL.beyond(numbers) == beyond


def test_the_same_is_checked_in_python() -> None:
    with pytest.raises(ValueError, match="least_workers=0 must be at least 1"):
        Policy(least_workers=0)
    with pytest.raises(TypeError, match="promise must be a RequiredPromise, not str"):
        Policy(promise="LocalDP")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a delta"):
        Policy(most_epsilon=1.0)


# ---- terms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "promise",
    [None, *PROMISES.values(), CentralDP(clip=1.0, noise_multiplier=1.0)],
    ids=["none", *PROMISES, "CentralDP"],
)
@pytest.mark.parametrize("policy", [Policy(), Policy(least_workers=5, algorithms=["FedAvg"], modules=[FINGERPRINT])])
def test_what_the_policy_does_not_speak_of_is_allowed(policy: Policy, promise: Privacy | None) -> None:
    check_terms(policy, promise)
    policy.check_job(sent(promise), TERMS, promise)


@pytest.mark.parametrize("name", PROMISES)
def test_what_is_exactly_allowed_is_allowed(name: str) -> None:
    policy, promise = Policy(promise=INSISTS[name], most_epsilon=1e3, delta=DELTA), PROMISES[name]
    check_terms(policy, promise)
    policy.check_job(sent(promise), TERMS, promise)


LESS = LocalDP(clip=1.0, noise_multiplier=3.9, delta=DELTA)

BEYOND: dict[str, tuple[Policy, dict[str, Any], str]] = {
    "module": (Policy(modules=[FINGERPRINT]), {"fingerprint": "sha256:" + "1" * 64}, r"fingerprint sha256:1.*modules"),
    "algorithm": (Policy(algorithms=["FedAvg"]), {"algorithm": FedProx(0.1)}, r"algorithm FedProx, .*\[FedAvg\]"),
    "no transform": (
        Policy(transforms=False),
        {"transforms": [ClipNorm(1.0)]},
        "transform ClipNorm, .*transforms: false",
    ),
    "other transform": (Policy(transforms=["ours.Quantize"]), {"transforms": [ClipNorm(1.0)]}, "transform ClipNorm"),
    "workers": (Policy(least_workers=5), {"least_workers": 4}, "as few as 4 workers, .*least_workers: 5"),
    "no promise": (
        Policy(promise=INSISTS_ON_LOCAL),
        {},
        "the run makes no promise, .* promise: LocalDP with clip at most",
    ),
    "other promise": (Policy(promise=INSISTS_ON_LOCAL), {"promise": RECORD}, "the run promises RecordDP, .*LocalDP"),
    "the server's": (
        Policy(promise=INSISTS_ON_LOCAL),
        {"promise": CentralDP(clip=1.0, noise_multiplier=4.0)},
        "the run promises CentralDP",
    ),
    "the server's without sampling": (
        Policy(promise=INSISTS_ON_LOCAL),
        {"promise": DPFTRL(clip=1.0, noise_multiplier=4.0)},
        "the run promises DPFTRL",
    ),
    "clip": (
        Policy(promise=INSISTS_ON_LOCAL),
        {"promise": replace(LOCAL, clip=1.1)},
        r"clip=1\.1, .*promise\.clip: 1\.0",
    ),
    "noise": (
        Policy(promise=INSISTS_ON_LOCAL),
        {"promise": LESS},
        r"noise_multiplier=3\.9, .*promise\.noise_multiplier: 4",
    ),
    "rate": (Policy(promise=INSISTS_ON_RECORD), {"promise": replace(RECORD, sampling_rate=0.3)}, r"sampling_rate=0\.3"),
    "survivors": (Policy(promise=INSISTS_ON_SHARED), {"promise": replace(SHARED, survivors=5)}, "survivors=5"),
    "metrics": (
        Policy(promise=INSISTS_ON_LOCAL),
        {"promise": replace(LOCAL, release_metrics=True)},
        r"release_metrics=True, .*promise\.release_metrics: false",
    ),
    "seeded noise": (
        Policy(promise=INSISTS_ON_LOCAL),
        {"promise": replace(LOCAL, insecure_deterministic_noise=True)},
        "noise follows from its seed",
    ),
    "seeded noise, counted": (
        Policy(most_epsilon=8, delta=DELTA),
        {"promise": replace(LOCAL, insecure_deterministic_noise=True)},
        "noise follows from its seed.*most_epsilon: 8",
    ),
    "insecure": (Policy(promise=INSISTS_ON_LOCAL), {"promise": LOCAL, "insecure": True}, "noise follows from its seed"),
    "ε without a promise": (Policy(most_epsilon=8, delta=DELTA), {}, "no promise, and without noise.*most_epsilon: 8"),
    "ε at the server": (
        Policy(most_epsilon=8, delta=DELTA),
        {"promise": CentralDP(clip=1.0, noise_multiplier=4.0)},
        "CentralDP, and without noise of the worker's own no ε holds",
    ),
    "sizes": (Policy(sizes="hidden"), {"algorithm": FedNova()}, "FedNova needs the exact numbers.*sizes: hidden"),
    "sizes, capped": (Policy(sizes=10), {"algorithm": QFedAvg(1.0, 0.1)}, "QFedAvg needs the exact.*sizes: 10"),
    "no mean, unweighted": (
        Policy(),
        {"promise": RECORD, "algorithm": QFedAvg(1.0, 0.1, weighted=False)},
        "what QFedAvg releases is no mean",
    ),
    "no mean": (Policy(), {"promise": RECORD, "algorithm": QFedAvg(1.0, 0.1)}, "what QFedAvg releases is no mean"),
    "trains again": (Policy(), {"promise": RECORD, "algorithm": FedRep(["w"])}, "RecordDP counts one training.*FedRep"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_terms_beyond_the_policy(name: str) -> None:
    policy, asked, says = BEYOND[name]
    with pytest.raises(PolicyError, match=says) as raised:
        check_terms(policy, **asked)
    assert "\n" not in str(raised.value)


def test_a_share_of_the_noise_is_no_promise_where_each_is_seen() -> None:
    with pytest.raises(PolicyError, match="no secure aggregation, so that the server sees each share of the noise"):
        Policy(promise=INSISTS_ON_SHARED).check_terms(TERMS, Outbox(promise=SHARED))


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(0.1), Scaffold(), Ditto(1.0), FedPer(["w"])])
@pytest.mark.parametrize("name", ["LocalDP", "RecordDP"])
def test_algorithms_that_go_with_a_promise(name: str, algorithm: Algorithm) -> None:
    check_terms(Policy(promise=INSISTS[name]), PROMISES[name], algorithm)


def test_noise_that_an_epsilon_decides_is_checked_in_the_job() -> None:
    policy, promise = Policy(promise=INSISTS_ON_LOCAL), LocalDP(clip=1.0, epsilon=8.0, delta=DELTA)
    check_terms(policy, promise)
    enough = {"bound": 1.0, "noise_multiplier": 4.0}
    policy.check_job(replace(job(), promise=enough), TERMS, promise)
    with pytest.raises(PolicyError, match=r"noise_multiplier=3\.99, .*promise\.noise_multiplier: 4"):
        policy.check_job(replace(job(), promise={**enough, "noise_multiplier": 3.99}), TERMS, promise)


def test_the_place_in_the_file_is_named_and_its_folders_are_not(tmp_path: Path) -> None:
    policy = written(tmp_path, WHOLE)
    for asked, line in (
        ({"promise": LOCAL, "least_workers": 1}, 4),
        ({"promise": LESS}, 8),
        ({"promise": RECORD}, 5),
        ({"promise": LOCAL, "algorithm": Scaffold()}, 2),
    ):
        with pytest.raises(PolicyError, match=rf"the policy \(policy\.yaml, line {line}\) says") as raised:
            check_terms(policy, **asked)  # type: ignore[arg-type]
        assert str(tmp_path) not in str(raised.value)


def test_an_algorithm_of_ones_own_has_a_name_with_its_module() -> None:
    class Own(FedAvgLike):
        pass

    name = f"{Own.__module__}.{Own.__qualname__}"
    check_terms(Policy(algorithms=[name]), algorithm=Own())
    with pytest.raises(PolicyError, match=re.escape(name)):
        check_terms(Policy(algorithms=["FedAvg"]), algorithm=Own())


class FedAvgLike(Algorithm):
    def aggregator(self) -> WeightedMean:
        return WeightedMean()


# ---- jobs ------------------------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


def promised(**numbers: float) -> Callable[[Job], Job]:
    """Changes numbers of the promise in a job; None takes one out."""

    def changed(honest: Job) -> Job:
        both = {**honest.promise, **numbers}
        return replace(honest, promise={name: value for name, value in both.items() if value is not None})

    return changed


def hidden(**numbers: Any) -> Callable[[Job], Job]:
    """Changes numbers of DP-SGD in a job, and those that have to be equal to them."""

    def changed(honest: Job) -> Job:
        assert honest.record_privacy is not None
        same = {"clip": "bound", "noise_multiplier": "noise_multiplier"}
        also = {same[name]: value for name, value in numbers.items() if name in same}
        return replace(
            honest,
            record_privacy=replace(honest.record_privacy, **numbers),
            promise={**honest.promise, **also},
        )

    return changed


def with_(**changes: Any) -> Callable[[Job], Job]:
    return lambda honest: replace(honest, **changes)


HOSTILE: list[tuple[str, Callable[[Job], Job], str]] = [
    ("LocalDP", with_(promise={}), "the job has no bound"),
    ("LocalDP", promised(noise_multiplier=None), "the job has no noise_multiplier"),  # type: ignore[arg-type]
    ("LocalDP", promised(bound=1.5), r"clips at 1\.5, and the terms"),
    ("LocalDP", promised(bound=0.5), r"clips at 0\.5, and the terms"),
    ("LocalDP", promised(bound=NAN), "bound=nan"),
    ("LocalDP", promised(bound=INF), "bound=inf"),
    ("LocalDP", promised(bound=-1.0), r"clips at -1\.0"),
    ("LocalDP", promised(bound=0.0), r"clips at 0\.0"),
    ("LocalDP", promised(noise_multiplier=3.0), r"noise_multiplier=3\.0, and the terms"),
    ("LocalDP", promised(noise_multiplier=0.0), r"noise_multiplier=0\.0, and the terms"),
    ("LocalDP", promised(noise_multiplier=-4.0), r"noise_multiplier=-4\.0"),
    ("LocalDP", promised(noise_multiplier=NAN), "noise_multiplier=nan"),
    ("LocalDP", promised(noise_multiplier=INF), "noise_multiplier=inf"),
    ("LocalDP", promised(release_metrics=1.0), "the job asks for metrics"),
    ("LocalDP", promised(release_metrics=NAN), "release_metrics=nan"),
    ("LocalDP", promised(release_metrics=-1.0), "the job asks for metrics"),
    ("LocalDP", with_(record_privacy=RecordPrivacy(1.0, 4.0, 0.5)), "hides single examples"),
    ("LocalDP", with_(attributes={"net.p": 0.0}), r"changes the attribute 'net\.p'.*attributes: false"),
    ("LocalDP", with_(attributes={"F.torch.sys.modules.lightning_fed.privacy.clipping._SLACK": 1e9}), "attribute"),
    ("LocalDP", with_(work={"bob": 2.0}), r"for 2\.0 of its local training"),
    ("LocalDP", with_(work={"bob": NAN}), "for nan of its"),
    ("RecordDP", with_(record_privacy=None), "trains without clipping and noise"),
    ("RecordDP", hidden(clip=9.0), r"clips at 9\.0"),
    ("RecordDP", hidden(clip=-1.0), r"clips at -1\.0"),
    ("RecordDP", hidden(noise_multiplier=0.1), r"noise_multiplier=0\.1"),
    ("RecordDP", hidden(noise_multiplier=NAN), "noise_multiplier=nan"),
    ("RecordDP", hidden(sampling_rate=1.0), "trains with .*sampling_rate=1"),
    ("RecordDP", hidden(sampling_rate=NAN), "trains with .*sampling_rate=nan"),
    ("RecordDP", hidden(sampling_rate=0.0), "trains with .*sampling_rate=0"),
    ("RecordDP", hidden(seed=7), "gives the noise a seed"),
    ("RecordDP", with_(record_privacy=RecordPrivacy(9.0, 2.0, 0.25)), r"trains with .*clip=9"),
    ("RecordDP", with_(record_privacy=RecordPrivacy(1.0, 0.1, 0.25)), r"trains with .*noise_multiplier=0\.1"),
    ("RecordDP", with_(record_privacy=RecordPrivacy(NAN, 2.0, 0.25)), "trains with .*clip=nan"),
    ("RecordDP", promised(bound=9.0), r"clips at 9\.0"),
    ("RecordDP", promised(releases=None), "allows None private steps"),  # type: ignore[arg-type]
    ("RecordDP", promised(releases=5), "allows 5 private steps, and its local training has 4"),
    ("RecordDP", promised(releases=NAN), "releases=nan"),
    ("RecordDP", promised(releases=INF), "releases=inf"),
    (
        "RecordDP",
        with_(local=LocalTraining(steps=10**9)),
        "allows 4 private steps, and its local training has 1000000000",
    ),
    ("RecordDP", with_(work={"bob": 1e9}), "of its local training"),
    ("RecordDP", with_(work={"bob": 0.0}), r"for 0\.0 of its"),
    ("RecordDP", with_(attributes={"training": False}), "changes the attribute 'training'"),
    ("RecordDP", promised(release_metrics=1.0), "the job asks for metrics"),
    ("DistributedDP", promised(bound=2.0), r"clips at 2\.0"),
    ("DistributedDP", promised(noise_multiplier=1e-9), "noise_multiplier=1e-09"),
]


@pytest.mark.parametrize(("name", "changed", "says"), HOSTILE)
def test_jobs_that_are_not_what_was_agreed(name: str, changed: Callable[[Job], Job], says: str, tmp_path: Path) -> None:
    policy, promise, account = Policy(promise=INSISTS[name]), PROMISES[name], NodeAccount(tmp_path / "account")
    honest = sent(promise)
    policy.check_job(honest, TERMS, promise)
    with pytest.raises(PolicyError, match=says):
        policy.check_job(changed(honest), TERMS, promise)
    with pytest.raises(PolicyError, match=says):
        policy.admit(account, "bob", changed(honest), TERMS, promise)
    assert account.rounds("bob") == 0, "what is refused costs nothing"


@pytest.mark.parametrize("name", PROMISES)
def test_a_run_that_changes_its_promise_after_the_terms(name: str) -> None:
    """The same objects are asked again in every round, so that terms which nobody has agreed to change nothing."""
    policy = Policy(promise=INSISTS[name])
    weaker = replace(PROMISES[name], noise_multiplier=0.1)  # type: ignore[type-var]
    with pytest.raises(PolicyError, match=r"noise_multiplier=0\.1"):
        policy.check_job(sent(weaker), TERMS, weaker)
    with pytest.raises(PolicyError, match="makes no promise"):
        policy.check_job(sent(None), TERMS, None)
    with pytest.raises(PolicyError, match="follows from its seed"):
        policy.check_job(sent(PROMISES[name]), replace(TERMS, insecure=True), PROMISES[name])


def test_numbers_of_a_promise_that_nobody_made() -> None:
    for hostile in (
        replace(job(), promise={"bound": 1.0}),
        replace(job(), record_privacy=RecordPrivacy(1.0, 1.0, 0.5)),
    ):
        with pytest.raises(PolicyError, match="the terms of its run make none"):
            Policy().check_job(hostile, TERMS, None)


@pytest.mark.parametrize("name", PROMISES)
def test_what_a_server_may_send_under_a_promise(name: str) -> None:
    """None of it reaches beyond what is clipped and noised; the page of decisions says why."""
    promise = PROMISES[name]
    vector = torch.full((2,), 1e30)
    harmless = sent(
        promise,
        seed=-(2**60),
        epoch=10**9,
        population=0,
        failed=(1, 2),
        last=9,
        validated={"loss": math.nan},
        lr_factor=math.nan,
        penalty=Penalty(proximal=-1e30, linear={"bob": vector}),
        sent={"control": vector},
        extra=("control", "more"),
        frozen=frozenset({"w"}),
        wants_gradient=True,
        work={"bob": 0.5},
    )
    Policy(promise=INSISTS[name]).check_job(harmless, TERMS, promise)


def test_attributes_that_the_owner_of_the_node_allows() -> None:
    policy = Policy(promise=INSISTS_ON_LOCAL, attributes=["net.dropout.p"])
    policy.check_job(sent(LOCAL, attributes={"net.dropout.p": 0.1}), TERMS, LOCAL)
    with pytest.raises(PolicyError, match=r"attribute 'net\.dropout'.*attributes: \[net\.dropout\.p\]"):
        policy.check_job(sent(LOCAL, attributes={"net.dropout": 0.1}), TERMS, LOCAL)
    Policy().check_job(sent(None, attributes={"anything": 1}), TERMS, None)
    for none in (Policy(attributes=False), Policy(most_epsilon=1e3, delta=DELTA)):
        with pytest.raises(PolicyError, match="attributes: false"):
            none.check_job(sent(LOCAL, attributes={"anything": 1}), TERMS, LOCAL)


@dataclass(frozen=True)
class Careless(LocalDP):  # type: ignore[misc]
    """A promise of the same numbers that keeps nothing."""

    audience: ClassVar[str] = LocalDP.audience

    def worker(self, updates: Any, job: Job) -> Any:
        return updates


def test_a_class_that_is_derived_from_the_promise_is_another() -> None:
    careless = Careless(clip=1.0, noise_multiplier=4.0)
    with pytest.raises(PolicyError, match="the run promises Careless"):
        check_terms(Policy(promise=INSISTS_ON_LOCAL), careless)


@pytest.mark.parametrize(
    ("promise", "insists"),
    [
        (None, None),
        (LOCAL, INSISTS_ON_LOCAL),
        (RECORD, INSISTS_ON_RECORD),
        (SHARED, INSISTS_ON_SHARED),
        (CentralDP(clip=AdaptiveClip(count_std=2.0), noise_multiplier=1.0, delta=DELTA), None),
        (replace(RECORD, insecure_deterministic_noise=True), None),
        (replace(LOCAL, noise_multiplier=None, epsilon=50.0), None),
        (replace(LOCAL, release_metrics=True), replace(INSISTS_ON_LOCAL, release_metrics=True)),
    ],
    ids=["none", "local", "record", "distributed", "central", "seeded", "by its epsilon", "metrics"],
)
@pytest.mark.filterwarnings("ignore:.*NOT private", "ignore:.*shown as they are")
def test_the_jobs_of_real_runs_are_admitted_and_counted_as_by_the_server(
    promise: Privacy | None,
    insists: RequiredPromise | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    jobs: list[Job] = []
    leave = Outbox.__call__

    def spied(self: Outbox, train: Any, job: Job, workers: Any) -> Any:
        jobs.append(job)
        return leave(self, train, job, workers)

    monkeypatch.setattr(Outbox, "__call__", spied)
    fed = FederatedModule(Net(), privacy=promise, engine="sequential")
    fit(fed, FederatedDataModule(people(4)), max_steps=3)
    cohorts = {each.cohort: each for each in jobs}
    assert len(cohorts) == 3
    policy, account = Policy(promise=insists), NodeAccount(tmp_path / "account")
    policy.check_terms(TERMS, outbox_of(promise))
    for each in cohorts.values():
        policy.admit(account, "w0", each, TERMS, promise)
    assert account.rounds("w0") == 3
    if promise is None or isinstance(promise, CentralDP) or promise.insecure_deterministic_noise:
        assert account.epsilon("w0", DELTA) == math.inf
    elif promise is not SHARED:
        assert fed.private_run is not None
        assert account.epsilon("w0", DELTA) == fed.private_run.accountant.epsilon(DELTA)


# ---- the account -----------------------------------------------------------------------------------------------------


def test_rounds_are_counted_for_each_worker_over_all_runs(tmp_path: Path) -> None:
    policy, account = Policy(most_rounds=2), NodeAccount(tmp_path / "account")
    policy.admit(account, "bob", sent(None), TERMS, None)
    policy.admit(account, "bob", sent(None), replace(TERMS, run="b2"), None)
    with pytest.raises(PolicyError, match=r"worker 'bob' was trained 2 times, .*most_rounds: 2"):
        policy.admit(account, "bob", sent(None), replace(TERMS, run="c3"), None)
    policy.admit(account, "alice", sent(None), TERMS, None)
    assert (account.rounds("bob"), account.rounds("alice")) == (2, 1)


def test_epsilon_is_counted_for_each_worker_over_all_runs(tmp_path: Path) -> None:
    account = NodeAccount(tmp_path / "account")
    scale = NodeAccount(tmp_path / "scale")
    for cohort in range(3):
        scale.charge("bob", LocalGaussian(4.0), 1, "a1", cohort)
    policy = Policy(most_epsilon=scale.epsilon("bob", DELTA), delta=DELTA)
    for run in ("a1", "b2", "c3"):
        policy.admit(account, "bob", sent(LOCAL), replace(TERMS, run=run), LOCAL)
    with pytest.raises(PolicyError, match=r"worker 'bob' has spent ε = .*, and this round is too much, .*most_epsilon"):
        policy.admit(account, "bob", sent(LOCAL), TERMS, LOCAL)
    assert account.rounds("bob") == 3


def test_a_billion_private_steps_are_charged_and_refused(tmp_path: Path) -> None:
    account, policy = NodeAccount(tmp_path / "account"), Policy(most_epsilon=8.0, delta=DELTA)
    few, many = (sent(RECORD, local=LocalTraining(steps=steps)) for steps in (1, 10**9))
    with pytest.raises(PolicyError, match="this round is too much"):
        policy.admit(account, "bob", many, TERMS, RECORD)
    policy.admit(account, "bob", few, TERMS, RECORD)
    Policy().admit(account, "alice", many, TERMS, RECORD)
    assert account.of("alice").counts.popitem()[0].releases == 10**9
    with pytest.raises(PolicyError, match=r"counts 9e\+15 at most"):
        Policy().admit(account, "bob", sent(RECORD, local=LocalTraining(steps=2**60)), TERMS, RECORD)


def test_private_steps_of_several_epochs(tmp_path: Path) -> None:
    account = NodeAccount(tmp_path / "account")
    Policy().admit(account, "bob", sent(RECORD, local=LocalTraining(epochs=3)), TERMS, RECORD)
    other = NodeAccount(tmp_path / "other")
    other.charge("bob", SubsampledGaussian(2.0, 0.25), 3 * 4, "a1", 0, unit="example")
    assert account.of("bob") == other.of("bob")


def test_a_share_of_the_noise_is_counted_by_itself(tmp_path: Path) -> None:
    """Whether three others add theirs, a node cannot see: z = 4 among four is z = 2 for itself."""
    account, by_itself = NodeAccount(tmp_path / "account"), NodeAccount(tmp_path / "by itself")
    Policy(most_epsilon=1e3, delta=DELTA).admit(account, "bob", sent(SHARED), TERMS, SHARED)
    # √t z = 8 standard deviations of a share are 8192 units at most, and 4096 units are C; of two numbers
    by_itself.charge("bob", LocalSkellam(2.0, units=4096.0, dimension=2), 1, "a1", 0)
    assert account.of("bob") == by_itself.of("bob")


def test_a_training_without_noise_before_the_policy_counts(tmp_path: Path) -> None:
    account = NodeAccount(tmp_path / "account")
    Policy().admit(account, "bob", sent(None), TERMS, None)
    with pytest.raises(PolicyError, match="has spent ε = inf"):
        Policy(most_epsilon=1e9, delta=DELTA).admit(account, "bob", sent(LOCAL), TERMS, LOCAL)


def test_promises_that_cannot_be_added_up_are_refused(tmp_path: Path) -> None:
    account, policy = NodeAccount(tmp_path / "account"), Policy(most_epsilon=1e3, delta=DELTA)
    policy.admit(account, "bob", sent(LOCAL), TERMS, LOCAL)
    with pytest.raises(PolicyError, match="cannot be added up"):
        policy.admit(account, "bob", sent(RECORD), TERMS, RECORD)
    assert account.rounds("bob") == 1


def test_an_account_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    (tmp_path / "account").mkdir()
    (tmp_path / "account" / "bob.jsonl").mkdir()
    with pytest.raises(PolicyError, match="nothing is trained that is not in it") as raised:
        Policy().admit(NodeAccount(tmp_path / "account"), "bob", sent(None), TERMS, None)
    assert "account/bob.jsonl" in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


def test_seeded_noise_is_counted_as_none(tmp_path: Path) -> None:
    account, seeded = NodeAccount(tmp_path / "account"), replace(LOCAL, insecure_deterministic_noise=True)
    Policy().admit(account, "bob", sent(seeded), TERMS, seeded)
    Policy().admit(account, "alice", sent(LOCAL), replace(TERMS, insecure=True), LOCAL)
    assert account.epsilon("bob", DELTA) == account.epsilon("alice", DELTA) == math.inf


# ---- what leaves -----------------------------------------------------------------------------------------------------


def test_sizes() -> None:
    assert [Policy(sizes=sizes).told_size(30) for sizes in (None, "exact", "hidden", 10, 50)] == [30, 30, None, 10, 30]
    assert Policy(promise=INSISTS_ON_LOCAL).told_size(30) is None
    assert Policy(promise=INSISTS_ON_LOCAL, sizes="exact").told_size(30) == 30


def test_what_leaves_says_no_more_than_sizes_do() -> None:
    double = {"dtype": torch.float64}
    examples, steps = torch.tensor([30.0, 7.0, 0.0], **double), torch.tensor([3.0, 1.0, 0.0], **double)
    stack = updates([[1.0, 2.0]] * 3, examples=examples, weight=examples * 2, steps=steps)
    assert Policy().leaving(stack, FedAvg()) is stack
    capped = Policy(sizes=10).leaving(stack, FedAvg())
    assert capped.examples.tolist() == [10.0, 7.0, 0.0]
    assert capped.weight.tolist() == [20.0, 14.0, 0.0]
    assert capped.steps.tolist() == [1.0, 1.0, 1.0]
    covered = Policy(sizes="hidden").leaving(stack, FedAvg())
    assert covered.examples.tolist() == [1.0, 1.0, 1.0]
    assert covered.weight.tolist() == [2.0, 2.0, 0.0]
    assert covered.steps.tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(covered.delta, stack.delta)
    unweighted = Policy(sizes="hidden").leaving(stack, QFedAvg(1.0, 0.1, weighted=False))
    assert unweighted.examples.tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(unweighted.weight, stack.weight)  # which has no number of examples in it


SIZE = 2000
FAILED = WorkerError("bob", 0, "ValueError: there is a secret in row 7")


def failing(job: Job, workers: Any) -> Any:
    yield from (FAILED for _ in workers)


def learning(job: Job, workers: Any) -> Any:
    """Each worker's update is of ones, longer than any bound."""
    for worker in workers:
        rows = torch.ones(1, SIZE)
        yield updates(rows, workers=(worker,), cohort=job.cohort, gradient=rows, buffers={"count": torch.tensor([4])})


@pytest.mark.parametrize(
    "algorithm", [FedAvg(), Scaffold(), FedPer(["head"]), Ditto(1.0)], ids=lambda each: type(each).__name__
)
@pytest.mark.parametrize("name", ["LocalDP", "DistributedDP"])
def test_noise_leaves_in_place_of_a_failure(name: str, algorithm: Algorithm) -> None:
    """Whether a training fails depends on data, and by its model a server can choose how."""
    policy, promise = Policy(promise=INSISTS[name]), PROMISES[name]
    parameters = {"w": torch.ones(SIZE - 10), "head": torch.ones(10)}
    asked = replace(sent(promise), model=GlobalModel(parameters, {"count": torch.tensor(3)}), cohort=7)
    asked = algorithm.assign(asked, {})
    outbox = Outbox(algorithm, (ClipNorm(1.0),), promise, OwnState(algorithm.tables))
    (told,) = outbox(failing, asked, ["bob"])
    assert told is FAILED
    noise = policy.in_place_of(FAILED, asked, outbox)
    (update,) = outbox(learning, asked, ["bob"])
    assert isinstance(update, Updates)
    assert noise is not None
    for field in fields(update):
        ours, honest = getattr(noise, field.name), getattr(update, field.name)
        if field.name not in ("delta", "extra"):
            assert str(ours) == str(honest), field.name
    assert noise.extra.keys() == update.extra.keys()
    std = 4.0 if name == "LocalDP" else 4.0 / 2
    for vector in (noise.delta, *noise.extra.values()):
        assert vector.shape == (1, SIZE)
        assert vector.dtype == torch.float32
        assert vector.std() == pytest.approx(std, rel=0.1), "six standard deviations of the estimate"
    assert not any(outbox.own.has(table, "bob") for table in algorithm.tables)


def test_failures_that_are_told() -> None:
    for policy, promise in (
        (Policy(), LOCAL),
        (Policy(), None),
        (Policy(promise=INSISTS_ON_LOCAL, failures="told"), LOCAL),
        (Policy(promise=INSISTS_ON_RECORD), RECORD),
    ):
        assert policy.in_place_of(FAILED, sent(promise), Outbox(promise=promise)) is None


def test_evaluation() -> None:
    kinds: tuple[Any, ...] = ("val", "test", "predict")

    def allowed(policy: Policy) -> list[bool]:
        return [policy.allows_evaluation(kind) for kind in kinds]

    assert allowed(Policy()) == [True, True, True]
    assert allowed(Policy(evaluation=False)) == [False, False, True]
    assert allowed(Policy(prediction=False)) == [True, True, False]
    assert allowed(Policy(promise=INSISTS_ON_LOCAL)) == [False, False, True]
    assert allowed(Policy(promise=INSISTS_ON_LOCAL, evaluation=True)) == [True, True, True]
    assert allowed(Policy(promise=replace(INSISTS_ON_LOCAL, release_metrics=True))) == [True, True, True]
