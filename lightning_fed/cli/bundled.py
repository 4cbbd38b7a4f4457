"""The configs and examples that come with the package: found by name, described in a line, and copied."""

from __future__ import annotations

import ast
import json
import re
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import final

from lightning_fed.core.arguments import nearest

_PACKAGE = Path(__file__).parent.parent
README = "README.md"
"""The file that a folder must have to be one of a bundle's files."""


@final
@dataclass(frozen=True)
class Bundle:
    """Files of one kind, each with a name.

    Args:
        folder: The folder's name: in a wheel it lies in the package, in a checkout beside it.
        kind: What one of the files is called.
        suffixes: The ends of the files' names; the first is that of a copy that is given none. A folder with a README
            counts as one of the files.
    """

    folder: str
    kind: str
    suffixes: tuple[str, ...]

    def files(self) -> dict[str, Path]:
        """Return the files by name, in the order of the names.

        Of two files whose names differ in the suffix alone, the one whose suffix comes first has the name, and the
        other one is called by its whole name: ``toy`` and ``toy.ipynb``.
        """
        places = (_PACKAGE / self.folder, _PACKAGE.parent / self.folder)
        place = next((place for place in places if place.is_dir()), None)
        found = [] if place is None else [path for path in place.iterdir() if self._is_one(path)]
        files: dict[str, Path] = {}
        for path in sorted(found, key=lambda path: (path.stem, (*self.suffixes, "").index(path.suffix))):
            files[path.name if path.stem in files else path.stem] = path
        return files

    def _is_one(self, path: Path) -> bool:
        return path.suffix in self.suffixes or (path / README).is_file()

    def find(self, name: str) -> Path | None:
        """Return the file of a name, which may have the folder before it and the suffix behind it; None: none."""
        bare = name.removeprefix(f"{self.folder}/")
        return next((path for stem, path in self.files().items() if bare in (stem, path.name)), None)

    def get(self, name: str) -> Path:
        """Return the file of a name.

        Raises:
            ValueError: If there is none; the message names the nearest.
        """
        found = self.find(name)
        if found is None:
            names = list(self.files())
            bare = name.removeprefix(f"{self.folder}/").partition(".")[0]
            raise ValueError(f"there is no {self.kind} {name!r}; there are {', '.join(names)}{nearest(bare, names)}")
        return found

    def copy(self, name: str, to: str | None, force: bool) -> Path:
        """Copy a file, or a folder with all that is in it.

        Args:
            name: Its name.
            to: A path for the copy, or a folder, which may be new if it ends with a slash; None: the current folder.
            force: Whether it may take the place of another file.

        Returns:
            The path of the copy.

        Raises:
            ValueError: If there is no such file, or another one in the place of the copy.
            OSError: If the copy cannot be written.
        """
        source = self.get(name)
        target = Path(to or ".")
        if target.is_dir() or (to or "").endswith("/"):
            target = target / source.name
        if target.is_dir() and not source.is_dir():
            raise ValueError(f"{target} is a folder; give the copy another name")
        if target.exists() and not force:
            what = "folder" if target.is_dir() else "file"
            raise ValueError(f"there is a {what} {target} already; give --force to replace it, or another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
        return target

    def listed(self) -> str:
        """Return the names, each with the first sentence of its file."""
        files = self.files()
        width = max(map(len, files), default=0)
        columns = shutil.get_terminal_size().columns
        return "\n".join(
            textwrap.fill(
                summary(path), columns, initial_indent=f"  {name:{width}}  ", subsequent_indent=" " * (width + 4)
            )
            for name, path in files.items()
        )


CONFIGS = Bundle("configs", "config", (".yaml",))
EXAMPLES = Bundle("examples", "example", (".py", ".ipynb"))


def text_of(path: Path) -> str:
    """Return the text of a file, that of its README if it is a folder."""
    return (path / README if path.is_dir() else path).read_text(encoding="utf-8")


def summary(path: Path) -> str:
    """Return the first sentence of a comment, docstring, or first cell; of a README the first after its title."""
    text = text_of(path)
    if path.is_dir():
        said = text.partition("\n\n")[2]
    elif path.suffix == ".ipynb":
        said = "".join(json.loads(text)["cells"][0]["source"]).lstrip("# ").partition("\n")[0]
    elif path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        said = "\n".join(line[1:].strip() for line in re.match(r"(#.*\n)*", text).group().splitlines())  # type: ignore[union-attr]
    sentence = re.split(r"\.(?=\s+[A-Z]|$)", " ".join(said.partition("\n\n")[0].split()), maxsplit=1)[0]
    return sentence.rstrip(".:")
