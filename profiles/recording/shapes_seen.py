"""The sizes of what anchors show, so that a step whose sizes change is refused while recording.

Such a step reaches the same anchors every time, and its plan would fall back in every step but
those of the recorded size. Only sizes are compared: what has the same bytes in another shape can be
moved.
"""

from collections.abc import Callable

import torch

from profiles.hooks.anchors import AnchorListener
from profiles.hooks.plain_tensors import has_storage
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import PACK


class ShapesSeen:
    """An anchor listener that calls another one, and notes the size of what is shown.

    Attributes:
        shown: Bytes of the storage and shape of the tensor that each anchor showed, by its key.
    """

    def __init__(
        self,
        listener: AnchorListener,
        size_of: Callable[[torch.UntypedStorage], int] = torch.UntypedStorage.nbytes,
    ) -> None:
        """Makes a listener for one step.

        `size_of` returns a storage's size in bytes, also of one that is emptied just now.
        """
        self.shown: dict[str, tuple[int, torch.Size]] = {}
        self._listener = listener
        self._size_of = size_of

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Calls the other listener, then notes; see `profiles.hooks.anchors`."""
        self._listener.on_anchor(key, shown)
        if shown is not None and has_storage(shown):
            self.shown[key] = (self._size_of(shown.untyped_storage()), shown.shape)


def check_same_sizes(one: ShapesSeen, other: ShapesSeen) -> None:
    """Compares what anchors showed in two steps.

    Raises:
        WorkloadError: An anchor showed so many bytes in one step and so many in the other.
    """
    for key, first in one.shown.items():
        second = other.shown.get(key, first)
        if first[0] != second[0]:
            what = f"the saved tensor {key}" if key.startswith(PACK) else key
            raise WorkloadError(
                f"The step takes another size each time: {what} had {_words(*first)} in one "
                f"step and {_words(*second)} in another. A plan needs a step that repeats: pad "
                "batches to one length, drop a smaller last one (drop_last=True), or sort them "
                "into a few buckets and record each, with --courses or in a loop with "
                "runtime.within."
            )


def _words(size_bytes: int, shape: torch.Size) -> str:
    return f"{size_bytes:,} bytes ({'x'.join(map(str, shape)) or 'a number'})"
