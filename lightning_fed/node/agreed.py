"""Checks that a job agrees with the terms of its run: with the promise, and each number that a worker uses.

Comparisons are written to refuse NaN, for which every comparison is false.
"""

from __future__ import annotations

import math

from lightning_fed.algorithms import Algorithm
from lightning_fed.node.errors import PolicyError
from lightning_fed.node.required_promise import numbers_of
from lightning_fed.privacy import AUDIENCES, Mechanism, Privacy, Setting
from lightning_fed.privacy.run import released_numbers
from lightning_fed.wire import Job, LocalTraining, RecordPrivacy
from lightning_fed.wire.terms import Terms

_MOST_RELEASES = 2**53


def check_goes_with(promise: Privacy, algorithm: Algorithm) -> None:
    """Refuse combinations that the server's own guard refuses: a server that is not trusted may run no guard."""
    name, kind = type(algorithm).__name__, type(promise).__name__
    if not algorithm.is_mean:
        raise PolicyError(f"the run makes {name} private by {kind}, and what {name} releases is no mean of updates")
    if promise.counts_trainings and algorithm.trains_again is not None:
        raise PolicyError(f"{kind} counts one training in a round, but {name} {algorithm.trains_again}")


def check_treats_all_alike(job: Job) -> None:
    """Refuse a job with parts for single workers, where only sums leave.

    A server that sends all workers but one a start from which they cannot learn reads that one's update off the sum.
    """
    linear = {} if job.penalty is None else job.penalty.linear
    for what, parts in {"work": job.work, "start": job.start, "penalty": linear}.items():
        if parts:
            raise PolicyError(
                f"the job has a {what} for {min(parts)!r} alone, and under secure aggregation one that differs by "
                "worker can single out an update in the sum; send all workers the same"
            )


def mechanism_of(promise: Privacy, terms: Terms, job: Job | None = None) -> Mechanism | None:
    """Return the mechanism of one worker's training, as seen by the server alone; before the first round, its kind."""
    noise = promise.noise_multiplier or 1.0 if job is None else job.promise["noise_multiplier"]
    local = LocalTraining() if job is None else job.local
    population, cohort_size = max(1, terms.population), max(1, terms.cohort_size)
    dimension = 1 if job is None else released_numbers(job.model.layout.size, job.extra)
    setting = Setting(population, cohort_size, None, terms.rounds, seed=terms.seed, local=local, dimension=dimension)
    try:
        return promise.mechanism_alone(noise, setting)
    except ValueError as error:
        raise PolicyError(f"what {type(promise).__name__} releases cannot be counted: {error}") from error


def check_numbers(job: Job, promise: Privacy) -> None:
    """Refuse a job whose numbers are not those of its promise."""
    name, given = type(promise).__name__, job.promise
    for each, value in given.items():
        if not math.isfinite(value):
            raise PolicyError(f"the job has {each}={value} for {name}, which is no number")
    missing = {"bound", "noise_multiplier"} - given.keys()
    if missing:
        raise PolicyError(f"the job has no {min(missing)}, which {name} needs")
    if given.get("release_metrics", 0.0) != 0 and not promise.release_metrics:
        raise PolicyError(f"the job asks for metrics, and the terms of its run have {name} without release_metrics")
    if promise.audience == AUDIENCES[0]:  # the server adds the noise, and moves the bound
        return
    bound, noise = given["bound"], given["noise_multiplier"]
    agreed = promise.bound()
    if not bound > 0 or not (promise.moving or bound == agreed):
        raise PolicyError(f"the job clips at {bound}, and the terms of its run have {name} with clip={agreed}")
    agreed_noise = noise if promise.noise_multiplier is None else promise.noise_multiplier
    if not noise > 0 or noise != agreed_noise:
        raise PolicyError(
            f"the job has noise_multiplier={noise}, and the terms of its run have {name} with "
            f"{promise.noise_multiplier}"
        )
    private = job.record_privacy
    if promise.unit != "example":
        if private is not None:
            raise PolicyError(f"the job hides single examples, and the terms of its run have {name}")
        return
    if private is None:
        raise PolicyError(f"the job trains without clipping and noise, and the terms of its run have {name}")
    if private.seed is not None and not promise.insecure_deterministic_noise:
        raise PolicyError(f"the job gives the noise a seed, so that anyone can take it away, and {name} must have none")
    expected = RecordPrivacy(bound, noise, numbers_of(promise).get("sampling_rate") or math.nan, private.seed)
    if private != expected:
        raise PolicyError(f"the job trains with {private}, and the terms of its run have {promise}")
    releases = promise.releases(job.local)
    if given.get("releases") != releases or releases > _MOST_RELEASES:
        raise PolicyError(
            f"the job allows {given.get('releases')} private steps, and its local training has {releases}; {name} "
            f"charges each, and counts {_MOST_RELEASES:.0e} at most"
        )
