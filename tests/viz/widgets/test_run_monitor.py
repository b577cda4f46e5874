"""The run monitor without a browser: its buttons, what it shows, and when it ends."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.execution import pipeline
from prism_nb.viz import monitor as process
from prism_nb.viz.monitor import STAGE, Pull, log_path
from prism_nb.viz.style import color_at
from prism_nb.viz.widgets.run_monitor import RunMonitor, losses_html, pulls_html
from tests.helpers.synthesis_run import (
    begin_unit,
    finish_units,
    refresh_until,
    report_shares,
    unit_names,
    write_previews,
)

# A process that holds the stage, begins a unit, and ends as a driver does when interrupted.
DRIVER = """
import signal, sys, time
from pathlib import Path
from prism_nb.core.run import Run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
run = Run.open(Path(sys.argv[1]))
with run.locks.stage("synthesis"):
    try:
        run.events.append("synthesis", event="start", process=1, host="here")
        run.events.append("synthesis", event="unit_start", unit=sys.argv[2])
        time.sleep(60)
    except KeyboardInterrupt:
        run.events.append("synthesis", event="stopped")
        sys.exit(130)
"""


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Processes that are started in place of the synthesis, and end with the test."""
    children: list[subprocess.Popen[bytes]] = []

    def start(run: Run, stage: str) -> "subprocess.Popen[bytes]":
        fileio.write_bytes(log_path(run, stage), b"")
        command = [sys.executable, "-c", DRIVER, str(run.path), unit_names(run)[0]]
        children.append(subprocess.Popen(command))
        return children[-1]

    monkeypatch.setattr(process, "start_stage", start)
    yield children
    for child in children:
        child.kill()
        child.wait()


def buttons(monitor: RunMonitor) -> tuple[str, bool, bool]:
    """The first button's name, and which of the two can be pressed."""
    return monitor.start.description, not monitor.start.disabled, not monitor.stop.disabled


@pytest.mark.usefixtures("children")
def test_start_and_stop_from_any_monitor(run: Run) -> None:
    finish_units(run, 1)
    monitor = RunMonitor(run)
    assert buttons(monitor) == ("Resume", True, False)
    monitor.start.click()
    assert "Starting" in monitor.message.value
    assert buttons(monitor)[1:] == (False, False)
    refresh_until(monitor, "on this machine")
    assert buttons(monitor)[1:] == (False, True)
    second = RunMonitor(run)
    second.stop.click()
    assert second.stop.disabled
    refresh_until(second, "Stopped. Finished units are kept")
    refresh_until(monitor, "Stopped.")
    assert buttons(monitor)[1:] == (True, False)


def test_a_killed_driver_has_failed(run: Run, children: list["subprocess.Popen[bytes]"]) -> None:
    finish_units(run, 0)
    monitor = RunMonitor(run)
    monitor.start.click()
    refresh_until(monitor, "on this machine")
    while "at work" not in monitor.numbers.value:
        monitor.refresh()
    children[0].kill()
    refresh_until(monitor, "ended without a message")
    assert not monitor.start.disabled


def test_failed_starts_have_a_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(run: Run, stage: str) -> "subprocess.Popen[bytes]":
        fileio.write_bytes(log_path(run, stage), b"error: stage <squeeze> is not complete\n\n")
        child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
        child.wait()
        return child

    def refuse(run: Run, stage: str) -> "subprocess.Popen[bytes]":
        raise OSError("Read-only file system")

    finish_units(run, 0)
    monitor = RunMonitor(run)
    assert buttons(monitor) == ("Start", True, False)
    for start, reason in (
        (end, "ended with code 1: error: stage &lt;squeeze&gt; is"),
        (refuse, "Read-only file system"),
    ):
        monkeypatch.setattr(process, "start_stage", start)
        monitor.start.click()
        assert reason in monitor.message.value
        assert not monitor.start.disabled


def test_what_has_to_be_done_first_is_said_before_a_start(run: Run) -> None:
    monitor = RunMonitor(run)
    assert buttons(monitor) == ("Start", False, False)
    teachers = pipeline.stage_units(run, "squeeze")
    missing = f"{len(teachers)} of {len(teachers)} units of the squeeze are missing"
    assert f"Cannot start: {missing}; run notebook 01_teacher_pool" in monitor.message.value
    finish_units(run, 0)
    monitor.refresh()
    assert buttons(monitor) == ("Start", True, False)
    assert "Cannot start" not in monitor.message.value


def test_a_finished_run_leaves_no_thread(run: Run) -> None:
    finish_units(run, len(unit_names(run)))
    before = threading.active_count()
    monitor = RunMonitor(run)
    monitor.follow(0.01)
    assert "Finished" in monitor.message.value
    assert buttons(monitor)[1:] == (False, False)
    wait_for_threads(before)


def test_it_refreshes_until_it_is_closed_or_replaced(run: Run) -> None:
    before = threading.active_count()
    first, second = RunMonitor(run), RunMonitor(run)
    for monitor in (first, second):
        monitor.follow(0.01)
    wait_for_threads(before + 1)
    begin_unit(run, unit_names(run)[0])
    deadline = time.monotonic() + 120
    while "bn/net" not in second.losses.value:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "bn/net" not in first.losses.value
    second.close()
    wait_for_threads(before)


def wait_for_threads(count: int) -> None:
    deadline = time.monotonic() + 120
    while threading.active_count() > count:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.02)


def test_numbers_and_losses(run: Run) -> None:
    finish_units(run, 1)
    with run.locks.stage(STAGE):
        begin_unit(run, unit_names(run)[1])
        monitor = RunMonitor(run)
    count = len(unit_names(run))
    assert f"1 of {count} units done, {count - 1} missing" in monitor.numbers.value
    assert f'value="{1.25 / count:.4f}"' in monitor.numbers.value
    assert "step 5 of 20" in monitor.numbers.value
    assert "cpu · " in monitor.device.value
    assert " · fp32 · " in monitor.device.value
    assert "time left: " in monitor.numbers.value
    assert "bn/net" in monitor.losses.value
    assert "No pictures yet" in monitor.previews.sheet.value
    assert monitor.start.disabled
    assert monitor.stop.disabled  # the driver is this very process


# -- the networks' pull ----------------------------------------------------------------------

POOL = ("net_a@wheel", "timm/net_b@/far/away/b.pth", "net_c", "<d>")


def test_the_monitor_shows_what_pulls_the_images(run: Run) -> None:
    monitor = RunMonitor(run)
    assert monitor.pulls.value == ""
    begin_unit(run, unit_names(run)[0])
    report_shares(run, unit_names(run)[0], 4, test_resnet=0.95, test_byobnet=0.05)
    monitor.refresh()
    assert "PRISM, at step 4" in monitor.pulls.value
    assert "test_resnet 95%" in monitor.pulls.value
    assert "PRISM: test_resnet has 95% of the BN teachers&#39; pull" in monitor.pulls.value


def test_pulls_are_drawn_in_the_order_and_colours_of_the_pool() -> None:
    shares = {"bn/<d>": 0.05, f"bn/{POOL[1]}": 0.45, f"logit/{POOL[0]}": 0.3, "logit/net_c": 0.08}
    shown = pulls_html({"m": Pull({**shares, f"bn/{POOL[0]}": 0.12}, 3, 4)}, {"m": "M&M"}, POOL)
    assert "M&amp;M, mean of the last measurements of 3 units" in shown
    texts = re.findall(r"</span>\n([^<]+)</span>", shown)
    assert texts == ["net_a 42% (logits 30%)", "net_b 45%", "net_c 8% (logits)", "&lt;d&gt; 5%"]
    bars = re.findall(r'width: ([\d.]+)%;\s+background:([^"]*)(#\w{6})"', shown)
    assert [(float(width), color) for width, _, color in bars] == [
        (pytest.approx(12), color_at(0)),
        (pytest.approx(30), color_at(0)),
        (pytest.approx(45), color_at(1)),
        (pytest.approx(8), color_at(2)),
        (pytest.approx(5), color_at(3)),
    ]
    assert ["gradient" in hatched for _, hatched, _ in bars] == [False, True, False, True, False]
    assert "hardly count" not in shown


@pytest.mark.parametrize("share", [0.0, 1e-320, 1.0])
def test_no_share_breaks_the_bars(share: float) -> None:
    shown = pulls_html({"m": Pull({"bn/net_c": share, "bn/<d>": share}, 1, 0)}, {"m": "M"}, POOL)
    assert f"net_c {share:.0%}" in shown
    assert "hardly count" not in shown


# -- previews --------------------------------------------------------------------------------


def test_the_last_picture_is_followed_until_another_is_chosen(run: Run) -> None:
    run.write_classes(open_dataset(run.settings).class_records())
    unit = "prism/images000-000_classes000-009"
    write_previews(run, unit, 0, 5)
    previews = RunMonitor(run).previews
    assert ", step 5 of 20" in previews.sheet.value
    assert "BN statistics of a; logits of\na." in previews.sheet.value
    assert 'alt="three, image 0"' in previews.sheet.value
    assert 'alt="four, image 1"' in previews.sheet.value
    write_previews(run, unit, 15)
    previews.refresh()
    assert ", step 15 of 20" in previews.sheet.value
    assert "BN statistics of b&lt;; logits of\na." in previews.sheet.value
    previews.step.value = 5
    write_previews(run, unit, 20)
    previews.refresh()
    assert ", step 5 of 20" in previews.sheet.value


def test_previews_of_the_next_unit_follow(run: Run) -> None:
    first, second = (f"prism/images00{k}-00{k}_classes000-009" for k in (0, 1))
    run.write_classes(open_dataset(run.settings).class_records())
    write_previews(run, first, 0)
    previews = RunMonitor(run).previews
    previews.unit.value = first
    for path in run.file(f"previews/{first}").iterdir():
        path.unlink()
    previews.refresh()
    assert "No pictures yet" in previews.sheet.value
    write_previews(run, second, 5, 10)
    previews.refresh()
    assert f"<b>{second}</b>, step 10 of 20" in previews.sheet.value


# -- curves ----------------------------------------------------------------------------------


def test_curves_have_a_logarithmic_axis() -> None:
    losses = {"bn": [(0, 1.0), (50, 10.0), (100, 100.0)]}
    (path,) = re.findall(r'polyline points="([^"]+)"', losses_html("u", 0, losses))
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in path.split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1 > y2


def test_curves_have_the_colours_of_their_networks() -> None:
    losses = {f"{term}/{POOL[k]}": [(0, 1.0)] for term in ("logit", "bn") for k in (1, 0)}
    shown = losses_html("u", 0, losses | {"tv": [(0, 1.0)]}, POOL)
    lines = re.findall(r'<polyline.*?stroke="(\S+)".*?dasharray="(\S+)"', shown, re.DOTALL)
    colours = [colour for colour, _ in lines]
    assert colours[:4] == [color_at(1), color_at(0)] * 2
    assert colours[4] not in colours[:4]
    assert len(set(lines)) == 5
    assert re.findall(r"<td>([^<]+)</td>", shown)[:2] == ["logit/net_b", "logit/net_a"]


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf")])
def test_no_value_breaks_the_curves(value: float) -> None:
    shown = losses_html("u", 0, {"<b>": [(1, value), (2, 1.0)], "none": [(1, 0.0)]})
    assert "&lt;b&gt;" in shown
    assert "nan," not in shown
