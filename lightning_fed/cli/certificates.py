"""The command ``lightning-fed certificates``: certificates and keys of a federation's machines, for a trial."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_fed.cli.commands import PROGRAM, refuse
from lightning_fed.cli.one_line_parser import OneLineParser
from lightning_fed.core.extras import import_extra

_COMMAND = f"{PROGRAM} certificates"
IDENTITIES = "identities.yaml"
"""The file of all workers' public keys for secure aggregation."""

_LOCAL = ("127.0.0.1", "localhost")
"""Named by every server certificate: parts of a SuperLink call each other there."""


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed certificates``.

    Raises:
        SystemExit: With status 2 if an argument is wrong.
    """
    parser = OneLineParser(
        prog=_COMMAND,
        description="Make a certificate authority, the server's certificate, and each node's key pair and identity.",
        epilog="For a trial: in earnest each site makes its own key, and sends only the .pub file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    add("--address", required=True, metavar="HOST[,HOST...]", help="names or IPs by which nodes call the server")
    add("--nodes", nargs="+", required=True, metavar="NAME", help="the nodes, each of which gets a key pair")
    add("--days", type=int, default=365, metavar="N", help="for how long certificates hold (%(default)s)")
    add("--force", action="store_true", help="overwrite files that are there")
    words = parser.parse_args(list(arguments))
    addresses = [address.strip() for address in words.address.split(",")]
    _check(addresses, words.nodes, words.days)
    try:
        files = {**certificates(addresses, words.days), **{k: v for n in words.nodes for k, v in key_pair(n).items()}}
        files |= identities(words.nodes)
    except ImportError as error:
        refuse(str(error), _COMMAND)
    write(files, words.out, words.force)
    print(_next(words.out, addresses[0], words.nodes))


def _check(addresses: Sequence[str], nodes: Sequence[str], days: int) -> None:
    for address in addresses:
        if not re.fullmatch(r"[A-Za-z0-9.:_-]+", address) or re.fullmatch(r"[A-Za-z0-9._-]+:\d+", address):
            refuse(f"--address {address!r} is no name and no IP; give it without a port", _COMMAND)
    for node in nodes:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", node):
            refuse(f"--nodes {node!r}: a name is made of letters, digits and . _ -", _COMMAND)
        if node in ("ca", "server", IDENTITIES) or node.endswith((".pub", ".identity")):
            refuse(f"--nodes {node!r}: another file has that name", _COMMAND)
    if twice := {node for node in nodes if nodes.count(node) > 1}:
        refuse(f"--nodes names {', '.join(sorted(twice))} twice", _COMMAND)
    if days < 1:
        refuse(f"--days is {days}; give at least 1", _COMMAND)


def certificates(addresses: Sequence[str], days: int) -> dict[str, bytes]:
    """Return a certificate authority and a server's certificate, as files by name.

    Args:
        addresses: Names and IPs of the server; this machine itself is always added.
        days: The days of validity from now.

    Raises:
        ImportError: If ``cryptography`` is not installed.
    """
    x509 = import_extra("cryptography.x509", _COMMAND, "flower")
    ec = import_extra("cryptography.hazmat.primitives.asymmetric.ec", _COMMAND, "flower")
    ca_key, server_key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    ca_name, server_name = f"lightning_fed {os.urandom(4).hex()}", addresses[0]
    usage = dict.fromkeys(_USAGES, False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = _certificate(ca_name, ca_key, ca_name, ca_key, days).add_extension(x509.BasicConstraints(True, 0), True)
    ca = ca.add_extension(x509.KeyUsage(**{**usage, "key_cert_sign": True, "crl_sign": True}), True)
    ca = ca.add_extension(identifier, False)
    names = [_name_of(address, x509) for address in dict.fromkeys([*addresses, *_LOCAL])]
    purpose = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    server = _certificate(server_name, server_key, ca_name, ca_key, days)
    server = server.add_extension(x509.BasicConstraints(False, None), True)
    server = server.add_extension(x509.KeyUsage(**{**usage, "digital_signature": True}), True)
    server = server.add_extension(purpose, False).add_extension(x509.SubjectAlternativeName(names), False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    server = server.add_extension(issuer, False)
    return {
        "ca.crt": _signed(ca, ca_key),
        "ca.key": _private(ca_key, "PKCS8"),
        "server.pem": _signed(server, ca_key),
        "server.key": _private(server_key, "PKCS8"),
    }


def key_pair(node: str) -> dict[str, bytes]:
    """Return a node's two keys, as files by name: those of ``ssh-keygen -t ecdsa -b 384 -N ""``.

    Args:
        node: The node's name, which is that of the file with the private key.

    Raises:
        ImportError: If ``cryptography`` is not installed.
    """
    ec = import_extra("cryptography.hazmat.primitives.asymmetric.ec", _COMMAND, "flower")
    ways = import_extra("cryptography.hazmat.primitives.serialization", _COMMAND, "flower")
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(ways.Encoding.OpenSSH, ways.PublicFormat.OpenSSH)
    return {node: _private(key, "OpenSSH"), f"{node}.pub": public + f" {node}\n".encode()}


def identities(nodes: Sequence[str]) -> dict[str, bytes]:
    """Return an identity of each node for secure aggregation, and the list of them all, as files by name.

    Args:
        nodes: The nodes' names, which are taken for those of their workers.

    Raises:
        ImportError: If ``cryptography`` is not installed.
    """
    import_extra("cryptography", _COMMAND, "flower")
    from lightning_fed.secure.masks import Identity

    made = {node: Identity() for node in nodes}
    known = "".join(f"{node}: {identity.public.hex()}\n" for node, identity in made.items())
    own = {f"{node}.identity": f"{identity.secret.hex()}\n".encode() for node, identity in made.items()}
    return {**own, IDENTITIES: known.encode()}


def write(files: dict[str, bytes], folder: Path, force: bool = False) -> None:
    """Write files, those without a public part in their names for this user's eyes only.

    Args:
        files: Their contents by name.
        folder: The folder; it is created if necessary.
        force: Overwrite those that are there.

    Raises:
        SystemExit: With the status 2 if one is there, before anything is written, or if it cannot be written.
    """
    if not force and (there := [name for name in files if (folder / name).exists()]):
        refuse(f"{folder} has {', '.join(there)} already; --force overwrites", _COMMAND)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path, is_public = folder / name, name.endswith((".crt", ".pem", ".pub", IDENTITIES))
            path.unlink(missing_ok=True)  # else the mode would stay that of the old one
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644 if is_public else 0o600)
            with open(opened, "wb") as file:
                file.write(content)
    except OSError as error:
        refuse(f"--out {folder} cannot be used: {error.strerror}", _COMMAND)


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _name_of(address: str, x509: Any) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _certificate(name: str, key: Any, issuer: str, issuer_key: Any, days: int) -> Any:
    x509 = import_extra("cryptography.x509", _COMMAND, "flower")

    def named(text: str) -> Any:
        # A common name has at most 64 characters; what counts is the list of alternative names
        return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text[:64])])

    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _signed(builder: Any, key: Any) -> bytes:
    ways = import_extra("cryptography.hazmat.primitives.serialization", _COMMAND, "flower")
    hashes = import_extra("cryptography.hazmat.primitives.hashes", _COMMAND, "flower")
    content: bytes = builder.sign(key, hashes.SHA384()).public_bytes(ways.Encoding.PEM)
    return content


def _private(key: Any, form: str) -> bytes:
    ways = import_extra("cryptography.hazmat.primitives.serialization", _COMMAND, "flower")
    content: bytes = key.private_bytes(ways.Encoding.PEM, getattr(ways.PrivateFormat, form), ways.NoEncryption())
    return content


def _next(out: Path, address: str, nodes: Sequence[str]) -> str:
    folder = shlex.quote(str(out.absolute()))
    host = f"[{address}]" if ":" in address else address
    registered = [f"  flwr supernode register {folder}/{node}.pub test --name {node}" for node in nodes]
    return "\n".join(
        [
            f"Made in {out}: ca.crt, ca.key, server.pem, server.key, and each node's key, .pub file and identity.",
            "",
            "On the server's machine:",
            f"  flower-superlink --host 127.0.0.1 --port 9092 --ssl-ca-certfile {folder}/ca.crt \\",
            f"    --ssl-certfile {folder}/server.pem --ssl-keyfile {folder}/server.key --enable-supernode-auth \\",
            "    --disable-runtime-dependency-installation --database state.db",
            "  (127.0.0.1: who reaches this port can start runs. Another address lets nodes of other machines in.)",
            "Once, with this in ~/.flwr/config.toml:",
            f'  [superlink.test]\n  address = "{host}:9092"\n  root-certificates = "{out.absolute()}/ca.crt"',
            *registered,
            f"On each node's machine, with ca.crt and its own key (such as {nodes[0]}, and of the others none):",
            f"  {PROGRAM} node --superlink {host}:9092 --root-certificates ca.crt --key {nodes[0]} \\",
            "    --build package.module:function",
            "If its workers have the nodes' names, they are to each other who they are in secure aggregation by",
            f"    --identity {nodes[0]}.identity --identities {IDENTITIES}",
        ]
    )
