"""Nodes: machines that host workers, and decide what runs on them."""

from lightning_fed.node.account import NodeAccount
from lightning_fed.node.policy import Policy, PolicyError, RequiredPromise

__all__ = ["NodeAccount", "Policy", "PolicyError", "RequiredPromise"]
