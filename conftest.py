"""What the collection of doctests must leave out."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("flwr") else ["lightning_fed/flower"]  # `make test-flower` has it
