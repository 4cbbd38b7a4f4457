"""The modules and datamodules of ``pytorch_lightning.demos``, unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_equal, fit, trainer
from pytorch_lightning.demos import boring_classes, lstm, transformer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl

pytestmark = [
    pytest.mark.usefixtures("double"),
    # Each is said with reason: demos have loaders of their own, and schedulers that a round is too short for.
    pytest.mark.filterwarnings("ignore:.*_dataloader\\(\\) is not used"),
    pytest.mark.filterwarnings("ignore:.*begins anew in each round"),
    pytest.mark.filterwarnings("ignore:local training changes the module's attribute 'model"),
    pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:The 'test_dataloader' does not have many workers"),
]


class Vectors(pl.LightningDataModule):
    """Vectors of 32 numbers, as the boring modules take them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.rows = torch.randn(12, 32, generator=torch.Generator().manual_seed(seed))

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=4)

    def val_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=4)

    test_dataloader = val_dataloader


class Text(Dataset[Any]):
    """Lines of a text, each with the line that is one token ahead."""

    def __init__(self, seed: int) -> None:
        self.tokens = torch.arange(61) * (1 + seed) % 7

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = 10 * index
        return self.tokens[start : start + 10], self.tokens[start + 1 : start + 11]


class Texts(pl.LightningDataModule):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.lines = Text(seed)

    def train_dataloader(self) -> Any:
        return DataLoader(self.lines, batch_size=2)


class Translator(transformer.LightningTransformer):
    """Lightning's transformer, small; its own ``prepare_data`` downloads."""

    def __init__(self, vocab_size: int = 7) -> None:
        pl.LightningModule.__init__(self)
        self.model = transformer.Transformer(vocab_size, ninp=8, nhid=8, nlayers=1, dropout=0.0)

    def prepare_data(self) -> None:
        pass


class Writer(lstm.LightningLSTM):
    """Lightning's LSTM, small; it keeps the hidden state from batch to batch until the epoch ends."""

    def __init__(self, vocab_size: int = 7) -> None:
        pl.LightningModule.__init__(self)
        self.model = lstm.SimpleLSTM(vocab_size, ninp=8, nhid=8, nlayers=1, dropout=0.0)
        self.hidden = None

    def prepare_data(self) -> None:
        pass


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


DEMOS = [
    pytest.param(boring_classes.BoringModel, Vectors, id="BoringModel"),
    pytest.param(boring_classes.ManualOptimBoringModel, Vectors, id="ManualOptimBoringModel"),
    pytest.param(boring_classes.DemoModel, Vectors, id="DemoModel"),
    pytest.param(Translator, Texts, id="LightningTransformer"),
    pytest.param(Writer, Texts, id="LightningLSTM"),
]


@pytest.mark.parametrize("engine", ["sequential", "auto"])
@pytest.mark.parametrize(("kind", "data"), DEMOS)
def test_one_worker_is_a_plain_trainer(kind: Any, data: Any, engine: Any) -> None:
    plain, federated = seeded(kind), seeded(kind)
    trainer().fit(plain, data())
    fit(FederatedModule(federated, engine=engine), FederatedDataModule({"bob": data()}))
    assert_equal(federated.state_dict(), plain.state_dict())


class SlowWriter(Writer):
    """Lightning's own rate is 20, by which a net as small as this one diverges."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize(("kind", "data"), [*DEMOS[:4], pytest.param(SlowWriter, Texts, id="LightningLSTM")])
def test_workers_learn_together_and_the_checkpoint_opens(kind: Any, data: Any, tmp_path: Path) -> None:
    module = seeded(kind)
    losses: list[float] = []
    fed = FederatedModule(module)
    note = pl.callbacks.LambdaCallback(on_train_batch_end=lambda *_: losses.append(fed.last_report.loss))
    run = fit(fed, FederatedDataModule({f"worker {n}": data(n) for n in range(5)}), max_epochs=4, callbacks=[note])
    assert losses[-1] < losses[0]
    run.save_checkpoint(tmp_path / "demo.ckpt")
    assert_equal(kind.load_from_checkpoint(tmp_path / "demo.ckpt").state_dict(), module.state_dict())


class Seeded(boring_classes.BoringDataModule):
    """BoringDataModule draws its rows in its constructor."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__()


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_boring_data_module(engine: Any) -> None:
    fed = FederatedModule(seeded(boring_classes.BoringModel), engine=engine)
    data = FederatedDataModule({f"worker {n}": Seeded(n) for n in range(4)})
    fit(fed, data)
    assert fed.last_report.examples == 4 * 64
    trainer().validate(fed, data, verbose=False)
    trainer().test(fed, data, verbose=False)
    predictions: Any = trainer().predict(fed, data)
    assert len(predictions) == 4 * 64


def test_boring_data_module_without_a_length() -> None:
    fed = FederatedModule(seeded(boring_classes.BoringModel))
    fit(fed, FederatedDataModule({"bob": boring_classes.BoringDataModuleNoLen()}))
    assert math.isfinite(fed.last_report.loss)
    assert fed.last_report.examples == 512
