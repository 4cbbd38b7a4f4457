"""Common utilities in plain torch and Python. Nothing here imports Lightning."""
