"""Sends messages to all nodes, round by round, and writes down what came back and when."""

import json
import os
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from lightning_fed.flower.records import of_records, to_records

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    while len(list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.1)
    # One JSON object of fields for each round, the last again and again
    script = json.loads(config["script"] or "[{}]")
    for number in range(config["rounds"]):
        fields = script[min(number, len(script) - 1)]
        record = _round(grid, number, fields, config)
        with Path(config["out"]).open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"round {number}: {record['seconds']:.2f} s", flush=True)
        time.sleep(config["pause"])


def _round(grid: Grid, number: int, fields: dict, config: dict) -> dict:
    part = os.urandom(config["bytes"])
    kind = ("query", "train", "evaluate")[number % 3]
    content = to_records({"round": number, **fields}, [part])
    began = time.perf_counter()
    nodes = sorted(grid.get_node_ids())
    messages = [Message(content, node, kind, ttl=float(config["timeout"])) for node in nodes]
    waiting, answers = set(grid.push_messages(messages)), []
    while waiting and time.perf_counter() - began < config["timeout"] + 5:
        for reply in grid.pull_messages(list(waiting)):
            waiting.discard(reply.metadata.reply_to_message_id)
            answers.append(_answer(reply, part))
        time.sleep(0.05)
    return {"round": number, "kind": kind, "seconds": time.perf_counter() - began, "answers": answers}


def _answer(reply: Message, part: bytes) -> dict:
    if reply.has_error():
        return {"code": reply.error.code, "error": reply.error.reason}
    fields, parts = of_records(reply.content)
    return {**fields, "whole": [bytes(each) for each in parts] == [part]}
