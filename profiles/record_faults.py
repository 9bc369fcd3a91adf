"""Checks that profiles and plans share: doubles, names against kinds, figures out of proportion."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from profiles.files import MAX_COUNT, MAX_US
from profiles.model_description import ModelDescription
from profiles.profile import Device, StorageKind

MAX_THREADS = 1024
"""More than any processor has; a thread pool that cannot be had ends the process."""
MIN_STEP_US = 1e-3
"""A nanosecond: figures are shares of the step."""

OWNED_BY = {
    "parameter": StorageKind.PARAMETER,
    "buffer": StorageKind.BUFFER,
    "state": StorageKind.OPTIMIZER_STATE,
    "grad": StorageKind.GRADIENT,
}
"""What the first word of a qualified name says of its kind."""


class NamedStorage(Protocol):
    """A storage of a profile or of a plan."""

    @property
    def name(self) -> str:
        """How replay finds it."""

    @property
    def kind(self) -> StorageKind:
        """Who owns it."""


def first_double(texts: Iterable[str]) -> str | None:
    """Returns the first text that is there twice; None if there is none."""
    return next((text for text, count in Counter(texts).items() if count > 1), None)


def kind_fault(where: str, storage: NamedStorage) -> str | None:
    """Says that a storage's name is that of another kind; None if it is not."""
    word, colon, qualified = storage.name.partition(":")
    expected = OWNED_BY.get(word) if colon else None
    if expected is None:
        return None
    if storage.kind is not expected:
        return (
            f"{where}.kind is {storage.kind.value!r}, expected {expected.value!r} as "
            f"{storage.name!r} says"
        )
    if not qualified:
        return f"{where}.name is {storage.name!r}, expected the name of a {expected.value} in it"
    return None


def threads_fault(device: Device) -> str | None:
    """Says that a device has more threads than any; None if it has not."""
    if device.compute_threads <= MAX_THREADS:
        return None
    return f"device.compute_threads is {device.compute_threads}, expected at most {MAX_THREADS}"


def model_fault(model: ModelDescription | None, fingerprint: str) -> str | None:
    """Says that a model is not the one of a fingerprint; None if it is, or is not described."""
    if model is None or model.fingerprint() == fingerprint:
        return None
    found = model.fingerprint()
    return f"model_fingerprint is {fingerprint!r}, expected {found!r} from the model described"


def sum_faults(durations_us: Iterable[float], sizes_bytes: Iterable[int]) -> Iterator[str]:
    """Yields sums that no machine reaches, though each of their terms might be.

    Args:
        durations_us: Of the step's slots.
        sizes_bytes: Of its storages.
    """
    step_us = sum(durations_us)
    if not MIN_STEP_US <= step_us <= MAX_US:
        yield f"slots take {step_us} us in all (duration_us), expected {MIN_STEP_US} to {MAX_US}"
    all_bytes = sum(sizes_bytes)
    if all_bytes > MAX_COUNT:
        yield f"storages hold {all_bytes} bytes in all (size_bytes), expected at most {MAX_COUNT}"
