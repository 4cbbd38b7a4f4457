"""The checks of what a constructor is given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from lightning_fed.core.arguments import flag, instance, listed, nearest, number, one_of, settle, text, whole

NOT_NUMBERS = (True, np.True_, "3", None, [3], torch.tensor(3), np.array(3), 3j, object())


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_of_a_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^n=.* must be a whole number of at least 1, not a?n? ?\w+$"):
        whole("n", value, least=1)
    with pytest.raises(TypeError, match=r"^n=.* must be a number, positive and finite, not a?n? ?\w+$"):
        number("n", value, above=0)


@pytest.mark.parametrize("value", [2.5, 2.0, math.nan, math.inf, np.float64(2.5), Fraction(5, 2)])
def test_what_is_not_whole_is_a_wrong_value(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^n=.* must be a whole number of at least 1$"):
        whole("n", value, least=1)


def test_a_whole_number_is_taken_within_its_bounds_and_as_pythons_own() -> None:
    assert [whole("n", value, least=1, most=3) for value in (1, np.int8(2), np.uint64(3))] == [1, 2, 3]
    assert all(type(whole("n", value)) is int for value in (-1, np.int64(2)))
    with pytest.raises(ValueError, match=r"^n=0 must be at least 1 and at most 3$"):
        whole("n", 0, least=1, most=3)
    with pytest.raises(ValueError, match=r"^n=4 must be at least 1 and at most 3$"):
        whole("n", np.int32(4), least=1, most=3)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "words"),
    [
        ({}, (-1e300, 0), (math.nan, math.inf, -math.inf, 10**400), "finite"),
        ({"least": 0}, (0, 5.5), (-1e-9, math.nan, math.inf), "at least 0 and finite"),
        ({"above": 0}, (5e-324, 7), (0, -1, math.nan, math.inf), "positive and finite"),
        ({"above": 0, "below": 1}, (0.5,), (0, 1, math.nan), "above 0 and below 1"),
        ({"least": 0, "most": 1}, (0, 1), (-0.1, 1.1, -math.inf), "at least 0 and at most 1"),
        ({"most": 1}, (-9, 1), (-math.inf, 2), "at most 1 and finite"),
    ],
)
def test_a_number_is_taken_within_its_bounds(bounds: Any, inside: Any, outside: Any, words: str) -> None:
    for value in inside:
        assert number("mu", value, **bounds) == value
    for value in outside:
        with pytest.raises(ValueError, match=f"^mu=.* must be {words}$"):
            number("mu", value, **bounds)


def test_a_number_is_returned_as_pythons_own() -> None:
    assert type(number("mu", np.float32(0.5))) is float
    assert type(number("mu", np.int64(2))) is float
    assert repr(number("mu", 1)) == "1"


def test_a_message_can_name_the_class_and_say_something_else() -> None:
    with pytest.raises(ValueError, match=r"^Fraction\(n=0\) must be at least 1$"):
        whole("n", 0, least=1, owner=Fraction(1))
    with pytest.raises(ValueError, match=r"^n=0: give at least one$"):
        whole("n", 0, least=1, says=": give at least one")
    with pytest.raises(TypeError, match=r"^n='0' must be a number, positive and finite, not a str$"):
        number("n", "0", above=0, says=": give at least one")


def test_a_long_value_is_not_shown_in_full() -> None:
    with pytest.raises(TypeError) as caught:
        whole("n", list(range(10_000)))
    assert len(str(caught.value)) < 100


def test_a_flag_is_true_or_false_and_no_word_for_it() -> None:
    assert flag("iid", np.True_) is True
    for value in ("no", 0, 1, None):
        with pytest.raises(TypeError, match=r"^iid=.* must be True or False, not a?n? ?\w+$"):
            flag("iid", value)


def test_one_of_some_strings_with_the_nearest_if_it_is_another() -> None:
    assert one_of("engine", "auto", ("auto", "sequential")) == "auto"
    with pytest.raises(ValueError, match=r"^engine='sequental' must be one of 'auto', 'sequential'; did you mean 'seq"):
        one_of("engine", "sequental", ("auto", "sequential"))
    with pytest.raises(TypeError, match=r"^engine=\[1\] must be one of 'auto', not a list$"):
        one_of("engine", [1], ("auto",))


def test_a_text_is_a_string_that_is_not_empty() -> None:
    assert text("name", "bob") == "bob"
    with pytest.raises(ValueError, match=r"^name='' must be a string that is not empty$"):
        text("name", "")
    with pytest.raises(TypeError, match=r"^name=3 must be a string, not an int$"):
        text("name", 3)


def test_a_class_is_no_instance_and_a_string_no_list() -> None:
    assert instance("part", Fraction(1, 2), Fraction, "Fraction(1, 2)") == Fraction(1, 2)
    with pytest.raises(TypeError, match=r"^part must be a Fraction, such as Fraction\(1, 2\), not <class"):
        instance("part", Fraction, Fraction, "Fraction(1, 2)")
    assert listed("rows", range(2), what="numbers") == (0, 1)
    for value in ("ab", {"a": 1}, 3, None):
        with pytest.raises(TypeError, match=r"^rows=.* must be a list of numbers, not"):
            listed("rows", value, what="numbers")


def test_nearest_does_not_guess_where_nothing_is_near() -> None:
    assert nearest("fedavg", ["FedAvg", "FedProx"]) == "; did you mean 'FedAvg'?"
    assert nearest("xyz", ["FedAvg", "FedProx"]) == ""


def test_a_frozen_dataclass_holds_what_its_checks_returned() -> None:
    @dataclass(frozen=True)
    class Settings:
        mu: float

        def __post_init__(self) -> None:
            settle(self, mu=number("mu", self.mu, least=0))

    assert type(Settings(np.float64(0.5)).mu) is float  # type: ignore[arg-type]
