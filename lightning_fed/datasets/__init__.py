"""Data for examples, configs and tests, and partitioners that deal one dataset out to many workers."""

from lightning_fed.datasets.digits import DigitsDataModule
from lightning_fed.datasets.fcube import FCUBE, FCUBETest
from lightning_fed.datasets.frames import FrameDataModule
from lightning_fed.datasets.hugging_face import HuggingFaceDataModule
from lightning_fed.datasets.label_skew import Dirichlet, LabelsPerWorker, Shards
from lightning_fed.datasets.long_tail import LongTail
from lightning_fed.datasets.mnist import MNIST, FashionMNIST
from lightning_fed.datasets.noise import NoiseByWorker
from lightning_fed.datasets.partition import Partition, Partitioner
from lightning_fed.datasets.partitioned import PartitionedPopulation, SplitSubsetDataModule, SubsetDataModule
from lightning_fed.datasets.partitioners import IID, DirichletSizes, LogNormal, NaturalIds
from lightning_fed.datasets.pictures import LabelCounts, count_labels, draw_label_counts
from lightning_fed.datasets.synthetic import Synthetic
from lightning_fed.datasets.tables import TableDataModule
from lightning_fed.datasets.toy import ToyDataModule

__all__ = [
    "FCUBE",
    "IID",
    "MNIST",
    "DigitsDataModule",
    "Dirichlet",
    "DirichletSizes",
    "FCUBETest",
    "FashionMNIST",
    "FrameDataModule",
    "HuggingFaceDataModule",
    "LabelCounts",
    "LabelsPerWorker",
    "LogNormal",
    "LongTail",
    "NaturalIds",
    "NoiseByWorker",
    "Partition",
    "PartitionedPopulation",
    "Partitioner",
    "Shards",
    "SplitSubsetDataModule",
    "SubsetDataModule",
    "Synthetic",
    "TableDataModule",
    "ToyDataModule",
    "count_labels",
    "draw_label_counts",
]
