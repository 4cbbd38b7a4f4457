"""The settings of a node: set by its owner, and passed on to the node's processes in their environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

IDLE_TIMEOUT = 1800.0
"""How long a resident process waits for a message before it ends, in seconds."""

_BUILD = "LIGHTNING_FED_BUILD"
_HOME = "LIGHTNING_FED_HOME"
_POLICY = "LIGHTNING_FED_POLICY"
_CONFIG = "LIGHTNING_FED_CONFIG"
_IDLE_TIMEOUT = "LIGHTNING_FED_IDLE_TIMEOUT"
_IDENTITY = "LIGHTNING_FED_IDENTITY"
_IDENTITIES = "LIGHTNING_FED_IDENTITIES"
_OWNER = "LIGHTNING_FED_NODE_PID"


@final
@dataclass(frozen=True)
class Settings:
    """Settings that the owner of a node has made.

    Args:
        build: Names the function that makes the node: ``package.module:function``.
        home: The folder of the node, for its logs and its workers' own state.
        config: The argument of that function, if it takes one.
        policy: The file of the node's policy, if it has one.
        identity: The file of its private key for secure aggregation, if it has an identity.
        identities: The file of all workers' public keys.
        idle_timeout: How long the resident process waits for a message before it ends, in seconds.
        owner: The id of the process with which the resident process ends; None: of none.

    >>> settings = Settings("hospital.node:build", Path("/srv/node"), {"site": "north"})
    >>> Settings.of_environment(settings.environment()) == settings
    True
    """

    build: str
    home: Path
    config: Mapping[str, str] = field(default_factory=dict)
    policy: str | None = None
    identity: str | None = None
    identities: str | None = None
    idle_timeout: float = IDLE_TIMEOUT
    owner: int | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables that carry the settings."""
        # Not arguments: every user of a machine can read those
        optional = {
            _POLICY: self.policy,
            _IDENTITY: self.identity,
            _IDENTITIES: self.identities,
            _OWNER: self.owner,
        }
        return {
            _BUILD: self.build,
            _HOME: str(self.home),
            _CONFIG: json.dumps(dict(self.config)),
            _IDLE_TIMEOUT: repr(self.idle_timeout),
            **{name: str(value) for name, value in optional.items() if value is not None},
        }

    @classmethod
    def of_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        build: str | None = None,
        home: Path | None = None,
        config: Mapping[str, str] | None = None,
        owner: int | None = None,
    ) -> Settings:
        """Read the settings.

        Args:
            environment: The variables; None: those of this process.
            build: The function to take if the environment names none.
            home: Likewise the folder.
            config: Likewise the function's argument.
            owner: Likewise the process.

        Raises:
            ValueError: If something is missing or cannot be read.
        """
        given = os.environ if environment is None else environment
        build = given.get(_BUILD) or build
        if build is None:
            raise ValueError(f"{_BUILD} does not name the function that makes the node: package.module:function")
        if home is None and _HOME not in given:
            raise ValueError(f"{_HOME} does not name the folder of the node")
        try:
            return cls(
                build=build,
                home=Path(given[_HOME]) if _HOME in given else Path(str(home)),
                config=json.loads(given[_CONFIG]) if _CONFIG in given else dict(config or {}),
                policy=given.get(_POLICY),
                identity=given.get(_IDENTITY),
                identities=given.get(_IDENTITIES),
                idle_timeout=float(given.get(_IDLE_TIMEOUT, IDLE_TIMEOUT)),
                owner=int(given[_OWNER]) if _OWNER in given else owner,
            )
        except ValueError as error:
            raise ValueError(f"the node's settings in the environment cannot be read: {error}") from None
