"""The dashboard as a browser shows it: TensorBoard in Debian's chromium, without a window.

Pages of TensorBoard are made of components whose insides no dump of a page holds. So the server has one more page, with
TensorBoard in a frame and a script that writes down the text in all of its components.
"""

from __future__ import annotations

import json
import re
import shutil
import socketserver
import subprocess
import time
import urllib.request
import warnings
import wsgiref.simple_server
from pathlib import Path
from typing import Any

import pytest
from test_dashboard import Labelled, charts, federation, shown

from lightning_fed import FederatedModule

with warnings.catch_warnings():  # of what TensorBoard imports
    warnings.simplefilter("ignore")
    from tensorboard import default, program

    SERVER: Any = program.TensorBoardServer

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")

PROBE = b"""<!doctype html><iframe id="page" width="1500" height="1100" src="/#custom_scalars"></iframe><pre id="text">
</pre><script>
function text(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent.trim() ? [node.textContent.trim()] : [];
  if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.nodeName)) return [];
  return [...(node.shadowRoot ? text(node.shadowRoot) : []), ...[...node.childNodes].flatMap(text)];
}
setInterval(() => {
  const body = document.getElementById("page").contentDocument.body;
  if (body) document.getElementById("text").textContent = JSON.stringify(text(body));
}, 500);
</script>"""


class Silent(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Threaded(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Served(SERVER):  # type: ignore[misc]
    """TensorBoard's server with the page of the script."""

    def __init__(self, application: Any, flags: Any) -> None:
        def answer(environment: Any, start: Any) -> Any:
            if environment["PATH_INFO"] != "/probe":
                return application(environment, start)
            start("200 OK", [("Content-Type", "text/html")])
            return [PROBE]

        self.server = wsgiref.simple_server.make_server("127.0.0.1", 0, answer, Threaded, Silent)

    def serve_forever(self) -> None:
        self.server.serve_forever()

    def get_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """TensorBoard about one run of twelve workers."""
    events = shown(tmp_path / "logs", FederatedModule(Labelled()), federation())
    assert charts(events)
    board = program.TensorBoard(default.get_plugins(), server_class=Served)
    board.configure(argv=[None, "--logdir", str(tmp_path / "logs"), "--load_fast=false"])
    url = board.launch()
    deadline = time.monotonic() + 60
    while not json.loads(urllib.request.urlopen(f"{url}/data/runs", timeout=10).read()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return url


def test_the_charts_of_the_layout_are_on_the_page(url: str, tmp_path: Path) -> None:
    listing = json.loads(urllib.request.urlopen(f"{url}/data/plugins_listing", timeout=10).read())
    active = {name for name, about in listing.items() if about["enabled"]}
    assert active >= {"scalars", "custom_scalars", "images", "histograms", "distributions", "text", "hparams"}
    assert CHROMIUM is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--window-size=1600,1300", "--virtual-time-budget=20000", "--dump-dom"]
    page = subprocess.run(
        [CHROMIUM, *options, f"{url}/probe"], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    found = re.search(r'<pre id="text">(.*?)</pre>', page, re.DOTALL)
    assert found is not None
    for title in (
        "How good, and for whom",
        "val_acc: workers, p10 to p90",
        "val_acc: all, and worst decile",
        "What it cost",
        "megabytes so far",
        "Who took part",
        "share of the population so far",
        "Drift",
        "alignment with the mean",
    ):
        assert title in found[1]
