"""The page of a plan: what it says, that it is whole, that names are harmless, that it works."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from planner.plan.plan import Plan
from planner.plan.plan_file import write_plan
from planner.plan.simulate import simulate_plan
from planner.report.page import page_data, report_page
from planner.report.simulated_step import simulated_step
from planner.report.tables import waits_table
from planner.solving import solve
from runtime.cli import main
from tests.support.planning.browser import TWO_FRAMES, Tab, browser_tab
from tests.support.planning.plans import empty_plan, periodic_plan, stalling_plan
from tests.support.planning.rebuilt import mixed_plan
from tests.support.planning.toys import activation, fixed, toy

BYTES_COLUMN = 3
HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Every element of a page with its attributes, and the text of those that are asked for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass


def hostile_plan() -> Plan:
    names = [activation(HOSTILE, 50, 0, 4), fixed("op:2", 100, 2)]
    plan = solve(toy(*[1000.0] * 5, storages=names), budget_bytes=105)
    workload = plan.workload.model_copy(update={"reference": HOSTILE})
    return plan.model_copy(update={"workload": workload})


def repeated(plan: Plan, *, times: int) -> Plan:
    """Many steps in a row as one; its certificate is left as it was."""
    count = len(plan.slots)
    anchors = ("swap_out_slot", "release_slot", "swap_in_slot", "await_slot")
    swaps = tuple(
        swap.model_copy(update={name: getattr(swap, name) + n * count for name in anchors})
        for n in range(times)
        for swap in plan.swaps
    )
    return plan.model_copy(update={"slots": plan.slots * times, "swaps": swaps})


@pytest.mark.parametrize("plan", [stalling_plan, periodic_plan, empty_plan, mixed_plan])
def test_the_data_are_the_plans(plan: Any) -> None:
    plan = plan()
    data = page_data(simulated_step(plan))
    slots, swaps, about = data["slots"], data["swaps"], plan.certificate
    assert data["step_us"] == pytest.approx(about.simulated_step_us, abs=1e-3)
    assert sum(slots["stall_us"]) == pytest.approx(about.simulated_stall_us, abs=1e-2)
    assert max(slots["with_bytes"]) == about.peak_bytes
    assert max(slots["without_bytes"]) == about.peak_without_bytes
    assert max(slots["host_bytes"]) <= plan.host_pool_bytes
    assert bool(max(slots["host_bytes"])) == bool(plan.swaps)
    sizes = swaps["size_bytes"]
    copied = [b for b, us in zip(sizes, swaps["out_start_us"], strict=True) if us is not None]
    assert (sum(copied), sum(sizes)) == (about.d2h_bytes, about.h2d_bytes)
    assert {len(column) for column in slots.values()} == {len(plan.slots)}
    assert {len(column) for column in swaps.values()} == {len(plan.swaps)}
    again = data["rebuilds"]
    assert {len(column) for column in again.values()} == {len(plan.rebuilds)}
    took_us = [end - begin for begin, end in zip(again["start_us"], again["end_us"], strict=True)]
    assert sum(took_us) == sum(slots["recompute_us"]) == about.recompute_us


def test_what_is_rebuilt_is_listed() -> None:
    page = report_page(mixed_plan())
    assert "<td>pack:2</td><td>50 B</td><td>anchor:3</td><td>anchor:5</td><td>op2</td>" in page
    assert "1 swaps and 2 (100 B, by 2 ops) dropped and rebuilt per step" in page
    assert "recompute per step" in page
    assert "Nothing: no op is run again." in report_page(stalling_plan())


def test_every_copy_of_the_simulation_is_some_swaps() -> None:
    for plan in (stalling_plan(), periodic_plan()):
        swaps, timeline = page_data(simulated_step(plan))["swaps"], simulate_plan(plan)
        outs = sorted(us for us in swaps["out_start_us"] if us is not None)
        assert outs == pytest.approx([copy.start_us for copy in timeline.d2h], abs=1e-3)
        backs = sorted(swaps["in_start_us"])
        assert backs == pytest.approx([copy.start_us for copy in timeline.h2d], abs=1e-3)


def test_waits_name_the_copies_that_are_late() -> None:
    plan = stalling_plan()
    waits = waits_table(simulated_step(plan))
    assert waits["stall_us"].sum() == pytest.approx(plan.certificate.simulated_stall_us)
    assert plan.certificate.simulated_stall_us > 0
    assert all(waits["waits_for"])
    assert waits_table(simulated_step(empty_plan())).empty


def test_the_page_holds_all_it_needs() -> None:
    page = Page(report_page(stalling_plan()))
    outside = [
        (tag, value)
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action") and not str(value).startswith("data:")
    ]
    assert outside == []
    assert "@import" not in "".join(page.texts["style"])
    assert "url(" not in "".join(page.texts["style"])


def test_the_policy_lets_only_the_pages_own_script_run() -> None:
    page = Page(report_page(stalling_plan()))
    policy = next(
        str(attributes["content"])
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for element in ("style", "script"):
        text = page.texts[element][-1].encode()
        assert base64.b64encode(hashlib.sha256(text).digest()).decode() in policy


def test_the_certificate_is_told() -> None:
    plan = stalling_plan()
    cells = Page(report_page(plan)).texts["td"]
    for value in ("120 B (60.0% of the peak)", "simulated", "bound: LP relaxation", "highs"):
        assert value in cells
    assert plan.certificate.proof.value in cells


def test_special_swaps_are_counted() -> None:
    plan = periodic_plan()
    clean = sum(swap.clean for swap in plan.swaps)
    around = sum(swap.wraps for swap in plan.swaps)
    cells = Page(report_page(plan)).texts["td"]
    assert f"{len(plan.swaps)} ({clean} clean, {around} round the step boundary)" in cells


def test_a_hostile_name_is_only_text() -> None:
    text = report_page(hostile_plan())
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert [tag for tag, _ in page.elements].count("img") == 0
    assert f"Swap plan for {HOSTILE}" == "".join(page.texts["h1"])
    assert json.loads(page.texts["script"][0])["swaps"]["name"] == [HOSTILE]


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, page = tmp_path / "a.plan.json", tmp_path / "a.html"
    write_plan(stalling_plan(), plan)
    assert main(["report", str(plan), "-o", str(page)]) == 0
    assert page.read_text() == report_page(stalling_plan())
    assert capsys.readouterr().out == f"Wrote {page}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("no json", "not JSON, or only part of it"),
        ('{"format": "swapplan-profile", "version": 1}', "expected 'swapplan-plan'"),
        ('{"format": "swapplan-plan", "version": 99}', "version is 99"),
    ],
)
@pytest.mark.parametrize("command", ["report", "trace"])
def test_a_wrong_file_is_one_line(
    command: str,
    content: str | None,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan, output = tmp_path / "a.plan.json", tmp_path / "a.out"
    if content is not None:
        plan.write_text(content)
    assert main([command, str(plan), "-o", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize("command", ["report", "trace"])
def test_a_folder_that_is_not_there_is_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "a.plan.json"
    write_plan(empty_plan(), plan)
    assert main([command, str(plan), "-o", str(tmp_path / "none" / "a.out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


# ---- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser_tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def look(tab: Tab, tmp_path: Path) -> Callable[[str], Tab]:
    """Shows a page."""

    def show(page: str) -> Tab:
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8")
        tab.failures.clear()
        tab.requests.clear()
        tab.open(path)
        return tab

    return show


def drawn(tab: Tab) -> list[float]:
    """The stretch of the step that the drawing shows."""
    text = tab.run(f"{TWO_FRAMES}.then(() => document.getElementById('canvas').dataset.drawn)")
    return [float(number) for number in text.split()]


def rows(tab: Tab) -> list[int]:
    """The swaps that are listed."""
    return list(
        tab.run("[...document.querySelectorAll('#swaps tbody tr')].map((r) => +r.dataset.swap)")
    )


def text(tab: Tab, selector: str) -> str:
    return str(tab.run(f"document.querySelector({json.dumps(selector)}).textContent"))


def click(tab: Tab, selector: str, number: int = 0) -> None:
    tab.run(f"document.querySelectorAll({json.dumps(selector)})[{number}].click()")


def place(tab: Tab, selector: str) -> tuple[float, float]:
    box = tab.run(
        f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
        ".getBoundingClientRect(); return [b.left, b.top]; })()"
    )
    return float(box[0]), float(box[1])


def test_the_step_is_zoomed_and_panned(look: Callable[[str], Tab]) -> None:
    plan = periodic_plan()
    tab, step_us = look(report_page(plan)), plan.certificate.simulated_step_us
    assert drawn(tab) == pytest.approx([0, step_us], abs=1e-3)
    click(tab, "#zoom-in")
    assert drawn(tab) == pytest.approx([step_us / 4, step_us * 3 / 4], abs=1e-2)
    click(tab, "#right")
    assert drawn(tab) == pytest.approx([step_us * 3 / 8, step_us * 7 / 8], abs=1e-2)
    tab.run("document.getElementById('canvas').focus()")
    tab.key("0")
    assert drawn(tab) == pytest.approx([0, step_us], abs=1e-3)
    x, y = place(tab, "#canvas")
    control = 2
    tab.mouse("mouseWheel", x + 500, y + 100, deltaX=0, deltaY=-300, modifiers=control)
    near = drawn(tab)
    assert 0 < near[0] < near[1] < step_us
    tab.mouse("mousePressed", x + 500, y + 100, button="left", clickCount=1)
    tab.mouse("mouseMoved", x + 400, y + 100, button="left")
    tab.mouse("mouseReleased", x + 400, y + 100, button="left", clickCount=1)
    far = drawn(tab)
    assert far[0] > near[0]
    assert far[1] - far[0] == pytest.approx(near[1] - near[0])
    assert tab.failures == []


def test_what_is_pointed_at_is_told(look: Callable[[str], Tab]) -> None:
    tab = look(report_page(stalling_plan()))
    x, y = place(tab, "#canvas")
    tab.mouse("mouseMoved", x + 400, y + 100)
    assert text(tab, "#tip").startswith("slot ")
    assert "with the plan" in text(tab, "#tip")


def test_swaps_are_sorted_filtered_and_followed(look: Callable[[str], Tab]) -> None:
    plan = periodic_plan()
    tab, swaps = look(report_page(plan)), page_data(simulated_step(plan))["swaps"]
    assert rows(tab) == list(range(len(plan.swaps)))
    assert text(tab, "#count").startswith(f"{len(plan.swaps)} of {len(plan.swaps)} swaps")
    assert "clean" in text(tab, "#swaps tbody")
    sizes = swaps["size_bytes"]
    for order in (True, False):
        click(tab, "#swaps th button", BYTES_COLUMN)
        assert [sizes[n] for n in rows(tab)] == sorted(sizes, reverse=order)
    first = rows(tab)[0]
    click(tab, "#swaps tbody tr")
    assert swaps["name"][first] in text(tab, "#selected")
    near = drawn(tab)
    assert near[1] - near[0] < plan.certificate.simulated_step_us
    for wanted in ("state:", "no storage is called so"):
        tab.run(f"document.getElementById('filter').value = {json.dumps(wanted)}")
        tab.run("document.getElementById('filter').dispatchEvent(new Event('input'))")
        assert rows(tab) == [n for n in rows(tab) if wanted in swaps["name"][n]]
    assert rows(tab) == []
    assert tab.failures == []


def test_an_empty_plan_is_a_page_too(look: Callable[[str], Tab]) -> None:
    tab = look(report_page(empty_plan()))
    assert text(tab, "#count") == "No swaps: the step fits within the budget."
    assert text(tab, "#waits").startswith("\nNowhere")
    assert tab.failures == []


def test_a_hostile_name_does_nothing(look: Callable[[str], Tab]) -> None:
    tab = look(report_page(hostile_plan()))
    click(tab, "#swaps tbody tr")
    assert text(tab, "title") == f"Swap plan: {HOSTILE}"
    assert text(tab, "#swaps td") == HOSTILE
    assert HOSTILE in text(tab, "#selected")
    assert tab.run("document.images.length + document.scripts.length") == 2
    assert tab.failures == []


def test_the_page_asks_for_nothing(look: Callable[[str], Tab]) -> None:
    tab = look(report_page(periodic_plan()))
    assert [url for url in tab.requests if not url.startswith(("data:", "file:"))] == []
    assert len([url for url in tab.requests if url.startswith("file:")]) == 1


def test_the_policy_stops_a_foreign_script(look: Callable[[str], Tab]) -> None:
    page = report_page(empty_plan())
    tab = look(page.replace("</header>", "</header><script>foreign = 1</script>"))
    assert tab.run("typeof foreign") == "undefined"
    assert any("Content Security Policy" in failure for failure in tab.failures)


def test_thousands_of_swaps_stay_a_page_that_can_be_used(look: Callable[[str], Tab]) -> None:
    plan = repeated(stalling_plan(), times=2000)
    assert len(plan.swaps) > 3000
    page = report_page(plan)
    assert len(page) < 500 * (len(plan.swaps) + len(plan.slots))
    tab = look(page)
    assert len(rows(tab)) == 200
    click(tab, "#more")
    assert len(rows(tab)) == 400
    click(tab, "#zoom-in")
    assert drawn(tab)[0] > 0
    assert tab.failures == []


STALLED_SHARE = """
(() => {
  const scale = canvas.width / canvas.clientWidth;
  const [x, y] = [GUTTER * scale, laneTop(0) * scale];
  const lane = context.getImageData(x, y, plotWidth() * scale, LANE_HEIGHT * scale).data;
  let stalled = 0;
  for (let n = 0; n < lane.length; n += 4) {
    if (lane[n] === 0xd5 && lane[n + 1] === 0x5e && lane[n + 2] === 0) stalled += 1;
  }
  return stalled / (lane.length / 4);
})()
"""


def test_slices_narrower_than_a_pixel_are_drawn_as_their_share(look: Callable[[str], Tab]) -> None:
    plan = stalling_plan()
    tab = look(report_page(repeated(plan, times=2000)))
    about = plan.certificate
    share = about.simulated_stall_us / about.simulated_step_us
    assert tab.run(STALLED_SHARE) == pytest.approx(share, abs=0.1)
    assert 0.1 < share < 0.9


def test_the_picture_shows_memory_lanes_and_stalls(
    look: Callable[[str], Tab], tmp_path: Path
) -> None:
    tab = look(report_page(stalling_plan()))
    for theme, with_plan in (("light", (0x00, 0x72, 0xB2)), ("dark", (0x56, 0xB4, 0xE9))):
        if theme == "dark":
            tab.dark()
        path = tmp_path / f"{theme}.png"
        tab.screenshot(path)
        pixels = np.rint(image.imread(path)[..., :3] * 255).astype(int)
        for name, colour in (
            ("memory with the plan", with_plan),
            ("stall", (0xD5, 0x5E, 0x00)),
            ("copies to the host", (0xCC, 0x79, 0xA7)),
            ("copies back", (0x00, 0x9E, 0x73)),
        ):
            # Lines between pixels are smoothed: the browser's own rounding is let pass.
            near = (abs(pixels - colour) <= 2).all(axis=-1)
            assert near.sum() > 500, (theme, name)
