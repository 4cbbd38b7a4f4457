"""Sparse gradients; compiled, lazy, reparametrized and pruned layers: one worker's round is a plain epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_equal, fit, trainer
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedAvg, FedDyn, FedProx, Scaffold
from lightning_fed.engines.errors import UnvectorizableError

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),  # as by plain Lightning
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated"),
]


class Data(pl.LightningDataModule):
    """12 examples in batches of 4."""

    def __init__(self, seed: int = 0, words: bool = False) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(12, 3, generator=draw, dtype=torch.float64)
        self.y = torch.randn(12, 1, generator=draw, dtype=torch.float64)
        if words:
            self.x = torch.randint(0, 6, (12, 2), generator=draw)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.x, self.y), batch_size=4)


class Validated(Data):
    """The same examples for validation."""

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


class Base(pl.LightningModule):
    """Regression by a net that the subclass makes."""

    net: Any

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return ((self(batch[0]) - batch[1]) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Net(Base):
    """With a net that a function makes, from the same numbers every time."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = make()


def tensors_of(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]


def assert_as_plain(make: Callable[[], pl.LightningModule], engine: Any, data: Callable[[], Data] = Data) -> None:
    plain, module = make(), make()
    trainer().fit(plain, data())
    fit(FederatedModule(module, engine=engine), FederatedDataModule({"a": data()}))
    assert tensors_of(module)
    assert_equal(tensors_of(module), tensors_of(plain))


def two(data: type[Data] = Data, **options: Any) -> FederatedDataModule:
    return FederatedDataModule({"a": data(0, **options), "b": data(1, **options)})


# ---- layers that torch's hooks or parametrizations make of parameters ------------------------------------------------


def old_weight_norm() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 1))


def old_weight_norm_that_was_used() -> nn.Module:
    net = old_weight_norm()
    net(torch.zeros(1, 3))  # leaves a weight with a history, which torch does not copy
    return net


def pruned() -> nn.Module:
    net = nn.Linear(3, 1)
    prune.l1_unstructured(net, "weight", amount=1)
    return net


def pruned_twice() -> nn.Module:
    net = pruned()
    prune.random_unstructured(net, "weight", amount=1)
    return net


def new_weight_norm() -> nn.Module:
    return parametrizations.weight_norm(nn.Linear(3, 1))


def orthogonal() -> nn.Module:
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)), nn.Linear(3, 1))


def old_spectral_norm() -> nn.Module:
    return spectral_norm(nn.Linear(3, 1))


def new_spectral_norm() -> nn.Module:
    return parametrizations.spectral_norm(nn.Linear(3, 1))


STACKED = [old_weight_norm, old_weight_norm_that_was_used, pruned, pruned_twice, new_weight_norm, orthogonal]


@pytest.mark.parametrize("make", [*STACKED, old_spectral_norm, new_spectral_norm])
def test_reparametrized_layers_train_as_in_plain_lightning(make: Callable[[], nn.Module]) -> None:
    assert_as_plain(lambda: Net(make), "auto")
    assert_as_plain(lambda: Net(make), "sequential")


@pytest.mark.parametrize("make", STACKED)
def test_reparametrized_layers_train_together(make: Callable[[], nn.Module]) -> None:
    assert_as_plain(lambda: Net(make), "vectorized")
    modules = [Net(make), Net(make)]
    for module, engine in zip(modules, ("sequential", "vectorized"), strict=True):
        fit(FederatedModule(module, engine=engine), two(), max_epochs=2)  # type: ignore[arg-type]
    assert_equal(tensors_of(modules[0]), tensors_of(modules[1]))


def test_what_a_hook_computes_before_a_pass_does_not_cross() -> None:
    """The evaluation on the server computes it there, too."""

    class Evaluated(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.training_step(batch, batch_idx)  # logs nothing, since what is logged is in the next jobs

    traffic = []
    for evaluates in (False, True):
        module = (Evaluated if evaluates else Net)(old_weight_norm_that_was_used)
        fed = FederatedModule(module)
        fit(fed, two(Validated if evaluates else Data), max_epochs=2)
        traffic.append(fed.last_report.bytes_down)
    assert traffic[0] == traffic[1] > 0


class KeepsLast(Net):
    """Keeps a result of its computation as an attribute, with its history."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Linear(3, 1))
        self.last = self(torch.zeros(1, 3))


def test_a_result_of_a_computation_is_copied_without_its_history() -> None:
    assert_as_plain(KeepsLast, "sequential")


@pytest.mark.parametrize("make", [*STACKED, old_spectral_norm, KeepsLast])
def test_what_a_worker_has_of_it_can_be_taken_and_trained(make: Callable[[], nn.Module]) -> None:
    module: Any = KeepsLast() if make is KeepsLast else Net(make)
    fed, x = FederatedModule(module), torch.ones(1, 3)
    fit(fed, two())
    own: Any = fed.personal_module("a").eval()
    assert_equal(own(x), module.eval()(x))
    trainer().fit(own.train(), Data())
    assert not torch.equal(own(x), module(x))


# ---- sparse gradients ------------------------------------------------------------------------------------------------


class Words(Base):
    def __init__(self, optimizer: str = "SGD", sparse: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words = nn.Embedding(6, 2, sparse=sparse)
        self.optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.words(x).sum(dim=(1, 2)).unsqueeze(1)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        options = {"momentum": 0.9} if self.optimizer == "SGD" else {}
        return getattr(torch.optim, self.optimizer)(self.parameters(), lr=0.1, **options)


class WordsAndLayer(Words):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(super().forward(x))  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        sparse = torch.optim.SparseAdam(self.words.parameters(), lr=0.1)
        return sparse, torch.optim.SGD(self.layer.parameters(), lr=0.1)


def words() -> Data:
    return Data(words=True)


@pytest.mark.parametrize("engine", ["auto", "sequential"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "SparseAdam"])
def test_sparse_gradients(engine: str, optimizer: str) -> None:
    assert_as_plain(lambda: Words(optimizer), engine, words)


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(mu=0.0), FedProx(mu=0.3), Scaffold(), FedDyn(alpha=0.1)])
def test_penalties_go_with_optimizers_of_sparse_gradients(algorithm: Any) -> None:
    """SGD steps as on dense gradients; SparseAdam takes no others."""
    modules = [Words("SGD", sparse) for sparse in (True, False)]
    for module in modules:
        fit(FederatedModule(module, algorithm=algorithm, engine="sequential"), two(words=True), max_epochs=3)
    if isinstance(algorithm, (FedAvg, FedProx)):  # else momentum moves rows of which the gradient is 0
        assert_equal(tensors_of(modules[0]), tensors_of(modules[1]))
    for module in (Words("SparseAdam"), WordsAndLayer()):
        before = [tensor.clone() for tensor in tensors_of(module)]
        fit(FederatedModule(module, algorithm=algorithm), two(words=True), max_epochs=3)
        assert all(bool((a != b).any()) for a, b in zip(before, tensors_of(module), strict=True))


def test_a_penalty_on_a_sparse_gradient_by_hand() -> None:
    """Word 0 alone is seen, twice: w ← w - lr · (g + μ (w - w₀)), and the second step's penalty is on the first."""

    class One(Base):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(3, 2, sparse=True)
            self.words.weight.data.zero_()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.words(torch.tensor([0])).sum()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    module = One()
    fit(FederatedModule(module, algorithm=FedProx(mu=0.5), local_steps=2), FederatedDataModule({"a": Data()}))
    first = -0.5
    second = first - 0.5 * (1 + 0.5 * first)
    assert module.words.weight.tolist() == [[second, second], [0.0, 0.0], [0.0, 0.0]]


def test_sparse_gradients_cannot_be_stacked_and_the_engine_says_so() -> None:
    with pytest.raises(UnvectorizableError, match=r"Words\.words has sparse gradients, which torch\.vmap cannot stack"):
        fit(FederatedModule(Words(), engine="vectorized"), two(words=True))


# ---- compiled modules ------------------------------------------------------------------------------------------------


def compiled() -> Any:
    return torch.compile(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), backend="eager")


def compiled_in_place() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    net.compile(backend="eager")
    return net


class CompiledLate(Base):
    def __init__(self) -> None:
        super().__init__()
        self.net = None

    def configure_model(self) -> None:
        if self.net is None:
            torch.manual_seed(1)
            self.net = compiled()


class CompiledMethod(Net):
    def __init__(self) -> None:
        super().__init__(lambda: nn.Linear(3, 1))
        self.compiled = torch.compile(self.inner, backend="eager")

    def inner(self, x: Tensor) -> Tensor:
        return self.net(x).tanh()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.compiled(x)


@pytest.mark.parametrize("engine", ["auto", "sequential", "vectorized"])
@pytest.mark.parametrize("make", [lambda: Net(compiled), lambda: Net(compiled_in_place), CompiledLate])
def test_compiled_layers(make: Callable[[], Net], engine: str) -> None:
    assert_as_plain(make, engine)


def test_what_the_compiler_keeps_on_a_layer_is_not_said_to_change() -> None:
    torch._dynamo.reset()  # so that it compiles on the workers; a warning would be an error
    fit(FederatedModule(Net(compiled), engine="sequential"), two(), max_epochs=2)


def test_a_compiled_method_is_refused_since_a_copy_of_it_would_train_the_server() -> None:
    with pytest.raises(ValueError, match=r"'compiled' .* refers to the module by other.*Sequential\(compile=True"):
        fit(FederatedModule(CompiledMethod()), two())


class Method(Net):
    """A function of its own calls the module's method: through a closure, a default, or functools.partial."""

    def __init__(self, how: str) -> None:
        super().__init__(lambda: nn.Linear(3, 1))
        inner = self.inner
        if how == "closure":
            self.call = lambda x: inner(x)
        elif how == "default":
            self.call = lambda x, inner=self.inner: inner(x)
        else:
            outer = lambda x: inner(x)  # noqa: E731
            self.call = lambda x, outer=outer: outer(x)

    inner = CompiledMethod.inner

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["closure", "default", "nested"])
def test_functions_that_hold_a_method_of_the_module_are_refused_as_well(how: str) -> None:
    with pytest.raises(ValueError, match=r"'call' is the function .* refers to the module by other means"):
        fit(FederatedModule(Method(how)), two())


def test_a_module_compiled_as_a_whole_is_refused_with_the_fix() -> None:
    with pytest.raises(TypeError, match=r"module is compiled as a whole.* engine=Sequential\(compile=True\)"):
        FederatedModule(torch.compile(Net(orthogonal), backend="eager"))  # type: ignore[arg-type]


def test_a_compiled_federated_module_trains_and_says_that_nothing_is_compiled() -> None:
    modules = Net(pruned), Net(pruned)
    fit(FederatedModule(modules[0]), two())
    with pytest.warns(UserWarning, match=r"compiles nothing.*Sequential\(compile=True\)"):
        fit(torch.compile(FederatedModule(modules[1]), backend="eager"), two())  # type: ignore[arg-type]
    assert_equal(tensors_of(modules[1]), tensors_of(modules[0]))


# ---- lazy layers -----------------------------------------------------------------------------------------------------


class Lazy(Base):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(1))


class LazyEvaluated(Lazy):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.training_step(batch, batch_idx))

    def on_validation_end(self) -> None:
        if self.trainer.sanity_checking:  # it has given the layers their shapes
            for position, parameter in enumerate(self.parameters()):
                parameter.data = torch.linspace(-1, position, parameter.numel()).view_as(parameter)


class LazyInSetup(Lazy):
    def setup(self, stage: str) -> None:
        torch.manual_seed(1)
        self(torch.randn(2, 3))


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_lazy_layers_get_their_shapes_before_the_first_round(engine: str) -> None:
    assert_as_plain(LazyInSetup, engine)
    assert_as_plain(LazyEvaluated, engine, Validated)


def test_lazy_layers_without_a_first_batch_are_refused_with_the_fix() -> None:
    module = Lazy()
    with pytest.raises(
        ValueError, match=r"'net\.0\.weight' of Lazy has no shape before a first batch.* as in module\(torch\.zeros\("
    ):
        fit(FederatedModule(module), two())
    module(torch.zeros(2, 3))
    assert fit(FederatedModule(module), two()).global_step == 1


# ---- no parameters ---------------------------------------------------------------------------------------------------


class Nothing(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=1, keepdim=True)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.training_step(batch, batch_idx))


def test_a_module_without_parameters_is_evaluated_and_not_trained() -> None:
    expected = trainer().validate(Nothing(), Validated(), verbose=False)
    fed, data = FederatedModule(Nothing()), FederatedDataModule({"a": Validated()})
    assert_equal(trainer().validate(fed, data, verbose=False), expected)
    with pytest.raises(ValueError, match="Nothing has no parameter with requires_grad; there is nothing to train"):
        fit(fed, data)


class Queued(pl.LightningModule):
    """Keeps a queue of outputs, as MoCo does, and sets its weight from the first batch, as data-dependent inits do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(3, 1)
        self.register_buffer("place", torch.tensor(0))
        self.register_buffer("queue", torch.zeros(5))
        self.register_buffer("is_first", torch.tensor(True))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = self.net(batch[0])
        if self.is_first:
            self.net.bias.data -= output.mean()
            self.is_first.fill_(False)
        loss = ((output - batch[1]) ** 2).mean() + self.queue.mean() * output.mean()
        self.queue[self.place] = output.detach().mean()
        self.place.copy_((self.place + 1) % 5)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def test_whole_numbers_and_flags_of_one_worker_are_what_it_left() -> None:
    plain, local = Queued(), Queued()
    trainer(max_epochs=3).fit(plain, Data())
    assert plain.place.item() == 9 % 5
    fit(FederatedModule(local), FederatedDataModule({"ann": Data()}), max_epochs=3)
    assert_equal(local.state_dict(), plain.state_dict())


# ---- scripted layers, layers that cannot be pickled, replaced parameters ---------------------------------------------


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)))  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


def traced() -> nn.Module:
    return torch.jit.trace(nn.Linear(3, 1), torch.zeros(2, 3))  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("engine", ["auto", "sequential", "isolated"])
@pytest.mark.parametrize("make", [scripted, traced])
def test_scripted_layers_are_refused_by_name(make: Callable[[], nn.Module], engine: Any) -> None:
    with pytest.raises(
        ValueError, match=r"Net\.net is a layer of torch\.jit\.script .* script or trace it after the fit"
    ):
        fit(FederatedModule(Net(make), engine=engine), two())


@pytest.mark.parametrize("make", [new_weight_norm, new_spectral_norm])
def test_parametrized_layers_that_cannot_be_pickled_are_for_the_sequential_engine(
    make: Callable[[], nn.Module],
) -> None:
    with pytest.raises(ValueError, match=r'^[^\n]*parametrized modules is only .*, take engine="sequential"$'):
        fit(FederatedModule(Net(make), engine="isolated"), two())


class Replaces(Net):
    """Puts something new where a parameter was."""

    def __init__(self, what: str) -> None:
        super().__init__(lambda: nn.Linear(3, 1))
        self.still = nn.Linear(1, 1).requires_grad_(False)
        self.what = what

    def on_train_batch_end(self, *_: Any) -> None:
        weight = self.net.weight
        if self.what == "other values":
            self.net.weight = nn.Parameter(weight.data * 0.9)
        elif self.what == "equal values":
            self.net.weight = nn.Parameter(weight.data.clone())
        elif self.what == "frozen":
            self.still.weight = nn.Parameter(self.still.weight.data * 0.9, requires_grad=False)
        else:
            weight.data = weight.data * 0.9


@pytest.mark.parametrize("engine", ["auto", "sequential"])
@pytest.mark.parametrize("what", ["other values", "equal values", "frozen"])
def test_a_parameter_that_training_replaces_is_refused(what: str, engine: Any) -> None:
    with pytest.raises(
        RuntimeError, match=r"worker 'a' .*another parameter in place of '(net|still)\.weight'.* in place, as"
    ):
        fit(FederatedModule(Replaces(what), engine=engine), two())


def test_a_parameter_that_training_changes_in_place_is_as_in_plain_lightning() -> None:
    assert_as_plain(lambda: Replaces("values"), "sequential")


class Complex(Base):
    def __init__(self, optimizer: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 1, dtype=torch.complex128))
        self.optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.weight.dtype) @ self.weight).abs()

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=0.1)


def momentum(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("optimizer", [adam, momentum])
def test_what_is_kept_of_complex_parameters(optimizer: Callable[..., Any]) -> None:
    modules = Complex(optimizer), Complex(optimizer)
    trainer(max_epochs=3).fit(modules[0], Data())
    fed = FederatedModule(modules[1], local_optimizer_state="kept")
    fit(fed, FederatedDataModule({"a": Data()}), max_epochs=3)
    assert_equal(modules[1].weight.detach(), modules[0].weight.detach())
