"""Certificates and keys: what they hold, who can read them, and what is refused."""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from lightning_fed.cli.commands import main
from lightning_fed.node.identities import Identities

PRIVATE = {"ca.key", "server.key", "alice", "bob", "alice.identity", "bob.identity"}
PUBLIC = {"ca.crt", "server.pem", "alice.pub", "bob.pub", "identities.yaml"}


def _make(out: Path, *words: str) -> None:
    main(
        ["certificates", "--out", str(out), "--address", "fed.example.org,10.1.2.3", "--nodes", "alice", "bob", *words]
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("certificates") / "out"
    _make(out, "--days", "30")
    return out


def test_private_files_are_for_their_user_alone(made: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()}
    assert modes == {**dict.fromkeys(PRIVATE, 0o600), **dict.fromkeys(PUBLIC, 0o644)}


def test_the_server_is_named_as_nodes_call_it_and_as_it_calls_itself(made: Path) -> None:
    server = x509.load_pem_x509_certificate((made / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org", "localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "127.0.0.1"]
    left = server.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(days=29) < left <= datetime.timedelta(days=30)


@pytest.mark.parametrize(("name", "fits"), [("localhost", True), ("127.0.0.1", True), ("elsewhere.org", False)])
def test_a_client_takes_the_server_by_its_names(name: str, fits: bool, made: Path) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(made / "server.pem", made / "server.key")
    calling = ssl.create_default_context(cafile=made / "ca.crt")
    calling.verify_flags |= getattr(ssl, "VERIFY_X509_STRICT", 0)  # the default from Python 3.13 on
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            serving.wrap_socket(there, server_side=True).close()
        except ssl.SSLError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        if fits:
            calling.wrap_socket(here, server_hostname=name).close()
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                calling.wrap_socket(here, server_hostname=name)
    finally:
        here.close()
        thread.join()
        there.close()


def test_identities_are_known_to_each_other(made: Path) -> None:
    read = {name: Identities.read(made / f"{name}.identity", made / "identities.yaml") for name in ("alice", "bob")}
    for name, identities in read.items():
        assert identities.own is not None
        assert identities.known.keys() == {"alice", "bob"}
        assert identities.known[name] == identities.own.public
    assert read["alice"].known["bob"] != read["alice"].known["alice"]


def test_keys_are_pairs_of_the_curve_that_flower_takes(made: Path) -> None:
    keys = [load_ssh_private_key((made / node).read_bytes(), None) for node in ("alice", "bob")]
    for node, key in zip(("alice", "bob"), keys, strict=True):
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.curve.name == "secp384r1"
        public = load_ssh_public_key((made / f"{node}.pub").read_bytes())
        assert public.public_numbers() == key.public_key().public_numbers()  # type: ignore[union-attr]
    assert keys[0].private_numbers() != keys[1].private_numbers()  # type: ignore[union-attr]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no OpenSSH")
def test_openssh_reads_the_keys(made: Path) -> None:
    said = subprocess.run(["ssh-keygen", "-y", "-f", str(made / "alice")], capture_output=True, text=True, check=True)
    assert said.stdout.split()[:2] == (made / "alice.pub").read_text().split()[:2]


def test_files_are_overwritten_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _make(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit) as left:
        _make(tmp_path)
    assert left.value.code == 2
    assert "--force overwrites" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    _make(tmp_path, "--force")
    assert all(path.read_bytes() != before[path.name] for path in tmp_path.iterdir())


def test_it_prints_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _make(tmp_path / "a folder")
    said = capsys.readouterr().out
    assert "--enable-supernode-auth" in said
    assert f"flwr supernode register '{tmp_path}/a folder'/bob.pub test --name bob" in said
    assert "lightning-fed node --superlink fed.example.org:9092 --root-certificates ca.crt --key alice" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--address", "fed:8000", "--nodes", "a"],
            "--address 'fed:8000' is no name and no IP; give it",
        ),
        (["--address", "", "--nodes", "a"], "--address '' is no name"),
        (["--address", "fed", "--nodes", "a", "a"], "--nodes names a twice"),
        (["--address", "fed", "--nodes", "../a"], "a name is made of letters"),
        (["--address", "fed", "--nodes", "server"], "another file has that name"),
        (["--address", "fed", "--nodes", "a", "--days", "0"], "--days is 0; give at least 1"),
        (["--address", "fed"], "the following arguments are required: --nodes"),
    ],
)
def test_wrong_words_are_answered_in_a_sentence(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["certificates", "--out", str(tmp_path / "out"), *words])
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
