"""Plain torch and arithmetic: what everything above is made of. Nothing here imports Lightning."""
