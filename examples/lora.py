"""A small language model goes on learning on six workers, by federated LoRA, and what that saves on the wire.

    python examples/lora.py

A GPT-2 over bytes is trained for a short while on Python's help topics: that is the base, which every worker has. The
workers hold text of another kind each, as it is on this machine: licences, read-me files, source code, docstrings, C++
headers, character tables. They train twice from the same base: all parameters, and LoRA adapters only. Prints the bytes
of a round, and each worker's loss on text of its own that it has not trained on. Needs transformers and peft:
pip install "lightning_fed[lora]".
"""

from __future__ import annotations

import argparse
import inspect
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule

try:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils.logging import set_verbosity_error
except ImportError as error:
    raise SystemExit(f'This example needs transformers and peft ({error}): pip install "lightning_fed[lora]"') from None

CONTEXT = 64  # bytes; a byte is a token
PACKAGES = ("numpy", "tensorboard", "torch", "transformers", "peft", "pytorch-lightning", "torchmetrics", "tqdm")


class Text(pl.LightningDataModule):
    """One worker's text, in blocks of bytes; the last eighth is for validation.

    Args:
        text: The text.
        batch_size: How many blocks are a batch.
    """

    def __init__(self, text: bytes, batch_size: int = 16) -> None:
        super().__init__()
        blocks = torch.tensor(list(text[: len(text) // CONTEXT * CONTEXT])).view(-1, CONTEXT)
        cut = len(blocks) * 7 // 8
        self.train, self.val = TensorDataset(blocks[:cut]), TensorDataset(blocks[cut:])
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=64)


class Language(pl.LightningModule):
    """A GPT-2 that says which byte comes next.

    Args:
        lr: The learning rate.
        rank: The rank of the adapters, beside which everything is frozen; None: there are no adapters.
        base: The weights to begin with; None: random ones.
    """

    def __init__(self, lr: float, rank: int | None = None, base: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.lr = lr
        size = {"n_positions": CONTEXT, "n_embd": 96, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
        still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=256, use_cache=False, **size, **still))
        if base is not None:
            model.load_state_dict(base)
        if rank is not None:
            layers = ["c_attn", "c_proj", "c_fc"]
            adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, fan_in_fan_out=True)
            model = get_peft_model(model, adapters)
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (blocks,) = batch
        loss: Tensor = self.model(input_ids=blocks, labels=blocks).loss
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        (blocks,) = batch
        self.log("val_loss", self.model(input_ids=blocks, labels=blocks).loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=self.lr)


def files_of(packages: tuple[str, ...], *names: str) -> Iterator[str]:
    """Texts of installed packages' files whose names begin in one of some ways."""
    for package in packages:
        for file in distribution(package).files or ():
            path = Path(str(file.locate()))
            if path.name.upper().startswith(names) and path.is_file():
                yield path.read_text(encoding="utf-8", errors="replace")


def kinds() -> dict[str, Iterator[str]]:
    """Text of six kinds that is found on every machine where this runs."""
    library, headers = Path(inspect.getfile(inspect)).parent, Path(torch.__file__).parent / "include" / "ATen" / "core"

    def read(files: Iterator[Path]) -> Iterator[str]:
        return (file.read_text(encoding="utf-8", errors="replace") for file in sorted(files))

    def docstrings() -> Iterator[str]:
        for kind in (str, bytes, int, float, list, dict, set, Path, logging.Logger, argparse.ArgumentParser, Tensor):
            yield from (inspect.getdoc(part) or "" for _, part in inspect.getmembers(kind))

    return {
        "licences": files_of(PACKAGES, "LICEN"),
        "read-me files": (str(distribution(package).metadata.json["description"]) for package in PACKAGES),
        "source code": read(library.glob("a*.py")),
        "docstrings": docstrings(),
        "C++ headers": read(headers.glob("*.h")),
        "character tables": read((library / "encodings").glob("cp*.py")),
    }


def trainer(**options: Any) -> pl.Trainer:
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(devices=1, num_sanity_val_steps=0, limit_val_batches=0, **quiet, **options)


def losses(module: pl.LightningModule, texts: Mapping[str, Text], accelerator: str) -> dict[str, float]:
    """Each worker's loss on its own validation text."""
    run = pl.Trainer(devices=1, accelerator=accelerator, logger=False, enable_progress_bar=False)
    return {name: run.validate(module, text, verbose=False)[0]["val_loss"] for name, text in texts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base-steps", type=int, default=300, help="of the training on Python's help topics")
    parser.add_argument("--bytes", type=int, default=12_288, help="of text that each worker has")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    set_verbosity_error()

    pl.seed_everything(options.seed, verbose=False)
    base = Language(lr=2e-3)
    help_topics = Text("\n".join(topics.values()).encode(), batch_size=16)
    trainer(max_steps=options.base_steps, max_epochs=-1, accelerator=options.accelerator).fit(base, help_topics)
    weights = {name: tensor.cpu() for name, tensor in base.model.state_dict().items()}

    texts = {name: Text("\n".join(parts).encode()[: options.bytes]) for name, parts in kinds().items()}
    data = FederatedDataModule(texts, cohort_size=len(texts), seed=options.seed)
    found = {"base": losses(base, texts, options.accelerator)}
    print(f"{'':<16} {'trained':>8} {'down':>11} {'up':>11}  bytes of a round, all {len(texts)} workers together")
    for name, rank, lr in (("full model", None, 1e-3), ("LoRA", options.rank, 1e-2)):
        pl.seed_everything(options.seed, verbose=False)
        federated = FederatedModule(Language(lr, rank, weights))
        started = time.perf_counter()
        run = trainer(max_steps=options.rounds, max_epochs=-1, accelerator=options.accelerator)
        run.fit(federated, data)
        seconds = (time.perf_counter() - started) / options.rounds
        trained, report = sum(p.numel() for p in federated.parameters() if p.requires_grad), federated.last_report
        print(f"{name:<16} {trained:8,} {report.bytes_down:11,} {report.bytes_up:11,}  {seconds:.1f} s", flush=True)
        found[name] = losses(federated.module, texts, options.accelerator)
    print(f"\n{'loss of a byte':<16} {'base':>8} {'full model':>11} {'LoRA':>11}  after {options.rounds} rounds")
    for worker in texts:
        before, full, lora = (loss[worker] for loss in found.values())
        print(f"{worker:<16} {before:8.3f} {full:11.3f} {lora:11.3f}")


if __name__ == "__main__":
    main()
