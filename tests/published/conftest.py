"""The studies are scripts, whose folder is on the path when they are run; so it is here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "published"))
