"""How strided items lie in memory, and the shortest way to say it."""

from dataclasses import dataclass
from math import gcd, prod

from runtime.kernels.job import WIDEST_ACCESS_BYTES

MAX_DIMENSIONS = 5
# Item size, number of items, then an extent and a stride for each dimension.
HEADER_WORDS = 2
LAYOUT_WORDS = HEADER_WORDS + 2 * MAX_DIMENSIONS


@dataclass(frozen=True, kw_only=True)
class StridedLayout:
    """Items at regular distances, in up to any number of dimensions, last one fastest.

    Attributes:
        item_bytes: Size of an item.
        shape: Number of items along each dimension.
        strides_bytes: Distance from one item to the next along each dimension; may be negative.
    """

    item_bytes: int
    shape: tuple[int, ...]
    strides_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.strides_bytes):
            raise ValueError(f"{len(self.shape)} extents with {len(self.strides_bytes)} strides")
        if self.item_bytes < 1 or any(extent < 1 for extent in self.shape):
            raise ValueError(f"a layout of no bytes: {self}")

    @property
    def size_bytes(self) -> int:
        """Bytes of all items, without what lies between them."""
        return self.item_bytes * prod(self.shape)

    @property
    def is_compact(self) -> bool:
        """Whether the items lie in one stretch, in order."""
        byte_dimensions = _merged(self)
        return byte_dimensions == [(self.size_bytes, 1)]

    @property
    def can_be_carried(self) -> bool:
        """Whether the strided kernels can gather and scatter it: few dimensions, no overlap."""
        # Items may lie no better aligned than their own size asks for.
        collapsed = self.collapsed(alignment_bytes=gcd(self.item_bytes, WIDEST_ACCESS_BYTES))
        return len(collapsed.shape) <= MAX_DIMENSIONS and not self._may_overlap()

    def collapsed(self, alignment_bytes: int = WIDEST_ACCESS_BYTES) -> "StridedLayout":
        """Returns the same bytes in the same order, with the fewest dimensions and widest items.

            shape 4 x 6 x 8, 2-byte items         bytes of a row: 16, next row right after it
            strides 192, 16, 2 bytes         ->   6 rows are one run of 96 bytes:
                                                  shape 4 x 6, 16-byte items, strides 192, 16

        Args:
            alignment_bytes: What both addresses of the copy are multiples of. Items get no wider
                than that, and no wider than 16 bytes.
        """
        *outer, (run_bytes, _) = _merged(self)
        common = gcd(run_bytes, alignment_bytes, WIDEST_ACCESS_BYTES, *(step for _, step in outer))
        # The greatest power of two in it; it divides 16, so it is one already.
        dimensions = [*outer, (run_bytes // common, common)]
        kept = [(extent, stride) for extent, stride in dimensions if extent > 1]
        return StridedLayout(
            item_bytes=common,
            shape=tuple(extent for extent, _ in kept),
            strides_bytes=tuple(stride for _, stride in kept),
        )

    def words(self) -> tuple[int, ...]:
        """Returns what the strided kernels read: item size, items, extents, strides.

        Raises:
            ValueError: There are more dimensions than a kernel takes, or items of a size no
                single access has.
        """
        if len(self.shape) > MAX_DIMENSIONS or self.item_bytes not in (1, 2, 4, 8, 16):
            raise ValueError(f"no kernel takes this layout, collapse it first: {self}")
        missing = MAX_DIMENSIONS - len(self.shape)
        extents = (1,) * missing + self.shape
        strides = (0,) * missing + self.strides_bytes
        return (self.item_bytes, prod(self.shape), *extents, *strides)

    def _may_overlap(self) -> bool:
        """Whether two items may share a byte; some odd layouts without overlap count too."""
        reach_bytes = self.item_bytes
        dimensions = zip(self.strides_bytes, self.shape, strict=True)
        for stride, extent in sorted((abs(stride), extent) for stride, extent in dimensions):
            if extent > 1 and stride < reach_bytes:
                return True
            reach_bytes += stride * (extent - 1)
        return False


def _merged(layout: StridedLayout) -> list[tuple[int, int]]:
    """Extents and strides over single bytes, neighbours merged where one continues the other."""
    merged: list[tuple[int, int]] = [(layout.item_bytes, 1)]
    outwards = zip(reversed(layout.shape), reversed(layout.strides_bytes), strict=True)
    for extent, stride in outwards:
        if extent == 1:
            continue
        inner_extent, inner_stride = merged[0]
        if stride == inner_extent * inner_stride:
            merged[0] = (extent * inner_extent, inner_stride)
        else:
            merged.insert(0, (extent, stride))
    return merged
