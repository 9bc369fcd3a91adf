"""An estimate tells of the same step as a recording on the same type of device."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from profiles.hooks.workload import Workload
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import Profile, Provenance, SlotTimes, WorkloadSource
from profiles.workloads.build import build
from profiles.workloads.catalog import WORKLOADS
from tests.support.training import models
from tests.support.training.built_in import WAYS
from tests.support.training.estimating import assert_same_step, estimated
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import recorded

SMALL = {
    "unet3d": {"size": "32", "features": "4"},
    "resnet50": {"resolution": "32", "batch": "2"},
    "vit": {"size": "tiny", "resolution": "32", "batch": "2"},
    "gpt2": {"size": "tiny", "sequence": "32"},
    "bert": {"size": "tiny", "sequence": "32"},
    "llama": {"size": "tiny", "sequence": "32"},
}
TRANSFORMERS = ("vit", "gpt2", "bert", "llama")
ROWS, WIDTH = 64, 32


@pytest.mark.parametrize("name", BUILDERS)
def test_small_models_are_estimated_as_they_are_recorded(name: str) -> None:
    source = WorkloadSource(reference=name, settings=(), seed=0)
    assert_same_step(estimated(BUILDERS[name], source=source), recorded(name))


def test_every_built_in_workload_has_a_small_size_here() -> None:
    assert SMALL.keys() == WORKLOADS.keys()


def small(name: str) -> WorkloadSource:
    return WorkloadSource(reference=name, settings=tuple(SMALL[name].items()), seed=0)


def recording_of(source: WorkloadSource) -> Profile:
    return record_at_fixed_times(build(source), source=source)


@cache
def small_estimated(name: str) -> Profile:
    return estimated(lambda: build(small(name)), source=small(name))


@pytest.mark.parametrize("name", SMALL)
def test_built_in_workloads_are_estimated_as_they_are_recorded(name: str) -> None:
    assert_same_step(small_estimated(name), recording_of(small(name)))


@cache
def way_estimated(way: int, kind: str) -> Profile:
    source = way_source(way)
    return estimated(lambda: build(source), kind, source)


def way_source(way: int) -> WorkloadSource:
    name, settings = WAYS[way]
    return WorkloadSource(reference=name, settings=tuple(settings.items()), seed=0)


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_ways_of_training_them_are_estimated_as_they_are_recorded(way: int) -> None:
    assert_same_step(way_estimated(way, "cpu"), recording_of(way_source(way)))


@pytest.mark.parametrize("way", [n for n, (name, _) in enumerate(WAYS) if name in TRANSFORMERS])
def test_ways_of_training_transformers_are_estimated_for_a_gpu(way: int) -> None:
    on_gpu, on_cpu = way_estimated(way, "cuda"), way_estimated(way, "cpu")
    updated = [
        [slot.anchor for slot in profile.slots if slot.anchor.startswith(("grad:", "update:"))]
        for profile in (on_gpu, on_cpu)
    ]
    assert updated[0] == updated[1] != []
    ops = {op.name for op in on_gpu.ops}
    precision = dict(on_gpu.workload.settings).get("precision")
    assert ("aten._amp_update_scale_.default" in ops) is (precision == "fp16")
    # Attention takes the same kernel when a checkpoint computes it again.
    assert len({name for name in ops if "attention" in name and "backward" not in name}) == 1


@pytest.mark.parametrize("name", SMALL)
def test_built_in_workloads_are_estimated_for_a_gpu(name: str) -> None:
    """Nothing to compare with here; the anchors in forward are those of the CPU."""
    on_cpu = small_estimated(name)
    on_gpu = estimated(lambda: build(small(name)), "cuda", small(name))
    entered = [
        [slot.anchor for slot in profile.slots if slot.anchor.startswith(("pre:", "grad:"))]
        for profile in (on_gpu, on_cpu)
    ]
    assert entered[0] == entered[1]
    assert on_gpu.device.kind == "cuda"
    assert on_gpu.model_fingerprint == on_cpu.model_fingerprint


def perceptron() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.1), nn.Linear(WIDTH, 1))
    return model, torch.rand(ROWS, WIDTH)


def autocast(kind: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Workload:
    model, rows = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(kind, dtype=dtype):
            loss = model(rows).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


def autocast_in_batch_norm() -> Workload:
    model, rows = perceptron()
    model[1] = nn.BatchNorm1d(WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(rows).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


def scaled(kind: str = "cpu") -> Workload:
    model, rows = perceptron()
    # Steps small enough, and a scale low enough, that no step overflows and skips the optimizer:
    # warming up takes as many of them as the machine needs to settle.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(kind, init_scale=256.0)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(kind, dtype=torch.float16):
            loss = model(rows).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


def in_place() -> Workload:
    """Adds to what it has reshaped, and activates it, in place."""
    model, rows = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        shown = model[0](rows).view(2, -1, WIDTH)
        shown += 1.0
        shown = nn.functional.leaky_relu(shown, 0.1, True)
        loss = model[2:](shown.view(ROWS, WIDTH)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


def clipped() -> Workload:
    """Holds a list of its parameters, as training loops do that clip gradients."""
    model, rows = perceptron()
    held = list(model.parameters())
    optimizer = torch.optim.Adam(held, lr=0.1)
    held[0].no_decay = True  # type: ignore[attr-defined]

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(rows).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in held if hasattr(p, "no_decay")], 1.0)
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


def from_elsewhere() -> Workload:
    """Its batch comes from NumPy in each step, and positions decide what is run."""
    model, _ = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        batch = torch.from_numpy(np.ones((ROWS, WIDTH), dtype=np.float32))
        positions = torch.arange(ROWS)
        if bool((positions.diff() == 1).all()):
            batch = batch[4:].clone()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


def converted() -> Workload:
    """What cannot be built from fake tensors: a value asked for, a dtype changed, tied weights."""
    model, rows = perceptron()
    model[1] = nn.Linear(WIDTH, WIDTH)
    model[1].weight = model[0].weight
    model.append(nn.BatchNorm1d(1))
    model[2] = nn.Dropout(torch.linspace(0, 0.3, 4)[1].item())
    model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    rows = rows.to(torch.bfloat16)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(rows).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


@pytest.mark.parametrize(
    "builder", [autocast, autocast_in_batch_norm, scaled, in_place, clipped, converted]
)
def test_ways_of_training(builder: Callable[[], Workload]) -> None:
    recording = record_at_fixed_times(builder())
    assert_same_step(estimated(builder), recording)


@pytest.mark.parametrize("builder", [autocast, scaled])
def test_mixed_precision_on_a_gpu_that_is_not_there(builder: Callable[[str], Workload]) -> None:
    profile = estimated(lambda: builder("cuda"), "cuda")
    casts = [op for op in profile.ops if op.name == "aten._to_copy.default"]
    assert len(casts) > 4
    unscales = "aten._amp_foreach_non_finite_check_and_unscale_.default"
    assert (unscales in {op.name for op in profile.ops}) is (builder is scaled)


def test_a_gpu_updates_all_parameters_at_once() -> None:
    """As torch does by default on a GPU, but not on the CPU."""
    names = {op.name for op in estimated(converted, "cuda").ops}
    assert "aten._foreach_addcdiv_.ScalarList" in names
    assert "aten.addcdiv_.default" not in names


def test_the_peak_is_that_of_the_recording() -> None:
    name = "unet3d"
    peaks = [profile.peak_bytes for profile in (estimated(BUILDERS[name]), recorded(name))]
    assert peaks[0] == peaks[1]


def test_durations_are_estimates_and_slots_sum_up() -> None:
    profile = estimated(models.accumulating)
    assert profile.times is Provenance.ESTIMATED
    assert profile.slot_times is SlotTimes.SUM_OF_OPS
    assert profile.slots[-1].duration_us == 0
    assert profile.step_us == pytest.approx(sum(op.duration_us for op in profile.ops))
    assert all(op.duration_us > 0 for op in profile.ops)


def test_a_model_larger_than_memory_is_built_without_it() -> None:
    """256 GiB of parameters."""
    width, layers = 1 << 15, 64

    def huge() -> Workload:
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
        nn.init.trunc_normal_(next(model.parameters()), std=0.02)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rows = torch.rand(8, width)

        def step() -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(rows).mean()
            loss.backward()
            optimizer.step()
            return loss

        return Workload(model=model, optimizer=optimizer, step=step)

    profile = estimated(huge, "cuda")
    peak_bytes = profile.peak_bytes
    assert peak_bytes > layers * width * width * 4


def asking(question: Callable[[torch.Tensor], object]) -> Workload:
    model, rows = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(rows).square().mean()
        question(loss)
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


def test_a_loss_that_is_read_is_taken_to_be_0_and_said_so() -> None:
    read: list[float] = []
    with pytest.warns(
        UserWarning, match=r"test_estimate\.py, line \d+: the step asks for the value"
    ):
        profile = estimated(lambda: asking(lambda loss: read.append(loss.item())))
    assert set(read) == {0.0}
    assert "aten._local_scalar_dense.default" in {op.name for op in profile.ops}


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (lambda loss: bool(loss > 0), r"line \d+: the step asks for a value \(torch\.bool\)"),
        (lambda loss: loss.expand(3).tolist(), r"line \d+: the step asks for 3 values"),
        (lambda loss: np.asarray(loss.detach()[None].expand(3)), r"line \d+: the step asks for 3"),
        (lambda loss: loss[None].nonzero(), r"aten\.nonzero\.default has a result whose shape"),
        (lambda loss: loss + torch.ones(2), "mixes tensors of two devices"),
    ],
)
def test_what_an_estimate_cannot_know_is_refused(
    question: Callable[[torch.Tensor], object], told: str
) -> None:
    with pytest.raises(WorkloadError, match=told) as refused:
        estimated(lambda: asking(question), "cuda")
    assert "\n" not in str(refused.value)


def test_a_loss_that_is_read_as_an_array_is_0_too() -> None:
    arrays: list[np.ndarray] = []
    with pytest.warns(UserWarning, match="the estimate takes it to be 0"):
        estimated(lambda: asking(lambda loss: arrays.append(loss.detach().cpu().numpy())), "cuda")
    assert {array.item() for array in arrays} == {0.0}
    assert "numpy" not in vars(FakeTensor)


def test_values_that_follow_from_the_program_are_known() -> None:
    profile = estimated(from_elsewhere)
    assert "aten.clone.default" in {op.name for op in profile.ops}
    assert (ROWS - 4) * WIDTH * 4 in {storage.size_bytes for storage in profile.storages}


def test_estimating_twice_gives_the_same_profile() -> None:
    assert estimated(models.checkpointed) == estimated(models.checkpointed)


def test_torch_is_left_as_it_was() -> None:
    before = torch.cuda.is_available, torch.cuda.is_bf16_supported
    built_in = torch.accelerator.current_accelerator(check_available=False)
    estimated(lambda: autocast("cuda"), "cuda")
    assert (torch.cuda.is_available, torch.cuda.is_bf16_supported) == before
    assert torch.accelerator.current_accelerator(check_available=False) == built_in
    assert torch.rand(2).tolist()
