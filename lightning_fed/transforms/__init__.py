"""Transforms: two-sided steps on updates."""

from lightning_fed.transforms.base import UpdateTransform
from lightning_fed.transforms.clip import ClipNorm
from lightning_fed.transforms.compression.compressed import Compressed
from lightning_fed.transforms.compression.compressor import Compressor, Form
from lightning_fed.transforms.compression.eden import EDEN
from lightning_fed.transforms.compression.kbit import KBit
from lightning_fed.transforms.compression.power_sgd import PowerSGD
from lightning_fed.transforms.compression.sign import Sign
from lightning_fed.transforms.compression.sparse import RandomK, TopK
from lightning_fed.transforms.momentum import WorkerMomentum

__all__ = [
    "EDEN",
    "ClipNorm",
    "Compressed",
    "Compressor",
    "Form",
    "KBit",
    "PowerSGD",
    "RandomK",
    "Sign",
    "TopK",
    "UpdateTransform",
    "WorkerMomentum",
]
