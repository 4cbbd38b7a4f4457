"""Composition of releases by dp-accounting: with privacy loss distributions or Rényi divergences."""

from lightning_fed.privacy.accounting.accountant import Accountant, check_delta
from lightning_fed.privacy.accounting.support import KINDS, Kind, tightest

__all__ = ["KINDS", "Accountant", "Kind", "check_delta", "tightest"]
