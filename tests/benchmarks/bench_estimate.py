"""How far estimates are from recordings on this machine's CPU, and what estimating costs.

    python -m tests.benchmarks.bench_estimate           # estimate against recording, by op class
    python -m tests.benchmarks.bench_estimate --llama   # llama-7b: time and memory of estimating

The first compares, per class of ops, the sum of estimated durations with the sum of those measured
around each op while recording (both of the same ops), and the whole step with the recorded step.
The rates come from `tests.benchmarks.cpu_roofline`, measured a moment before with one op per class.

One run of each, on 2026-11-22: Intel Xeon, two cores shared with other work, one compute thread,
torch 2.13.0+cpu, Python 3.11.7.

    step                                              measured    estimated
    unet3d size=64 features=16                       1723.1 ms    1948.7 ms   x1.13
    resnet50 resolution=128 batch=4                  1193.6 ms    1117.5 ms   x0.94
    vit size=tiny resolution=224 batch=8               38.9 ms      62.2 ms   x1.60
    gpt2 size=tiny sequence=256 batch=8               154.2 ms     247.6 ms   x1.61
    llama size=tiny sequence=256 batch=8 dtype=fp32    73.0 ms     121.6 ms   x1.67

    class                 ops    measured    estimated           median op
    convolution           154   2326.1 ms    1737.2 ms   x0.75       x0.71
    elementwise, copy    2620    369.2 ms     850.2 ms   x2.30       x0.65
    normalization         162    223.7 ms     248.1 ms   x1.11       x1.44
    matmul                126     99.6 ms     108.3 ms   x1.09       x1.63
    pooling, resampling    10     50.2 ms     194.4 ms   x3.87       x9.28
    transcendental         74     49.8 ms     217.9 ms   x4.38       x5.05
    attention               8     49.4 ms      30.8 ms   x0.62       x1.00
    random                  7     48.3 ms      48.3 ms   x1.00       x1.50
    reduction             248     31.0 ms      53.9 ms   x1.74       x1.13
    view, allocation      762     15.1 ms       1.7 ms   x0.11       x0.19
    gather, scatter         7      6.6 ms       7.0 ms   x1.07       x1.03

What is bound by memory is estimated at the rate of tensors that fit in no cache, and most of these
models' tensors do. With rates measured on 4 MiB tensors instead, the same steps came out between
x0.50 and x1.30 (the transformers). Nothing was fitted to close the difference.

    llama-7b, 9743 ops, 3205 anchors, 5355 storages: 26.0 s, 0.44 GiB resident at most

On 2026-11-24, AMD EPYC, one core to itself, one compute thread, the same versions: the steps came
out at x0.93 (unet3d), x1.48 (resnet50), x1.02 (vit), x2.00 (gpt2), x1.49 (llama); convolution
x0.71, elementwise x4.65, normalization x2.21, transcendental x5.73, matmul x0.97, pooling x2.80,
attention x0.69, reduction x3.92, random x1.26, view x0.12, gather x1.89. Estimating llama-7b, now
of 3496 anchors, took 14.6 s and 0.44 GiB while other work used the cores.
"""

import platform
import resource
import sys
import time
from datetime import UTC, datetime

import torch

from profiles.estimating.estimate import estimate
from profiles.estimating.roofline import Target, target_of
from profiles.hardware.accelerators import accelerator_named
from profiles.hardware.links import EMULATED
from profiles.recording.device import compute_threads_of_emulator, describe_device
from profiles.recording.record import record
from profiles.schema.profile import Profile, WorkloadSource
from profiles.workloads.build import build
from tests.benchmarks.cpu_roofline import measure_cpu_roofline
from tests.gpu.class_times import class_times
from tests.gpu.estimates import classes_table, estimated_step, steps_table

STEPS: tuple[tuple[str, dict[str, str]], ...] = (
    ("unet3d", {"size": "64", "features": "16"}),
    ("resnet50", {"resolution": "128", "batch": "4"}),
    ("vit", {"size": "tiny", "resolution": "224", "batch": "8"}),
    ("gpt2", {"size": "tiny", "sequence": "256", "batch": "8"}),
    ("llama", {"size": "tiny", "sequence": "256", "batch": "8", "dtype": "fp32"}),
)
GIB = 1 << 30


def accuracy() -> None:
    """Prints the table of estimated and recorded times."""
    torch.set_num_threads(compute_threads_of_emulator())
    roofline = measure_cpu_roofline()
    device = describe_device(torch.device("cpu"))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {device.name}, {device.compute_threads} thread, ", end="")
    print(f"torch {torch.__version__}, python {platform.python_version()}")
    for (op_class, precision), rate in roofline.flops_per_us.items():
        print(f"  {op_class.value} {precision.value}: {rate / 1e3:.1f} GFLOPS (measured)")
    for op_class, rate in roofline.bytes_per_us.items():
        print(f"  {op_class.value}: {rate / 1e3:.2f} GB/s (measured)")
    print(f"  launch {roofline.launch_us:.1f} us, view {roofline.describe_us:.1f} us (measured)")
    pairs, steps = [], []
    for reference, settings in STEPS:
        source = WorkloadSource(reference=reference, settings=tuple(settings.items()), seed=0)
        recording = record(build(source), source=source, link=EMULATED)
        guess = _estimated(source, Target(device=device, roofline=roofline))
        title = " ".join([reference, *(f"{key}={value}" for key, value in settings.items())])
        steps.append(estimated_step(title, recording, guess))
        pairs.append((recording, guess))
    print(steps_table(steps).markdown(), classes_table(class_times(pairs)).markdown(), sep="\n\n")


def _estimated(source: WorkloadSource, target: Target) -> Profile:
    return estimate(lambda: build(source), target=target, source=source, link=EMULATED)


def llama() -> None:
    """Prints what estimating a step of llama-7b takes."""
    settings = (("size", "7b"), ("sequence", "2048"))
    source = WorkloadSource(reference="llama", settings=settings, seed=0)
    start = time.perf_counter()
    profile = _estimated(source, target_of(accelerator_named("h200")))
    taken_s = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"llama-7b, {len(profile.ops)} ops, {len(profile.slots)} anchors, "
        f"{len(profile.storages)} storages: {taken_s:.1f} s, "
        f"{peak_bytes / GIB:.2f} GiB resident at most (measured)"
    )


if __name__ == "__main__":
    llama() if "--llama" in sys.argv[1:] else accuracy()
