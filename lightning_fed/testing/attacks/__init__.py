"""Attacks by malicious workers, for tests and studies of aggregators.

Attackers are omniscient and collude: they see all updates of the cohort. So an attack on updates wraps the aggregator,
where all updates are available, with any engine::

    from lightning_fed.aggregation import Median
    from lightning_fed.testing.attacks import IPM, Attacked

    FederatedModule(module, aggregator=Attacked(Median(), IPM(epsilon=0.1), attackers=["w1", "w3"]))

An attack on data changes the data of the attackers, who then train like the others::

    from lightning_fed.testing.attacks import LabelFlip

    FederatedDataModule(LabelFlip(classes=10).poison(workers, attackers=["w1", "w3"]))

Your own :class:`Attack` is a frozen dataclass with one method.
"""

from lightning_fed.testing.attacks.alie import ALIE
from lightning_fed.testing.attacks.attacked import Attacked
from lightning_fed.testing.attacks.base import Attack, Seen
from lightning_fed.testing.attacks.bit_flip import BitFlip
from lightning_fed.testing.attacks.inner_product import IPM
from lightning_fed.testing.attacks.label_flip import LabelFlip
from lightning_fed.testing.attacks.mimic import Mimic
from lightning_fed.testing.attacks.plain import Gaussian, SameValue, Scaled, SignFlip

__all__ = [
    "ALIE",
    "IPM",
    "Attack",
    "Attacked",
    "BitFlip",
    "Gaussian",
    "LabelFlip",
    "Mimic",
    "SameValue",
    "Scaled",
    "Seen",
    "SignFlip",
]
