"""transformers: a classifier and a language model, with attention masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page import recipe
from words import sentences

RECIPE = recipe("transformers")

from contract import differences, is_a_plain_epoch, learns, opens, seeded, trainer

from lightning_fed import FederatedDataModule, FederatedModule

TOPICS = ("assert", "assignment", "booleans", "class", "comparisons", "debugger")
MODULES: dict[str, Callable[..., Any]] = {"bert": RECIPE.Bert, "gpt-2": RECIPE.GPT2}


def letters(topic: str, shuffle: bool = True) -> Any:
    texts = sentences(topic, 16)
    return RECIPE.Letters(texts, [i % 2 for i, _ in enumerate(texts)], shuffle)


@pytest.mark.parametrize("kind", MODULES)
def test_one_worker_is_a_plain_trainer(kind: str) -> None:
    is_a_plain_epoch(lambda: MODULES[kind](dropout=0.0), lambda: letters("assignment", shuffle=False))


@pytest.mark.parametrize("kind", MODULES)
def test_writers_learn_together(kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {topic: letters(topic) for topic in TOPICS}
    fed, run = learns("transformers", MODULES[kind], workers, caplog, rounds=6)
    assert "val_loss" in run.callback_metrics
    opens(fed, run, tmp_path)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", MODULES)
def test_together_is_one_by_one(kind: str, dropout: float) -> None:
    """In double precision; whether a batch has padding differs between workers and steps."""
    ends = []
    for engine in ("sequential", "vectorized"):
        module = seeded(lambda: MODULES[kind](dropout=dropout)).double()
        workers = {topic: letters(topic) for topic in TOPICS[:4]}
        for name in TOPICS[2:4]:  # all of one length
            for row in workers[name].train:
                row["ids"] = row["ids"][:20]
        fed = FederatedModule(module, engine=engine)
        trainer(max_epochs=2, precision="64-true").fit(fed, FederatedDataModule(workers, cohort_size=4))
        ends.append(module.state_dict())
    assert max(differences(*ends).values()) < 1e-6  # AdamW divides gradients that are nearly 0 by their size


def test_a_classifier_that_finds_out_its_kind_is_trained_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    module = RECIPE.Bert()
    module.model.config.problem_type = None
    fed = FederatedModule(module)
    with caplog.at_level("INFO"), pytest.warns(UserWarning, match=r"model\.config\.problem_type"):
        trainer(max_epochs=1, num_sanity_val_steps=0).fit(
            fed, FederatedDataModule({t: letters(t) for t in TOPICS}, cohort_size=6)
        )
    assert fed.engine.choice == "sequential"
    assert "model.config.problem_type" in caplog.text
