"""A FederatedModule and its data in a few words, for those who print them."""

from __future__ import annotations

import textwrap
from typing import Any

from lightning_fed.core.shown import call_of, private_text_of, text_of
from lightning_fed.population import Population
from lightning_fed.population.crowd import how_many, named


def data_in_words(data: Any) -> str:
    """Return a FederatedDataModule as a call: who works, how many in a round, chosen by what.

    Args:
        data: The datamodule. In a run whose promise hides workers nothing but their number is said of them.
    """
    workers: object = data.workers
    if data.hides_workers:
        whom = how_many(len(data.names))
    else:
        whom = repr(workers) if isinstance(workers, Population) else named(data.names)
    say = private_text_of if data.hides_workers else text_of
    parts = {"cohort_size": data.cohort_size, "sampler": data.sampler, "seed": data.seed}
    others = {"val": data.val, "availability": data.availability, "eval_cohort_size": data.eval_cohort_size}
    parts |= {name: value for name, value in others.items() if value is not None}
    return f"{type(data).__name__}({whom}, {', '.join(f'{name}={say(part)}' for name, part in parts.items())})"


def module_in_words(fed: Any) -> str:
    """Return a FederatedModule as torch shows a module: what it computes, how, what is promised; and the user's module.

    Args:
        fed: The module.
    """
    hides = not fed._guard.shows_metrics
    promise = "None" if fed.privacy is None else call_of(fed.privacy, hides)
    how = f"algorithm={call_of(fed.algorithm, hides)}, engine={fed.engine!r}, privacy={promise}"
    how += "" if fed.secure_aggregation is None else f", secure_aggregation={fed.secure_aggregation!r}"
    module = textwrap.indent(repr(fed.module), "  ").lstrip()
    return f"{type(fed).__name__}(\n  {how}\n  (module): {module}\n)"
