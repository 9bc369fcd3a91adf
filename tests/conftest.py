"""Settings of every test: hypothesis draws the same examples on every run;
those marked `gpu` run only where there is one.
"""

import os

import pytest
import torch
from hypothesis import settings

# A search for new counterexamples is asked for: HYPOTHESIS_PROFILE=explore.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


# Threads of one op that wait for each other make small ops slow wherever cores are shared, and
# the lanes need a core of their own.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="there is no GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(no_gpu)
