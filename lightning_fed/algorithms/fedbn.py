"""FedBN: Li et al., *FedBN: Federated Learning on Non-IID Features via Local Batch Normalization*, 2021.

Workers whose inputs are distributed differently keep their batch normalisation, scales, shifts and statistics; all
other parameters are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from lightning_fed.algorithms.personal import PersonalLayers, require_patterns
from lightning_fed.core.arguments import settle
from lightning_fed.wire import GlobalModel


@final
@dataclass(frozen=True)
class FedBN(PersonalLayers):
    """FedAvg except for the normalisation layers, which stay with each worker.

    Args:
        personal: Patterns of the names of parameters and buffers that stay; None: all layers with running statistics,
            such as BatchNorm of any dimension.

    Raises:
        TypeError: If the patterns are not a list of strings.
        ValueError: If the list is empty; at the start of a fit, if the module has no such layer.
    """

    personal: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.personal is not None:
            settle(self, personal=require_patterns(self.personal))

    def patterns(self, model: GlobalModel) -> Sequence[str]:
        if self.personal is not None:
            return self.personal
        layers = [name.removesuffix("running_mean") for name in model.buffers if name.endswith("running_mean")]
        if not layers:
            raise ValueError(
                "FedBN() finds no layer with running statistics (BatchNorm); say which layers stay with the workers: "
                "FedBN(personal=['norm*'])"
            )
        return [f"{layer}*" for layer in layers]
