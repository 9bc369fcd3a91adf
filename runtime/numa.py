"""NUMA: which node's memory is near a GPU, and how to have a slab there.

A copy from the far node of a two-socket host can run at less than half the link's rate (DeepSpeed
issue 1576: 4 to 12 GB/s instead of 24). Wherever a step here is not possible, memory stays where
the operating system puts it, and the log says why.
"""

import ctypes
import logging
import os
from pathlib import Path

import torch

from runtime.pci import NODES, PCI_DEVICES, pci_address

LOG = logging.getLogger("swapplan")
PREFERRED = 1
"""MPOL_PREFERRED of set_mempolicy(2): this node if it has room, else another."""


def node_near(device: torch.device, pci_devices: Path = PCI_DEVICES) -> int | None:
    """Returns the NUMA node a CUDA device is attached to; None if the system does not say."""
    try:
        node = int((pci_devices / pci_address(device) / "numa_node").read_text())
    except (AttributeError, OSError, ValueError) as error:
        LOG.info("The host pool's NUMA node is left to the system: %s", error)
        return None
    return node if node >= 0 else None


def prefer_node(address: int, size_bytes: int, node: int, nodes: Path = NODES) -> bool:
    """Has the pages of a slab that nobody has touched yet come from one node.

    Args:
        address: Where the slab starts, on a page's boundary.
        size_bytes: Its size.
        node: The node.
        nodes: Where the system lists its nodes.

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
        # The kernel takes one bit less than it is told of.
        ctypes.c_ulong(len(words) * bits + 1),
        ctypes.c_uint(0),
    )
    if code != 0:
        reason = os.strerror(ctypes.get_errno())
        LOG.info("The host pool could not be put on NUMA node %d: %s", node, reason)
        return False
    LOG.info("The host pool is on NUMA node %d, near the GPU", node)
    return True
