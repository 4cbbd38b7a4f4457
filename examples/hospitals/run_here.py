"""Three hospitals and a server as processes of this machine, with TLS and keys: a rehearsal.

    python run_here.py                       # FedAvg; validation at the sites
    python run_here.py --promise patients    # the sites have policies/patients.yaml
    python run_here.py --promise site        # the sites have policies/site.yaml
    python run_here.py --rounds 20 --resume hospitals-run/checkpoints/last.ckpt

Needs lightning_fed[flower], and for a promise lightning_fed[privacy].
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from lightning_fed.flower.on_this_machine import EndedError, OnThisMachine

HERE = Path(__file__).parent.absolute()
SITES = ("north", "south", "west")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promise", choices=("patients", "site"), help="ask for it, as the sites' policies do")
    parser.add_argument("--asks", choices=("patients", "site", "nothing"), help="ask for something else than they do")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--resume", type=Path, help="go on from this checkpoint, in the --folder of its run")
    parser.add_argument("--folder", type=Path, default=Path("hospitals-run"), help="keys, logs, homes, checkpoints")
    options = parser.parse_args()
    folder = options.folder.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all processes are ended
    command([HERE / "make_data.py", folder / "data"])
    if not (folder / "ca.crt").exists():
        command(["-m", "lightning_fed", "certificates", "--out", folder, "--address", "127.0.0.1", "--nodes", *SITES])
    policy = ["--policy", str(HERE / "policies" / f"{options.promise}.yaml")] if options.promise else []
    nodes = {
        site: ["--build", "hospitals.site:build", *policy, "--config", f"site={site}", f"data={folder}/data/{site}.csv"]
        for site in SITES
    }
    asked = {"nothing": ""}.get(options.asks, options.asks or options.promise or "")
    config: dict[str, str | int] = {"out": str(folder), "registry": f"{folder}/data/registry.csv"}
    config |= {"promise": asked, "rounds": options.rounds}
    if options.resume:
        config["resume"] = str(options.resume.absolute())
    try:
        with OnThisMachine(folder, HERE) as federation:
            federation.start_superlink()
            federation.wait_for_superlink()
            federation.start_nodes(nodes)
            why = federation.run(HERE, config, print)
            print(why, file=sys.stderr)
            return 1 if why else 0
    except EndedError as error:
        print(error, file=sys.stderr)
        return 1


def command(words: list[object]) -> None:
    subprocess.run([sys.executable, *map(str, words)], check=True)


if __name__ == "__main__":
    raise SystemExit(main())
