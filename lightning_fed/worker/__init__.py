"""Code that runs on a worker: all that a real node has to import besides its engine's transport."""
