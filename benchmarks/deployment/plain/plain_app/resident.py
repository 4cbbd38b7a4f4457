"""A ClientApp that hands arrays to a process that stays, as ours does: the same executor, under Flower's strategy."""

import os
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from lightning_fed.node.caller import Caller
from lightning_fed.node.settings import Settings

app = ClientApp()


@app.train()
def answer(message: Message, context: Context) -> Message:
    config = {name: str(value) for name, value in context.node_config.items()}
    settings = Settings("deployed.nodes:build_arrays", Path(config["home"]), config, owner=os.getppid())
    sent = message.content["arrays"]
    fields, parts = Caller(settings, str(context.node_id)).ask(
        {"names": list(sent)}, [array.data for array in sent.values()], seconds=600.0
    )
    arrays = {
        name: Array(dtype=array.dtype, shape=tuple(array.shape), stype=array.stype, data=bytes(part))
        for (name, array), part in zip(sent.items(), parts, strict=True)
    }
    metrics = MetricRecord({"num-examples": fields["examples"]})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)
