"""A ClientApp that passes each message to the node's resident process. Imports no torch: each message starts it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from lightning_fed.flower.records import of_records, to_records
from lightning_fed.node.caller import Caller
from lightning_fed.node.settings import Settings


def client_app(build: str) -> ClientApp:
    """Return the ClientApp of a node.

    A node that ``lightning-fed node`` runs takes this function from the machine's own installation, and the build
    function from its own command line. Elsewhere it may be the ``clientapp`` of a Flower App.

    Args:
        build: The function that makes the node, ``package.module:function``, unless the node's owner has named one.
            It returns an object with ``answer(fields, parts)``.

    Example::

        # client_app.py of a Flower App
        app = client_app("hospital.node:build")
    """
    app = ClientApp()

    def relay(message: Message, context: Context) -> Message:
        settings = Settings.of_environment(
            build=build,
            home=Path.home() / ".lightning_fed" / str(context.node_id),
            config={name: str(value) for name, value in context.node_config.items()},
            owner=os.getppid(),  # the SuperExec, which ends with its SuperNode
        )
        fields, parts = of_records(message.content)
        answer = Caller(settings, str(context.node_id)).ask(fields, parts, _seconds_left(message))
        return Message(to_records(*answer), reply_to=message)

    for category in (app.train, app.evaluate, app.query):
        category()(relay)
    return app


def _seconds_left(message: Message) -> float:
    """Return the seconds until the answer is too late; never more than the sender's limit, as clocks may differ."""
    metadata = message.metadata
    left: float = min(metadata.ttl, max(metadata.created_at + metadata.ttl - time.time(), 1.0))
    return left
