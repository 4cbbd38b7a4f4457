"""Data that cross between the server and its workers: plain, and in their form as bytes."""

from lightning_fed.wire.attributes import ABSENT
from lightning_fed.wire.codec import (
    decode_job,
    decode_share,
    decode_updates,
    encode_job,
    encode_share,
    encode_updates,
    encode_updates_into,
    job_bytes,
    updates_bytes,
)
from lightning_fed.wire.codes import Coder, Codes, ModelCoder
from lightning_fed.wire.errors import BudgetError, RoundError, WireError, WorkerError, describe
from lightning_fed.wire.global_model import GlobalModel
from lightning_fed.wire.job import Job, LocalTraining, Model, Penalty, RecordPrivacy
from lightning_fed.wire.layout import Layout, wide
from lightning_fed.wire.share import Share
from lightning_fed.wire.updates import Aggregate, Updates

__all__ = [
    "ABSENT",
    "Aggregate",
    "BudgetError",
    "Coder",
    "Codes",
    "GlobalModel",
    "Job",
    "Layout",
    "LocalTraining",
    "Model",
    "ModelCoder",
    "Penalty",
    "RecordPrivacy",
    "RoundError",
    "Share",
    "Updates",
    "WireError",
    "WorkerError",
    "decode_job",
    "decode_share",
    "decode_updates",
    "describe",
    "encode_job",
    "encode_share",
    "encode_updates",
    "encode_updates_into",
    "job_bytes",
    "updates_bytes",
    "wide",
]
