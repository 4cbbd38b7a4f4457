"""Secure aggregation: a server that adds up what it cannot see."""
