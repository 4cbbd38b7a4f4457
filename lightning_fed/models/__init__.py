"""Small models for examples, configs and tests; nothing else in the package uses them."""

from lightning_fed.models.linear import LinearRegression
from lightning_fed.models.mlp import MLPClassifier

__all__ = ["LinearRegression", "MLPClassifier"]
