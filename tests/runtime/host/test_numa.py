"""What GPUs share, read from a PCI tree of files, and where a slab is put."""

import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from profiles.schema.link import Sharing
from runtime.host import numa

GPU = torch.device("cuda", 0)
NVIDIA, A100, NIC = "0x10de", "0x20b2", "0x1234"


class Machine:
    """The files that Linux would show of a machine whose first GPU is torch's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.devices = folder / "bus"
        self.devices.mkdir()
        (folder / "nodes").mkdir()
        (folder / "cpuinfo").write_text("flags : fpu sse\n")
        about = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x19, pci_device_id=0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)

    def add(self, place: str, node: int = 0, vendor: str = NVIDIA, model: str = A100) -> None:
        path = self.folder / "devices" / place
        path.mkdir(parents=True)
        for name, text in (("vendor", vendor), ("device", model), ("numa_node", str(node))):
            (path / name).write_text(f"{text}\n")
        (self.devices / path.name).symlink_to(path)

    def sharing(self) -> Sharing | None:
        return numa.sharing_at_hand(
            GPU,
            pci_devices=self.devices,
            nodes=self.folder / "nodes",
            cpuinfo=self.folder / "cpuinfo",
        )

    def counts(self) -> tuple[int, int]:
        found = self.sharing()
        assert found is not None
        assert (found.memory, found.source) == (None, numa.SOURCE)
        return found.gpus_per_uplink, found.gpus_per_memory


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_gpus_behind_a_switch_share_its_uplink(machine: Machine) -> None:
    """Two to a switch, two switches to a socket, and what else sits there does not count."""
    (machine.folder / "nodes/node1").mkdir()
    for number, port in enumerate(("16:02", "16:04", "96:02")):
        switch = f"pci0000:{port[:2]}/0000:{port}.0/0000:{number}7:00.0"
        node = int(port.startswith("96"))
        machine.add(f"{switch}/0000:{number}8:00.0/0000:{number + 1}9:00.0", node)
        machine.add(f"{switch}/0000:{number}8:04.0/0000:{number + 1}a:00.0", node)
        machine.add(f"{switch}/0000:{number}8:08.0/0000:{number + 1}b:00.0", node, "0x15b3", NIC)
    assert machine.counts() == (2, 4)


def test_gpus_on_root_ports_of_their_own_share_memory_only(machine: Machine) -> None:
    machine.add("pci0000:16/0000:16:02.0/0000:19:00.0", node=-1)
    machine.add("pci0000:16/0000:16:04.0/0000:2a:00.0", node=-1)
    assert machine.counts() == (1, 2)


def test_a_gpu_alone_shares_nothing(machine: Machine) -> None:
    machine.add("pci0000:19/0000:19:00.0")
    machine.add("pci0000:19/0000:19:01.0", model="0x2684")
    assert machine.counts() == (1, 1)


def test_where_the_system_does_not_tell_nothing_is_known(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.sharing() is None, "the system does not list the GPU"
    machine.add("pci0000:16/0000:16:02.0/0000:19:00.0", node=-1)
    assert machine.counts() == (1, 1)
    (machine.folder / "nodes/node1").mkdir()
    assert machine.sharing() is None, "there are two nodes, and it is not said which is near"
    (machine.folder / "bus/0000:19:00.0/numa_node").write_text("1\n")
    assert machine.counts() == (1, 1)
    (machine.folder / "cpuinfo").write_text("flags : fpu hypervisor sse\n")
    assert machine.sharing() is None, "a virtual machine's tree is made up"
    (machine.folder / "cpuinfo").write_text("flags : fpu\n")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace())
    assert machine.sharing() is None, "this torch does not tell the address"


def test_a_device_below_no_host_bridge_is_not_understood(machine: Machine) -> None:
    machine.add("platform/0000:19:00.0")
    assert machine.sharing() is None


def test_the_node_near_a_gpu_is_the_systems_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    properties = SimpleNamespace(pci_domain_id=0, pci_bus_id=0xDC, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert numa.node_near(GPU, tmp_path) is None, "the system does not know the device"
    for text, node in (("1\n", 1), ("-1\n", None)):
        folder = tmp_path / "0000:dc:00.0"
        folder.mkdir(exist_ok=True)
        (folder / "numa_node").write_text(text)
        assert numa.node_near(GPU, tmp_path) == node
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace())
    assert numa.node_near(GPU, tmp_path) is None, "this torch does not tell the address"


class FakeLibrary:
    """libnuma, as far as it is used; notes what it was asked for."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.asked: list[tuple[int, int, int, list[int], int, int]] = []

    def mbind(self, address, size_bytes, mode, words, bits, flags) -> int:  # type: ignore[no-untyped-def]
        plain = (address.value, size_bytes.value, mode.value, list(words), bits.value, flags.value)
        self.asked.append(plain)
        return self.code


@pytest.mark.parametrize("code", [0, -1])
def test_a_slab_is_put_on_its_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    library = FakeLibrary(code)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    assert not numa.prefer_node(4096, 8192, 1, tmp_path), "one node: nothing to choose"
    (tmp_path / "node1").mkdir()
    assert numa.prefer_node(4096, 8192, 1, tmp_path) is (code == 0)
    numa.prefer_node(4096, 8192, 65, tmp_path)
    assert library.asked == [
        (4096, 8192, 1, [2], 65, 0),
        (4096, 8192, 1, [0, 2], 129, 0),
    ]


def test_without_libnuma_memory_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "node1").mkdir()

    def missing(*_: object, **__: object) -> None:
        raise OSError("libnuma.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with caplog.at_level("INFO", logger="swapplan"):
        assert not numa.prefer_node(4096, 8192, 1, tmp_path)
    assert "left to the system: libnuma.so.1" in caplog.text
