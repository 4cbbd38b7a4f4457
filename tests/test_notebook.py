"""The notebooks: their cells run, and print what is stored in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ORIGINAL = [1.3331, 0.8759, 0.5817, 0.3887, 0.2613, 0.1769, 0.1206, 0.0828, 0.0573, 0.0399]
ORIGINAL += [0.0281, 0.0199, 0.0142, 0.0102, 0.0074, 0.0054, 0.0040, 0.0029, 0.0022, 0.0016]
"""The losses that ToyFederatedLearning prints; each holds to 1e-4."""
NOISE = 0.2
"""The tolerance of a cell with fresh noise: 40 rounds of noise 1/200 are at most 0.032, and this is six times that."""


def cells(name: str, kind: str) -> list[dict[str, Any]]:
    found = json.loads((EXAMPLES / name).read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def text_of(name: str) -> str:
    return "\n".join("".join(cell["source"]) for cell in cells(name, "markdown"))


def program_of(cell: dict[str, Any]) -> str:
    """The source; a line that installs something must not be reached where all is installed."""
    return re.sub(r"^( +)%pip .*$", r"\1raise AssertionError('installs')", "".join(cell["source"]), flags=re.M)


def stored(cell: dict[str, Any]) -> str:
    assert all(output.get("name") == "stdout" for output in cell["outputs"]), "no warnings, and no errors"
    return "".join(line for output in cell["outputs"] for line in output["text"])


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", text)]


def in_words(text: str) -> str:
    """The text without its numbers, and without the spaces that fill up columns."""
    return " ".join(re.sub(r"-?\d+\.?\d*", "#", text).split())


@pytest.mark.parametrize("name", ["from_pysyft.ipynb", "toy.ipynb"])
def test_the_cells_print_what_is_stored(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To half of the last digit printed, and once more that for another processor's rounding."""
    program: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(cells(name, "code"), 1):
        assert cell["execution_count"] == number, "executed once, from top to bottom"
        exec(compile(program_of(cell), f"cell {number}", "exec", dont_inherit=True), program)
        printed = capsys.readouterr().out
        within = NOISE if "noise" in cell["metadata"].get("tags", ()) else 1e-4
        assert numbers(printed) == pytest.approx(numbers(stored(cell)), abs=within)
        assert in_words(printed) == in_words(stored(cell))


@pytest.mark.parametrize("name", ["from_pysyft.ipynb", "toy.ipynb"])
def test_it_is_small_and_opens_anywhere(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    notebook = json.loads(text)
    assert len(text.encode()) < 30_000
    assert not re.search(r"/(home|root|tmp|Users|work)/", text)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert (notebook["nbformat"], notebook["nbformat_minor"]) in [(4, 4), (4, 5)]
    assert len({cell.get("id", number) for number, cell in enumerate(notebook["cells"])}) == len(notebook["cells"])


@pytest.mark.parametrize("name", ["from_pysyft.ipynb", "toy.ipynb"])
def test_in_one_place_the_losses_are_those_of_the_original(name: str) -> None:
    central = next(losses for cell in cells(name, "code") if len(losses := numbers(stored(cell))) == 20)
    assert central == pytest.approx(ORIGINAL, abs=1.1e-4), "each printed value holds to 1e-4"


def test_the_model_that_visits_and_the_average_get_there_too() -> None:
    _, cyclic, averaged = [
        losses for cell in cells("from_pysyft.ipynb", "code") if len(losses := numbers(stored(cell))) >= 20
    ]
    assert cyclic[19] < 0.001
    assert averaged[19] < 0.02


def test_every_cell_of_the_original_has_its_counterpart() -> None:
    text = text_of("from_pysyft.ipynb")
    for call in ("sy.TorchHook", "sy.VirtualWorker", ".send(", ".get()", "opt.step()", "data.location"):
        assert call in text


def test_toy_prints_a_loss_for_each_visit_of_the_model() -> None:
    """By hand, from the weights that the original begins with: bob's first loss is 0.19937² + 0.63301² = 0.4404."""
    visits = next(printed for cell in cells("toy.ipynb", "code") if (printed := stored(cell)).startswith("round  1:"))
    for worker in ("bob", "alice"):
        losses = [float(loss) for loss in re.findall(rf"{worker} (\S+)", visits)]
        assert len(losses) == 20
        assert losses[-1] < 0.001
    assert re.search(r"bob (\S+)", visits).group(1) == "0.4404"  # type: ignore[union-attr]


def test_toy_says_what_a_notebook_on_federated_learning_must() -> None:
    text = text_of("toy.ipynb")
    assert text.startswith("# ToyFederatedLearning")
    assert "https://colab.research.google.com/github/" in text
    for part in ("keyboard", "averages", "**Safer:**", "**Not private:**", "Ten thousand phones", "A promise"):
        assert part in text
    for command in ("lightning-fed try-deployment -c toy", "lightning-fed node --superlink"):
        assert command in text
    assert not re.search(r"\]\((?!https://)", text), "Colab has the notebook alone: links are absolute"


def test_the_update_of_one_row_is_that_row() -> None:
    """The claim on which toy.ipynb builds: averaging alone is not private."""
    told = next(printed for cell in cells("toy.ipynb", "code") if "carol" in (printed := stored(cell)))
    assert numbers(told) == [0.31, 0.87]
