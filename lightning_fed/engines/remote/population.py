"""The workers of all nodes, as the nodes announce them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, final

from lightning_fed.core.arguments import number, whole
from lightning_fed.core.channel import Message
from lightning_fed.engines.remote.link import Link, LinkError, answers
from lightning_fed.population import EvaluationKind, Population
from lightning_fed.wire import WireError
from lightning_fed.wire.terms import PROTOCOL

_LONGEST_NAME = 500
_MOST_EXAMPLES = 2**53
"""Numbers of examples beyond it are not exact as float64, and nobody has as many."""


@final
@dataclass(frozen=True)
class Hosted:
    """A worker that a node has announced.

    Args:
        node: The node's identifier.
        examples: Its number of training examples, if the node reports it; None: the node does not.
        loaders: How many loaders it has of each kind besides its train loader.
    """

    node: int
    examples: int | None
    loaders: Mapping[str, int]


@final
class RemotePopulation(Population):
    """All workers that the nodes announce, each by its name. Their data stay where they are.

    Args:
        link: Carries messages to the nodes.
        nodes: How many nodes to wait for; None: for one, or for those that host ``names``.
        names: The names of all workers, in order, which is the order in which updates are added; None: those that are
            announced, in alphabetical order.
        wait: How many seconds to wait until they are there.
        most_examples: The number of examples beyond which a worker is refused: it would have more weight in a mean
            than anyone can have. None: no bound but that of exact numbers, 2⁵³.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a node is missing, two of them announce one name, or what one announces cannot be used.
    """

    lies_elsewhere: ClassVar[bool] = True
    draws_nothing: ClassVar[bool] = True
    gives_datamodules: ClassVar[bool] = True

    no_settings: ClassVar[Collection[str]] = ("link",)
    """See :class:`Remote`."""

    def __init__(
        self,
        link: Link,
        nodes: int | None = None,
        names: Sequence[str] | None = None,
        wait: float = 120.0,
        most_examples: int | None = None,
    ) -> None:
        self._link = link
        self._nodes = None if nodes is None else whole("nodes", nodes, least=1)
        self._wait = float(number("wait", wait, above=0))
        self._most_examples = (
            _MOST_EXAMPLES if most_examples is None else whole("most_examples", most_examples, least=1)
        )
        if isinstance(names, str):
            raise TypeError(f"names={names!r} must be a list of names, such as ['bob', 'alice']")
        self._announced: dict[int, dict[str, Any]] = {}
        self._unusable: dict[int, str] = {}
        self._wanted = None if names is None else frozenset(names)
        self.hosted: Mapping[str, Hosted] = self._gathered(None if names is None else list(names))
        """Every worker's node, and the node's description of the worker."""
        self._names = list(self.hosted)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self.hosted

    def name(self, position: int) -> str:
        return self._names[position]

    def __getitem__(self, name: str) -> NoReturn:
        if name not in self.hosted:
            raise KeyError(name)
        raise ValueError(f"the data of worker {name!r} lie on its node, and nothing of them can be had here")

    def num_examples(self, name: str) -> int:
        """Return a worker's number of training examples, 0 where its node keeps it for itself."""
        return self.hosted[name].examples or 0

    def has_loader(self, kind: EvaluationKind) -> bool:
        return self.num_loaders(kind) > 0

    def num_loaders(self, kind: EvaluationKind) -> int:
        return max(hosted.loaders.get(kind, 0) for hosted in self.hosted.values())

    @property
    def most_examples(self) -> int:
        """The number of examples that no worker can have more than, 2⁵³ if it was not given."""
        return self._most_examples

    @property
    def signs(self) -> bool:
        """Whether the nodes of all workers have identities, with which they sign keys."""
        return all(self._announced[hosted.node]["signs"] for hosted in self.hosted.values())

    def check_identities(self) -> None:
        """Refuse workers of which some have identities, and others have none.

        Raises:
            ValueError: Naming one of each.
        """
        signing = {name: self._announced[hosted.node]["signs"] for name, hosted in self.hosted.items()}
        if len(set(signing.values())) > 1:
            one, other = (next(name for name, signs in signing.items() if signs is has) for has in (True, False))
            raise ValueError(
                f"the node of {one!r} has an identity, and that of {other!r} has none, so that neither can believe the "
                "other in secure aggregation: give all nodes an identity (Node(identity=..., identities=...)), or none"
            )

    @property
    def link(self) -> Link:
        """The link to the nodes."""
        return self._link

    @property
    def versions(self) -> Mapping[int, Mapping[str, str]]:
        """The versions of the packages at each node, as the node reports them."""
        return {node: greeting["versions"] for node, greeting in self._announced.items()}

    # ---- greeting ----------------------------------------------------------------------------------------------------

    def _gathered(self, names: list[str] | None) -> dict[str, Hosted]:
        deadline = time.monotonic() + self._wait
        while True:
            new = [node for node in self._link.nodes() if node not in self._announced | self._unusable]
            self._greet(new, max(deadline - time.monotonic(), 1.0))
            hosted = self._by_name()
            missing = [name for name in names or () if name not in hosted]
            enough = len(self._announced) >= (self._nodes or 1)
            if enough and not missing:
                break
            if time.monotonic() >= deadline:
                self._refuse_missing(missing)
            time.sleep(self._link.poll)
        return {name: hosted[name] for name in (sorted(hosted) if names is None else names)}

    def _greet(self, nodes: Sequence[int], seconds: float) -> None:
        message: Message = {"ask": "greet", "protocol": PROTOCOL}, []
        for position, answer in answers(self._link, [(node, message) for node in nodes], seconds):
            if isinstance(answer, LinkError):  # the node may answer a second message
                continue
            try:
                self._announced[nodes[position]] = _checked(answer[0], nodes[position])
            except ValueError as error:
                if self._wanted is None:
                    raise
                self._unusable[nodes[position]] = str(error)  # it may host none of those that are wanted

    def _by_name(self) -> dict[str, Hosted]:
        hosted: dict[str, Hosted] = {}
        for node, greeting in self._announced.items():
            for each in greeting["workers"]:
                name = each["name"]
                if self._wanted is not None and name not in self._wanted:
                    continue
                if name in hosted:
                    raise ValueError(
                        f"two nodes announce a worker {name!r} ({hosted[name].node} and {node}): give each worker a "
                        "name of its own, in the function that builds its node"
                    )
                examples, most = each["examples"], self._most_examples
                if examples is not None and examples > most:
                    raise ValueError(
                        f"worker {name!r} announces {examples} examples, and most_examples={most}: a mean by numbers "
                        "of examples would be its own; see its node, or raise most_examples"
                    )
                hosted[name] = Hosted(node, each["examples"], each["loaders"])
        return hosted

    def _refuse_missing(self, missing: Sequence[str]) -> NoReturn:
        announced = (each["name"] for greeting in self._announced.values() for each in greeting["workers"])
        there = ", ".join(map(repr, sorted(announced))) or "nobody"
        waited = f"after {self._wait:g} seconds"
        if missing:
            whom = f"the workers {', '.join(map(repr, missing))} are"
            whom = f"the worker {missing[0]!r} is" if len(missing) == 1 else whom
            raise ValueError(
                f"{waited} {whom} not there, and {there} is: start their nodes, or leave them out of names="
                + "".join(f"\n  {reason}" for reason in self._unusable.values())
            )
        raise ValueError(
            f"{waited} {len(self._announced)} of nodes={self._nodes or 1} nodes are there, with the workers {there}: "
            "start the others (`lightning-fed node`), or wait longer"
        )


def _checked(fields: Mapping[str, Any], node: int) -> dict[str, Any]:
    """Check what a node announces; its answer may be anyone's."""
    if "refused" in fields:
        raise ValueError(f"node {node} refuses to take part: {str(fields['refused'])[:1000]}")
    versions, workers = fields.get("versions"), fields.get("workers")
    if not isinstance(versions, dict) or not isinstance(workers, list) or not all(isinstance(w, dict) for w in workers):
        raise ValueError(f"node {node} answers a greeting with something else: install the same lightning_fed there")
    if versions.get("protocol") != PROTOCOL:
        raise ValueError(
            f"node {node} speaks version {versions.get('protocol')} of the protocol, and the server version "
            f"{PROTOCOL}: install the same lightning_fed on the server and on all nodes"
        )
    for each in workers:
        name, examples, loaders = (each.get(key) for key in ("name", "examples", "loaders"))
        if not isinstance(name, str) or not name:
            raise ValueError(f"node {node} announces a worker without a name: {name!r}")
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise ValueError(
                f"node {node} announces a worker with the name {name[:50]!r}: a name has at most {_LONGEST_NAME} "
                "characters, and all of them can be printed"
            )
        if examples is not None and (type(examples) is not int or examples < 0):
            raise ValueError(
                f"node {node} announces {examples!r} examples of worker {name!r}, which is no number of them"
            )
        if not isinstance(loaders, dict) or not all(
            type(count) is int and 0 <= count < 100 for count in loaders.values()
        ):
            raise WireError(f"node {node} announces loaders of worker {name!r} that cannot be read: {loaders!r}")
    return {"versions": versions, "workers": workers, "signs": fields.get("signs") is True}
