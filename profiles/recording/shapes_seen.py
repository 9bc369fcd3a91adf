"""The sizes of what anchors show, so that a step whose sizes change is refused while recording.

Such a step reaches the same anchors every time, and its plan would fall back in every step but
those of the recorded size. Only sizes are compared: what has the same bytes in another shape can be
moved.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from profiles.hooks.anchors import AnchorListener
from profiles.hooks.plain_tensors import has_storage
from profiles.schema.errors import WorkloadError


class Shown(NamedTuple):
    """What an anchor showed.

    Attributes:
        size_bytes: Bytes of its storage.
        shape: The tensor's shape.
    """

    size_bytes: int
    shape: tuple[int, ...]


class ShapesSeen:
    """An anchor listener that tells another one, and notes the size of what is shown.

    Attributes:
        shown: What each anchor showed that shows anything, by its key.
    """

    def __init__(
        self,
        listener: AnchorListener,
        size_of: Callable[[torch.UntypedStorage], int] = torch.UntypedStorage.nbytes,
    ) -> None:
        """Makes a listener for one step.

        Args:
            listener: Told of every anchor first.
            size_of: Tells a storage's size in bytes, also of one that is emptied just now.
        """
        self.shown: dict[str, Shown] = {}
        self._listener = listener
        self._size_of = size_of

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Tells the other listener, then notes; see `profiles.hooks.anchors`."""
        self._listener.on_anchor(key, shown)
        if shown is not None and has_storage(shown):
            self.shown[key] = Shown(self._size_of(shown.untyped_storage()), tuple(shown.shape))


def check_same_sizes(one: ShapesSeen, other: ShapesSeen) -> None:
    """Compares what anchors showed in two steps.

    Raises:
        WorkloadError: An anchor showed so many bytes in one step and so many in the other.
    """
    for key, first in one.shown.items():
        second = other.shown.get(key, first)
        if first.size_bytes != second.size_bytes:
            raise WorkloadError(
                f"The step takes another size each time: {_what(key)} had {_words(first)} in one "
                f"step and {_words(second)} in another. A plan needs a step that repeats: pad "
                "batches to one length, drop a smaller last one (drop_last=True), or sort them "
                "into buckets and record each for a plan of its own."
            )


def _what(key: str) -> str:
    return f"the saved tensor {key}" if key.startswith("pack:") else key


def _words(shown: Shown) -> str:
    shape = "x".join(map(str, shown.shape)) or "a number"
    return f"{shown.size_bytes:,} bytes ({shape})"
