"""Sweeps: their order, what they say of budgets that cannot be met, and how they end."""

import math
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from planner.cli.request import PlanRequest, link_names
from planner.cli.sweep import print_sweep
from planner.plan.plan import BoundSource, Proof
from planner.report.plots import png_bytes
from planner.report.sweep_plots import sweep_figure
from planner.studies import sweep as sweep_processes
from planner.studies.sweep import (
    LinkChoice,
    SweepOutcome,
    SweepRow,
    SweepSettings,
    solve_point,
    solve_points,
    sweep_points,
    sweep_table,
)
from profiles.schema.errors import QuantityError, SolverError
from profiles.schema.profile import Profile, Provenance
from profiles.schema.profile_file import write_profile
from runtime.cli import main
from tests.support.commands import PATIENCE_S, running
from tests.support.planning.one_swap import slow_plan
from tests.support.planning.toys import SLOW, sandwich, transformer_like


def choice(name: str = "toy", workers: int = 1) -> LinkChoice:
    return LinkChoice(name=name, workers=workers, link=SLOW)


def rows_of(profile: Profile, *budgets_bytes: int) -> list[SweepRow]:
    points = sweep_points([choice()], budgets_bytes)
    return [solve_point(profile, point, SweepSettings()) for point in points]


def test_points_stand_link_by_link_in_the_order_given() -> None:
    points = sweep_points([choice("b"), choice("a", 2), choice("a", 1)], [3, 1])
    assert [(p.choice.name, p.choice.workers, p.budget_bytes) for p in points] == [
        ("b", 1, 3),
        ("b", 1, 1),
        ("a", 2, 3),
        ("a", 2, 1),
        ("a", 1, 3),
        ("a", 1, 1),
    ]


def test_a_row_is_its_plans_certificate() -> None:
    unmet, planned, fits = rows_of(sandwich(), 90, 105, 200)
    plan = slow_plan()
    about = plan.certificate
    assert planned.outcome is SweepOutcome.PLANNED
    assert planned.step_us == about.simulated_step_us == pytest.approx(13_000.0)
    assert planned.bound_step_us == about.compute_us + about.bound_beyond_us
    assert (planned.gap, planned.proof) == (about.optimality_gap, about.proof)
    assert (planned.peak_bytes, planned.d2h_bytes, planned.h2d_bytes) == (100, 50, 50)
    assert planned.host_pool_bytes == plan.host_pool_bytes == 50
    assert (fits.outcome, fits.step_us, fits.proof) == (
        SweepOutcome.FITS,
        5000.0,
        Proof.NOT_NEEDED,
    )
    assert (unmet.outcome, unmet.smallest_budget_bytes) == (SweepOutcome.UNMET, 100)
    assert unmet.step_us is None
    assert unmet.compute_us == 5000.0


def test_the_table_leaves_out_what_a_point_lacks() -> None:
    table = sweep_table(rows_of(sandwich(), 90, 105))
    assert table["budget_bytes"].to_list() == [90, 105]
    assert table["smallest_budget_bytes"].isna().to_list() == [False, True]
    assert table["step_us"].isna().to_list() == [True, False]
    assert sweep_table([]).columns.to_list() == table.columns.to_list()


def test_processes_give_the_rows_that_one_would() -> None:
    points = sweep_points([choice(), choice(workers=2)], [105, 90])
    with closing(solve_points(sandwich(), points, SweepSettings(), processes=2)) as solved:
        found = dict(solved)
    for position, point in enumerate(points):
        alone = solve_point(sandwich(), point, SweepSettings())
        without_time = {"solve_seconds": None}
        assert {**vars(found[position]), **without_time} == {**vars(alone), **without_time}
    assert multiprocessing.active_children() == []


def test_processes_end_with_a_sweep_that_is_left_early() -> None:
    profile = transformer_like(60)
    peak_bytes = 10**6
    # The first fits as it is; the others would take long.
    points = sweep_points([choice()], [peak_bytes, *range(4000, 4008)])
    settings = SweepSettings(time_limit_s=PATIENCE_S)
    with closing(solve_points(profile, points, settings, processes=2)) as solved:
        assert next(solved)[0] == 0
    assert multiprocessing.active_children() == []


def test_a_killed_process_ends_the_sweep_with_an_error() -> None:
    points = sweep_points([choice()], [10**6, *range(4000, 4008)])
    settings = SweepSettings(time_limit_s=PATIENCE_S)
    with closing(solve_points(transformer_like(60), points, settings, processes=2)) as solved:
        next(solved)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(SolverError, match="was killed, likely for want of memory"):
            list(solved)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("sent", "exit_code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_nothing_is_left_running(tmp_path: Path, sent: signal.Signals, exit_code: int) -> None:
    write_profile(transformer_like(60), tmp_path / "toy.profile.json")
    words = ("--budgets", "40%,45%,50%", "--processes", "2", "--time-limit", "600")
    csv = tmp_path / "table.csv"
    with running("sweep", tmp_path / "toy.profile.json", *words, "-o", csv) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "planning ...\n"
        if sent is signal.SIGINT:
            # To all of them, as a terminal does; some have hardly begun.
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        # All processes write to these pipes, so this waits for the last of them.
        printed, errors = process.communicate()
    assert process.returncode == exit_code
    if sent is signal.SIGINT:  # A process that is being started when its parent is killed says so.
        assert "Traceback" not in errors
        assert errors.splitlines()[-1] == "plan: interrupted"
        assert re.search(r"Ended early: \d of 3 plans are finished", printed)


def test_an_interrupt_that_another_thread_gets_waits_until_processes_have_started() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done: list[str] = []
    try:
        with pytest.raises(KeyboardInterrupt), sweep_processes._interrupts_blocked():
            start_beside_an_interrupt(done)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["started"]


def start_beside_an_interrupt(done: list[str]) -> None:
    # Such a thread began before interrupts were blocked; here it opens itself to them.
    thread = threading.Thread(target=get_interrupted)
    thread.start()
    thread.join()
    done.append("started")


def get_interrupted() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


def test_what_is_finished_is_printed_and_written(
    profile_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(profile: Profile, *_: object, **__: object) -> Iterator[tuple[int, SweepRow]]:
        unmet, planned = rows_of(profile, 90, 105)
        yield 2, planned
        yield 0, unmet
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_processes, "solve_points", interrupted)
    csv, png = profile_file.with_name("table.csv"), profile_file.with_name("curve.png")
    words = ("--budgets", "60%,65%,70%", "-o", str(csv), "--png", str(png))
    assert main(["sweep", str(profile_file), *words]) == 130
    printed = capsys.readouterr()
    assert "Ended early: 2 of 3 plans are finished." in printed.out
    assert printed.out.index("needs 100 bytes") < printed.out.index("planned")
    assert printed.err.splitlines()[-1] == "plan: interrupted"
    assert pd.read_csv(csv)["budget_bytes"].to_list() == [90, 105]
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("wide_tables")
def test_a_bound_that_was_not_solved_for_is_marked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    unmet, planned, fits = rows_of(sandwich(), 90, 105, 200)
    solved = [unmet, planned, fits]
    print_sweep(sandwich(), "toy", solved, 3, csv=None, png=None)
    assert "*" not in capsys.readouterr().out
    stopped = replace(planned, bound_source=BoundSource.TRIVIAL, bound_step_us=5000.0)
    print_sweep(sandwich(), "toy", [unmet, stopped, fits], 3, csv=None, png=None)
    printed = capsys.readouterr().out
    assert re.search(r"│ +13\.0 ms │ 160\.0% │ +0 us │ +8.0 ms │ 5\.0 ms\* │", printed)
    assert "* the relaxation was not solved in time" in printed


def test_sweep_prints_a_row_per_point(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = profile_file.with_name("table.csv")
    words = ("--budgets", "200%,60%,70%,60%", "--links", "cpu-emulated,nvlink2-ac922-6gpu")
    asked = (*words, "--workers", "1,2", "--processes", "2", "-o", str(csv))
    assert main(["sweep", str(profile_file), *asked]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(StringIO(csv.read_text()))
    assert table["budget_bytes"].to_list() == [300, 90, 105] * 4
    assert table["workers"].to_list() == [1] * 3 + [2] * 3 + [1] * 3 + [2] * 3
    assert table["link"].to_list() == ["cpu-emulated"] * 6 + ["nvlink2-ac922-6gpu"] * 6
    assert table["outcome"].to_list() == ["fits as it is", "cannot be met", "planned"] * 4
    assert "Ended early" not in printed
    assert printed.count("needs 100 bytes") == 4
    assert f"Wrote {csv}" in printed


def test_without_budgets_it_takes_shares_of_the_peak(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = profile_file.with_name("table.csv")
    assert main(["sweep", str(profile_file), "--processes", "1", "-o", str(csv)]) == 0
    assert pd.read_csv(csv)["budget_bytes"].to_list() == [105, 90, 75, 60]


def test_what_is_asked_for_is_read_in_order() -> None:
    request = PlanRequest(
        budget="50%, 100 ,50%,120B",
        links=link_names("pcie4-x16, pcie4-x16"),
        workers="2,1",
        host_budget="1kB",
    )
    assert request.budgets_bytes(sandwich()) == (75, 100, 120)
    choices = request.choices(sandwich())
    assert not any(choice.all_reduce_on_link for choice in choices)
    assert [(c.link.name, c.workers, c.host_budget_bytes) for c in choices] == [
        ("pcie4-x16 / 2 workers", 2, 500),
        ("pcie4-x16", 1, 1000),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budgets", "60%,,70%"), "--budgets is ''"),
        (("--budgets", "60%", "--links", "pcie9"), "there is no link 'pcie9'"),
        (("--budgets", "60%", "--workers", "1,two"), "expected numbers from 1 up such as 1,2,4"),
        (("--budgets", "60%", "--workers", "0"), "expected numbers from 1 up such as 1,2,4"),
        (("--budgets", "60%", "--workers", "2"), "what 2 workers share on link toy is not known"),
        (("--budgets", "60%", "-o", "/no/such/folder/t.csv"), "cannot be written"),
    ],
)
def test_mistakes_are_reported_before_anything_is_planned(
    profile_file: Path,
    words: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise QuantityError("nothing should be planned")

    monkeypatch.setattr(sweep_processes, "solve_points", refuse)
    assert main(["sweep", str(profile_file), *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_figure_draws_every_line_and_what_cannot_be() -> None:
    rows = [
        row
        for workers in (1, 2)
        for row in [
            SweepRow(
                link="a",
                workers=workers,
                all_reduce_on_link=False,
                d2h_bytes_per_us=1.0,
                h2d_bytes_per_us=1.0,
                both_bytes_per_us=None,
                budget_bytes=budget_bytes,
                outcome=SweepOutcome.PLANNED,
                compute_us=2e6,
                step_us=workers * 2e6,
                bound_step_us=2e6,
            )
            for budget_bytes in (2**31, 2**32)
        ]
    ]
    unmet = replace(
        rows[0],
        budget_bytes=2**29,
        outcome=SweepOutcome.UNMET,
        smallest_budget_bytes=2**30 + 1,
        step_us=None,
    )
    figure = sweep_figure(
        sweep_table([*rows, unmet]),
        title="toy",
        peak_bytes=2**33,
        times=Provenance.ESTIMATED,
    )
    axes = figure.axes[0]
    assert axes.get_ylabel() == "step time, s, simulated (not from 0)"
    assert axes.get_xlabel().startswith("budget, GiB of device memory")
    lowest, highest = axes.get_ylim()
    assert 1.5 < lowest < 2.0, "just below compute"
    assert highest > 4.0
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["a, 1 worker", "a, 2 workers"]
    assert "nothing moved, in 8.00 GiB (estimated)" in labels
    # Rounded up, as it is what to ask for.
    assert "smallest budget that can be met: 1.01 GiB" in labels
    line = next(line for line in axes.lines if line.get_label() == "a, 2 workers")
    assert np.asarray(line.get_xydata()).tolist() == [[2.0, 4.0], [4.0, 4.0]]
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_a_figure_of_budgets_none_of_which_can_be_met() -> None:
    figure = sweep_figure(
        sweep_table(rows_of(sandwich(), 80, 90)),
        title="toy",
        peak_bytes=150,
        times=Provenance.MEASURED,
    )
    assert all(math.isfinite(limit) for limit in figure.axes[0].get_ylim())
    assert png_bytes(figure).startswith(b"\x89PNG")
