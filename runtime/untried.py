"""Says once that nobody has seen a replay on CUDA yet. It goes when results of a GPU are committed.

`tests/test_untried.py` fails as soon as `results/gpu` holds some, so that the notice cannot stay.
"""

import logging
from functools import cache

LOG = logging.getLogger("swapplan")

NOTICE = (
    "Replay on CUDA has been written and tested without a GPU; nobody has seen it run on one yet. "
    "'make gpu-check' checks it on yours: kernels, stream order, bit-equal training, and the "
    "budget. Told once."
)


@cache
def tell_untried() -> None:
    """Logs the notice as a warning, the first time in a process."""
    LOG.warning("%s", NOTICE)
