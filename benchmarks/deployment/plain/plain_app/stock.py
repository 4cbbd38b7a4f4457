"""A ClientApp as Flower's documentation has it: it imports torch, and trains."""

import torch
from deployed.task import network, train
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def answer(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    kind, site = str(context.run_config["kind"]), str(context.node_config["site"])
    net = network(kind)
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    examples = train(kind, site, net)
    records = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": examples})}
    return Message(RecordDict(records), reply_to=message)
