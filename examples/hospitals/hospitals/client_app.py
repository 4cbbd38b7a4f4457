"""The clientapp that a Flower App must name. A site that runs ``lightning-fed node`` runs its own installed copy."""

from lightning_fed.flower import client_app

app = client_app("hospitals.site:build")
