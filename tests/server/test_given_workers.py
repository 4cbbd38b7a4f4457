"""Workers given as tensors, datasets and loaders train as with datamodules, to the bit, whatever trains them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import TRUSTED, Rows, Scalar, fit, trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule, Population
from lightning_fed.datasets import ToyDataModule
from lightning_fed.engines import Isolated
from lightning_fed.models import LinearRegression
from lightning_fed.population import EvaluationKind

# The module can be validated, and tensors for training alone leave nothing to validate on: Lightning says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
]

X = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
Y = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
TOY = {"bob": ToyDataModule(rows=[0, 1]), "alice": ToyDataModule(rows=[2, 3])}


def trained(workers: Any, engine: Any = "auto", rounds: int = 5, **data: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = LinearRegression(2, 1)
    fit(FederatedModule(model, engine=engine), FederatedDataModule(workers, **data), max_epochs=rounds)
    return model.state_dict()


def is_same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class Own(Dataset[Any]):
    def __init__(self, rows: slice) -> None:
        self.x, self.y = X[rows], Y[rows]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]


BOB, ALICE = slice(0, 2), slice(2, 4)
GIVEN: dict[str, Callable[[slice], Any]] = {
    "tensors": lambda rows: (X[rows], Y[rows]),
    "arrays": lambda rows: [X[rows].double().numpy(), Y[rows].double().numpy()],
    "TensorDataset": lambda rows: TensorDataset(X[rows], Y[rows]),
    "Dataset": Own,
    "loader": lambda rows: DataLoader(TensorDataset(X[rows], Y[rows]), batch_size=2),
    "parts": lambda rows: {"train": (X[rows], Y[rows])},
}


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.parametrize("kind", GIVEN)
def test_the_toy_of_tensors_trains_as_the_toy_of_datamodules(kind: str, engine: Any) -> None:
    workers = {"bob": GIVEN[kind](BOB), "alice": GIVEN[kind](ALICE)}
    assert is_same(trained(workers, engine), trained(TOY, engine))


@pytest.mark.slow
def test_so_it_does_in_processes_of_their_own() -> None:
    kinds = ("tensors", "Dataset", "loader")
    workers = {kind: GIVEN[kind](BOB) for kind in kinds}
    toys = {kind: ToyDataModule(rows=[0, 1]) for kind in kinds}
    assert is_same(trained(workers, Isolated(processes=1), rounds=2), trained(toys, "sequential", rounds=2))


def test_all_kinds_stand_in_one_dict() -> None:
    workers = {"bob": (X[BOB], Y[BOB]), "alice": ToyDataModule(rows=[2, 3])}
    assert is_same(trained(workers), trained(TOY))
    assert isinstance(workers["bob"], tuple), "the user's own dict stays as it is"


class Lazy(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        return (X[BOB], Y[BOB]) if name == "bob" else TensorDataset(X[ALICE], Y[ALICE])

    def __iter__(self) -> Iterator[str]:
        return iter(["bob", "alice"])

    def __len__(self) -> int:
        return 2


class Numbered(Population):
    def __len__(self) -> int:
        return 2

    def name(self, position: int) -> str:
        return ["bob", "alice"][position]

    def __getitem__(self, name: str) -> Any:
        return Lazy()[name]

    def num_examples(self, name: str) -> int:
        return 2

    def has_loader(self, kind: EvaluationKind) -> bool:
        return False


@pytest.mark.parametrize("workers", [Lazy(), Numbered()], ids=["mapping", "population"])
def test_a_lazy_mapping_may_give_them_too(workers: Any) -> None:
    assert is_same(trained(workers), trained(TOY))
    assert is_same(trained(workers, cached_workers=1), trained(TOY))


def test_a_lazy_mapping_gives_batches_of_the_size_that_was_asked_for() -> None:
    small = {name: ToyDataModule(rows=rows, batch_size=1) for name, rows in {"bob": [0, 1], "alice": [2, 3]}.items()}
    loaders = {name: DataLoader(TensorDataset(X[rows], Y[rows])) for name, rows in {"bob": BOB, "alice": ALICE}.items()}
    assert is_same(trained(loaders), trained(small))
    shuffled = trained(Lazy(), batch_size=1, seed=3)
    assert is_same(shuffled, trained(dict(Lazy()), batch_size=1, seed=3))
    assert not is_same(shuffled, trained(Lazy(), batch_size=1, seed=4)), "the order follows from the seed"


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    def begun(rounds: int, **options: Any) -> tuple[LinearRegression, pl.Trainer]:
        torch.manual_seed(0)
        model, run = LinearRegression(2, 1), trainer(max_epochs=rounds)
        data = FederatedDataModule({"bob": (X, Y), "alice": (X[:3], Y[:3])}, batch_size=1)
        run.fit(FederatedModule(model), data, **options)
        return model, run

    _, first = begun(2)
    first.save_checkpoint(tmp_path / "run.ckpt")
    resumed, _ = begun(4, ckpt_path=tmp_path / "run.ckpt", **TRUSTED)
    assert is_same(resumed.state_dict(), begun(4)[0].state_dict())


@pytest.mark.parametrize(
    "val",
    [(X, Y), TensorDataset(X, Y), DataLoader(TensorDataset(X, Y), batch_size=3), {"val": (X, Y), "test": (X, Y)}],
    ids=lambda val: type(val).__name__,
)
def test_central_data_are_given_likewise(val: Any) -> None:
    torch.manual_seed(0)
    model = LinearRegression(2, 1)
    fed, data = FederatedModule(model), FederatedDataModule({"bob": (X, Y)}, val=val)
    run = fit(fed, data)
    expected = ((model(X) - Y) ** 2).mean().item()
    assert run.callback_metrics["val_mse"].item() == pytest.approx(expected)
    (tested,) = trainer().test(fed, data, verbose=False)
    assert tested["test_mse"] == pytest.approx(expected)


def test_tensors_given_as_central_data_are_predicted_on() -> None:
    model = LinearRegression(2, 1)
    data = FederatedDataModule({"bob": (X, Y)}, val=(X, Y))
    (predicted,) = trainer().predict(FederatedModule(model), data)
    torch.testing.assert_close(predicted, model(X))


def test_a_worker_is_evaluated_on_its_own_parts() -> None:
    parts = {"bob": {"train": (X[:2], Y[:2]), "val": (X[2:], Y[2:])}, "alice": {"train": (X[2:], Y[2:])}}
    model = LinearRegression(2, 1)
    run = fit(FederatedModule(model), FederatedDataModule(parts))
    expected = ((model(X[2:]) - Y[2:]) ** 2).mean().item()
    assert run.callback_metrics["val_mse"].item() == pytest.approx(expected)


@pytest.mark.parametrize(("stage", "kind"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_what_is_given_without_parts_is_for_training_only(stage: str, kind: str) -> None:
    data = FederatedDataModule({"bob": (X, Y)})
    with pytest.raises(Exception, match=f"no worker has data for '{kind}': give each some"):
        getattr(trainer(), stage)(FederatedModule(LinearRegression(2, 1)), data)


def test_a_loader_keeps_its_sampler_and_its_collate_function() -> None:
    seen: list[list[float]] = []

    def collate(rows: list[Any]) -> Any:
        seen.append([row.item() for (row,) in rows])
        return [torch.stack([row for (row,) in rows])]

    loader = DataLoader(
        TensorDataset(torch.arange(4.0)), batch_sampler=[[3], [0, 2]], collate_fn=collate
    )  # two batches; one example is in neither
    module = Scalar(lr=0.0)
    fit(FederatedModule(module), FederatedDataModule({"bob": loader}))
    assert seen == [[3.0], [0.0, 2.0]]


@pytest.mark.parametrize("given", [{"bob": (X, Y)}, {"bob": Rows([1.0])}], ids=["tensors", "datamodules"])
def test_a_dict_given_to_the_trainer_is_refused_with_the_fix(given: Any) -> None:
    message = r"as in trainer.fit\(fed, FederatedDataModule\(workers\)\), and was given a dict"
    with pytest.raises(TypeError, match=message):
        trainer().fit(FederatedModule(LinearRegression(2, 1)), given)


@pytest.mark.parametrize(
    "given", [DataLoader(TensorDataset(X, Y)), [(X, Y)], Rows([1.0])], ids=lambda x: type(x).__name__
)
def test_other_data_given_to_the_trainer_are_refused_with_the_fix(given: Any) -> None:
    message = rf"FederatedDataModule\(\{{'bob': bob_data, .*\}}\)\), and was given a {type(given).__name__}"
    with pytest.raises(TypeError, match=message):
        trainer().fit(FederatedModule(LinearRegression(2, 1)), given)


@pytest.mark.parametrize("path", ["a.pt", Path("a.pt")])
def test_a_path_is_refused_as_one(path: Any) -> None:
    with pytest.raises(TypeError, match=r"is a path, 'a\.pt', and no file is read here: read it, and give a Lightning"):
        FederatedDataModule({"bob": path})


def test_a_network_without_a_training_step_is_refused_with_code_to_copy() -> None:
    with pytest.raises(TypeError, match="not Linear, which does not say how it trains; put it into one") as caught:
        FederatedModule(nn.Linear(2, 1))  # type: ignore[arg-type]
    _, code = str(caught.value).split("\n\n", 1)
    program: dict[str, Any] = {"pl": pl, "torch": torch, "model": nn.Linear(2, 1), "FederatedModule": FederatedModule}
    exec("if True:\n" + code, program)
    run = fit(program["fed"], FederatedDataModule({"bob": (X, Y)}), max_epochs=50)
    assert run.callback_metrics["train_loss"] < 0.1


def test_a_network_that_is_not_wrapped_is_refused_before_a_step_on_any_kind_of_data() -> None:
    with pytest.raises(TypeError, match=r"wrap it, as in trainer.fit\(FederatedModule\(net\), data\)"):
        trainer().fit(LinearRegression(2, 1), FederatedDataModule({"bob": (X, Y)}))
    with pytest.raises(TypeError, match=r"cannot be unpacked: .*trainer.fit\(FederatedModule\(net\), data\)"):
        _, _ = next(iter(FederatedDataModule({"bob": (X, Y)}).train_dataloader()))
