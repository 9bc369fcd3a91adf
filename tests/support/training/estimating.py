"""Estimates to compare with recordings: the same step on the same type of device."""

from collections.abc import Callable
from types import MappingProxyType

from profiles.estimating.estimate import estimate
from profiles.estimating.roofline import Target
from profiles.hardware.op_class import COMPUTE_CLASSES, OpClass, Precision
from profiles.hooks.workload import Workload
from profiles.schema.profile import Device, Op, Profile, Storage, WorkloadSource
from tests.benchmarks.cpu_roofline import CpuRoofline
from tests.support.training.fixed_times import FAST_LINK, UNNAMED

SLOW = CpuRoofline(
    flops_per_us=MappingProxyType({(each, Precision.FP32): 1000.0 for each in COMPUTE_CLASSES}),
    bytes_per_us=MappingProxyType(dict.fromkeys(OpClass, 100.0)),
    launch_us=2.0,
    describe_us=0.5,
)
"""Round figures, to work durations out by hand."""

SAME_VIEW = {"aten.as_strided.default": "aten.view.default"}
"""Autograd makes the view of a gradient it writes into by `as_strided`, but of a fake gradient by
the view that the step made: the same storage is read at the same point."""

MSE_LOSS = "aten.mse_loss.default"
BATCH_NORM = "aten.native_batch_norm.default"


def target(kind: str) -> Target:
    device = Device(kind=kind, name="slow", memory_bytes=1 << 30, compute_threads=0)
    return Target(device=device, roofline=SLOW)


def estimated(
    build: Callable[[], Workload],
    kind: str = "cpu",
    source: WorkloadSource = UNNAMED,
    *,
    checkpointing: bool = True,
) -> Profile:
    return estimate(
        build,
        target=target(kind),
        source=source,
        link=FAST_LINK,
        checkpointing=checkpointing,
    )


def assert_same_step(estimate: Profile, recording: Profile) -> None:
    """Fails unless two profiles hold the same anchors, ops and storages."""
    assert [slot.anchor for slot in estimate.slots] == [slot.anchor for slot in recording.slots]
    assert list(map(_op, estimate.ops)) == list(map(_op, recording.ops))
    assert [slot.shows for slot in estimate.slots] == [slot.shows for slot in recording.slots]
    different = [
        (found, expected)
        for found, expected in zip(estimate.storages, recording.storages, strict=True)
        if found != expected and not _is_known(found, expected, recording)
    ]
    assert different == []
    assert estimate.model_fingerprint == recording.model_fingerprint


def _op(op: Op) -> tuple[str, int, str]:
    return SAME_VIEW.get(op.name, op.name), op.slot, op.module


def _is_known(found: Storage, expected: Storage, recording: Profile) -> bool:
    """Whether two storages differ in their bytes only, as in [Note: what a fake CPU gets wrong]."""
    if found.model_copy(update={"size_bytes": expected.size_bytes}) != expected:
        return False
    made_by = expected.allocated_op
    name = "" if made_by is None else recording.ops[made_by].name
    if name == BATCH_NORM:
        return expected.size_bytes == 2 * found.size_bytes
    # The loss that the step before left is of the same make as this one's.
    kept = expected.name.startswith("kept:") and any(op.name == MSE_LOSS for op in recording.ops)
    return name == MSE_LOSS or kept
