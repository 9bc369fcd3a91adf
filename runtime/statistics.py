"""What one replayed step did, measured."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class StepStatistics:
    """Figures of one step; all measured.

    Attributes:
        step: Number of the step since `attach`, from 0.
        fallback: Why the step fell back to resident; None if it was replayed to the end. That
            another worker fell back is known when the next step begins.
        d2h_bytes: Bytes copied to the host.
        h2d_bytes: Bytes copied back.
        stall_us: Time compute waited for copies.
        overrun_us: How much longer copies took on this machine than on the planned link.
        skipped_swaps: Swaps of storages that do not exist yet, such as lazy optimizer states.
        misses: Ops that asked for a storage the plan had away.
        peak_bytes: Most device bytes; None if the step was not watched.
        duration_us: Wall time of the step.
    """

    step: int
    fallback: str | None = None
    d2h_bytes: int = 0
    h2d_bytes: int = 0
    stall_us: float = 0.0
    overrun_us: float = 0.0
    skipped_swaps: int = 0
    misses: int = 0
    peak_bytes: int | None = None
    duration_us: float = 0.0
