"""The largest setting that fits, without and with a plan, and plans up to it."""

from pathlib import Path

import pandas as pd
import pytest

from planner.ilp.deadline import SolverName
from planner.plan.plan import Without
from planner.report.plots import png_bytes
from planner.report.sweep_plots import limits_figure
from planner.solving import solve
from planner.studies.limits import (
    Footprint,
    Limits,
    LimitsRow,
    count_fitting,
    find_limits,
    footprint,
    limits_table,
    settings_between,
)
from planner.studies.sweep import LinkChoice, SweepPoint, SweepSettings, solve_point
from profiles.schema.errors import BudgetError
from runtime.cli import main
from runtime.cli.growing import choose_growing
from tests.support.planning.rebuilt import slow_sandwich
from tests.support.planning.toys import SLOW, sandwich

TRAINING = """
import torch


def train(width="64", batch="8"):
    layers = [torch.nn.Linear(int(width), int(width)) for _ in range(4)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(int(batch), int(width))

    def step():
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, optimizer, step
"""
NUMBERS = range(16, 16 * 101, 16)


def needs(setting: int) -> Footprint:
    """4 bytes for each of the setting with nothing moved, 1 with everything moved."""
    return Footprint(setting=setting, peak_bytes=4 * setting, least_bytes=setting, wall="an op")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 63, 64, 99, 100])
def test_as_many_numbers_fit_as_do(count: int) -> None:
    tried: list[int] = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= 16 * count

    assert count_fitting(NUMBERS, fits) == count
    assert len(tried) <= 2 * len(NUMBERS).bit_length()
    # Nothing much larger than what fits is tried: the larger, the longer it takes.
    assert max(tried) <= 16 * max(1, 2 * count)


def test_the_limits_are_the_largest_that_fit() -> None:
    limits = find_limits(NUMBERS, needs, budget_bytes=640)
    assert (limits.without, limits.planned, limits.beyond) == (needs(160), needs(640), needs(656))


@pytest.mark.parametrize(
    ("budget_bytes", "without", "planned", "beyond"),
    [(15, None, None, 16), (16, None, 16, 32), (64, 16, 64, 80), (10**6, 1600, 1600, None)],
)
def test_limits_at_the_ends(
    budget_bytes: int, without: int | None, planned: int | None, beyond: int | None
) -> None:
    limits = find_limits(NUMBERS, needs, budget_bytes=budget_bytes)
    found = (limits.without, limits.planned, limits.beyond)
    assert [one and one.setting for one in found] == [without, planned, beyond]


def test_settings_between_the_limits_are_spread_and_end_with_the_largest() -> None:
    limits = find_limits(NUMBERS, needs, budget_bytes=640)
    assert settings_between(NUMBERS, limits, 1) == (640,)
    assert settings_between(NUMBERS, limits, 3) == (320, 480, 640)
    every = settings_between(NUMBERS, limits, 1000)
    assert every == tuple(range(176, 641, 16))
    for budget_bytes in (15, 10**6):
        assert (
            settings_between(NUMBERS, find_limits(NUMBERS, needs, budget_bytes=budget_bytes), 5)
            == ()
        )


@pytest.mark.parametrize("budget_bytes", [90, 99, 100, 105, 149, 150, 200])
def test_a_setting_fits_if_and_only_if_a_plan_can_be_made(budget_bytes: int) -> None:
    found = footprint(
        1,
        sandwich(),
        budget_bytes=budget_bytes,
        host_budget_bytes=None,
        solver=SolverName.HIGHS,
    )
    point = SweepPoint(
        choice=LinkChoice(name="toy", workers=1, link=SLOW), budget_bytes=budget_bytes
    )
    row = solve_point(sandwich(), point, SweepSettings())
    assert found.peak_bytes == 150
    assert (found.least_bytes <= budget_bytes) == (row.step_us is not None)


@pytest.mark.parametrize("budget_bytes", [99, 100, 105])
def test_without_swaps_a_setting_fits_if_drops_make_it_fit(budget_bytes: int) -> None:
    found = footprint(
        1,
        slow_sandwich(),
        budget_bytes=budget_bytes,
        host_budget_bytes=0,
        solver=SolverName.HIGHS,
        without=Without.SWAP,
    )
    point = SweepPoint(
        choice=LinkChoice(name="toy", workers=1, link=SLOW, host_budget_bytes=0),
        budget_bytes=budget_bytes,
    )
    row = solve_point(slow_sandwich(), point, SweepSettings(without=Without.SWAP))
    assert (found.peak_bytes, found.least_bytes) == (150, 100)
    assert (row.step_us is not None) == (budget_bytes >= 100)
    if row.step_us is not None:
        assert (row.recompute_us, row.stall_us, row.step_us) == (1000.0, 0.0, 6000.0)


def test_the_table_has_a_row_per_plan_and_can_be_drawn() -> None:
    point = SweepPoint(choice=LinkChoice(name="toy", workers=1, link=SLOW), budget_bytes=105)
    row = LimitsRow(
        limits=Limits(
            budget_bytes=105, host_budget_bytes=None, without=None, planned=needs(80), beyond=None
        ),
        setting=80,
        peak_without_bytes=150,
        planned=solve_point(sandwich(), point, SweepSettings()),
    )
    about = {"workload": "toy", "grown": "batch", "device": "v100-16gb"}
    table = limits_table([row, row], about)
    assert table["setting"].to_list() == [80, 80]
    assert table["without_setting"].isna().all()
    assert (table["step_us"] / table["compute_us"]).to_list() == pytest.approx([2.6, 2.6])
    assert limits_table([], about).columns.to_list() == table.columns.to_list()
    assert png_bytes(limits_figure(table, title="toy")).startswith(b"\x89PNG")


@pytest.fixture
def training(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(TRAINING)
    return f"{file}:train"


def test_a_users_own_step_grows(
    training: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv, png = tmp_path / "limits.csv", tmp_path / "limits.png"
    words = ["--grow", "batch", "--multiple-of", "128", "--device", "v100-16gb"]
    links = ["--budget", "2MiB", "--links", "pcie3-x16,nvlink2-ac922-4gpu", "--time-limit", "1"]
    assert main(["limits", training, *words, *links, "-o", str(csv), "--png", str(png)]) == 0
    table = pd.read_csv(csv)
    largest = int(table["planned_setting"][0])
    assert table["link"].to_list() == ["pcie3-x16", "nvlink2-ac922-4gpu"]
    assert table["setting"].to_list() == [largest, largest]
    assert largest % 128 == 0
    assert (table["without_setting"] < largest).all()
    assert (table["peak_bytes"] <= 2 << 20).all()
    assert (table["peak_without_bytes"] > 2 << 20).all()
    assert png.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"batch={largest + 128} needs" in printed
    assert "whatever moves: aten." in printed
    # From its own profile the largest can be planned; the next larger cannot.
    grown = choose_growing(training, key="batch", device="v100-16gb", settings=(), seed=0)
    assert solve(grown.profile(largest), budget_bytes=2 << 20, time_limit_s=1.0).swaps
    with pytest.raises(BudgetError):
        solve(grown.profile(largest + 128), budget_bytes=2 << 20)


def test_host_memory_is_a_limit_too(training: str, tmp_path: Path) -> None:
    """Two workers have half of the host each, so their largest is no larger than that of one."""
    csv = tmp_path / "limits.csv"
    words = ["--grow", "batch", "--multiple-of", "128", "--device", "v100-16gb", "--budget", "1MiB"]
    host = ["--host-budget", "600KiB", "--workers", "1,2", "--share", "nothing"]
    host += ["--without", "recompute", "--time-limit", "1"]
    assert main(["limits", training, *words, *host, "-o", str(csv)]) == 0
    table = pd.read_csv(csv)
    assert table["workers"].to_list() == [1, 2]
    assert (table["host_pool_bytes"] <= [600 << 10, 300 << 10]).all()
    assert table["planned_setting"][1] < table["planned_setting"][0]


def test_where_nothing_is_to_be_planned_that_is_said(
    training: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--grow", "batch", "--device", "v100-16gb", "--budget", "1KiB"]
    assert main(["limits", training, *words]) == 0
    printed = capsys.readouterr().out
    assert "batch=1 needs" in printed
    assert "There is nothing to plan" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("unet3d --grow sise --device h200", "unet3d has no setting 'sise' that is a whole"),
        ("unet3d --grow network --device h200", "--grow takes size, features, batch."),
        ("unet3d --grow size --device h20", "there is no device 'h20' to estimate for."),
        ("unet3d --grow size --device cuda", "--device is 'cuda', but nothing is run here"),
        ("unet3d --grow size --set size=96 --device h200", "--set size and --grow size: it grows"),
        ("unet3d --grow size --set batch --device h200", "--set is 'batch', expected KEY=VALUE"),
        ("unet3d --grow size --device h200 --multiple-of 7000", "--multiple-of is 7000, but size"),
        ("unet3d --grow size --device h200 --budget none", "--budget is 'none', expected a size"),
        (
            "resnet50 --grow resolution --set batch=1 --device h200",
            "resolution=32 cannot be estimated: Expected more than 1 value per channel",
        ),
        ("unet --grow size --device h200", "there is no workload 'unet'. Did you mean unet3d?"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["limits", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
