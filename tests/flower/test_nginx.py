"""What ``docs/deployment.md`` says of nginx and systemd: nodes get through, and nobody else does."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from federation import HERE, ROOT, Federation, free_port

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
PAGE = ROOT / "docs" / "deployment.md"
APP = HERE / "echo_app"
OUTSIDE = "outside"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light")]

AROUND = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{}}
http {{
    access_log {folder}/nginx-access.log;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    include {folder}/federation.conf;
}}
"""


class Proxied(Federation):
    """A SuperLink that listens on the loopback alone, and an nginx with the page's configuration in front of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, nodes=["alice"], environment={"BUNDLE_WAS_RUN": str(folder / "bundle-was-run")})
        self.outside = free_port()
        (block,) = re.findall(r"^```nginx\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
        for text, here in (
            ("listen [::]:9092 ssl;", ""),
            ("listen 9092 ssl;", f"listen 127.0.0.1:{self.outside} ssl;"),
            ("127.0.0.1:9093", f"127.0.0.1:{self.port}"),
            ("/etc/federation", str(folder)),
        ):
            assert text in block
            block = block.replace(text, here)
        (folder / "federation.conf").write_text(block)
        (folder / "nginx.conf").write_text(AROUND.format(folder=folder))
        with (folder / "flwr" / "config.toml").open("a") as file:
            file.write(
                f'\n[superlink.{OUTSIDE}]\naddress = "127.0.0.1:{self.outside}"\n'
                f'root-certificates = "{folder}/ca.crt"\n'
            )

    def start_nginx(self) -> None:
        assert NGINX is not None
        self.launch("nginx", NGINX, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"))
        end = time.monotonic() + 20
        while not (self.folder / "nginx.pid").exists():
            assert time.monotonic() < end, self.log("nginx")
            time.sleep(0.05)

    def seen(self) -> list[tuple[str, int]]:
        """Return the path and the status of each request that came to nginx."""
        lines = (self.folder / "nginx-access.log").read_text()
        return [(path, int(status)) for path, status in re.findall(r'"[A-Z]+ (\S+) HTTP/[\d.]+" (\d+)', lines)]

    def status(self, path: str) -> int:
        """Return the status of a request from outside, whose path is sent as it stands."""
        trusting = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        connection = http.client.HTTPSConnection("127.0.0.1", self.outside, context=trusting, timeout=20)
        try:
            connection.putrequest("POST", path, skip_accept_encoding=True)
            connection.putheader("Content-Length", "0")
            connection.endheaders()
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with Proxied(tmp_path_factory.mktemp("nginx")) as made:
        made.start_superlink()
        made.start_nginx()
        made.register("alice")
        made.start_node("alice", "--superlink", f"127.0.0.1:{made.outside}")
        made.wait_for_log("alice", "SuperNode ID")
        yield made


def test_a_run_goes_through_nginx(federation: Proxied) -> None:
    out = federation.folder / "echo.jsonl"
    federation.run(APP, out=str(out), nodes=1, rounds=2, bytes=20_000_000)
    answers = [answer for line in out.read_text().splitlines() for answer in json.loads(line)["answers"]]
    assert [answer["whole"] for answer in answers] == [True, True]
    paths = {path for path, status in federation.seen() if status == 200}
    assert {"/v1/fleet/activate-node", "/v1/fleet/pull-object", "/v1/fleet/push-object"} <= paths
    assert all(path.startswith("/v1/fleet/") for path in paths)


def test_nobody_outside_starts_a_run_or_registers_a_key(federation: Proxied, tmp_path: Path) -> None:
    federation.command("certificates", "--out", str(tmp_path / "eve"), "--address", "x", "--nodes", "eve")
    with pytest.raises(RuntimeError):
        federation.flwr("run", str(APP), OUTSIDE)
    with pytest.raises(RuntimeError):
        federation.flwr("supernode", "register", str(tmp_path / "eve" / "eve.pub"), OUTSIDE)
    refused = [status for path, status in federation.seen() if path.startswith("/v1/control/")]
    assert len(refused) >= 2
    assert set(refused) == {404}
    said = federation.flwr("supernode", "list", "test", "--format", "json")
    assert len(json.loads(said[said.index("{") : said.rindex("}") + 1])["nodes"]) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/%252e%252e/control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "/v1/fleet//../control/start-run",
        "//v1/control/start-run",
        "/v1/fleet",
    ],
)
def test_no_path_leads_around(federation: Proxied, path: str) -> None:
    assert federation.status(path) in (301, 400, 404)


def test_a_request_without_a_signature_is_refused(federation: Proxied) -> None:
    assert federation.status("/v1/fleet/pull-messages") in (400, 401, 415, 422)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
def test_the_units_are_such_as_systemd_reads(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 3
    (tmp_path / "bin").mkdir()
    for name in ("flower-superlink", "flower-superexec", "lightning-fed"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for name, text in blocks:
        for folder in ("/opt/federation/bin", "/opt/node/bin"):
            text = text.replace(f"ExecStart={folder}", f"ExecStart={tmp_path}/bin")
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name, _ in blocks]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
