"""Kernels that gather strided items into a compact stretch, and scatter them back.

Both read a layout of twelve words (`StridedLayout.words`) from memory once per thread: it lies
best in device memory, where it stays for as long as the plan does.
"""

from numba import cuda

from runtime.kernels.access import (
    device,
    load_1,
    load_2,
    load_4,
    load_8,
    load_16,
    load_word,
    quotient,
    store_1,
    store_2,
    store_4,
    store_8,
    store_16,
)
from runtime.kernels.batch import WORD_BYTES
from runtime.kernels.layout import HEADER_WORDS, MAX_DIMENSIONS

EXTENTS = HEADER_WORDS * WORD_BYTES
STRIDES = (HEADER_WORDS + MAX_DIMENSIONS) * WORD_BYTES


@device
def move_item(item_bytes: int, target: int, source: int) -> None:
    """Copies one item of 1, 2, 4, 8 or 16 bytes. All threads take the same branch."""
    if item_bytes == 16:
        low, high = load_16(source)
        store_16(target, low, high)
    elif item_bytes == 8:
        store_8(target, load_8(source))
    elif item_bytes == 4:
        store_4(target, load_4(source))
    elif item_bytes == 2:
        store_2(target, load_2(source))
    else:
        store_1(target, load_1(source))


@device
def move_share(
    thread: int, threads: int, compact: int, spread: int, layout: int, out: bool
) -> None:
    """Moves this thread's share of the items of a layout, `out` of it or into it.

    spread       a b c . . d e f . . g h i . .     extents 3 x 3, strides 5 and 1 items
    compact      a b c d e f g h i
    item         0 1 2 3 4 5 6 7 8
    thread 0     x . . . x . . . x                 here four threads
    thread 1     . x . . . x . . .

    The number of an item, written in the extents as digits, gives its place: item 5 is row 1,
    column 2, so 1 x 5 + 2 x 1. Neighbouring threads touch neighbours on the compact side, which
    is the side across the link.

    [Note: scatter writes once] Items of a layout must not share bytes, or two threads write one
    place in any order. `StridedLayout.can_be_carried` says so beforehand.
    """
    item_bytes = load_word(layout)
    items = load_word(layout + WORD_BYTES)
    extent_1 = load_word(layout + EXTENTS + 1 * WORD_BYTES)
    extent_2 = load_word(layout + EXTENTS + 2 * WORD_BYTES)
    extent_3 = load_word(layout + EXTENTS + 3 * WORD_BYTES)
    extent_4 = load_word(layout + EXTENTS + 4 * WORD_BYTES)
    stride_0 = load_word(layout + STRIDES)
    stride_1 = load_word(layout + STRIDES + 1 * WORD_BYTES)
    stride_2 = load_word(layout + STRIDES + 2 * WORD_BYTES)
    stride_3 = load_word(layout + STRIDES + 3 * WORD_BYTES)
    stride_4 = load_word(layout + STRIDES + 4 * WORD_BYTES)
    item = thread
    while item < items:
        left_4 = quotient(item, extent_4)
        left_3 = quotient(left_4, extent_3)
        left_2 = quotient(left_3, extent_2)
        left_1 = quotient(left_2, extent_1)
        place = spread + left_1 * stride_0
        place += (left_2 - left_1 * extent_1) * stride_1
        place += (left_3 - left_2 * extent_2) * stride_2
        place += (left_4 - left_3 * extent_3) * stride_3
        place += (item - left_4 * extent_4) * stride_4
        if out:
            move_item(item_bytes, compact + item * item_bytes, place)
        else:
            move_item(item_bytes, place, compact + item * item_bytes)
        item += threads


def gather_kernel(compact: int, spread: int, layout: int) -> None:
    """Collects the items of a layout into a compact stretch. See `move_share`."""
    move_share(cuda.grid(1), cuda.gridsize(1), compact, spread, layout, True)


def scatter_kernel(spread: int, compact: int, layout: int) -> None:
    """Puts the items of a compact stretch where a layout says. See `move_share`."""
    move_share(cuda.grid(1), cuda.gridsize(1), compact, spread, layout, False)
