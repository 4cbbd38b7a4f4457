from lightning_fed.flower import client_app

app = client_app("linear_nodes:build")
