"""An evaluation on what a Trainer was given in place of a FederatedDataModule: loaders, or a plain datamodule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, final

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import article
from lightning_fed.hooks import overrides
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.population_arguments import Nobody


def admit(module: pl.LightningModule, trainer: pl.Trainer) -> None:
    """Refuse data that a run cannot work with, and take other data of an evaluation than a federation's as central.

    Args:
        module: The user's module.
        trainer: The Trainer that is about to run, on a FederatedModule.

    Raises:
        TypeError: If a fit has other data than a FederatedDataModule, or an evaluation has none; the message says what
            to do.
    """
    assert trainer.state.fn is not None
    fn = trainer.state.fn.value
    loops: dict[str, Any] = {
        "validate": trainer.validate_loop,
        "test": trainer.test_loop,
        "predict": trainer.predict_loop,
    }
    source = loops.get(fn, trainer.fit_loop)._data_source
    given, server = source.instance, trainer.lightning_module
    if isinstance(given, FederatedDataModule):
        return
    if fn == "fit":
        _refuse(fn, given, server)
    if given is server and not overrides(module, source.name):
        _refuse(fn, given, server)
    loaders = getattr(module, source.name) if given is server else lambda: given
    central = given if isinstance(given, pl.LightningDataModule) else _Loaders(loaders)
    central.trainer = trainer
    data = FederatedDataModule(Nobody(), val=central, rounds_per_epoch=1)
    data.stand_in_for(trainer.datamodule)  # type: ignore[attr-defined]
    trainer._data_connector.attach_datamodule(server, data)


def _refuse(fn: str, given: object, server: pl.LightningModule) -> NoReturn:
    what = "no data" if given is server else article(type(given).__name__)
    instead = "" if fn == "fit" else f"; or loaders of central data: trainer.{fn}(fed, dataloaders=...)"
    workers = "workers" if isinstance(given, Mapping) else "{'bob': bob_data, 'alice': alice_data}"
    raise TypeError(
        f"FederatedModule needs a FederatedDataModule, as in trainer.{fn}(fed, FederatedDataModule({workers})), and "
        f"was given {what}{instead}"
    )


@final
class _Loaders(pl.LightningDataModule):
    """Loaders without a datamodule.

    Args:
        make: Makes them.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self._make = make

    def val_dataloader(self) -> Any:
        return self._make()

    def test_dataloader(self) -> Any:
        return self._make()

    def predict_dataloader(self) -> Any:
        return self._make()
