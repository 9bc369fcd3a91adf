"""Code that gets at a tensor's memory without an op: it takes the address, and that is reported.

Kernels of Triton, ctypes, NumPy, CuPy and unregistered extensions are no ops. What they take from a
tensor, its address or an array over its memory, they take by a method of `torch.Tensor` or of
`torch.UntypedStorage`. While there are listeners, those methods first report what is taken.

[Note: methods, not a mode] A `TorchFunctionMode` would see the same calls, and some microseconds
later every other call, too. Worse, torch asks whether one is active: a transformer layer then takes
another path, so a watched step would not be the step. Methods that are replaced cost nothing until
they are called. They are replaced when the first listener comes and put back when the last one
goes, not step by step: Python forgets what it has cached of a class each time.

[Note: what is not seen] What C++ code takes by itself: an extension that is handed the tensor, a
library that uses `__dlpack_c_exchange_api__`. There is `touch` for those. And an address that is
kept: by a kernel that took `weight.data_ptr()` when it was made, by a CUDA graph. No `touch` helps
there, as a storage that was away comes back at another address.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from profiles.hooks.mode_stack import insist
from profiles.hooks.plain_tensors import storages_behind
from profiles.schema.profile import Access

OnAddress = Callable[[torch.UntypedStorage, Access], None]
"""Called with a storage before its memory is reached, and whether it may be written."""

_WRITING = (
    *("data_ptr", "numpy", "__array__", "__dlpack__", "__cuda_array_interface__"),
    *("share_memory_", "apply_", "map_", "map2_"),
)
_READING = (
    *("const_data_ptr", "tolist", "__repr__", "__format__", "__reduce_ex__", "__deepcopy__"),
)
"""Methods of `torch.Tensor` that torch itself reads in, with no op."""
_OF_STORAGES = (
    *("data_ptr", "share_memory_", "_share_fd_cpu_", "_share_filename_cpu_"),
    *("_share_cuda_", "_write_file"),
)
_FUNCTIONS = ("_to_dlpack", "_to_dlpack_versioned", "to_dlpack")

_METHODS: tuple[tuple[Any, Access, tuple[str, ...]], ...] = (
    (torch.Tensor, Access.WRITE, _WRITING),
    (torch.Tensor, Access.READ, _READING),
    (torch.UntypedStorage, Access.WRITE, _OF_STORAGES),
    *((owner, Access.WRITE, _FUNCTIONS) for owner in (torch._C, torch, torch.utils.dlpack)),
)

# An interrupt may come right after it is taken; the same thread can take it again.
_lock = threading.RLock()
_listeners: "tuple[Listening, ...]" = ()
"""Replaced as a whole, so going through them takes no lock."""
_replaced: dict[tuple[Any, str], tuple[Any, Any]] = {}
"""By owner and name of a replaced method: what was there itself, None if inherited; and what is
there now. Noted before it is replaced and until it is back, so an interrupt leaves nothing that the
next call of `_replace_all` or `_put_all_back` does not put right."""


class Listening:
    """A listener to addresses, from its construction until `remove`."""

    def __init__(self, on_address: OnAddress) -> None:
        """Begins; `on_address` is called in the thread that takes an address, before it does."""
        global _listeners
        self.on_address = on_address
        try:
            with _lock:
                if not _listeners:
                    _replace_all()
                _listeners = (*_listeners, self)
        except BaseException:
            # The caller never gets this listener, and so cannot end it.
            self.remove()
            raise

    def remove(self) -> None:
        """Ends it; an interrupt is passed on once it has."""
        insist(self._remove)

    def _remove(self) -> None:
        global _listeners
        with _lock:
            _listeners = tuple([other for other in _listeners if other is not self])
            if not _listeners:
                _put_all_back()

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def touch(*tensors: torch.Tensor, writes: bool = True) -> None:
    """Declares that the code which follows uses tensors in a way that torch does not see.

    A recording counts it as a use at this point of the step. A replay makes sure that the bytes
    are there, and that a copy on the host is not taken for true any more if they are written.
    Where there is neither, it does nothing. Call it right before the kernel, and before the address
    is taken: tensors stay where they are until the next anchor, that is the next module, saved
    tensor or gradient. Anything autograd knows of the tensors stays as it is.

    Say `writes=False` for what is only read.
    """
    if _listeners:
        for tensor in tensors:
            _report(tensor, Access.WRITE if writes else Access.READ)


def in_thread_of_step(step_thread: int) -> bool:
    """Whether this thread runs a step that was begun in a thread: it does, or autograd's engine."""
    if threading.get_ident() == step_thread:
        return True
    # Threads that Python did not start are the engine's, one for each device.
    return isinstance(threading.current_thread(), threading._DummyThread)


def in_threads_of_this_step(on_address: OnAddress) -> OnAddress:
    """Returns a listener to the addresses taken by the threads of a step that begins here."""
    step_thread = threading.get_ident()

    def on_address_of_step(storage: torch.UntypedStorage, access: Access) -> None:
        if in_thread_of_step(step_thread):
            on_address(storage, access)

    return on_address_of_step


def _report(value: Any, access: Access) -> None:
    storages = [value] if isinstance(value, torch.UntypedStorage) else []
    if isinstance(value, torch.Tensor):
        storages.extend(storages_behind(value))
    for storage in storages:
        for listening in _listeners:
            listening.on_address(storage, access)


def _replace_all() -> None:
    for owner, access, names in _METHODS:
        for name in names:
            original = getattr(owner, name, None)
            if original is None:
                continue
            if (owner, name) not in _replaced:
                own = vars(owner).get(name)
                is_property = isinstance(own, property)
                reported = _reporting(own.fget if is_property else original, access)
                _replaced[owner, name] = own, property(reported) if is_property else reported
            setattr(owner, name, _replaced[owner, name][1])


def _put_all_back() -> None:
    for (owner, name), (own, _) in tuple(_replaced.items()):
        if own is not None:
            setattr(owner, name, own)
        elif name in vars(owner):
            delattr(owner, name)
        del _replaced[owner, name]


def _reporting(original: Any, access: Access) -> Callable[..., Any]:
    """Returns the replacement of a method: it reports its tensor, then does the same."""

    @wraps(original)
    def reported(*args: Any, **kwargs: Any) -> Any:
        _report(args[0] if args else None, access)
        return original(*args, **kwargs)

    return reported
