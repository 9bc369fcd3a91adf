"""The passes of a recording: each watches steps of its own by one instrument until it has enough.

A pass is entered around each step by `step`; `is_over` says after a step whether it was the last.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from statistics import median
from typing import Any, Protocol

from torch._ops import OpOverload

from profiles.hooks.addresses import Listening, in_threads_of_this_step
from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.dispatch import OpMode
from profiles.hooks.workload import Training
from profiles.recording.allocator_peaks import MemoryMeter, OpWorkspaces, SlotPeaks
from profiles.recording.clocks import AnchorStamps, Clock
from profiles.recording.kernel_times import KernelTimer
from profiles.recording.recording import WarmUp, check_same_course, check_trains
from profiles.recording.shapes_seen import ShapesSeen, check_same_sizes
from profiles.recording.trace import StepTrace
from profiles.schema.profile import PACK, UNPACK, Op, Storage

SETTLED_WITHIN = 0.1
"""Two steps in a row within this share of the fastest so far: warming up makes steps faster by
more, and steps of an idle machine differ by less."""
MOST_EXTRA_STEPS = 8
"""A machine that others use may never settle; the profile then says so."""
MOST_TRACED_STEPS = 10
"""Memory that has not settled by then is taken to grow for good."""

Held = Callable[[], object]
"""Returns what leads to all that a step can reach beside its model and optimizer."""


class Pass(Protocol):
    """Steps that are watched by one instrument.

    Attributes:
        doing: What is done in them, for those who wait.
        done: How many there were.
        wanted: How many there will be, as far as is known.
        is_over: Whether they are enough.
    """

    doing: str
    done: int
    wanted: int
    is_over: bool

    def step(self, hooks: AnchorHooks, held: Held) -> AbstractContextManager[None]:
        """Watches the step that is run inside, whose anchors the hooks find.

        Raises:
            WorkloadError: It is no training step, or another one than those before.
        """


class WarmUpPass:
    """Steps until the optimizer's states exist and times settle."""

    doing = "warming up"

    def __init__(self, clock: Clock, least_steps: int) -> None:
        self.done, self.wanted, self.is_over = 0, least_steps, False
        self._clock = clock
        self._least_steps = least_steps
        self._times_us: list[float] = []

    @contextmanager
    def step(self, hooks: AnchorHooks, held: Held) -> Iterator[None]:
        """Times a step as a whole."""
        self._clock.start()
        self._clock.stamp()
        yield
        self._clock.stamp()
        self.add(sum(self._clock.intervals_us()))

    def add(self, time_us: float) -> None:
        """Adds the time of a step that something else has timed."""
        self._times_us.append(time_us)
        self.done += 1
        self.wanted = max(self._least_steps, self.done + 1)
        most_steps = self._least_steps + MOST_EXTRA_STEPS
        self.is_over = self.done == most_steps or (
            self.done >= self._least_steps and self._has_settled()
        )

    def result(self) -> WarmUp:
        """Returns how many steps it took."""
        return WarmUp(self.done, settled=self._has_settled())

    def _has_settled(self) -> bool:
        """Whether the last two steps took about as long as the fastest."""
        limit_us = min(self._times_us) * (1 + SETTLED_WITHIN)
        return self.done >= 2 and max(self._times_us[-2:]) <= limit_us


class TracePass:
    """Steps that are traced, until one finds as much memory in use as it leaves.

    Or as the one before found: what a loop drops between two steps is not there then either. See
    [Note: the step before] in `profiles.recording.trace`. Memory of a step that does not come to
    that, such as one that collects its losses, grows; the profile has the bytes by which it did.

    Attributes:
        trace: The trace of the last one.
        shapes: The sizes of what its anchors showed.
        storages: Its storages, when the pass is over.
    """

    doing, wanted = "tracing", 1

    def __init__(
        self, training: Training, trace: StepTrace, *, most_steps: int = MOST_TRACED_STEPS
    ) -> None:
        self.done, self.is_over = 0, False
        self.trace, self.shapes = trace, ShapesSeen(trace)
        self.storages: tuple[Storage, ...] = ()
        self._training = training
        self._most_steps = most_steps
        self._found_bytes = -1

    @contextmanager
    def step(self, hooks: AnchorHooks, held: Held) -> Iterator[None]:
        """Traces a step."""
        with self.around(hooks, held), self.trace:
            yield

    @contextmanager
    def around(self, hooks: AnchorHooks, held: Held) -> Iterator[None]:
        """Does what `step` does, if the trace is entered inside: other modes may see ops first."""
        trace, self.shapes = self.trace, ShapesSeen(self.trace)
        trace.begin_step(self._training, held())
        found_before_bytes, self._found_bytes = self._found_bytes, trace.live_bytes
        on_address = in_threads_of_this_step(trace.on_address)
        with hooks.step(self.shapes), Listening(on_address):
            yield
        self.done += 1
        as_before = self._found_bytes in (trace.live_bytes, found_before_bytes)
        steady = self.done > 1 and as_before
        if steady or self.done == self._most_steps:
            check_trains(trace.anchors)
            self.storages = trace.storages(self._training)
            self.is_over = True


class _Bystander(OpMode):
    """Looks at every op and does nothing, as what guards a replayed step does to most."""

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op."""
        return func(*args, **kwargs)


class TimingPass:
    """Steps in which nothing but a clock is stamped at each anchor.

    [Note: another course under a mode] Some functions of torch (`ctc_loss` is one) call other ops
    while a mode sees ops, and save other tensors. The trace saw the step so, and a replay's guards
    have it so. Such a step is timed under a mode, too, which makes its slots a little longer.
    """

    doing = "timing"

    def __init__(self, traced: TracePass, clock: Clock, steps: int) -> None:
        self.done, self.wanted, self.is_over = 0, steps, False
        self._traced = traced
        self._clock = clock
        self._rounds: list[list[float]] = []
        self._under_mode = False

    def around(self) -> AbstractContextManager[object]:
        """Returns what is entered around ops that are timed; see the note above."""
        return _Bystander() if self._under_mode else nullcontext()

    @contextmanager
    def step(self, hooks: AnchorHooks, held: Held) -> Iterator[None]:
        """Times a step from each anchor to the next."""
        stamps = AnchorStamps(self._clock)
        seen = ShapesSeen(stamps)
        with hooks.step(seen), self.around():
            yield
        if not self._under_mode and _saves_otherwise(self._traced.trace.anchors, stamps.keys):
            # The next step shows whether it was for want of a mode.
            self._under_mode = True
            self._rounds.clear()
            self.done = 0
            return
        check_same_course(self._traced.trace.anchors, stamps.keys, "anchor")
        check_same_sizes(self._traced.shapes, seen)
        self._rounds.append(self._clock.intervals_us())
        self.done += 1
        self.is_over = self.done == self.wanted

    def slots_us(self) -> tuple[float, ...]:
        """Returns the median time of each slot; 0 for the last."""
        return (*(median(times) for times in zip(*self._rounds, strict=True)), 0.0)


def _saves_otherwise(traced: Sequence[str], timed: Sequence[str]) -> bool:
    """Whether two runs of a step differ in nothing but what autograd saves."""
    others = [
        [key for key in keys if not key.startswith((PACK, UNPACK))] for keys in (traced, timed)
    ]
    return list(traced) != list(timed) and others[0] == others[1]


class KernelPass:
    """On a GPU, a step whose kernels are timed: a trace only sees the host launch them.

    If no kernel is seen, another step is timed otherwise, if that can be.
    """

    doing, wanted = "timing kernels", 1

    def __init__(
        self,
        traced: TracePass,
        timing: TimingPass,
        kernels: KernelTimer,
        otherwise: KernelTimer | None,
    ) -> None:
        self.done, self.is_over = 0, False
        self.ops: tuple[Op, ...] = ()
        self._traced, self._timing = traced, timing
        self._timers = (kernels,) if otherwise is None else (kernels, otherwise)

    @contextmanager
    def step(self, hooks: AnchorHooks, held: Held) -> Iterator[None]:
        """Times the kernels of a step."""
        with self._timers[self.done]() as timed, self._timing.around():
            yield
        ops = self._traced.trace.ops
        check_same_course([op.name for op in ops], [op.name for op in timed], "op")
        self.ops = tuple(
            op
            if (us := found.kernel_us) is None
            else op.model_copy(update={"kernel_us": us, "duration_us": us})
            for op, found in zip(ops, timed, strict=True)
        )
        self.done += 1
        is_last = self.done == len(self._timers)
        self.is_over = is_last or any(op.kernel_us for op in self.ops)
        self.wanted = self.done if self.is_over else len(self._timers)


class MemoryPass:
    """On an accelerator, a step whose slots' peaks the allocator is asked for, and one around each
    of whose ops it is asked.

    [Note: memory under a mode] While a mode sees ops, each tensor that an op makes has a Python
    object, and autograd takes it for one that others hold: it adds up gradients into a new tensor
    rather than in place. The trace saw the step so, and a replay's guards have it so; without a
    mode its peaks would be lower than those of any replayed step.
    """

    doing, wanted = "measuring memory", 2

    def __init__(self, traced: TracePass, meter: MemoryMeter) -> None:
        self.done, self.is_over = 0, False
        self.peaks_bytes: tuple[int, ...] = ()
        self.workspaces_bytes: tuple[int, ...] = ()
        self._traced = traced
        self._meter = meter

    @contextmanager
    def step(self, hooks: AnchorHooks, held: Held) -> Iterator[None]:
        """Asks for the peaks of a step, or for what each of its ops takes while it runs."""
        with self._workspaces() if self.done else self._peaks(hooks):
            yield
        self.done += 1
        self.is_over = self.done == self.wanted

    @contextmanager
    def _peaks(self, hooks: AnchorHooks) -> Iterator[None]:
        peaks = SlotPeaks(self._meter)
        with hooks.step(peaks), _Bystander():
            yield
        check_same_course(self._traced.trace.anchors, peaks.keys, "anchor")
        self.peaks_bytes = peaks.peaks_bytes()

    @contextmanager
    def _workspaces(self) -> Iterator[None]:
        workspaces = OpWorkspaces(self._meter)
        with workspaces:
            yield
        check_same_course([op.name for op in self._traced.trace.ops], workspaces.names, "op")
        self.workspaces_bytes = workspaces.sizes_bytes()
