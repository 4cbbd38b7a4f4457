"""The round by apple/pfl-research, which takes every worker's points in the order they have."""

from __future__ import annotations

import sys
from types import MethodType
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import get_default_device
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from stopwatch import WARMUP, Stopwatch
from task import BATCH, KINDS, LR, POPULATION, network, points
from torch import Tensor, nn


def loss(net: nn.Module, x: Tensor, y: Tensor, eval: bool = False) -> Tensor:
    return nn.functional.cross_entropy(net(x), y)


def metrics(net: nn.Module, x: Tensor, y: Tensor, eval: bool = True) -> dict[str, Any]:
    return {"loss": Weighted(float(loss(net, x, y)) * len(x), len(x))}


class Timer(TrainingProcessCallback):
    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        self.stopwatch.round_ended()
        return False, Metrics()


def main() -> None:
    kind, rounds = sys.argv[1], int(sys.argv[2])
    stopwatch = Stopwatch()
    net = network(kind)
    net.loss, net.metrics = MethodType(loss, net), MethodType(metrics, net)
    device = get_default_device()  # the GPU if there is one: the points are there beforehand, as in the loop
    users = {worker: tuple(t.to(device) for t in points(kind, worker)) for worker in range(POPULATION)}
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=WARMUP + rounds,
            evaluation_frequency=10**9,
            train_cohort_size=KINDS[kind].cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=FederatedDataset.from_slices(users, get_user_sampler("random", list(users))),
            val_data=None,
            postprocessors=[],
        ),
        model=PyTorchModel(
            model=net,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
        ),
        model_train_params=NNTrainHyperParams(local_learning_rate=LR, local_num_epochs=1, local_batch_size=BATCH),
        model_eval_params=NNEvalHyperParams(local_batch_size=BATCH),
        callbacks=[Timer(stopwatch)],
    )
    stopwatch.stop()


if __name__ == "__main__":
    main()
