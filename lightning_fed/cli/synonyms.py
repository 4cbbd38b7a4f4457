"""The option that is meant by an unknown one: a synonym, its last part, or a misspelling.

Papers and frameworks have several words for most settings of a federated run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

_MEANT: dict[tuple[str, ...], tuple[str, ...]] = {
    ("rounds", "num_rounds", "n_rounds", "max_rounds", "global_rounds", "comm_rounds", "comm_round", "steps"): (
        "trainer.max_steps",
    ),
    ("communication_rounds", "num_server_rounds", "total_rounds", "iterations"): ("trainer.max_steps",),
    ("epochs", "num_epochs", "n_epochs", "epoch"): ("trainer.max_epochs", "model.local_epochs"),
    ("local_ep", "local_epoch", "client_epochs", "worker_epochs", "inner_epochs"): ("model.local_epochs",),
    ("local_iterations", "client_steps", "local_updates"): ("model.local_steps",),
    ("algorithm", "algo", "alg", "method"): ("model.algorithm",),
    ("strategy",): ("model.algorithm", "trainer.strategy"),
    ("lr", "learning_rate", "local_lr", "client_lr", "eta"): (
        "model.module.init_args.lr",
        "model.server_optimizer.lr",
    ),
    ("server_lr", "global_lr", "server_learning_rate"): ("model.server_optimizer.lr",),
    ("server_opt", "global_optimizer"): ("model.server_optimizer",),
    ("opt", "local_optimizer", "client_optimizer"): ("optimizer",),
    ("momentum", "server_momentum"): ("model.server_optimizer.momentum",),
    ("mu", "prox_mu", "proximal_mu"): ("model.algorithm.mu",),
    ("clients", "client", "worker", "nodes", "sites", "parties", "users", "participants"): ("data.workers",),
    ("num_clients", "n_clients", "num_workers", "n_workers", "num_users", "population", "num_parties"): (
        "data.workers",
        "data.cohort_size",
    ),
    ("clients_per_round", "workers_per_round", "num_clients_per_round", "cohort", "frac", "fraction"): (
        "data.cohort_size",
    ),
    ("fraction_fit", "sample_fraction", "sample_ratio", "client_fraction", "join_ratio", "participation"): (
        "data.cohort_size",
    ),
    ("min_clients", "min_fit_clients", "min_available_clients", "min_num_clients"): ("model.min_workers",),
    ("client_sampler", "sampling", "selection", "selector"): ("data.sampler",),
    ("dropout", "stragglers", "dropouts"): ("data.availability",),
    ("dataset", "datamodule"): ("data.workers",),
    ("partition", "partitioner", "split"): ("data.workers.partition",),
    ("alpha", "dirichlet", "dirichlet_alpha", "concentration"): ("data.workers.partition.alpha",),
    ("batch_size", "bs", "local_bs", "local_batch_size", "train_batch_size"): ("data.batch_size",),
    ("net", "network", "arch", "architecture"): ("model.module",),
    ("aggregation", "agg", "aggregate", "defense", "robust"): ("model.aggregator",),
    ("compression", "compressor", "clip"): ("model.transforms", "model.privacy"),
    ("dp", "epsilon", "noise_multiplier", "delta", "noise"): ("model.privacy",),
    ("backend", "mode", "execution"): ("model.engine",),
    ("seed", "random_seed", "manual_seed", "rng"): ("seed_everything", "data.seed"),
    ("gpu", "gpus", "num_gpus", "cuda", "device"): ("trainer.accelerator", "trainer.devices"),
    ("cpu",): ("trainer.accelerator",),
    ("fp16", "bf16", "amp", "mixed_precision"): ("trainer.precision",),
    ("ckpt", "checkpoint", "resume", "resume_from", "resume_from_checkpoint", "load", "weights"): ("ckpt_path",),
    ("log_dir", "logdir", "output_dir", "out_dir", "out", "output", "save_dir", "workdir"): (
        "trainer.logger.save_dir",
        "trainer.default_root_dir",
    ),
    ("wandb", "tensorboard", "mlflow", "logging"): ("trainer.logger",),
    ("eval_every", "eval_interval", "test_every", "eval_every_n_rounds", "val_interval"): (
        "data.rounds_per_epoch",
        "trainer.check_val_every_n_epoch",
    ),
    ("early_stopping", "patience"): ("trainer.callbacks",),
    ("debug", "dry_run", "smoke_test"): ("trainer.fast_dev_run",),
    ("quiet", "verbose", "progress", "progress_bar", "no_progress_bar"): ("trainer.enable_progress_bar",),
    ("conf", "cfg", "yaml", "config_file", "config_name", "config_path"): ("config",),
}
_OF_WORD = {word: meant for words, meant in _MEANT.items() for word in words}
REMARKS = {
    "trainer.max_steps": "the Trainer's steps are rounds",
    "trainer.max_epochs": "the server's",
    "model.local_epochs": "the workers', in each round",
    "model.module.init_args.lr": "the workers', if your module takes it",
    "model.server_optimizer.lr": "the server's",
    "data.workers": "a section of the config",
    "data.workers.partition": "where the workers are a PartitionedPopulation",
    "data.workers.partition.alpha": "where the partition is a Dirichlet",
    "data.batch_size": "of datasets and arrays; a datamodule has its own",
}
"""Descriptions of options whose names are not self-explanatory."""


def meant(option: str, options: Collection[str]) -> Sequence[str]:
    """Return the options that may be meant by an unknown one, the likeliest first.

    Args:
        option: Its name without dashes, such as ``"max_rounds"`` or ``"algorithm.mu"``.
        options: The names of all options.

    Returns:
        Names of options; none if none is near.

    >>> meant("rounds", ["trainer.max_steps", "model.algorithm"]), meant("algorithm.mu", ["model.algorithm"])
    (['trainer.max_steps'], ['model.algorithm.mu'])
    """
    option = option.lower().replace("-", "_")
    parts = option.split(".")
    for length in range(len(parts), 0, -1):
        word, rest = ".".join(parts[:length]), parts[length:]
        found = _by_word(word, options) or (_by_spelling(word, options) if "." in word or not rest else ())
        if found:
            return [".".join([name, *rest]) for name in found]
    return ()


def same(word: str, known: Collection[str]) -> str:
    """Return a hint about the known word with the meaning of an unknown one, as the end of a message; empty if none.

    >>> same("learning_rate", ["params", "lr", "betas"])
    "; did you mean 'lr'?"
    """
    likewise = next((words for words in _MEANT if word.lower() in words), ())
    return next((f"; did you mean {name!r}?" for name in known if name in likewise), "")


def _by_word(word: str, options: Collection[str]) -> Sequence[str]:
    last = word.rpartition(".")[2]
    told = [name for name in _OF_WORD.get(last, ()) if _exists(name, options)]
    return told or sorted(name for name in options if name.lower() == word or name.endswith(f".{last}"))[:3]


def _by_spelling(word: str, options: Collection[str]) -> Sequence[str]:
    found = get_close_matches(word, sorted(options), n=1, cutoff=0.7)
    if found:
        return found
    ends = {name.rpartition(".")[2]: name for name in sorted(options)}
    if found := get_close_matches(word.rpartition(".")[2], ends, n=1, cutoff=0.8):
        return [ends[found[0]]]
    if found := get_close_matches(word.rpartition(".")[2], _OF_WORD, n=1, cutoff=0.8):
        return [name for name in _OF_WORD[found[0]] if _exists(name, options)]
    return ()


def _exists(name: str, options: Collection[str]) -> bool:
    """Whether there is such an option, or one of an object that an option names."""
    return any(name == option or name.startswith(f"{option}.") for option in options)
