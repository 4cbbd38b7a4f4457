"""How ``Processes.share`` divides a cohort."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.core.processes import Processes


def shares(sizes: dict[str, int], processes: int) -> list[list[str]]:
    return [Processes(rank, processes).share(list(sizes), sizes) for rank in range(processes)]


def test_longest_first_to_the_least_loaded() -> None:
    # b: 9 | a: 7, then d: 6 to the 7, then c: 1 to the 9.
    assert shares({"a": 7, "b": 9, "c": 1, "d": 6}, 2) == [["b", "c"], ["a", "d"]]


def test_keeps_the_cohorts_order() -> None:
    assert shares({"small": 1, "large": 5, "middle": 4}, 2) == [["large"], ["small", "middle"]]


def test_workers_without_examples_are_spread_as_well() -> None:
    assert [len(share) for share in shares({f"w{i}": 0 for i in range(6)}, 3)] == [2, 2, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 6))
def test_every_worker_once_and_no_process_more_than_one_worker_ahead(sizes: list[int], processes: int) -> None:
    named = {f"w{i}": size for i, size in enumerate(sizes)}
    divided = shares(named, processes)
    assert sorted(name for share in divided for name in share) == sorted(named)
    loads = [sum(max(named[name], 1) for name in share) for share in divided]
    assert max(loads) - min(loads) <= max([1, *sizes])


def test_one_process_has_it_all_and_says_nothing() -> None:
    alone = Processes()
    assert alone.share(["b", "a"], {}) == ["b", "a"]
    assert alone.gather("it") == ["it"]
