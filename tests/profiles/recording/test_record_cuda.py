"""Recording on a GPU: what can be tested without one by fakes, and what needs one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profiler

from profiles.hooks.workload import Workload
from profiles.recording import device as device_module
from profiles.recording.allocator_peaks import SlotPeaks
from profiles.recording.clocks import CpuClock, DeviceClock
from profiles.recording.device import Instruments, build_on, device_at_hand, instruments_for
from profiles.recording.kernel_times import (
    MARK,
    OpKernels,
    OpMarks,
    attributed,
    between_events,
    or_unknown,
    profiled_kernels,
)
from profiles.recording.passes import MOST_EXTRA_STEPS, WarmUpPass
from profiles.recording.record import record
from profiles.recording.recording import WarmUp
from profiles.schema.errors import CapacityError, WorkloadError
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Profile, WorkloadSource
from profiles.workloads.build import build
from runtime.storage.accountant import Accountant
from tests.support.training import models
from tests.support.training.fake_time import CountingClock, DoublingClock
from tests.support.training.fixed_times import FAST_LINK, UNNAMED
from tests.support.training.plain_steps import layers_on_device, two_layers

WORKSPACE_BYTES = 7 * 512
CPU = torch.device("cpu")

Log = list[tuple[Any, ...]]


SECOND_GPU = torch.device("cuda", 1)


class FakeEvents:
    """Events of a device that is at 1.5 ms, then 2.5 ms, 3.5 ms ... when it gets to them."""

    def __init__(self) -> None:
        self.log: Log = []
        self.made = 0
        self.stream = "main"

    def clock(self) -> DeviceClock:
        return DeviceClock(
            SECOND_GPU,
            new_event=self.new,
            current_stream=self.current_stream,
            synchronize=self.synchronize,
        )

    def new(self) -> "FakeEvent":
        self.made += 1
        return FakeEvent(self.made - 1, self.log)

    def current_stream(self, device: torch.device) -> str:
        assert device == SECOND_GPU
        return self.stream

    def synchronize(self, device: torch.device) -> None:
        assert device == SECOND_GPU
        self.log.append(("synchronize",))


class FakeEvent:
    def __init__(self, number: int, log: Log) -> None:
        self.number = number
        self.log = log

    def record(self, stream: Any, /) -> None:
        self.log.append(("record", self.number, stream))

    def elapsed_time(self, end_event: Any, /) -> float:
        self.log.append(("elapsed", self.number, end_event.number))
        return 1.0 + end_event.number


def test_a_cuda_clock_waits_once_at_either_end() -> None:
    events = FakeEvents()
    clock = events.clock()
    clock.start()
    for _ in range(3):
        clock.stamp()
    assert clock.intervals_us() == [2000.0, 3000.0]
    assert events.log == [
        ("synchronize",),
        ("record", 0, "main"),
        ("record", 1, "main"),
        ("record", 2, "main"),
        ("synchronize",),
        ("elapsed", 0, 1),
        ("elapsed", 1, 2),
    ]


def test_a_cuda_clock_uses_its_events_again() -> None:
    events = FakeEvents()
    clock = events.clock()
    for stamps in (3, 2, 4):
        clock.start()
        for _ in range(stamps):
            clock.stamp()
        assert len(clock.intervals_us()) == stamps - 1
    assert events.made == 4


def test_a_cuda_clock_asks_for_the_current_stream_at_each_stamp() -> None:
    """The device's own, whichever device is the current one: the fakes know one device only."""
    events = FakeEvents()
    clock = events.clock()
    clock.start()
    for stream in ("main", "side", "main"):
        events.stream = stream
        clock.stamp()
    assert [entry[2] for entry in events.log if entry[0] == "record"] == ["main", "side", "main"]


def test_intervals_of_several_streams_never_run_backwards() -> None:
    """Reached at 0, 5, 3, 4 and 7 ms: the second is the latest until the fifth is reached."""
    reached_ms = (0.0, 5.0, 3.0, 4.0, 7.0)

    class Reached(FakeEvent):
        def elapsed_time(self, end_event: Any, /) -> float:
            return reached_ms[end_event.number] - reached_ms[self.number]

    events = FakeEvents()

    def new() -> Reached:
        events.made += 1
        return Reached(events.made - 1, events.log)

    events.new = new  # type: ignore[method-assign]
    clock = events.clock()
    clock.start()
    for _ in reached_ms:
        clock.stamp()
    assert clock.intervals_us() == [5000.0, 0.0, 0.0, 2000.0]


def test_slots_are_timed_by_the_events_at_their_anchors() -> None:
    """One event per anchor in every timed step; the times are the events' own."""
    events = FakeEvents()
    clock = events.clock()
    tools = Instruments(clock=clock, memory=None, kernels=None)
    profile = record(two_layers(), source=UNNAMED, link=FAST_LINK, timed_steps=2, instruments=tools)
    slots = len(profile.slots)
    assert [slot.duration_us for slot in profile.slots] == [
        *(1000.0 * (1 + event) for event in range(1, slots)),
        0.0,
    ]
    recorded = [entry[1] for entry in events.log if entry[0] == "record"]
    assert recorded[-2 * slots :] == [*range(slots), *range(slots)]
    # The device is never waited for between the anchors of a step.
    last_step = events.log[-(2 * slots + 1) :]
    assert last_step[0] == ("synchronize",)
    assert last_step.index(("synchronize",), 1) == slots + 1


class LoggingMeter:
    """An allocator whose peak is the number of the reset."""

    granule_bytes = 1
    unsplit_bytes = 0

    def allocated_bytes(self) -> int:
        self.log.append(("allocated", self.resets))
        return 0

    def __init__(self) -> None:
        self.log: Log = []
        self.resets = 0

    def reset_peak(self) -> None:
        self.resets += 1
        self.log.append(("reset", self.resets))

    def peak_bytes(self) -> int:
        self.log.append(("peak", self.resets))
        return 100 * self.resets


def test_each_slot_has_a_peak_of_its_own() -> None:
    meter = LoggingMeter()
    peaks = SlotPeaks(meter)
    for key in ("begin", "pre:0", "end"):
        peaks.on_anchor(key, None)
    assert peaks.peaks_bytes() == (100, 200, 300)
    assert meter.log == [
        ("reset", 1),
        ("peak", 1),
        ("reset", 2),
        ("peak", 2),
        ("reset", 3),
        ("peak", 3),
    ]


class AllocatorOf:
    """The accountant as an allocator whose kernels hold on to a workspace."""

    granule_bytes = 1
    unsplit_bytes = 0

    def __init__(self, accountant: Accountant) -> None:
        self._accountant = accountant
        self.largest_bytes = 0

    def allocated_bytes(self) -> int:
        return self._accountant.memory.live_bytes + WORKSPACE_BYTES

    def reset_peak(self) -> None:
        self._accountant.memory.peak_bytes = self._accountant.memory.live_bytes

    def peak_bytes(self) -> int:
        peak_bytes = self._accountant.memory.peak_bytes + WORKSPACE_BYTES
        self.largest_bytes = max(self.largest_bytes, peak_bytes)
        return peak_bytes


@pytest.mark.cpu_only
@pytest.mark.parametrize("make", [two_layers, models.unet3d, models.checkpointed])
def test_the_peak_is_the_allocators_in_every_slot(make: Callable[[], Workload]) -> None:
    accountant = Accountant(CPU, budget_bytes=None)
    allocator = AllocatorOf(accountant)
    tools = Instruments(clock=CpuClock(), memory=allocator, kernels=None)
    with accountant:
        profile = record(make(), source=UNNAMED, link=FAST_LINK, timed_steps=1, instruments=tools)
    needs = [memory.resident_bytes for memory in slot_memory(profile)]
    assert max(needs) == allocator.largest_bytes
    assert min(slot.overhead_bytes for slot in profile.slots) == WORKSPACE_BYTES
    # What dies after the last op of a slot is the only other thing that the trace counts earlier.
    exact = sum(slot.overhead_bytes == WORKSPACE_BYTES for slot in profile.slots)
    assert exact > len(profile.slots) // 2


def event(name: str, *kernels: tuple[str, float], children: Sequence[Any] = ()) -> Any:
    return SimpleNamespace(
        name=name,
        device_type=DeviceType.CPU,
        kernels=[SimpleNamespace(name=kernel, duration=us) for kernel, us in kernels],
        cpu_children=children,
    )


def test_kernel_times_go_to_their_ops() -> None:
    """Op 0 launches two kernels below a call of its own; op 1 one; the mark of op 2 is lost."""
    copy = event("aten::copy_", ("memcpy", 5.0))
    gemm = event("aten::mm", ("gemm", 20.0), children=[copy])
    on_device = SimpleNamespace(
        name=f"{MARK}0", device_type=DeviceType.CUDA, kernels=[], cpu_children=[]
    )
    events = [
        # Later ops' marks may come first: backward runs on another thread.
        event(f"{MARK}1", ("relu", 30.0)),
        event(f"{MARK}0", (f"{MARK}0", 90.0), children=[gemm]),
        on_device,
        gemm,
        copy,
    ]
    assert attributed(["aten.mm.default", "aten.relu.default", "aten.t.default"], events) == (
        OpKernels("aten.mm.default", 25.0),
        OpKernels("aten.relu.default", 30.0),
        OpKernels("aten.t.default", None),
    )


class KinetoEvent:
    """What kineto tells torch of one range, call or kernel; what is not said is nothing."""

    def __init__(self, name: str, begin_us: int, end_us: int, **said: Any) -> None:
        self._said = {
            "name": name,
            "start_ns": begin_us * 1000,
            "end_ns": end_us * 1000,
            "device_type": DeviceType.CPU,
            "start_thread_id": 1,
            "end_thread_id": 1,
            **said,
        }

    def __getattr__(self, asked: str) -> Callable[[], Any]:
        texts = ("overload_name", "backend", "metadata_json", "activity_type")
        lists = ("shapes", "concrete_inputs", "stack", "dtypes")
        nothing: Any = "" if asked in texts else [] if asked in lists else 0
        return lambda: self._said.get(asked, nothing)


def on_device(name: str, begin_us: int, end_us: int, linked: int) -> KinetoEvent:
    return KinetoEvent(
        name,
        begin_us,
        end_us,
        device_type=DeviceType.CUDA,
        linked_correlation_id=linked,
        start_thread_id=7,
        end_thread_id=7,
    )


def test_torchs_own_reading_of_kineto_gives_each_op_its_kernels() -> None:
    """Two ops on autograd's thread. Their kernels run later, and op 0's while op 1 is issued.

    Kineto links a kernel to the innermost call around its launch, and the stretch of a mark on the
    device to the mark.
    """
    told = [
        KinetoEvent(f"{MARK}0", 0, 20, correlation_id=1),
        KinetoEvent("aten::convolution", 2, 18, correlation_id=2),
        KinetoEvent("aten::cudnn_convolution", 4, 16, correlation_id=3),
        KinetoEvent("cudaLaunchKernel", 6, 8, linked_correlation_id=3, start_thread_id=99),
        KinetoEvent(f"{MARK}1", 30, 50, correlation_id=4),
        KinetoEvent("aten::add_", 32, 48, correlation_id=5),
        KinetoEvent(f"{MARK}2", 60, 70, correlation_id=6),
        on_device("implicit_gemm", 25, 65, linked=3),
        on_device("Memset (Device)", 66, 68, linked=2),
        on_device("vectorized_add", 70, 75, linked=5),
        on_device(f"{MARK}0", 25, 68, linked=1),
        on_device(f"{MARK}1", 70, 75, linked=4),
    ]
    with torch.autograd.profiler.profile(use_kineto=True) as profiler:
        """Only its reading is of interest."""
    profiler.use_device = "cuda"
    result = SimpleNamespace(events=lambda: told, trace_start_ns=lambda: 0)
    events = EventList(profiler._parse_kineto_results(result), use_device="cuda")
    events._build_tree()
    names = ["aten.convolution.default", "aten.add_.Tensor", "aten.t.default"]
    assert attributed(names, events) == (
        OpKernels(names[0], 42.0),
        OpKernels(names[1], 5.0),
        OpKernels(names[2], 0.0),
    )


def test_the_stretch_of_a_range_within_an_op_is_no_kernel() -> None:
    inner = event("my range", ("my range", 60.0), ("gemm", 20.0))
    events = [event(f"{MARK}0", (f"{MARK}0", 90.0), children=[inner])]
    assert attributed(["my.op.default"], events) == (OpKernels("my.op.default", 20.0),)


def test_an_op_takes_as_long_as_its_kernels() -> None:
    """What the host took to launch them says nothing about the device; it is all there is if the
    profiler lost the op."""
    workload = two_layers()
    lost = 3

    @contextmanager
    def kernels() -> Iterator[list[OpKernels]]:
        with profiled_kernels([ProfilerActivity.CPU], no_wait) as found:
            yield found
        found[:] = [
            op._replace(kernel_us=None if number == lost else 7.0)
            for number, op in enumerate(found)
        ]

    tools = Instruments(clock=CpuClock(), memory=None, kernels=kernels)
    profile = record(workload, source=UNNAMED, link=FAST_LINK, timed_steps=1, instruments=tools)
    for number, op in enumerate(profile.ops):
        if number == lost:
            assert op.kernel_us is None
            assert op.duration_us > 0
        else:
            assert (op.kernel_us, op.duration_us) == (7.0, 7.0)


def test_where_no_kernel_is_seen_ops_are_timed_by_events_around_them() -> None:
    """As in a container without CUPTI, and on accelerators of other makers."""

    @contextmanager
    def unseen_kernels() -> Iterator[list[OpKernels]]:
        with profiled_kernels([ProfilerActivity.CPU], no_wait) as found:
            yield found
        found[:] = [op._replace(kernel_us=None) for op in found]

    tools = Instruments(
        clock=CpuClock(),
        memory=None,
        kernels=unseen_kernels,
        otherwise=partial(between_events, clock=CountingClock()),
    )
    profile = record(two_layers(), source=UNNAMED, link=FAST_LINK, timed_steps=1, instruments=tools)
    # Intervals take 1, 2, ... 7 us and then 1 again; every other one is an op's.
    expected_us = [float(1 + 2 * number % 7) for number in range(len(profile.ops))]
    assert [op.duration_us for op in profile.ops] == expected_us
    assert [op.kernel_us for op in profile.ops] == expected_us


@pytest.mark.parametrize("kind", ["cuda", "privateuseone"])
def test_on_every_accelerator_ops_have_times_of_their_own(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the host takes to issue an op is not what running it again takes."""
    monkeypatch.setattr(device_module, "AllocatorMeter", lambda device: None)
    tools = instruments_for(torch.device(kind))
    assert tools.kernels is not None
    assert tools.otherwise is not None
    assert (tools.kernels is tools.otherwise) == (kind != "cuda")


def no_wait() -> None:
    """The processor is done when a call returns."""


def test_the_profiler_marks_every_op_that_the_trace_has() -> None:
    """The real profiler, on a device without kernels: each op is there and took 0 us of them."""

    kernels = partial(profiled_kernels, [ProfilerActivity.CPU], no_wait)
    tools = Instruments(clock=CpuClock(), memory=None, kernels=kernels)
    profile = record(
        models.checkpointed(), source=UNNAMED, link=FAST_LINK, timed_steps=1, instruments=tools
    )
    assert len(profile.ops) > 100
    assert {op.kernel_us for op in profile.ops} == {0.0}


@pytest.mark.cpu_only
def test_kernels_launched_within_an_op_are_its_own() -> None:
    """The real profiler's events of a real step; each innermost call is given a kernel of 1 us."""
    workload = models.unet3d()
    workload.step()
    marks = OpMarks()
    with torch_profiler(activities=[ProfilerActivity.CPU], acc_events=True) as profiler, marks:
        workload.step()
    events = profiler.events()
    assert events is not None
    # What only describes a tensor launches nothing, and is no op of the trace either.
    no_ops = {"aten::detach", "aten::to", "aten::broadcast_tensors"}
    calls = [found for found in events if found.name.startswith("aten::")]
    innermost = [found for found in calls if not found.cpu_children and found.name not in no_ops]
    for found in innermost:
        found.append_kernel("kernel", 0, 1.0)
    timed = attributed(marks.names, events)
    assert sum(op.kernel_us or 0.0 for op in timed) == len(innermost)
    # A convolution calls others, down to what would launch its kernels.
    convolutions = [op.kernel_us for op in timed if op.name == "aten.convolution.default"]
    assert convolutions
    assert min(us or 0.0 for us in convolutions) >= 1.0
    assert all(op.kernel_us is not None for op in timed)


def test_where_no_kernel_can_be_seen_none_has_a_time() -> None:
    seen = (OpKernels("aten.mm.default", 3.0), OpKernels("aten.t.default", 0.0))
    assert or_unknown(seen) == seen
    unseen = tuple(OpKernels(op.name, 0.0) for op in seen)
    with pytest.warns(RuntimeWarning, match="saw no kernel on the GPU"):
        assert or_unknown(unseen) == tuple(OpKernels(op.name, None) for op in seen)


@pytest.mark.parametrize(
    ("times_us", "least_steps", "expected"),
    [
        ((900.0, 100.0, 105.0), 1, WarmUp(3, settled=True)),
        ((100.0, 100.0), 1, WarmUp(2, settled=True)),
        ((100.0, 100.0, 100.0, 100.0), 4, WarmUp(4, settled=True)),
        # A slow step is no settled one, and a still faster one shows that the others were not.
        ((100.0, 150.0, 100.0, 100.0), 2, WarmUp(4, settled=True)),
        ((300.0, 290.0, 200.0, 150.0, 149.0), 3, WarmUp(5, settled=True)),
        (tuple(100.0 * 2**k for k in range(20)), 2, WarmUp(2 + MOST_EXTRA_STEPS, settled=False)),
    ],
)
def test_warming_up_ends_when_times_settle(
    times_us: tuple[float, ...], least_steps: int, expected: WarmUp
) -> None:
    warm_up = WarmUpPass(CpuClock(), least_steps)
    for time_us in times_us:
        assert not warm_up.is_over
        warm_up.add(time_us)
        if warm_up.is_over:
            break
    assert warm_up.is_over
    assert warm_up.result() == expected


def test_the_profile_says_how_long_it_took_to_settle() -> None:
    tools = Instruments(clock=DoublingClock(), memory=None, kernels=None)
    profile = record(two_layers(), source=UNNAMED, link=FAST_LINK, instruments=tools)
    assert (profile.warmup_steps, profile.settled) == (2 + MOST_EXTRA_STEPS, False)


@pytest.mark.cpu_only
def test_a_step_too_large_for_the_device_says_how_to_record_it() -> None:
    accountant = Accountant(CPU, budget_bytes=4096)
    told = pytest.raises(CapacityError, match=r"does not fit.*--beyond-capacity")
    with told as caught, accountant:
        record(two_layers(), source=UNNAMED, link=FAST_LINK)
    assert "\n" not in str(caught.value)
    assert ".." not in str(caught.value)


def test_a_model_too_large_for_the_device_is_told_in_one_line() -> None:
    def make() -> Workload:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 "
            "GiB.\nSee documentation."
        )

    with pytest.raises(CapacityError, match=r"on cpu.*Tried to allocate 2\.00 GiB\. Build"):
        build_on(CPU, make)


def test_a_device_of_another_machine_is_refused() -> None:
    with pytest.raises(WorkloadError, match="--device h200 is no device of this machine"):
        device_at_hand("h200")


@pytest.mark.cpu_only
def test_a_model_is_built_on_the_device_asked_for() -> None:
    seen: list[torch.device] = []

    def make() -> Workload:
        seen.append(torch.get_default_device())
        return two_layers()

    workload = build_on(torch.device("meta"), make)
    assert {parameter.device.type for parameter in workload.model.parameters()} == {"meta"}
    assert seen == [torch.device("meta")]
    assert torch.get_default_device() == CPU


def test_a_model_on_another_device_is_refused() -> None:
    def make() -> Workload:
        model = nn.Linear(2, 2, device="cpu")
        return Workload(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            step=lambda: torch.zeros(()),
        )

    with pytest.raises(WorkloadError, match="'weight' is on cpu, expected meta"):
        build_on(torch.device("meta"), make)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("unet3d", {"size": "32", "features": "8"}),
        ("resnet50", {"resolution": "32", "batch": "2"}),
        ("vit", {"size": "tiny", "resolution": "32", "batch": "2"}),
        ("bert", {"size": "tiny", "sequence": "16"}),
    ],
)
def test_built_in_steps_run_where_they_were_built(name: str, settings: dict[str, str]) -> None:
    """`meta` stands in for a GPU: an op that mixes it with the processor raises."""
    source = WorkloadSource(reference=name, settings=tuple(settings.items()), seed=0)
    workload = build_on(torch.device("meta"), lambda: build(source))
    assert workload.step().device.type == "meta"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_told_in_one_line() -> None:
    with pytest.raises(WorkloadError, match="--device cuda needs a GPU"):
        device_at_hand("cuda")


def on_gpu(make: Callable[[], Workload]) -> tuple[Workload, Profile]:
    workload = build_on(device_at_hand("cuda"), make)
    return workload, record(workload, source=UNNAMED, link=FAST_LINK)


@pytest.mark.gpu
def test_on_a_gpu_the_peak_is_the_allocators() -> None:
    """The profile's peak against `torch.cuda.max_memory_allocated`, within 2%."""
    workload, profile = on_gpu(layers_on_device)
    planned = profile.peak_bytes
    torch.cuda.reset_peak_memory_stats()
    workload.step()
    measured = torch.cuda.max_memory_allocated()
    assert abs(planned - measured) <= 0.02 * measured


@pytest.mark.gpu
def test_on_a_gpu_everything_is_timed() -> None:
    _, profile = on_gpu(layers_on_device)
    assert profile.device.kind == "cuda"
    products = [op for op in profile.ops if op.name == "aten.addmm.default"]
    assert products
    assert all(op.kernel_us == op.duration_us > 0 for op in products)
    assert all(slot.overhead_bytes >= 0 for slot in profile.slots)
    assert all(storage.kind for storage in profile.storages)
