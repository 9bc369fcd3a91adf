"""`plan devices`: every accelerator, its figures kept apart by where they come from."""

import pytest

from profiles.hardware.accelerators import ACCELERATORS
from runtime.cli import main


@pytest.mark.usefixtures("wide_tables")
def test_every_device_is_listed_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if "│" in line}
    assert rows.keys() == set(ACCELERATORS)
    cells = [cell.strip() for cell in rows["v100-16gb"].split("│")[1:-1]]
    assert cells == [
        *("v100-16gb", "16.00 GiB", "15.7", "none", "125.0", "none", "?"),
        *("900.00 GB/s", "790.00 GB/s", "pcie3-x16"),
    ]
    assert "data sheet, SXM" not in printed


@pytest.mark.usefixtures("wide_tables")
def test_every_figure_has_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--sources"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for accelerator in ACCELERATORS.values():
        assert accelerator.theory_source in printed
        for cited in (accelerator.measured_tflops, accelerator.measured_gb_per_s):
            assert cited is None or cited.source in printed
