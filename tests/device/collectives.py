"""Collectives of the asynchronous device: what torch's groups of processes use on it by default."""

from datetime import timedelta
from functools import partial
from typing import Any

from torch import distributed
from torch.distributed.distributed_c10d import ProcessGroupGloo, Store

from tests.device.build import NAME

BACKEND = f"{NAME}-gloo"


def register(extension: Any) -> None:
    """Has torch know of them."""
    made = partial(_collectives, extension)
    distributed.Backend.register_backend(BACKEND, made, devices=[NAME])


def _collectives(extension: Any, store: Store, rank: int, size: int, timeout: timedelta) -> Any:
    return extension.collectives(ProcessGroupGloo(store, rank, size, timeout=timeout))
