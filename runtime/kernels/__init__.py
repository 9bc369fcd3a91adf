"""Copy kernels for what a copy engine is bad at, and which engine can carry what.

Nothing here imports numba until the kernels are compiled: `runtime.kernels.launcher` does that, on
a machine with a CUDA device. Users of the emulated accelerator need neither.
"""

from profiles.schema.link import CopyMethod, host_size_bytes
from runtime.kernels.batch import BatchTable, batch_words, write_batch
from runtime.kernels.engine import engines_for
from runtime.kernels.job import CopyJob, Grid
from runtime.kernels.layout import StridedLayout

__all__ = [
    "BatchTable",
    "CopyJob",
    "CopyMethod",
    "Grid",
    "StridedLayout",
    "batch_words",
    "engines_for",
    "host_size_bytes",
    "write_batch",
]
