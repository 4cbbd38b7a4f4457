"""Transforms: two-sided steps on updates."""

from lightning_fed.transforms.base import UpdateTransform
from lightning_fed.transforms.clip import ClipNorm

__all__ = ["ClipNorm", "UpdateTransform"]
