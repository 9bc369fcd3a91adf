"""How kernels touch memory: loads and stores of 1 to 16 bytes at an address.

A kernel never sees an array: addresses are integers, so that a launch carries few arguments and
one source serves any type. The same intrinsics compile for CUDA and, with `numba.njit`, for the
CPU; the simulator cannot run them and gets checked ones from the tests.

[Note: types in kernels] Numba types `uint64 op int64` as a float, `uint64 op 1` as signed. So data
is `uint64` whatever its width, combined only with `uint64` constants made at module level, and
addresses, sizes and counts are `int64`, combined only with each other and with plain numbers.

[Note: 16-byte accesses] Numba makes no 128-bit access by itself: pairs of 8 bytes, complex numbers
and records all fall apart into narrower ones. Here they are inline PTX on CUDA, a vector type on
the CPU. The hints keep what is only passing through out of the first-level cache and first to go
from the second, which belong to compute. Inline PTX that touches memory keeps its order, so four
loads written before four stores are in flight together.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import cuda, types
from numba.extending import intrinsic

LOAD_16_PTX = "ld.global.L1::no_allocate.v2.u64"
STORE_16_PTX = "st.global.cs.v2.u64"
GLOBAL_MEMORY = 1

I64 = ir.IntType(64)
PAIR = ir.VectorType(I64, 2)

Body = TypeVar("Body", bound=Callable[..., Any])


def device(body: Body) -> Body:
    """Makes a function callable from kernels, as part of them.

    Only functions that are always inlined can be compiled on a machine without a CUDA driver.
    """
    return cuda.jit(device=True, inline="always")(body)


def _is_cuda(context: Any) -> bool:
    return "CUDA" in type(context).__name__


def _pointer(context: Any, builder: Any, address: Any, pointee: ir.Type) -> Any:
    space = GLOBAL_MEMORY if _is_cuda(context) else 0
    return builder.inttoptr(address, ir.PointerType(pointee, addrspace=space))


def _load_of(width_bytes: int, result: types.Integer) -> Callable[[int], Any]:
    """Makes a load of up to 8 bytes from an address aligned to that, zero-extended."""
    narrow = ir.IntType(8 * width_bytes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, arguments[0], narrow)
        value = builder.load(pointer, align=width_bytes)
        return value if width_bytes == 8 else builder.zext(value, I64)

    def load(typing_context: Any, address: Any) -> Any:
        return result(types.int64), generate

    return intrinsic(load)


def _store_of(width_bytes: int) -> Callable[[int, Any], None]:
    """Makes a store of the low bytes of a value to an address aligned to their number."""
    narrow = ir.IntType(8 * width_bytes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, value = arguments
        low = value if width_bytes == 8 else builder.trunc(value, narrow)
        builder.store(low, _pointer(context, builder, address, narrow), align=width_bytes)
        return context.get_dummy_value()

    def store(typing_context: Any, address: Any, value: Any) -> Any:
        return types.void(types.int64, types.uint64), generate

    return intrinsic(store)


def _generate_load_16(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    (address,) = arguments
    if _is_cuda(context):
        function = ir.FunctionType(ir.LiteralStructType([I64, I64]), [I64])
        code = f"{LOAD_16_PTX} {{$0, $1}}, [$2];"
        assembly = ir.InlineAsm(function, code, "=l,=l,l,~{memory}", side_effect=True)
        pair = builder.call(assembly, [address])
        halves = [builder.extract_value(pair, 0), builder.extract_value(pair, 1)]
    else:
        pair = builder.load(_pointer(context, builder, address, PAIR), align=16)
        halves = [builder.extract_element(pair, ir.IntType(32)(half)) for half in (0, 1)]
    return context.make_tuple(builder, signature.return_type, halves)


def _generate_store_16(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    address, low, high = arguments
    if _is_cuda(context):
        function = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
        code = f"{STORE_16_PTX} [$0], {{$1, $2}};"
        assembly = ir.InlineAsm(function, code, "l,l,l,~{memory}", side_effect=True)
        builder.call(assembly, [address, low, high])
    else:
        pair = ir.Constant(PAIR, ir.Undefined)
        for half, value in enumerate((low, high)):
            pair = builder.insert_element(pair, value, ir.IntType(32)(half))
        builder.store(pair, _pointer(context, builder, address, PAIR), align=16)
    return context.get_dummy_value()


def _load_16(typing_context: Any, address: Any) -> Any:
    return types.UniTuple(types.uint64, 2)(types.int64), _generate_load_16


def _store_16(typing_context: Any, address: Any, low: Any, high: Any) -> Any:
    return types.void(types.int64, types.uint64, types.uint64), _generate_store_16


# What kernels call. Addresses must be multiples of the width.
load_1: Callable[[int], Any] = _load_of(1, types.uint64)
load_4: Callable[[int], Any] = _load_of(4, types.uint64)
load_16: Callable[[int], tuple[Any, Any]] = intrinsic(_load_16)
load_word: Callable[[int], int] = _load_of(8, types.int64)
store_1: Callable[[int, Any], None] = _store_of(1)
store_4: Callable[[int, Any], None] = _store_of(4)
store_8: Callable[[int, Any], None] = _store_of(8)
store_16: Callable[[int, Any, Any], None] = intrinsic(_store_16)
