"""Which engines can carry a copy between device and host exactly."""

from profiles.schema.link import CopyMethod
from runtime.kernels.layout import StridedLayout


def engines_for(
    size_bytes: int, *, is_mask: bool = False, layout: StridedLayout | None = None
) -> tuple[CopyMethod, ...]:
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
        return (CopyMethod.STRIDED_KERNEL,) if layout.can_be_carried else ()
    contiguous = (CopyMethod.DMA, CopyMethod.VECTOR_KERNEL, CopyMethod.BATCH_KERNEL)
    return (*contiguous, CopyMethod.BITPACK_KERNEL) if is_mask else contiguous
