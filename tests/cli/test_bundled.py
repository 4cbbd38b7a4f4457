"""``lightning-fed configs`` and ``examples``: what comes with the package, by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lightning_fed.cli import main
from lightning_fed.cli.bundled import CONFIGS, EXAMPLES, Bundle, summary

ROOT = Path(__file__).parents[2]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(words)
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    sentence, _, hint = capsys.readouterr().err.splitlines()
    assert hint.endswith("--help lists all options")
    return sentence


@pytest.mark.parametrize("bundle", [CONFIGS, EXAMPLES], ids=lambda bundle: bundle.folder)
def test_every_file_has_a_name_and_a_sentence(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    there = (ROOT / bundle.folder).iterdir()
    paths = [path for path in there if path.suffix in bundle.suffixes or (path / "README.md").is_file()]
    assert list(bundle.files().values()) == sorted(paths, key=lambda path: (path.stem, path.suffix != ".py"))
    listed = said(capsys, bundle.folder)
    assert listed == said(capsys, bundle.folder, "list")
    for path in paths:
        assert f"  {path.stem} " in listed
        assert len(summary(path)) > 20
        assert "(" not in summary(path).rpartition(")")[2]  # no sentence is cut at "et al."


def test_show_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "configs", "show", "toy") == (ROOT / "configs" / "toy.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["toy"], "toy.yaml"),
        (["configs/toy.yaml"], "toy.yaml"),
        (["toy.yaml", "mine.yaml"], "mine.yaml"),
        (["toy", "new/"], "new/toy.yaml"),
        (["toy", "."], "toy.yaml"),
    ],
)
def test_a_copy_is_the_file(words: list[str], written: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "configs", "copy", *words) == f"wrote {written}\n"
    assert Path(written).read_bytes() == (ROOT / "configs" / "toy.yaml").read_bytes()


def test_a_folder_is_shown_by_its_readme_and_copied_whole(capsys: pytest.CaptureFixture[str]) -> None:
    folder = ROOT / "examples" / "hospitals"
    assert said(capsys, "examples", "show", "hospitals") == (folder / "README.md").read_text()
    assert said(capsys, "examples", "copy", "hospitals") == "wrote hospitals\n"
    here = {path.relative_to("hospitals") for path in Path("hospitals").rglob("*") if path.is_file()}
    there = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert here == {path for path in there if "__pycache__" not in path.parts}
    assert Path("hospitals/hospitals/site.py").read_bytes() == (folder / "hospitals" / "site.py").read_bytes()
    assert "there is a folder" in refused(capsys, "examples", "copy", "hospitals")
    said(capsys, "examples", "copy", "hospitals", "--force")


def test_a_script_and_a_notebook_of_one_name_are_both_there(capsys: pytest.CaptureFixture[str]) -> None:
    listed = said(capsys, "examples", "list")
    assert re.search(r"^  toy  ", listed, re.M)
    assert re.search(r"^  toy\.ipynb  +ToyFederatedLearning", listed, re.M)
    assert said(capsys, "examples", "copy", "toy") == "wrote toy.py\n"
    assert said(capsys, "examples", "copy", "toy.ipynb") == "wrote toy.ipynb\n"
    assert Path("toy.ipynb").read_bytes() == (ROOT / "examples" / "toy.ipynb").read_bytes()


def test_a_copy_takes_the_place_of_nothing_unless_it_may(capsys: pytest.CaptureFixture[str]) -> None:
    Path("toy.yaml").write_text("mine")
    assert "there is a file toy.yaml already" in refused(capsys, "configs", "copy", "toy")
    assert Path("toy.yaml").read_text() == "mine"
    said(capsys, "configs", "copy", "toy", "--force")
    assert Path("toy.yaml").read_text() != "mine"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["configs", "show", "toi"], "no config 'toi'; there are compressed, .*did you mean 'toy'"),
        (["configs", "copy", "../toy"], r"no config '../toy'"),
        (["examples", "copy", "synthetics"], "did you mean 'synthetic'"),
        (["configs", "shwo"], "did you mean 'show'"),
        (["configs", "copy", "toy", "--forc"], "unrecognized arguments: --forc; did you mean '--force'"),
        (["configs", "copy"], "required: NAME"),
        (["configs", "copy", "toy", "/dev/null/toy.yaml"], "/dev/null: "),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(sentence, told := refused(capsys, *words)), told


def test_a_notebook_is_described_by_its_first_line(tmp_path: Path) -> None:
    cells = [{"cell_type": "markdown", "source": ["# Bob and alice\n", "train."]}]
    (tmp_path / "bob.ipynb").write_text(json.dumps({"cells": cells}))
    assert summary(tmp_path / "bob.ipynb") == "Bob and alice"
