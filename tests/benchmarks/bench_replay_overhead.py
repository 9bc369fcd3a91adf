"""What replaying costs the interpreter: per anchor with nothing to do, per swap, per update.

    python -m tests.benchmarks.bench_replay_overhead

Lanes and copies are replaced by ones that do nothing, so that only the runtime's own Python is
timed, without the watch that the emulated device adds. Prints measured medians; the goals are 10 us
per anchor and 30 us per swap. What CUDA's own calls take (an event recorded, a stream made to wait,
a copy issued) is not in it: no GPU was at hand. Updates inside the optimizer step are found by
looking at each of its ops; that is timed on its own, since only plans that act there have it done.
All is processor time of the thread that trains, so that other work on the machine does not count.

Then one whole step is timed in each way it can be run, in turns: without a plan, with hooks alone,
without a guard, guarded as by default on CUDA, and watched as by default on the emulated device.
What the guard takes beyond the unguarded step includes the ops that hooks add, such as a `detach`
for each saved tensor. A mode that does nothing took 10 to 11 us an op in the same step.

On 2026-11-28, AMD EPYC, two cores with one other job, torch 2.13.0+cpu, Python 3.11.7:

    201 anchors from 'begin' to 'end', 87 swaps; measured medians
    replay at an anchor with nothing to do    1.76 us
    replay of one swap, all four actions     46.07 us
    the same, on lanes that are streams      48.69 us
    hooks alone, per anchor                   6.07 us
    tracing, more per anchor                  0.61 us
    finding updates, per optimizer op         6.25 us
    finding updates, more per parameter      45.85 us

    one step of 690 ops, all that can be is moved; times of the thread that trains
    without a plan            1.00 x
    hooks, nothing moved      1.11 x
    unguarded                 3.04 x
    guarded                   3.36 x    9.09 us an op beyond unguarded
    watched                   4.21 x   34.06 us an op beyond unguarded
    one small op in a loop: guard 2.71 us, with 50 storages away 3.15 us

The goal of 30 us per swap is missed: marks, and states that an interrupt cannot break, take it. A
swap took 20.55 us before marks came in (`runtime.storage.write_marks`), on a quieter machine; plans
for CUDA have none.

Ranges for a profiler are opened only in steps that begin while one records; others cost nothing
for them: 0.78 us and 8.4 us for the first two lines before ranges came in, 0.78 and 8.6 us after.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.lanes import Direction
from planner.plan.plan import Plan
from planner.plan.schedule import ActionKind, lower
from profiles.hooks.anchors import AnchorHooks, Reported, is_update
from profiles.hooks.optimizer_updates import UpdateMode
from profiles.hooks.workload import Workload
from profiles.schema.link import CopyMethod
from profiles.schema.profile import BEGIN
from runtime import Replay
from runtime.host.host_pool import HostStretch
from runtime.lanes.lane import Piece
from runtime.lanes.streams import StreamLane
from runtime.replay import stepper
from runtime.replay.backend import Backend, backend_for
from runtime.replay.op_guard import OpGuard
from runtime.storage.accountant import Accountant
from runtime.storage.residency import TrackedStorage
from tests.support.training.models import gpt2
from tests.support.training.recorded import everything_away_plan

ROUNDS = 30
NS_PER_US = 1000


class NoCopy:
    """A copy that is over before it begins."""

    overrun_us = 0.0
    inexact = False
    fault: BaseException | None = None

    def wait(self) -> float:
        return 0.0

    def span(self) -> tuple[int, int]:
        return 0, 0


class NoLane:
    """Takes no time and moves nothing: for storages whose numbers do not matter."""

    def issue(
        self,
        storage: torch.UntypedStorage,
        host: HostStretch,
        engine: CopyMethod = CopyMethod.DMA,
    ) -> NoCopy:
        return NoCopy()

    def flush(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class NoStreams:
    """Streams on which nothing is done, so that a lane's own Python is what is left."""

    def compute_streams(self) -> tuple[int, ...]:
        return (0,)

    def see_stream(self) -> None:
        pass

    def new_stream(self) -> int:
        return 1

    def record(self, stream: int) -> int:
        return stream

    def wait(self, stream: int, event: int) -> None:
        pass

    def recycle(self, event: int) -> None:
        pass

    def copy(
        self, stream: int, pieces: Sequence[Piece], direction: Direction, engine: CopyMethod
    ) -> None:
        pass

    def finish(self, stream: int) -> None:
        pass


def without_swaps(plan: Plan) -> Plan:
    """The same step with nothing to do at its anchors."""
    return plan.model_copy(update={"swaps": (), "host_pool_bytes": 0})


def anchors_us(plan: Plan, *, traced: bool = False) -> float:
    """Median time of all anchors of a step, called one after the other with nothing between."""
    workload = gpt2()
    tensors = {s.id: torch.zeros(s.size_bytes, dtype=torch.uint8) for s in plan.storages}
    heard = [slot for slot in plan.slots[1:-1] if not is_update(slot.anchor)]
    shown = [None if slot.shows is None else tensors[slot.shows] for slot in heard]
    with Replay(plan, workload.model, workload.optimizer, traced=traced) as attached:

        def walk() -> None:
            for slot, tensor in zip(heard, shown, strict=True):
                attached._stepper.on_anchor(slot.anchor, tensor)

        def step() -> float:
            with attached.unguarded_step() as statistics:
                elapsed_us = processor_us(walk)
                assert statistics.fallback is None, statistics.fallback
                return elapsed_us

        return median(step() for _ in range(ROUNDS))


class NoListener:
    """A listener that does nothing."""

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        pass


def processor_us(run: Callable[[], object]) -> float:
    """Time of this thread's own work: other processes of a busy machine do not count."""
    start_ns = time.thread_time_ns()
    run()
    return (time.thread_time_ns() - start_ns) / NS_PER_US


def hooks_us() -> tuple[float, float]:
    """Median step time without and with hooks that report to no listener, in turns."""
    workload = gpt2()
    hooks = AnchorHooks(workload.model, workload.optimizer, NoListener(), Reported.ALL_BUT_UPDATES)

    def hooked() -> None:
        with hooks.step():
            workload.step()

    pairs = [(processor_us(workload.step), processor_us(hooked)) for _ in range(ROUNDS)]
    hooks.close()
    return median(a for a, _ in pairs), median(b for _, b in pairs)


class OpCount(TorchDispatchMode):
    """Counts ops."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.ops += 1
        return func(*args, **(kwargs or {}))


def updates_us() -> tuple[float, float]:
    """Median time that finding updates takes: for each op, and for each parameter beyond that."""
    workload = gpt2()
    optimizer = workload.optimizer
    workload.step()
    nothing = UpdateMode(torch.nn.Module(), optimizer, lambda name: None)
    everything = UpdateMode(workload.model, optimizer, lambda name: None)

    def under(mode: UpdateMode) -> None:
        mode.begin(optimizer)
        optimizer.step()
        mode.end()

    rounds = [
        (
            processor_us(optimizer.step),
            processor_us(lambda: under(nothing)),
            processor_us(lambda: under(everything)),
        )
        for _ in range(ROUNDS)
    ]
    stock_us, looked_us, found_us = (median(times) for times in zip(*rounds, strict=True))
    with OpCount() as count:
        optimizer.step()
    parameters = len(list(workload.model.parameters()))
    return (looked_us - stock_us) / count.ops, (found_us - looked_us) / parameters


GUARDS = {
    "without a plan": None,
    "hooks, nothing moved": Replay.unguarded_step,
    "unguarded": Replay.unguarded_step,
    "guarded": Replay.unwatched_step,
    "watched": Replay.step,
}
"""How a step may be run, from bare to closely watched."""


def guard_times_us(plan: Plan) -> tuple[dict[str, float], int]:
    """Least time of a step run in each way, in turns, and its number of ops.

    The least, not the median: what a busy machine takes from a thread it only adds, and here the
    differences count.
    """
    roomy = plan.model_copy(update={"budget_bytes": 1 << 40})
    steps: dict[str, Callable[[], object]] = {}
    with ExitStack() as attached:
        for way, around in GUARDS.items():
            workload = gpt2()
            if around is None:
                steps[way] = workload.step
                continue
            replayed = without_swaps(roomy) if way.startswith("hooks") else roomy
            one = attached.enter_context(Replay(replayed, workload.model, workload.optimizer))
            steps[way] = partial(_one_step, partial(around, one), workload)
        for _ in range(3):
            for step in steps.values():
                step()
        with OpCount() as count:
            steps["without a plan"]()
        ops = count.ops
        times = [{way: processor_us(step) for way, step in steps.items()} for _ in range(ROUNDS)]
    return {way: min(turn[way] for turn in times) for way in steps}, ops


def _one_step(around: Callable[[], AbstractContextManager[Any]], workload: Workload) -> None:
    with around() as statistics:
        workload.step()
    assert statistics.fallback is None, statistics.fallback


def mode_us() -> tuple[float, float]:
    """Times of the guard for one small op in a loop: with nothing guarded, and with 50 storages."""
    tensor, rounds = torch.ones(4, 4), 2000
    accountant = Accountant(torch.device("cpu"), None)
    others = [torch.ones(1) for _ in range(50)]
    guard = OpGuard(accountant.guarded)

    def loop() -> None:
        for _ in range(rounds):
            torch.mm(tensor, tensor)

    def guarded() -> None:
        with guard:
            loop()

    bare_us = min(processor_us(loop) for _ in range(ROUNDS))
    idle_us = min(processor_us(guarded) for _ in range(ROUNDS))
    for other in others:
        accountant.guarded.forbid(TrackedStorage(other.untyped_storage(), accountant))
    full_us = min(processor_us(guarded) for _ in range(ROUNDS))
    return (idle_us - bare_us) / rounds, (full_us - bare_us) / rounds


def print_guards(plan: Plan) -> None:
    """Prints what looking at ops costs, as ratios of one run."""
    times_us, ops = guard_times_us(plan)
    print(f"\none step of {ops} ops, all that can be is moved; times of the thread that trains")
    for way, time_us in times_us.items():
        more_us = (time_us - times_us["unguarded"]) / ops
        beyond = f"{more_us:8.2f} us an op beyond unguarded" if more_us > 0 else ""
        print(f"{way:24}{time_us / times_us['without a plan']:6.2f} x{beyond}")
    idle_us, full_us = mode_us()
    print(f"one small op in a loop: guard {idle_us:.2f} us, with 50 storages away {full_us:.2f} us")


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    plan = everything_away_plan("gpt2")
    anchors = sum(not is_update(slot.anchor) for slot in plan.slots) - 2
    setattr(stepper, "backend_for", _nothing_is_moved)  # noqa: B010
    idle_us = anchors_us(without_swaps(plan))
    owned = {s.id for s in plan.storages if not s.name.startswith("pack:")}
    moving = plan.model_copy(
        update={"swaps": tuple(s for s in plan.swaps if s.storage not in owned)}
    )
    moves = sum(action.kind is ActionKind.SWAP_OUT for row in lower(moving) for action in row)
    busy_us = anchors_us(moving)
    setattr(stepper, "backend_for", _on_streams)  # noqa: B010
    streams_us = anchors_us(moving)
    setattr(stepper, "backend_for", _nothing_is_moved)  # noqa: B010
    traced_us = anchors_us(without_swaps(plan), traced=True)
    stock_us, hooked_us = hooks_us()
    print(f"{anchors} anchors from {BEGIN!r} to 'end', {moves} swaps; measured medians")
    print(f"replay at an anchor with nothing to do  {idle_us / anchors:6.2f} us")
    print(f"replay of one swap, all four actions    {(busy_us - idle_us) / moves:6.2f} us")
    print(f"the same, on lanes that are streams     {(streams_us - idle_us) / moves:6.2f} us")
    print(f"hooks alone, per anchor                 {(hooked_us - stock_us) / anchors:6.2f} us")
    print(f"tracing, more per anchor                {(traced_us - idle_us) / anchors:6.2f} us")
    op_us, parameter_us = updates_us()
    print(f"finding updates, per optimizer op       {op_us:6.2f} us")
    print(f"finding updates, more per parameter     {parameter_us:6.2f} us")
    setattr(stepper, "backend_for", backend_for)  # noqa: B010
    print_guards(plan)


def _nothing_is_moved(plan: Plan, device: torch.device, *_: object) -> Backend:
    """No step is trained, so its bytes are all here at once: there is no budget to hold."""
    return replace(backend_for(plan, device), d2h=NoLane(), h2d=NoLane(), budget_bytes=None)


def _on_streams(plan: Plan, device: torch.device, *_: object) -> Backend:
    """As above, with the lanes of a GPU on streams that do nothing."""
    d2h, h2d = (StreamLane(NoStreams(), direction) for direction in Direction)
    return replace(backend_for(plan, device), d2h=d2h, h2d=h2d, budget_bytes=None)


if __name__ == "__main__":
    main()
