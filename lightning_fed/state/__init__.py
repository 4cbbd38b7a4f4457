"""What is remembered from round to round: a worker's own state."""
