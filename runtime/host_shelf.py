"""Host memory for bytes that are swapped out on line: no plan says how much, or when."""

from collections import defaultdict
from collections.abc import Callable

from profiles.errors import CapacityError, SwapplanError
from runtime.host_pool import HostPool, HostStretch


class HostShelf:
    """Hands out host memory by size, and keeps what comes back for the next of that size.

    The sizes of a training step repeat, and fresh host memory is slow: every page is touched, and
    for a GPU pinned.
    """

    def __init__(self, new_pool: Callable[[int], HostPool] = HostPool) -> None:
        self._new_pool = new_pool
        self._spare: defaultdict[int, list[HostStretch]] = defaultdict(list)

    def take(self, size_bytes: int) -> HostStretch:
        """Returns host memory of a size.

        Raises:
            CapacityError: The host has none left.
        """
        if self._spare[size_bytes]:
            return self._spare[size_bytes].pop()
        try:
            return self._new_pool(size_bytes).stretch(0, size_bytes)
        except SwapplanError as error:
            raise CapacityError(
                f"The host has no {size_bytes} bytes left for what does not fit on the device. "
                "Record a smaller step, or on a host with more memory."
            ) from error

    def give(self, stretch: HostStretch) -> None:
        """Takes host memory back, once nothing in it is needed."""
        self._spare[stretch.size_bytes].append(stretch)
