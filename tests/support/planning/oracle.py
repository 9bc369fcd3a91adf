"""The least stall any plan can reach, found exactly in two ways, for hand-sized profiles.

`tests.support.planning.oracle_ilp` holds a time-indexed integer program; `least_stall_by_search`
here tries every choice of anchors with `tests.support.planning.reference`, and knows the host
budget too. Both start from `idles`: where each storage can be away, by the rules of the plan file.
Neither shares code with the planner.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise, permutations
from typing import NamedTuple

from planner.plan.plan import Boundary
from profiles.schema.profile import Access, Link, Profile, Storage
from tests.support.planning.reference import BareSwap, resident_bytes, simulate

OWNED = ("parameter", "buffer", "optimizer_state", "gradient")


class Idle(NamedTuple):
    """A storage that nothing touches in slots first..until - 1.

    With T slots, slot T + 3 is slot 3 of the next step.
    """

    storage: int
    size_bytes: int
    first: int
    until: int


def idles(profile: Profile, boundary: Boundary = Boundary.PERIODIC) -> list[Idle]:
    """Every stretch in which a storage can be away."""
    count = len(profile.slots)
    found = []
    for s in profile.storages:
        if s.left_out is not None or s.shown_at is None or s.size_bytes == 0:
            continue
        slots = [profile.ops[use.op].slot for use in s.uses]
        slots = sorted([*slots, *(touch.slot for touch in s.touches)])
        if boundary is Boundary.PERIODIC and goes_on(s) and slots:
            slots.append(slots[0] + count)
        else:
            slots = [-1] * (s.allocated_op is None) + slots
            slots += [count - 1] * (s.released_op is None)
        for p, q in pairwise(slots):
            first = max(p + 1, s.shown_at)
            if first < q:
                shift = count if first >= count else 0
                found.append(Idle(s.id, s.size_bytes, first - shift, q - shift))
    return found


def goes_on(storage: Storage) -> bool:
    """Whether a storage lives from step to step and can be found by name."""
    alive = storage.allocated_op is None and storage.released_op is None
    return alive and storage.kind.value in OWNED


def smallest_budget_bytes(profile: Profile, boundary: Boundary = Boundary.PERIODIC) -> int:
    """What is resident when everything is away whenever it can be."""
    count = len(profile.slots)
    away = idles(profile, boundary)
    return max(
        resident_bytes(profile, t)
        - sum(i.size_bytes for i in away if (t - i.first) % count < i.until - i.first)
        for t in range(count)
    )


def least_stall_by_search(
    profile: Profile,
    budget_bytes: int,
    host_budget_bytes: int | None = None,
    boundary: Boundary = Boundary.PERIODIC,
) -> float | None:
    """The least stall over every set of swaps and every choice of their anchors.

    Returns:
        Microseconds, or None if no choice meets the budgets.
    """
    return _Search(profile, budget_bytes, host_budget_bytes, boundary).least_stall_us()


def shares_copies(profile: Profile, boundary: Boundary = Boundary.PERIODIC) -> bool:
    """Whether a swap may find its bytes on the host already."""
    search = _Search(profile, 0, None, boundary)
    swaps = [search.whole(idle) for idle in search.idles]
    return any(search.clean(swap, swaps) for swap in swaps)


class _Search:
    """Branch and bound, gap by gap.

    A copy more never makes any event earlier (every time is a maximum of sums). A storage with
    swaps still to be chosen may come to need no copy, so for the bound its swaps have none.
    """

    def __init__(
        self,
        profile: Profile,
        budget_bytes: int,
        host_budget_bytes: int | None,
        boundary: Boundary,
    ) -> None:
        self.profile = profile
        self.count = len(profile.slots)
        self.idles = sorted(idles(profile, boundary), key=lambda i: (-i.size_bytes, i.storage))
        self.slots_us = [slot.duration_us for slot in profile.slots]
        self.sizes = {s.id: s.size_bytes for s in profile.storages}
        self.written = {
            s.id: {profile.ops[use.op].slot for use in s.uses if use.access is Access.WRITE}
            | {touch.slot for touch in s.touches if touch.access is Access.WRITE}
            for s in profile.storages
        }
        periodic = boundary is Boundary.PERIODIC
        self.lasting = {s.id for s in profile.storages if periodic and goes_on(s) and s.uses}
        self.link: Link = profile.link
        self.over = [resident_bytes(profile, t) - budget_bytes for t in range(self.count)]
        self.host_budget_bytes = host_budget_bytes
        self.best_us: float | None = None

    def least_stall_us(self) -> float | None:
        self._extend((), 0, self.over)
        return self.best_us

    def _extend(self, swaps: tuple[BareSwap, ...], n: int, over: list[int]) -> None:
        hopes = self.idles[n:]
        if self._is_hopeless(swaps, hopes, over):
            return
        if max(over) <= 0 and not any(h.storage == t.storage for h in hopes for t in swaps):
            self._keep_best(swaps)
            return
        if not hopes:
            return
        self._extend(swaps, n + 1, over)
        # A swap that helps no slot only adds copies; unless another one relies on its copy.
        alone = sum(idle.storage == hopes[0].storage for idle in self.idles) == 1
        for swap in self._choices(hopes[0]):
            slots_away = (swap.swap_in_slot - swap.release_slot) % self.count
            away = {(swap.release_slot + k) % self.count for k in range(slots_away)}
            if alone and all(over[t] <= 0 for t in away):
                continue
            less = [o - self.sizes[swap.storage] * (t in away) for t, o in enumerate(over)]
            self._extend((*swaps, swap), n + 1, less)

    def _is_hopeless(self, swaps: tuple[BareSwap, ...], hopes: list[Idle], over: list[int]) -> bool:
        for t, bytes_over in enumerate(over):
            open_now = (i for i in hopes if (t - i.first) % self.count < i.until - i.first)
            if bytes_over > sum(i.size_bytes for i in open_now):
                return True
        hoped = {idle.storage for idle in hopes}
        clean = [swap for swap in swaps if swap.storage in hoped or self.clean(swap, swaps)]
        if self.best_us is not None and self._stall_us(swaps, clean) >= self.best_us:
            return True
        # Copies kept for later swaps take more, and a storage's own swaps never meet.
        return not self._host_fits([[swap] for swap in swaps])

    def _keep_best(self, swaps: tuple[BareSwap, ...]) -> None:
        """Takes note of a choice of swaps, with every choice of who relies on an earlier copy."""
        cleanable = [swap for swap in swaps if self.clean(swap, swaps)]
        # Relying on a copy costs nothing but host bytes.
        fewest = len(cleanable) if self.host_budget_bytes is None else 0
        for size in range(fewest, len(cleanable) + 1):
            for clean in combinations(cleanable, size):
                stall_us = self._stall_us(swaps, clean)
                better = self.best_us is None or stall_us < self.best_us
                if better and self._host_fits(self._blocks(swaps, clean)):
                    self.best_us = stall_us

    def whole(self, idle: Idle) -> BareSwap:
        """The swap that lasts a whole idle stretch."""
        first, until = idle.first % self.count, idle.until % self.count
        return BareSwap(idle.storage, first, first, until, until)

    def _choices(self, idle: Idle) -> list[BareSwap]:
        # An await before the next use can only wait longer; it pays by freeing host bytes alone.
        slots = range(idle.first, idle.until + 1)
        awaits = [idle.until] if self.host_budget_bytes is None else slots
        return [
            BareSwap(
                idle.storage,
                out % self.count,
                release % self.count,
                swap_in % self.count,
                awaited % self.count,
            )
            for awaited in awaits
            for swap_in in slots
            for release in range(idle.first, swap_in)
            for out in range(idle.first, release + 1)
            if swap_in <= awaited
        ]

    def clean(self, swap: BareSwap, swaps: Sequence[BareSwap]) -> bool:
        """Whether the swap before left a copy that nothing has made untrue since."""
        last = self._last(swap, swaps)
        return last is not None and not self._between(last, swap) & self.written[swap.storage]

    def _last(self, swap: BareSwap, swaps: Sequence[BareSwap]) -> BareSwap | None:
        """The swap of the same storage before this one; it may be this one, a step before."""
        own = [other for other in swaps if other.storage == swap.storage]
        if swap.storage not in self.lasting:
            own = [other for other in own if other.await_slot < swap.swap_out_slot]
        return min(own, key=lambda other: self._slots_since(other, swap), default=None)

    def _slots_since(self, last: BareSwap, swap: BareSwap) -> int:
        # The swap itself comes last: a whole step before.
        return (swap.swap_out_slot - last.await_slot) % self.count or self.count

    def _between(self, last: BareSwap, swap: BareSwap) -> set[int]:
        """Slots from the end of one swap until the next."""
        since = range(self._slots_since(last, swap))
        return {(last.await_slot + k) % self.count for k in since}

    def _stall_us(self, swaps: Sequence[BareSwap], clean: Sequence[BareSwap]) -> float:
        """The stall if some swaps copy nothing to the host."""
        played = [_with_no_copy(swap) if swap in clean else swap for swap in swaps]

        # Of swap-outs issued at one anchor, first the one released first: any other order delays
        # that release and makes no other one earlier.
        def released(swap: BareSwap) -> tuple[int, int]:
            return (swap.swap_out_slot, (swap.release_slot - swap.swap_out_slot) % self.count)

        in_order = sorted(played, key=released)
        return sum(simulate(self.slots_us, self.sizes, in_order, self.link).stall_us)

    def _blocks(self, swaps: Sequence[BareSwap], clean: Sequence[BareSwap]) -> list[list[BareSwap]]:
        """The swaps that share one host copy, together."""
        block_of = {swap: [swap] for swap in swaps}
        for swap in clean:
            last = self._last(swap, swaps)
            assert last is not None
            # From here on, this swap's bytes are held since the one before.
            since = _with_no_copy(swap)._replace(swap_out_slot=last.await_slot)
            if last == swap:
                since = since._replace(swap_out_slot=(swap.await_slot + 1) % self.count)
            block_of[swap].remove(swap)
            block_of[swap].append(since)
            if block_of[last] is not block_of[swap]:
                block_of[last].extend(block_of[swap])
                block_of.update({t: block_of[last] for t in swaps if block_of[t] is block_of[swap]})
        return list({id(block): block for block in block_of.values()}.values())

    def _host_fits(self, blocks: Sequence[Sequence[BareSwap]]) -> bool:
        if self.host_budget_bytes is None:
            return True
        # Piled up in the order of some best layout's offsets, they stand as low or lower.
        return any(
            self._pool_bytes(order) <= self.host_budget_bytes for order in permutations(blocks)
        )

    def _pool_bytes(self, blocks: Sequence[Sequence[BareSwap]]) -> int:
        tops: list[tuple[set[int], int]] = []
        for block in blocks:
            held = set().union(*map(self._held, block))
            below = [top for other, top in tops if held & other]
            tops.append((held, max(below, default=0) + self.sizes[block[0].storage]))
        return max((top for _, top in tops), default=0)

    def _held(self, swap: BareSwap) -> set[int]:
        length = (swap.await_slot - swap.swap_out_slot) % self.count + 1
        return {(swap.swap_out_slot + k) % self.count for k in range(length)}


def _with_no_copy(swap: BareSwap) -> BareSwap:
    return swap._replace(clean=True, swap_out_slot=swap.release_slot)
