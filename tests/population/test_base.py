from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import pytorch_lightning as pl

from lightning_fed.population import EvaluationKind, Names, Population


class Letters(Population):
    """One worker for every letter of a word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def name(self, position: int) -> Any:
        return self.word[position]

    def __getitem__(self, name: str) -> pl.LightningDataModule:
        raise AssertionError("built")

    def __len__(self) -> int:
        return len(self.word)

    def num_examples(self, name: str) -> int:
        return 1

    def has_loader(self, kind: EvaluationKind) -> bool:
        return False


def test_a_population_is_gone_through_in_the_order_of_its_positions() -> None:
    assert list(Letters("cab")) == ["c", "a", "b"] == list(Letters("cab").keys())


def test_names_are_a_sequence() -> None:
    names = Names(Letters("cabde"))
    assert (len(names), names[0], names[-1], list(names)) == (5, "c", "e", list("cabde"))
    assert "d" in names
    assert list(reversed(names)) == list("edbac")
    for index in (5, -6):
        with pytest.raises(IndexError):
            names[index]


@pytest.mark.parametrize(
    "part", [slice(1, 3), slice(1, None, 2), slice(None, None, -1), slice(-2, None), slice(4, 1)], ids=str
)
def test_a_slice_is_names_again(part: slice) -> None:
    names = Names(Letters("cabde"))
    assert isinstance(names[part], Names)
    assert list(names[part]) == list("cabde"[part])
    assert list(names[part][::2]) == list("cabde"[part][::2])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda names: pickle.loads(pickle.dumps(names))])
def test_names_can_be_copied(clone: Any) -> None:
    assert list(clone(Names(Letters("cab"))[1:])) == ["a", "b"]


@pytest.mark.parametrize("bad", ["", None, 3, b"bob"], ids=repr)
def test_what_is_no_name_is_refused_when_it_is_given_out(bad: Any) -> None:
    class Wrong(Letters):
        def name(self, position: int) -> Any:
            return bad if position == 2 else "bob"

    names = Names(Wrong("abcd"))
    assert names[1] == "bob"
    with pytest.raises(TypeError, match=rf"Wrong.name\(2\) gave {bad!r}; it must give a string that is not empty"):
        names[1:][1]
