"""Times by class of op, worked out by hand."""

import pytest

from profiles import Profile
from profiles.hardware.op_class import OpClass
from profiles.schema.profile import Op
from tests.gpu.class_times import class_times
from tests.support.planning.toys import toy


def step(*ops: tuple[str, float]) -> Profile:
    profile = toy(1.0, ops=[0] * len(ops), storages=[])
    named = tuple(
        Op(name=name, slot=0, duration_us=duration_us, kernel_us=None, module="")
        for name, duration_us in ops
    )
    return profile.model_copy(update={"ops": named})


def test_classes_are_summed_and_the_longest_comes_first() -> None:
    measured = step(("aten.mm.default", 10.0), ("aten.add.Tensor", 4.0), ("aten.mul.Tensor", 2.0))
    estimated = step(("aten.mm.default", 5.0), ("aten.add.Tensor", 6.0), ("aten.mul.Tensor", 6.0))
    matmul, elementwise = class_times([(measured, estimated)])
    assert (matmul.op_class, matmul.ops, matmul.ratio) == (OpClass.MATMUL, 1, 0.5)
    assert (elementwise.ops, elementwise.measured_us, elementwise.estimated_us) == (2, 6.0, 12.0)
    assert elementwise.ratio == 2.0
    assert elementwise.median_ratio == pytest.approx((1.5 + 3.0) / 2)


def test_where_other_ops_were_estimated_there_is_no_median() -> None:
    measured = step(("aten.mm.default", 10.0))
    estimated = step(("aten.addmm.default", 5.0), ("aten.mm.default", 15.0))
    [matmul] = class_times([(measured, estimated)])
    assert (matmul.ops, matmul.ratio, matmul.median_ratio) == (1, 2.0, None)
