"""Evaluations: the loaders that a Trainer goes through, the user's own steps, and what comes of them by worker."""
