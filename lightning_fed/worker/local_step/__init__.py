"""The ways of a worker to step: one for what automatic optimization needs least, one for hooks, manual, private."""

from lightning_fed.worker.local_step.base import Changes as Changes
from lightning_fed.worker.local_step.base import LocalStep as LocalStep
from lightning_fed.worker.local_step.base import TrainingStep as TrainingStep
from lightning_fed.worker.local_step.choice import LocalSteps as LocalSteps
from lightning_fed.worker.local_step.hooked import HookedStep as HookedStep
from lightning_fed.worker.local_step.manual import ManualStep as ManualStep
from lightning_fed.worker.local_step.plain import PlainStep as PlainStep
from lightning_fed.worker.local_step.private import PrivateStep as PrivateStep
