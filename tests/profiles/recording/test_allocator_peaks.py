"""The profile's peak against the count of torch's own allocator, which knows nothing of us."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profiler

from profiles.hooks.named_storages import Owned
from profiles.hooks.workload import Workload
from profiles.recording.allocator_peaks import OpWorkspaces, held_bytes, with_op_overhead
from profiles.recording.kernel_times import MARK, OpMarks
from profiles.schema.profile import StorageKind
from tests.support.planning.toys import activation, resident, toy
from tests.support.steady_meter import SteadyMeter
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import recorded

WITHIN = 0.02
WARMUP_STEPS = 2


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", BUILDERS)
def test_the_peak_is_the_allocators(name: str) -> None:
    """Every allocation of the process from before the model is built, kernels' workspace aside."""
    planned_bytes = recorded(name).peak_bytes
    counted_bytes = allocator_peak_bytes(BUILDERS[name])
    assert abs(planned_bytes - counted_bytes) <= WITHIN * counted_bytes


def allocator_peak_bytes(build: Callable[[], Workload]) -> int:
    """Most bytes allocated at once in a step, without what single ops take and give back."""
    with torch_profiler(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        workload = build()
        for _ in range(WARMUP_STEPS):
            workload.step()
        with OpMarks():
            workload.step()
    assert profiler.profiler is not None
    results: Any = profiler.profiler.kineto_results
    assert results is not None
    return peak_bytes(list(allocations(results.experimental_event_tree())))


def peak_bytes(events: list[tuple[int, int, int, str]]) -> int:
    """The peak of the marked ops.

    Args:
        events: Of each allocation (bytes above 0) and release: when, where, how many bytes, and
            the mark of the op around it.
    """
    events.sort()
    workspace = workspace_of(events)
    live_bytes = peak = 0
    for number, (_, _, size_bytes, mark) in enumerate(events):
        if number not in workspace:
            live_bytes += size_bytes
        if mark:
            peak = max(peak, live_bytes)
    return peak


def workspace_of(events: list[tuple[int, int, int, str]]) -> set[int]:
    """Numbers of the events that belong to memory taken and given back within one op."""
    found: set[int] = set()
    taken: dict[int, tuple[int, str]] = {}
    for number, (_, address, size_bytes, mark) in enumerate(events):
        if size_bytes > 0:
            taken[address] = number, mark
            continue
        begin, began_in = taken.pop(address, (number, ""))
        if mark and mark == began_in:
            found |= {begin, number}
    return found


def allocations(events: Iterable[Any], mark: str = "") -> Iterator[tuple[int, int, int, str]]:
    """Yields what the profiler saw of the allocator: time, address, bytes, mark around it."""
    for event in events:
        inside = event.name if event.name.startswith(MARK) else mark
        kind, about = event.typed
        if kind == _EventType.Allocation:
            yield event.start_time_ns, about.ptr, about.alloc_size, inside
        yield from allocations(event.children, inside)


def test_overhead_is_rounding_and_workspace_and_what_is_always_held() -> None:
    """Two storages: 100 bytes in slots 0 to 2, 600 in slot 1. Rounded: 512 and 1024."""
    profile = toy(10, 10, 10, storages=[resident("w", 100, 2), activation("x", 600, 1)])
    with_it = with_op_overhead(
        profile,
        granule_bytes=512,
        unsplit_bytes=600,
        held_bytes=7,
        workspaces_bytes=(0, 30, 40),
    )
    assert [slot.overhead_bytes for slot in with_it.slots] == [
        412 + 0 + 7,
        412 + 424 + 30 + 7,
        412 + 40 + 7,
        412 + 0 + 7,
    ]


def test_a_large_storage_may_get_a_block_that_is_not_split() -> None:
    """Of 600 bytes more than 599 are a large storage: 599 may be left unused in its block."""
    profile = toy(10, 10, 10, storages=[activation("x", 600, 1)])
    with_it = with_op_overhead(
        profile, granule_bytes=512, unsplit_bytes=599, held_bytes=0, workspaces_bytes=(0, 0, 0)
    )
    assert [slot.overhead_bytes for slot in with_it.slots] == [0, 424 + 599, 0, 0]


def test_what_an_optimizer_keeps_on_the_host_takes_nothing_of_the_device() -> None:
    """A weight of 400 bytes on the device, a counter of 4 on the host: 1,000 - 512 are others'."""

    def on(device: torch.device, size_bytes: int) -> Owned:
        storage = torch.UntypedStorage(size_bytes)
        kind = StorageKind.OPTIMIZER_STATE
        return Owned(name="state:w", kind=kind, storage=storage, device=device)

    device, host = torch.device("meta", 0), torch.device("cpu")
    assert held_bytes(SteadyMeter(1000), device, (on(device, 400), on(host, 4))) == 488


class Meter:
    """An allocator in which op 0 makes 50 bytes and op 1 frees 20."""

    granule_bytes = 512
    unsplit_bytes = 1 << 20

    def __init__(self) -> None:
        self._allocated = iter((100, 150, 150, 130))
        self._peaks = iter((170, 155))

    def allocated_bytes(self) -> int:
        return next(self._allocated)

    def reset_peak(self) -> None:
        """Its peaks are of one op each."""

    def peak_bytes(self) -> int:
        return next(self._peaks)


def test_a_workspace_is_what_lies_above_before_and_after() -> None:
    workspaces = OpWorkspaces(Meter())
    values = torch.ones(3)
    with workspaces:
        values.add_(1).mul_(2)
    assert workspaces.sizes_bytes() == (20, 5)
    workspaces.rewind(1)
    assert workspaces.sizes_bytes() == (20,)
