"""A stock Trainer; what comes of the run is written down for the test."""

from sites import run

from lightning_fed.flower import server_app


def main(workers, engine, config):
    run(workers, engine, **{key: config[key] for key in config if key not in ("nodes", "timeout")})


app = server_app(main, wait=60)
