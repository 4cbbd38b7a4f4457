"""Whether a metric is better when it is low or when it is high, read from its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

Mode = Literal["min", "max"]
"""The direction of a metric, as in Lightning's EarlyStopping and ModelCheckpoint: the best value is min or max."""

_COSTS = """
    loss losses error errors err entropy xent perplexity ppl nll divergence kl kld distance deviance regret residual
    mse rmse nmse nrmse msle rmsle sse mae mape smape wmape msd rmsd rse rae crps brier ece mce eer
    ce bce bpd bpc wer cer mer ter fid kid lpips epe mpjpe hausdorff hamming hinge chamfer
    fpr fnr fdr fp fn false misses violations seconds latency bytes megabytes
"""
_LOW_IS_GOOD = frozenset(_COSTS.split())
_ENDINGS = ("loss", "error", "perplexity", "entropy", "divergence", "distance")
_LIKELIHOODS = frozenset({"log", "likelihood", "loglikelihood", "elbo"})


def better(metric: str) -> Mode:
    """Return the direction of a metric: low values are better for losses and errors, else high values.

    Args:
        metric: The metric's name as it was logged, such as ``val_acc``, ``test/RMSE`` or ``val_loss/dataloader_idx_1``.

    Returns:
        ``"min"`` where a word in the name is one of a loss, an error, a distance or a cost; else ``"max"``. A
        preceding ``neg`` reverses it, as in scikit-learn's ``neg_mean_squared_error``.

    >>> better("val_loss"), better("MeanSquaredError"), better("test/ppl"), better("negative_log_likelihood")
    ('min', 'min', 'min', 'min')
    >>> better("val_acc"), better("auroc"), better("log_likelihood"), better("neg_log_loss")
    ('max', 'max', 'max', 'max')
    """
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", metric)]
    low = any(word in _LOW_IS_GOOD or word.endswith(_ENDINGS) for word in words)
    turned = "neg" in words or any(word == "negative" and after in _LIKELIHOODS for word, after in pairwise(words))
    return "min" if low != turned else "max"


def foremost(metrics: Iterable[str]) -> str | None:
    """Return the default metric of a model's quality: the first one whose high values are better.

    Args:
        metrics: The names of metrics.

    Returns:
        The metric's name; if low values are better for all, the first one; None without metrics.

    >>> foremost(["val_loss", "val_acc", "val_f1"]), foremost(["val_loss", "val_mse"]), foremost([])
    ('val_acc', 'val_loss', None)
    """
    names = list(metrics)
    return next((name for name in names if better(name) == "max"), next(iter(names), None))


def worst_decile(metric: str) -> Literal["p10", "p90"]:
    """Return the decile of a metric's values that is the worst.

    Args:
        metric: The metric's name.

    >>> worst_decile("val_acc"), worst_decile("val_loss")
    ('p10', 'p90')
    """
    return "p10" if better(metric) == "max" else "p90"
