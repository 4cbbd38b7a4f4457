"""The wheel works in a clean environment, outside the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "lightning_fed/py.typed" in names
    for folder, suffix in (("configs", "*.yaml"), ("examples", "*.py"), ("examples", "*.ipynb")):
        for path in (ROOT / folder).glob(suffix):
            assert f"lightning_fed/{folder}/{path.name}" in names
    hospitals = {name.partition("/examples/hospitals/")[2] for name in names} - {""}
    assert {"README.md", "pyproject.toml", "policies/patients.yaml", "hospitals/site.py", "run_here.py"} <= hospitals
    assert all(name.endswith((".md", ".toml", ".yaml", ".py")) for name in hospitals)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lightning_fed"}
    assert not [name for name in names if "test_" in name or "tests/" in name]


def test_it_works_from_a_clean_environment_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """A venv of its own; the dependencies, which take minutes to install, are lent from this one by a .pth file."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    packages = next((folder / "lib").glob("python*/site-packages"))
    (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(str(python), "-c", "import lightning_fed; print(lightning_fed.__file__)")
    assert str(packages) in where
    script = str(folder / "bin" / "lightning-fed")
    assert "toy" in run(script, "configs")
    assert "FedProx" in run(script, "completion", "bash")
    assert Path(run(script, "schema", "--path").strip()).is_file()
    assert "All that a run needs is there." in run(script, "doctor")
    run(script, "configs", "copy", "toy", "mine.yaml")
    assert (tmp_path / "mine.yaml").read_bytes() == (ROOT / "configs" / "toy.yaml").read_bytes()
    run(script, "examples", "copy", "toy")
    assert (tmp_path / "toy.py").read_bytes() == (ROOT / "examples" / "toy.py").read_bytes()
    run(script, "fit", "-c", "toy", "--trainer.max_epochs=2", "--trainer.accelerator=cpu")
    assert list((tmp_path / "logs").glob("**/*.ckpt"))
    page = (ROOT / "docs" / "start" / "first-run.md").read_text()
    cells = re.findall(r"^```\{code-cell\}.*?$(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    code = "\n".join(re.sub(r"^:.*$", "", cell, flags=re.MULTILINE) for cell in cells)
    assert "fit(" in code
    run(str(python), "-c", code)
