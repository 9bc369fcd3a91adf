"""A step as layer-wise rules see it: forward and backward, layer by layer."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from profiles.hardware.op_class import COMPUTE_CLASSES, class_of
from profiles.schema.memory import slot_memory
from profiles.schema.profile import PACK, PRE, UNPACK, Op, Profile

OPTIMIZER = "optimizer:"


class Layer(NamedTuple):
    """A stretch of slots that belongs to one leaf module's forward or backward.

    Attributes:
        first_slot: Its first slot.
        end_slot: The first slot after it.
        is_heavy: Whether it convolves or multiplies matrices (attention included).
    """

    first_slot: int
    end_slot: int
    is_heavy: bool


@dataclass(frozen=True)
class StepView:
    """What layer-wise rules need to know of a profile.

    A forward layer reaches from one leaf module's entry to the next one's. A backward layer is a
    run of slots whose last saved tensor was packed in the same forward layer. In a step without
    such anchors every slot is a layer.
    """

    profile: Profile

    @property
    def slot_count(self) -> int:
        """Number of slots."""
        return len(self.profile.slots)

    @cached_property
    def turn_slot(self) -> int:
        """Where backward begins: the first saved tensor is asked for.

        Without such anchors, the first slot in which the most bytes are resident.
        """
        for t, (word, _) in enumerate(self._anchors):
            if word == UNPACK:
                return t
        held_bytes = [slot.resident_bytes for slot in slot_memory(self.profile)]
        return held_bytes.index(max(held_bytes))

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in program order: forward, backward, optimizer."""
        heavy_slots = {op.slot for op in self.profile.ops if _is_heavy(op)}
        firsts = [0, *self._layer_begins(), self.slot_count]
        return tuple(
            Layer(first, end, not heavy_slots.isdisjoint(range(first, end)))
            for first, end in pairwise(firsts)
            if first < end
        )

    def layer_at(self, slot: int) -> int:
        """Returns the index of the layer that a slot belongs to."""
        return bisect_right(self.layers, slot, key=lambda layer: layer.first_slot) - 1

    @cached_property
    def heavy_us(self) -> tuple[float, ...]:
        """Time of each op that convolves or multiplies matrices; 0 for the others."""
        return tuple(op.duration_us if _is_heavy(op) else 0.0 for op in self.profile.ops)

    def op_of_use(self, storage: int, slot: int) -> int:
        """Returns the first op that uses a storage from a slot on; the number of ops if none."""
        ops = self.profile.ops
        uses = self.profile.storages[storage].uses
        return next((use.op for use in uses if ops[use.op].slot >= slot), len(ops))

    def slot_of_op(self, op: int) -> int:
        """Returns the slot an op runs in; the last slot for the number of ops."""
        if op >= len(self.profile.ops):
            return self.slot_count - 1
        return self.profile.ops[max(0, op)].slot

    @cached_property
    def _anchors(self) -> tuple[tuple[str, str], ...]:
        """Word and key of each anchor; an anchor seen again loses its count."""
        keys = (slot.anchor.split("#")[0].partition(":") for slot in self.profile.slots)
        return tuple((word + colon, key) for word, colon, key in keys)

    def _layer_begins(self) -> Iterator[int]:
        if not any(word == PRE for word, _ in self._anchors):
            yield from range(1, self.slot_count)
            return
        layer, last = 0, -1
        packed: dict[str, int] = {}
        for t, (word, key) in enumerate(self._anchors):
            if word == PRE and t < self.turn_slot:
                layer += 1
            elif word == PACK:
                packed[key] = layer
            elif word == UNPACK:
                layer = packed.get(key, layer)
            elif word == OPTIMIZER:
                layer = -2
            if t and (layer != last or t == self.turn_slot):
                yield t
            last = layer


def _is_heavy(op: Op) -> bool:
    """Whether an op, named such as `aten.addmm.default`, is bound by arithmetic."""
    name = op.name.split(".")[1] if "." in op.name else op.name
    return class_of(name) in COMPUTE_CLASSES
