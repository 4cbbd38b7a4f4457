"""What the two Flower Apps of ``benchmarks/deployment.py`` train, and what they write down."""
