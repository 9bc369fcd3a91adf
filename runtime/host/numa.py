"""Where the GPUs of a machine stand: which share their way to host memory, and near which node.

[Note: shared uplinks] A device's folder under `/sys/devices` is its place in the PCI tree:
`pci0000:16/0000:16:02.0/0000:17:00.0/0000:18:04.0/0000:19:00.0` is a GPU behind the ports of a
switch behind the root port `0000:16:02.0`. GPUs below one root port have one connection to the host
between them. A virtual machine has the tree that its hypervisor made up, which says nothing of the
real one.

[Note: near node] A copy from the far NUMA node of a two-socket host can run at less than half the
link's rate (DeepSpeed issue 1576: 4 to 12 GB/s instead of 24), so a slab is put on the near one.
Where that is not possible, memory stays where the operating system puts it, and the log says why.
"""

import ctypes
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from profiles.schema.link import Sharing

LOG = logging.getLogger("swapplan")

PCI_DEVICES = Path("/sys/bus/pci/devices")
NODES = Path("/sys/devices/system/node")
CPUINFO = Path("/proc/cpuinfo")
"""Where the system lists its PCI devices and NUMA nodes, and describes its processor."""
HOST_BRIDGE = "pci"
SOURCE = "the PCI tree of this machine"
PREFERRED = 1
"""MPOL_PREFERRED of set_mempolicy(2): this node if it has room, else another."""


def sharing_at_hand(
    device: torch.device,
    *,
    pci_devices: Path = PCI_DEVICES,
    nodes: Path = NODES,
    cpuinfo: Path = CPUINFO,
) -> Sharing | None:
    """Returns what the GPUs of this machine share of their way to host memory.

    Those of the same model count, whether or not this process may use them: workers will. The
    plan is one for all, so the counts are those where most share; see [Note: shared uplinks].

    Returns:
        The counts, without the rate of the memory; None if the system does not say.
    """
    try:
        if "hypervisor" in cpuinfo.read_text().split():
            LOG.info("What GPUs share is not known: this is a virtual machine.")
            return None
        model = _model(pci_devices / _pci_address(device))
        gpus = [path for path in pci_devices.iterdir() if _model(path) == model]
        uplinks = Counter(_root_port(path.resolve()) for path in gpus)
        sockets = Counter(_node(path, nodes) for path in gpus)
    except (AttributeError, OSError, ValueError) as error:
        LOG.info("What GPUs share is not known: %s", error)
        return None
    return Sharing(
        gpus_per_uplink=max(uplinks.values()),
        gpus_per_memory=max(sockets.values()),
        memory=None,
        source=SOURCE,
    )


def node_near(device: torch.device, pci_devices: Path = PCI_DEVICES) -> int | None:
    """Returns the NUMA node a CUDA device is attached to; None if the system does not say."""
    try:
        node = int((pci_devices / _pci_address(device) / "numa_node").read_text())
    except (AttributeError, OSError, ValueError) as error:
        LOG.info("The host pool's NUMA node is left to the system: %s", error)
        return None
    return node if node >= 0 else None


def prefer_node(address: int, size_bytes: int, node: int, nodes: Path = NODES) -> bool:
    """Has the pages of a slab that has not been touched yet come from one node.

    Returns:
        Whether that was set. A host with one node has nothing to set.
    """
    if not (nodes / "node1").exists():
        return False
    try:
        library = ctypes.CDLL("libnuma.so.1", use_errno=True)
    except OSError as error:
        LOG.info("The host pool's NUMA node is left to the system: %s", error)
        return False
    return _bind(library, address, size_bytes, node)


def _bind(library: ctypes.CDLL, address: int, size_bytes: int, node: int) -> bool:
    """mbind(2), as libnuma has it."""
    bits = 8 * ctypes.sizeof(ctypes.c_ulong)
    words = (ctypes.c_ulong * (node // bits + 1))()
    words[node // bits] = 1 << (node % bits)
    code = library.mbind(
        ctypes.c_void_p(address),
        ctypes.c_ulong(size_bytes),
        ctypes.c_int(PREFERRED),
        words,
        # The kernel takes one bit less than this says.
        ctypes.c_ulong(len(words) * bits + 1),
        ctypes.c_uint(0),
    )
    if code != 0:
        reason = os.strerror(ctypes.get_errno())
        LOG.info("The host pool could not be put on NUMA node %d: %s", node, reason)
        return False
    LOG.info("The host pool is on NUMA node %d, near the GPU", node)
    return True


def _pci_address(device: torch.device) -> str:
    """The PCI address of a CUDA device, such as `0000:19:00.0`; AttributeError in an old torch."""
    # torch's own annotations do not have the address yet.
    about: Any = torch.cuda.get_device_properties(device)
    return f"{about.pci_domain_id:04x}:{about.pci_bus_id:02x}:{about.pci_device_id:02x}.0"


def _model(path: Path) -> tuple[str, str]:
    return (path / "vendor").read_text().strip(), (path / "device").read_text().strip()


def _root_port(place: Path) -> str:
    """Returns what comes right below the host bridge on the way to a device: it, if nothing."""
    parts = place.parts
    bridges = [n for n, part in enumerate(parts[:-1]) if part.startswith(HOST_BRIDGE)]
    if not bridges:
        raise ValueError(f"{place} is below no host bridge")
    return "/".join(parts[bridges[-1] : bridges[-1] + 2])


def _node(path: Path, nodes: Path) -> int:
    node = int((path / "numa_node").read_text())
    if node < 0 and (nodes / "node1").exists():
        raise ValueError(f"{path.name} is near no NUMA node of several")
    return max(node, 0)
