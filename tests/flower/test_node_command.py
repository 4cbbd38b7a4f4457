"""``lightning-fed node``: what it refuses before anything runs, and how it keeps a SuperNode running."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_fed.cli.commands import main
from lightning_fed.flower.supernode import SuperNode, _pass_on, _Said

HAS_FLOWER = importlib.util.find_spec("flwr") is not None
needs_flower = pytest.mark.skipif(not HAS_FLOWER, reason="flwr is not installed: make test-flower")

SUPERNODE = f"""#!{sys.executable}
import json, os, shutil, signal, subprocess, sys, time
here = os.environ["FAKE"]
number = len(os.listdir(here))
with open(os.path.join(here, f"{{number:02}}.json.new"), "w") as file:
    json.dump({{"words": sys.argv[1:], "environment": dict(os.environ), "pid": os.getpid(),
               "clientapp": shutil.which("flwr-clientapp"), "agentapp": shutil.which("flwr-agentapp")}}, file)
os.rename(file.name, file.name.removesuffix(".new"))
todo = os.environ.get("FAKE_ENDS", "").split()
end = todo[number] if number < len(todo) else "stay"
if end == "stay":
    if os.environ.get("FAKE_STUBBORN"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(os.path.join(here, "child"), "w") as file:
        file.write(str(child.pid))
    time.sleep(600)
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "words":
    sys.exit(2)
print("\\x1b[91mERROR\\x1b[0m : Exit Code:", end, file=sys.stderr)
sys.exit(1)
"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    from lightning_fed.cli.certificates import key_pair, write

    write(key_pair("alice"), tmp_path)
    return tmp_path / "alice"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_text("a certificate")
    return tmp_path / "ca.crt"


def _words(ca: Path | str, key: Path | str, *more: str) -> list[str]:
    build = [] if "--build" in more else ["--build", "fake_nodes:build"]
    return ["--superlink", "fed:9092", "--root-certificates", str(ca), "--key", str(key), *build, *more]


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main(["node", *words])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.endswith("\n\nlightning-fed node --help lists all options\n")
    return " ".join(line for line in said.splitlines() if line.startswith("error: "))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--superlink", "fed"], "the following arguments are required: --build"),
        (["--build", "a:b"], "the following arguments are required: --superlink"),
        (["--superlink", "fed", "--build", "a:b"], "--superlink fed is no address; give HOST:PORT"),
        (["--superlink", "fed:0", "--build", "a:b"], "--superlink fed:0 is no address"),
        (["--superlink", "https://fed:9092", "--build", "a:b"], "is no address"),
        (["--superlink", "fed:1", "--build", "a:b"], "--root-certificates and --key must be given"),
        (["--superlink", "fed:1", "--build", "a:b", "--key", "k"], "--root-certificates must be given"),
        (["--superlink", "fed:1", "--build", "a:b", "--insecure", "--key", "k"], "--insecure uses no --key"),
        (
            ["--superlink", "fed:1", "--build", "a:b", "--idle-timeout", "0"],
            "--idle-timeout is 0; give seconds",
        ),
        (["--superlink", "fed:1", "--build", "a:b", "--port", "70000"], "--port is 70000"),
        (["--superlink", "fed:1", "--build", "a:b", "--config", "site"], "--config site is no KEY=VALUE"),
        (["--superlink", "fed:1", "--build", "a:b", "--key", "k", "--root-certificates", "c"], "c: No such file"),
        (["--superlinks", "fed:1"], "the following arguments are required"),
    ],
)
def test_wrong_words_are_answered_in_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in _refused(words, capsys)


def test_help_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("node", "certificates"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert len(capsys.readouterr().out.splitlines()) <= 24


@pytest.mark.skipif(HAS_FLOWER, reason="flwr is installed")
def test_without_flower_it_says_what_to_install(tmp_path: Path, ca: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").touch()
    expected = "Python 3.11" if sys.version_info < (3, 11) else 'needs flwr: pip install "lightning_fed[flower]"'
    assert expected in _refused(_words(ca, tmp_path / "key"), capsys)


@needs_flower
@pytest.mark.parametrize("version", ["1.41.0", "1.44.0", "2.0"])
def test_an_untried_flower_is_refused(
    version: str, ca: Path, key: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_fed.cli.node.metadata.version", lambda _: version)
    assert f"flwr {version} is installed, and it needs flwr>=1.42,<1.44" in _refused(_words(ca, key), capsys)


@needs_flower
@pytest.mark.parametrize("kind", ["ed25519", "PEM", "a passphrase", "nothing"])
def test_a_key_that_flower_would_not_take_is_refused(
    kind: str, ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives import serialization as ways
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP384R1())
    form = ways.PrivateFormat.PKCS8 if kind == "PEM" else ways.PrivateFormat.OpenSSH
    content = b"" if kind == "nothing" else key.private_bytes(ways.Encoding.PEM, form, ways.NoEncryption())
    path = tmp_path / "node.key"
    path.write_bytes(content)
    if kind == "a passphrase":
        if shutil.which("ssh-keygen") is None:
            pytest.skip("no OpenSSH")
        path.chmod(0o600)
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(path)], check=True, capture_output=True)
    sentence = "has a passphrase" if kind == "a passphrase" else "ssh-keygen -t ecdsa -b 384"
    assert sentence in _refused(_words(ca, path), capsys)


@needs_flower
@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        ("nowhere:build", "--build nowhere:build cannot be used: there is no module 'nowhere'"),
        ("fake_nodes:missing", "module 'fake_nodes' has no function 'missing'"),
        ("fake_nodes:not_callable", "module 'fake_nodes' has no function 'not_callable'"),
        ("fake_nodes", "'fake_nodes' does not name a function; write package.module:function"),
        ("broken_module:build", "its import raises ZeroDivisionError: division by zero"),
        ("lacking_module:build", "its import raises ModuleNotFoundError: No module named 'a_package_that"),
    ],
)
def test_a_build_that_cannot_be_imported_is_refused(
    build: str, sentence: str, ca: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")  # the folder in which the command is given
    (tmp_path / "lacking_module.py").write_text("import a_package_that_nobody_has")
    assert sentence in _refused(_words(ca, key, "--build", build, "--home", str(tmp_path / "home")), capsys)


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(ca: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts the command with a program in place of Flower's SuperNode, which writes down how it was called."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "flower-supernode").write_text(SUPERNODE)
    (programs / "flower-supernode").chmod(0o755)
    (tmp_path / "calls").mkdir()
    # The node looks where its own Python is before it looks elsewhere, so the program comes by a command of that Python
    starter = tmp_path / "starter.py"
    starter.write_text(
        "import os, sys\n"
        "from lightning_fed.cli import node\n"
        "from lightning_fed.flower import supernode\n"
        "again = float(os.environ.get('AGAIN', 15))\n"
        "made = supernode.SuperNode\n"
        f"node.SUPERNODE = {str(programs / 'flower-supernode')!r}\n"
        "node.SuperNode = lambda *words: made(*words, again=again)\n"
        "node.main(sys.argv[1:])\n"
    )
    monkeypatch.setenv("FAKE", str(tmp_path / "calls"))
    processes = []

    def begin(*more: str, **environment: str) -> subprocess.Popen[bytes]:
        words = _words(ca, key, "--home", str(tmp_path / "home"), *more)
        with open(tmp_path / "said", "wb") as said:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(starter), *words],
                    env={**os.environ, **environment},
                    stdout=said,
                    stderr=said,
                    cwd=tmp_path,
                )
            )
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def _calls(tmp_path: Path, count: int, seconds: float = 30) -> list[dict[str, Any]]:
    end = time.monotonic() + seconds
    while len(found := sorted((tmp_path / "calls").glob("*.json"))) < count:
        assert time.monotonic() < end, (tmp_path / "said").read_text()
        time.sleep(0.05)
    return [json.loads(path.read_text()) for path in found]


def _child(tmp_path: Path) -> int:
    end = time.monotonic() + 10
    while not (path := tmp_path / "calls" / "child").exists() or not path.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(path.read_text())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@needs_flower
def test_a_supernode_is_started_with_the_nodes_settings(start: Start, ca: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").touch()
    start("--config", "site=north", "beds=3=4", "--policy", "policy.yaml", "--idle-timeout", "7", "--port", "9099")
    (call,) = _calls(tmp_path, 1)
    assert call["words"] == [
        *("--superlink", "fed:9092", "--root-certificates", str(ca), "--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", "9099"),
    ]
    home, given = tmp_path / "home", call["environment"]
    assert call["clientapp"] == str(home / "bin" / "flwr-clientapp")
    assert call["agentapp"] == str(home / "bin" / "flwr-agentapp")  # which would run code of the server too
    refused = subprocess.run([call["agentapp"]], capture_output=True, text=True)
    assert (refused.returncode, "runs no flwr-agentapp" in refused.stderr) == (1, True)
    assert given["FLWR_HOME"] == str(home / "flwr")
    assert (given["FLWR_TELEMETRY_ENABLED"], given["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")
    assert given["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] == "0.25"
    assert given["LIGHTNING_FED_BUILD"] == "fake_nodes:build"
    assert json.loads(given["LIGHTNING_FED_CONFIG"]) == {"site": "north", "beds": "3=4"}
    assert given["LIGHTNING_FED_POLICY"] == str(tmp_path / "policy.yaml")
    assert given["LIGHTNING_FED_IDLE_TIMEOUT"] == "7.0"
    assert home.stat().st_mode & 0o077 == 0


@needs_flower
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stubborn", ["", "yes"])
def test_a_signal_ends_the_node_and_all_that_it_started(
    number: signal.Signals, stubborn: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stubborn and number == signal.SIGINT:
        pytest.skip("takes ten seconds, and SIGTERM shows it")
    node = start(FAKE_STUBBORN=stubborn)
    (call,) = _calls(tmp_path, 1)
    child = _child(tmp_path)
    node.send_signal(number)
    assert node.wait(20 if stubborn else 8) == 0
    assert not _is_alive(call["pid"])
    assert not _is_alive(child)
    assert "the node has ended" in (tmp_path / "said").read_text()


@needs_flower
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_killed_node_leaves_no_supernode(start: Start, tmp_path: Path) -> None:
    node = start()
    (call,) = _calls(tmp_path, 1)
    child = _child(tmp_path)
    node.kill()
    node.wait()
    end = time.monotonic() + 5
    while _is_alive(call["pid"]):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)


@needs_flower
def test_a_supernode_that_ends_is_started_again(start: Start, tmp_path: Path) -> None:
    node = start(FAKE_ENDS="305 killed 305 " + "305 " * 7, AGAIN="0.2")
    calls = _calls(tmp_path, 11)
    ports = {call["words"][-1] for call in calls}
    assert len(ports) > 1  # a free one each time
    node.terminate()
    assert node.wait(8) == 0
    said = (tmp_path / "said").read_text()
    assert said.count("does not let this node in") == 1
    assert said.count("Is its public key registered") == 1
    assert "Exit Code: 305" in said  # what the SuperNode prints is passed on


@needs_flower
@pytest.mark.parametrize("end", ["302", "606", "words"])
def test_settings_that_are_wrong_end_the_node(end: str, start: Start, tmp_path: Path) -> None:
    assert start(FAKE_ENDS=end).wait(30) == 1
    assert len(_calls(tmp_path, 1)) == 1
    assert "does not start with these settings, for the reason above" in (tmp_path / "said").read_text()


@needs_flower
def test_a_signal_between_two_starts_ends_the_node(start: Start, tmp_path: Path) -> None:
    node = start(FAKE_ENDS="305 305", AGAIN="600")
    end = time.monotonic() + 30
    while "does not let this node in" not in (tmp_path / "said").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    node.terminate()
    assert node.wait(5) == 0


@needs_flower
def test_two_nodes_do_not_share_a_home(
    start: Start, ca: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start()
    _calls(tmp_path, 1)
    assert "another node runs with the home" in _refused(_words(ca, key, "--home", str(tmp_path / "home")), capsys)


def test_a_supernode_that_runs_long_is_counted_anew() -> None:
    said: list[str] = []
    node = SuperNode(lambda: [], {}, said.append, again=1.0)
    for count in (1, 2, 8):
        node._say_why(1, _Said(), count)
    assert said == [
        "flower-supernode has ended (status 1); it is started again every 1 s",
        "flower-supernode has ended 8 times in a row; it is started again every 1 s",
    ]


@pytest.mark.parametrize(
    ("status", "printed", "sentence"),
    [
        (0, [], "as if this machine's clock were more than 5 s ahead of the SuperLink's, or 5 minutes behind it"),
        (1, [b"Exit Code: 305"], "see whether its key is registered, and whether this machine's clock is right"),
        (1, [b"CERTIFICATE_VERIFY_FAILED", b"Exit Code: 305"], "its certificate is not signed by the --root-cert"),
        (0, [b"SuperNode ID: 1"], "flower-supernode has ended (status 0); it is started again every 1 s"),
    ],
)
def test_why_a_node_is_not_let_in_is_said_as_far_as_it_is_known(
    status: int, printed: list[bytes], sentence: str
) -> None:
    said, heard = [], _Said()
    _pass_on(printed, heard)
    SuperNode(lambda: [], {}, said.append, again=1.0)._say_why(status, heard, 1)
    assert len(said) == 1
    assert sentence in said[0]
