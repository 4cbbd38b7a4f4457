"""What a server might send to nodes: code that shows when it is run."""

import os
from pathlib import Path

from flwr.clientapp import ClientApp

Path(os.environ["BUNDLE_WAS_RUN"]).touch()

app = ClientApp()
