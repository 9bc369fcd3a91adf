"""An allocator whose counts are the same whenever it is asked."""


class SteadyMeter:
    """Holds so many bytes; each op takes some more meanwhile and gives them back."""

    granule_bytes = 512
    unsplit_bytes = 1 << 20

    def __init__(self, held_bytes: int, taken_bytes: int = 0) -> None:
        self._held_bytes, self._taken_bytes = held_bytes, taken_bytes

    def allocated_bytes(self) -> int:
        return self._held_bytes

    def reset_peak(self) -> None:
        """Its peaks are the same in every op."""

    def peak_bytes(self) -> int:
        return self._held_bytes + self._taken_bytes
