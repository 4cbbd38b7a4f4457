"""A worker's training batches.

A DataLoader fetches and stacks single rows, which for small tensors is slower than the training itself. A dataset of
tensors is therefore batched by indexing, with the loader's own batch sampler and exactly the loader's batches.
"""

# benchmarks/rounds.py measures whole rounds with both.

from lightning_fed.population.batches.base import Batches as Batches
from lightning_fed.population.batches.choice import batches_of as batches_of
from lightning_fed.population.batches.counts import examples_per_pass as examples_per_pass
from lightning_fed.population.batches.indexed import IndexedBatches as IndexedBatches
from lightning_fed.population.batches.loaded import LoadedBatches as LoadedBatches
