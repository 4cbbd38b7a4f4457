"""Jobs and updates as bytes, and back: tensors by :mod:`lightning_fed.wire.container`, all else as JSON. No pickle.

Names travel in order, since ``job.model.layout`` is the order of the parameters, and the container has another one.
Fractions travel as float64 tensors: all bits arrive, NaN too, and the length of a message depends on names and shapes
only, and on the digits of a few integers. So :func:`job_bytes` and :func:`updates_bytes` need no encoding.
"""

from lightning_fed.wire.codec.jobs import decode_job as decode_job
from lightning_fed.wire.codec.jobs import encode_job as encode_job
from lightning_fed.wire.codec.lengths import job_bytes as job_bytes
from lightning_fed.wire.codec.lengths import updates_bytes as updates_bytes
from lightning_fed.wire.codec.shares import decode_share as decode_share
from lightning_fed.wire.codec.shares import encode_share as encode_share
from lightning_fed.wire.codec.updates import decode_updates as decode_updates
from lightning_fed.wire.codec.updates import encode_updates as encode_updates
from lightning_fed.wire.codec.updates import encode_updates_into as encode_updates_into
