"""Report of one run: results, costs, content of messages, promise of privacy, and instructions to repeat it."""
