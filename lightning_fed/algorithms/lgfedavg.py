"""LG-FedAvg: Liang et al., *Think Locally, Act Globally*, 2020, algorithm 1.

FedPer the other way round: the first layers stay, so that each worker learns a representation of its own data, and one
head, which is averaged, works on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from lightning_fed.algorithms.personal import PersonalLayers, require_patterns
from lightning_fed.wire import GlobalModel


@final
@dataclass(frozen=True)
class LGFedAvg(PersonalLayers):
    """FedAvg on the head; the encoder stays with each worker, which is evaluated by it.

    Args:
        personal: Patterns (``*`` stands for anything) of the names of parameters and buffers that stay, such as
            ``["encoder.*"]``.

    Raises:
        ValueError: If there is no pattern; at the start, if one matches nothing, or all of them everything.
    """

    personal: Sequence[str]

    def __post_init__(self) -> None:
        require_patterns(self.personal)

    def patterns(self, model: GlobalModel) -> Sequence[str]:
        return self.personal
