"""Contract suites: checks for every implementation of an extension point, your own and the package's.

Each check takes a function that makes the object, so every run gets a new one, and raises an AssertionError with the
part of the contract that fails. No test framework is required::

    from lightning_fed.testing import check_algorithm

    def test_the_contract():
        check_algorithm(lambda: MyAlgorithm(0.1))

``ALGORITHM_CHECKS`` holds the parts of :func:`check_algorithm`, for one test each, and ``PROMISE_CHECKS`` the parts of
:func:`check_promise`.
"""

from lightning_fed.testing.aggregators import check_aggregator
from lightning_fed.testing.algorithms import ALGORITHM_CHECKS, check_algorithm
from lightning_fed.testing.attacks.contract import check_attack
from lightning_fed.testing.compressors import check_compressor
from lightning_fed.testing.links import check_link
from lightning_fed.testing.loopback import Loopback, OverLoopback
from lightning_fed.testing.mechanisms import check_mechanism
from lightning_fed.testing.promises import PROMISE_CHECKS, check_promise
from lightning_fed.testing.samplers import check_availability, check_sampler
from lightning_fed.testing.transforms import check_transform
from lightning_fed.testing.workload import Layered, Points, made_up, trained

__all__ = [
    "ALGORITHM_CHECKS",
    "PROMISE_CHECKS",
    "Layered",
    "Loopback",
    "OverLoopback",
    "Points",
    "check_aggregator",
    "check_algorithm",
    "check_attack",
    "check_availability",
    "check_compressor",
    "check_link",
    "check_mechanism",
    "check_promise",
    "check_sampler",
    "check_transform",
    "made_up",
    "trained",
]
