"""What can carry a copy between device and host, and how many host bytes that takes."""

from enum import StrEnum

from runtime.kernels.layout import StridedLayout

BOOLS_PER_BYTE = 8


class CopyEngine(StrEnum):
    """What carries a copy.

    COPY_ENGINE: The device's own copy engine, through the driver: best for large stretches.
    VECTOR_KERNEL: A kernel of few blocks, 16 bytes a thread and access.
    BATCH_KERNEL: The same for many stretches in one launch, from a table of addresses.
    STRIDED_KERNEL: A kernel that gathers strided items into a compact host buffer, or scatters.
    BITPACK_KERNEL: A kernel that keeps one bit of each bool: eight times fewer host bytes.
    """

    COPY_ENGINE = "copy_engine"
    VECTOR_KERNEL = "vector_kernel"
    BATCH_KERNEL = "batch_kernel"
    STRIDED_KERNEL = "strided_kernel"
    BITPACK_KERNEL = "bitpack_kernel"


def engines_for(
    size_bytes: int, *, is_mask: bool = False, layout: StridedLayout | None = None
) -> tuple[CopyEngine, ...]:
    """Returns the engines that can carry a copy exactly; which is fastest is not asked here.

    Args:
        size_bytes: Device bytes to carry; gaps between strided items do not count.
        is_mask: Whether every one of those bytes is a bool, 0 or 1.
        layout: How the device bytes lie; None if they are one stretch, as a whole storage is.

    Returns:
        The engines, in the order of the enum; none for nothing to carry.

    Raises:
        ValueError: The layout holds another number of bytes.
    """
    if layout is not None and layout.size_bytes != size_bytes:
        raise ValueError(f"a layout of {layout.size_bytes} bytes for a copy of {size_bytes}")
    if size_bytes <= 0:
        return ()
    if layout is not None and not layout.is_compact:
        return (CopyEngine.STRIDED_KERNEL,) if layout.can_be_carried else ()
    contiguous = (CopyEngine.COPY_ENGINE, CopyEngine.VECTOR_KERNEL, CopyEngine.BATCH_KERNEL)
    return (*contiguous, CopyEngine.BITPACK_KERNEL) if is_mask else contiguous


def host_size_bytes(engine: CopyEngine, size_bytes: int) -> int:
    """Returns the host bytes that `size_bytes` of device bytes take when an engine carries them."""
    if engine is CopyEngine.BITPACK_KERNEL:
        return -(-size_bytes // BOOLS_PER_BYTE)
    return size_bytes
