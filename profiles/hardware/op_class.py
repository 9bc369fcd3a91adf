"""Classes of ops that reach a similar share of a device's rates, and precisions. Needs no torch."""

from enum import StrEnum


class OpClass(StrEnum):
    """What an op does, as far as its speed is concerned."""

    MATMUL = "matmul"
    CONVOLUTION = "convolution"
    ATTENTION = "attention"
    NORMALIZATION = "normalization"
    REDUCTION = "reduction"
    POOLING = "pooling, resampling"
    GATHER = "gather, scatter"
    RANDOM = "random"
    TRANSCENDENTAL = "transcendental"
    ELEMENTWISE = "elementwise, copy"
    DESCRIPTION = "view, allocation"


COMPUTE_CLASSES = (OpClass.MATMUL, OpClass.CONVOLUTION, OpClass.ATTENTION)
"""Classes that can be bound by arithmetic; the others are bound by memory."""


class Precision(StrEnum):
    """The arithmetic an op is done in."""

    FP64 = "fp64"
    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"


_WORDS = {
    OpClass.ATTENTION: "attention",
    OpClass.CONVOLUTION: "convolution",
    OpClass.NORMALIZATION: "batch_norm layer_norm group_norm rms_norm",
    OpClass.POOLING: "pool upsample grid_sampler",
    OpClass.RANDOM: "bernoulli dropout rand normal_ uniform exponential_",
    OpClass.GATHER: "index embedding gather scatter masked_select nonzero one_hot",
    OpClass.REDUCTION: "softmax sum mean amax amin max min var std norm nll_loss any all prod topk "
    "sort _local_scalar_dense",
    OpClass.TRANSCENDENTAL: "exp log tanh sigmoid gelu silu erf pow sin cos softplus elu_ mish "
    "rsqrt atan",
}
"""Parts of op names by class, the first class first: `log_softmax` is a reduction."""
_MATMULS = frozenset(
    {"mm", "addmm", "bmm", "baddbmm", "_scaled_mm", "addbmm", "addmv", "mv", "dot"}
)
# Their names hold a word of another class.
_ELEMENTWISE = frozenset({"clamp_min", "clamp_max", "maximum", "minimum"})


def class_of(name: str) -> OpClass:
    """Returns the class of an op that does work, by its bare name such as `addmm`."""
    if name in _MATMULS:
        return OpClass.MATMUL
    if name in _ELEMENTWISE:
        return OpClass.ELEMENTWISE
    for op_class, words in _WORDS.items():
        if any(word in name for word in words.split()):
            return op_class
    return OpClass.ELEMENTWISE
