"""FedPer: Arivazhagan et al., *Federated Learning with Personalization Layers*, 2019, algorithms 1 and 2.

The last layers stay with the worker, which trains them together with the others; the others are averaged.
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
class FedPer(PersonalLayers):
    """FedAvg on a part of the model; the other part stays with each worker and is used in its evaluation.

    Args:
        personal: Patterns (``*`` stands for anything) of the names of parameters and buffers that stay, such as
            ``["head.*"]``.

    Raises:
        TypeError: If the patterns are not a list of strings.
        ValueError: If there is no pattern; at the start of a fit, if one matches nothing, or all together everything.
    """

    personal: Sequence[str]

    def __post_init__(self) -> None:
        settle(self, personal=require_patterns(self.personal))

    def patterns(self, model: GlobalModel) -> Sequence[str]:
        return self.personal
