"""What releases cost together, by dp-accounting: by privacy loss distributions or by Rényi divergences."""

from lightning_fed.privacy.accounting.accountant import Accountant, check_delta
from lightning_fed.privacy.accounting.support import KINDS, Kind, tightest

__all__ = ["KINDS", "Accountant", "Kind", "check_delta", "tightest"]
