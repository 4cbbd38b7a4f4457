"""For SuperNodes that are not run by ``lightning-fed node``."""

from lightning_fed.flower import client_app

app = client_app("deployed.nodes:build")
