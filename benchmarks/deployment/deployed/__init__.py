"""Model, data and records of the two Flower Apps of ``benchmarks/deployment.py``."""
