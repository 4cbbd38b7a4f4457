"""Cyclic: the model visits the workers one after another, each starting where the last one ended.

Known as incremental or cyclic weight transfer (Sheller et al. 2019; Chang et al. 2018), and the loop of PySyft's first
notebook: ``for worker in workers: model.send(worker); train; model.get()``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, final

from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms.base import Algorithm, Result, Send
from lightning_fed.wire import GlobalModel, Job, Updates, WorkerError


@final
class Cyclic(Algorithm):
    """Sends the model through the cohort, one worker after another; each starts where the last one ended.

    The update of each worker is the difference between the global model and the model at the *end* of the tour. So
    the mean of the updates, or any other aggregator, returns the end of the tour.
    """

    divisible: ClassVar[bool] = False
    is_mean: ClassVar[bool] = False

    def visit(self, send: Send, job: Job, cohort: Sequence[str]) -> Iterator[Result]:
        here = job
        visits: list[Updates] = []
        for worker in cohort:
            for result in send(here, [worker]):
                if isinstance(result, WorkerError):
                    yield result
                    continue
                visits.append(result)
                end = here.model.layout.unflatten(here.model.vector - result.delta[0])
                here = replace(
                    here,
                    model=GlobalModel(
                        parameters={n: end[n].to(p.dtype) for n, p in here.model.parameters.items()},
                        buffers={n: b[0] for n, b in result.buffers.items()},
                    ),
                )
        tour = (job.model.vector - here.model.vector).unsqueeze(0)
        buffers = {name: buffer.unsqueeze(0) for name, buffer in here.model.buffers.items()}
        for visit in visits:
            yield replace(visit, delta=tour, buffers=buffers)

    def aggregator(self) -> WeightedMean:
        return WeightedMean()
