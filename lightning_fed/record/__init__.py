"""The record of a run: files beside its logger's, which reports and comparisons read. See docs/records.md."""

from lightning_fed.record.names import next_version
from lightning_fed.record.origin import Origin, whole
from lightning_fed.record.reader import RunRecord, read
from lightning_fed.record.settings import settings
from lightning_fed.record.writer import RunWriter, folder_of, folder_of_logger

__all__ = [
    "Origin",
    "RunRecord",
    "RunWriter",
    "folder_of",
    "folder_of_logger",
    "next_version",
    "read",
    "settings",
    "whole",
]
