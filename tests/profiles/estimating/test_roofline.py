"""Costs and durations worked out by hand, and the table of accelerators."""

import pytest
import torch

from profiles.estimating.roofline import (
    FREE,
    OpCost,
    Roofline,
    accelerator_roofline,
    cost_of,
    target_of,
)
from profiles.hardware.accelerators import ACCELERATORS, accelerator_named
from profiles.hardware.links import link_named
from profiles.hardware.op_class import COMPUTE_CLASSES, OpClass, Precision, class_of
from profiles.schema.errors import QuantityError
from tests.benchmarks import cpu_roofline
from tests.benchmarks.cpu_roofline import measure_cpu_roofline
from tests.support.training.estimating import SLOW

aten = torch.ops.aten
FLOAT = 4


def cost(op: torch._ops.OpOverload, *args: object, **kwargs: object) -> OpCost:
    return cost_of(op, args, kwargs, op(*args, **kwargs))


def test_a_matrix_product() -> None:
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    moved_bytes = (3 * 5 + 5 * 7 + 3 * 7) * FLOAT
    assert cost(aten.mm.default, a, b) == OpCost(
        OpClass.MATMUL, Precision.FP32, 2 * 3 * 5 * 7, moved_bytes
    )


def test_half_precision_is_told_apart() -> None:
    a = torch.rand(4, 4, dtype=torch.bfloat16)
    assert cost(aten.mm.default, a, a).precision is Precision.BF16


def test_a_convolution() -> None:
    picture, weight = torch.rand(2, 3, 8, 8), torch.rand(5, 3, 3, 3)
    found = cost(
        aten.convolution.default, picture, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1
    )
    assert found.op_class is OpClass.CONVOLUTION
    assert found.flops == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


def test_attention_on_the_cpu_counts_both_products() -> None:
    heads = torch.rand(2, 3, 16, 8)
    found = cost(aten._scaled_dot_product_flash_attention_for_cpu.default, heads, heads, heads)
    assert found.op_class is OpClass.ATTENTION
    assert found.flops == 2 * (2 * 2 * 3 * 16 * 16 * 8)


def test_bytes_of_what_is_read_and_written() -> None:
    rows = torch.rand(10)
    expanded = torch.rand(1, 10).expand(6, 10)
    assert cost(aten.add.Tensor, rows, rows).moved_bytes == 3 * 10 * FLOAT
    assert cost(aten.add_.Tensor, rows.clone(), rows).moved_bytes == 3 * 10 * FLOAT
    assert cost(aten.copy_.default, rows.clone(), rows).moved_bytes == 2 * 10 * FLOAT
    # An expanded dimension is in memory once; its copy is there six times.
    assert cost(aten.clone.default, expanded).moved_bytes == 10 * FLOAT + 60 * FLOAT


def test_a_lookup_reads_the_rows_it_asks_for() -> None:
    table, index = torch.rand(1000, 8), torch.tensor([1, 2, 3])
    found = cost(aten.embedding.default, table, index)
    assert found.op_class is OpClass.GATHER
    assert found.moved_bytes == 2 * (3 * 8 * FLOAT) + 3 * 8


@pytest.mark.parametrize("op", [aten.t.default, aten.detach.default])
def test_views_are_free(op: torch._ops.OpOverload) -> None:
    assert cost(op, torch.rand(3, 4)) == FREE


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_log_softmax.default", OpClass.REDUCTION),
        ("native_layer_norm.default", OpClass.NORMALIZATION),
        ("linalg_vector_norm.default", OpClass.REDUCTION),
        ("gelu_backward.default", OpClass.TRANSCENDENTAL),
        ("maximum.default", OpClass.ELEMENTWISE),
        ("_foreach_addcdiv_.Scalar", OpClass.ELEMENTWISE),
        ("native_dropout.default", OpClass.RANDOM),
        ("embedding_dense_backward.default", OpClass.GATHER),
        ("max_pool3d_with_indices.default", OpClass.POOLING),
        ("convolution_backward.default", OpClass.CONVOLUTION),
    ],
)
def test_classes_by_name(name: str, expected: OpClass) -> None:
    assert class_of(name.split(".")[0]) is expected


def test_durations() -> None:
    """SLOW: 1000 flops/us, 100 bytes/us, 2 us to start an op, 0.5 us a view."""
    product = OpCost(OpClass.MATMUL, Precision.FP32, 5000, 100)
    assert SLOW.duration_us(product) == 2.0 + 5.0
    assert SLOW.duration_us(OpCost(OpClass.MATMUL, Precision.FP32, 500, 300)) == 2.0 + 3.0
    assert SLOW.duration_us(OpCost(OpClass.MATMUL, Precision.BF16, 5000, 100)) == 2.0 + 5.0
    assert SLOW.duration_us(FREE) == 0.5
    overlapping = Roofline(
        flops_per_us=SLOW.flops_per_us,
        bytes_per_us=SLOW.bytes_per_us,
        launch_us=2.0,
    )
    assert overlapping.duration_us(product) == 5.0
    assert overlapping.duration_us(FREE) == 0.0
    assert overlapping.duration_us(OpCost(OpClass.ELEMENTWISE, Precision.FP32, 0, 10)) == 2.0


@pytest.mark.parametrize("name", ACCELERATORS)
def test_what_ops_reach_is_below_what_the_data_sheet_says(name: str) -> None:
    accelerator = ACCELERATORS[name]
    roofline = accelerator_roofline(accelerator)
    theory = {p: tflops * 1e6 for p, tflops in accelerator.theory_tflops.items()}
    for op_class in COMPUTE_CLASSES:
        for precision, peak in theory.items():
            reached = roofline.flops_per_us[op_class, precision]
            if (op_class, precision) == (OpClass.CONVOLUTION, Precision.FP32):
                peak = theory.get(Precision.TF32, peak)
            assert 0 < reached < peak
    assert all(rate < accelerator.theory_gb_per_s * 1e3 for rate in roofline.bytes_per_us.values())
    for cited in (accelerator.measured_tflops, accelerator.measured_gb_per_s):
        assert cited is None or (cited.value > 0 and cited.source)
    assert accelerator.theory_source
    assert link_named(accelerator.link).name == accelerator.link
    assert target_of(accelerator).device.memory_bytes == accelerator.memory_bytes


def test_an_unknown_accelerator_is_told_in_one_line() -> None:
    with pytest.raises(QuantityError, match=r"no device 'a100' .*Did you mean a100-"):
        accelerator_named("a100")
    with pytest.raises(QuantityError, match=r"There are h200, .*'cpu' and 'cuda'"):
        accelerator_named("tpu")


def test_the_cpu_is_measured_on_the_spot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_roofline, "ROUNDS", 1)
    roofline = measure_cpu_roofline()
    assert {op_class for op_class, _ in roofline.flops_per_us} == set(COMPUTE_CLASSES)
    assert all(rate > 0 for rate in roofline.flops_per_us.values())
    assert roofline.bytes_per_us.keys() == set(OpClass)
    assert roofline.launch_us > 0
    assert roofline.describe_us > 0
    assert roofline.duration_us(FREE) == roofline.describe_us
