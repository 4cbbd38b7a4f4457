"""Report of one run: what came of it, what it cost, what left the workers, what was promised, how to repeat it."""
