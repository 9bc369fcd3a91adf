"""Builds the asynchronous device from `source/`, once for the same sources and the same torch."""

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import torch
from torch.utils.cpp_extension import include_paths, library_paths

NAME = "asyncdev"
SOURCE = Path(__file__).parent / "source"
COMPILER = os.environ.get("CXX", "c++")
FLAGS = ("-O1", "-std=c++20", "-shared", "-fPIC", "-w")
LIBRARIES = ("-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10")


def built() -> ModuleType:
    """Returns the extension, built if that has not been done.

    Processes that ask at the same time wait for the one that builds.

    Raises:
        RuntimeError: The compiler is missing or found a fault.
    """
    folder = Path(tempfile.gettempdir()) / f"swapplan-{NAME}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{_digest()}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _compile(library)
    spec = importlib.util.spec_from_file_location(NAME, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _digest() -> str:
    found = hashlib.sha256(" ".join((torch.__version__, COMPILER, *FLAGS)).encode())
    for path in sorted(SOURCE.iterdir()):
        found.update(path.read_bytes())
    return found.hexdigest()[:20]


def _compile(library: Path) -> None:
    unfinished = library.with_suffix(f".{os.getpid()}")
    paths = library_paths()
    command = [
        *(COMPILER, *FLAGS, str(SOURCE / "device.cpp"), "-o", str(unfinished)),
        *(f"-I{path}" for path in (*include_paths(), sysconfig.get_paths()["include"])),
        *(word for path in paths for word in (f"-L{path}", f"-Wl,-rpath,{path}")),
        *LIBRARIES,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeError(f"The device needs a C++ compiler, found no {COMPILER!r}.") from error
    if done.returncode != 0:
        raise RuntimeError(f"The device could not be built:\n{done.stderr[-4000:]}")
    unfinished.rename(library)
