"""The run monitor without a browser: what its buttons do, what it shows, and when it ends."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.data.image_io import encode_image
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.viz.monitor import STAGE, curves_svg, log_path, loss_terms_table
from prism_nb.viz.widgets import run_monitor
from prism_nb.viz.widgets.run_monitor import RunMonitor
from tests.viz.test_monitor_state import begin, do, units_of

Launch = Callable[[Run], "subprocess.Popen[bytes]"]

# A process that holds the stage, says that it has begun, and ends as a driver does when told to.
DRIVER = """
import sys, time
from pathlib import Path
from prism_nb.pipeline import _told
from prism_nb.run import Run
run = Run.open(Path(sys.argv[1]))
with run.lock("synthesis"), _told(run, "synthesis"):
    run.event("synthesis", event="unit_start", unit=sys.argv[2])
    time.sleep(60)
"""


@pytest.fixture
def launched(run: Run) -> Iterator[Launch]:
    """Start a stand-in for the synthesis; whatever is left of it ends with the test."""
    children: list[subprocess.Popen[bytes]] = []

    def launch(run: Run) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", DRIVER, str(run.path), units_of(run)[0]]
        children.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        return children[-1]

    yield launch
    for child in children:
        child.kill()
        child.wait()


def refreshed_until(monitor: RunMonitor, words: str) -> None:
    deadline = time.monotonic() + 240
    while words not in monitor.words.value:
        assert time.monotonic() < deadline, monitor.words.value
        time.sleep(0.05)
        monitor.refresh()


def ended(code: int, words: bytes = b"") -> Launch:
    """Start something that ends at once, with a last word in the log."""

    def launch(run: Run) -> "subprocess.Popen[bytes]":
        fileio.write_bytes(log_path(run), words)
        child = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
        child.wait()
        return child

    return launch


def test_start_and_stop(run: Run, launched: Launch) -> None:
    monitor = RunMonitor(run, every=0, start=launched)
    assert (monitor.start.disabled, monitor.stop.disabled) == (False, True)
    assert "No units yet" in monitor.words.value
    monitor.start.click()
    assert "Starting" in monitor.words.value
    assert (monitor.start.disabled, monitor.stop.disabled) == (True, True)
    refreshed_until(monitor, "on this machine")
    assert (monitor.start.disabled, monitor.stop.disabled) == (True, False)
    monitor.stop.click()
    refreshed_until(monitor, "Stopped. Finished units are kept")
    assert monitor.start.description == "Resume"
    assert (monitor.start.disabled, monitor.stop.disabled) == (False, True)


def test_a_second_monitor_stops_what_the_first_has_started(run: Run, launched: Launch) -> None:
    first = RunMonitor(run, every=0, start=launched)
    first.start.click()
    refreshed_until(first, "on this machine")
    second = RunMonitor(run.path, every=0)
    assert not second.stop.disabled
    second.stop.click()
    refreshed_until(second, "Stopped.")
    refreshed_until(first, "Stopped.")


def test_a_driver_that_is_killed_is_said_to_have_died(run: Run, launched: Launch) -> None:
    children = []
    monitor = RunMonitor(run, every=0, start=lambda r: children.append(launched(r)) or children[0])
    monitor.start.click()
    refreshed_until(monitor, "on this machine")
    children[0].kill()
    refreshed_until(monitor, "died at")
    assert monitor.start.description == "Resume"
    assert not monitor.start.disabled


def test_what_cannot_start_says_why_in_its_last_words(run: Run) -> None:
    words = b"error: stage <teachers> is not complete\n"
    monitor = RunMonitor(run, every=0, start=ended(1, words))
    monitor.start.click()
    assert "It did not start: error: stage &lt;teachers&gt;" in monitor.words.value
    assert not monitor.start.disabled
    begin(run, units_of(run)[0])  # someone else drives it: the problem is no longer ours
    monitor._launch = ended(0)
    monitor.start.click()
    assert "did not start" not in monitor.words.value


def test_a_folder_that_cannot_be_written_to_is_said(run: Run) -> None:
    def refused(run: Run) -> "subprocess.Popen[bytes]":
        raise PrismError("cannot start: Read-only file system")

    monitor = RunMonitor(run, every=0, start=refused)
    monitor.start.click()
    assert "Read-only file system" in monitor.words.value
    assert not monitor.start.disabled


def test_what_dies_before_a_word_is_said_to_have_been_killed(run: Run) -> None:
    monitor = RunMonitor(run, every=0, start=ended(9))
    monitor.start.click()
    assert "It did not start: its process was killed" in monitor.words.value


def test_work_of_this_kernel_cannot_be_stopped_by_a_button_that_it_cannot_hear(run: Run) -> None:
    with run.lock(STAGE):
        monitor = RunMonitor(run, every=0)
        assert "interrupt the kernel to stop it" in monitor.words.value
        assert (monitor.start.disabled, monitor.stop.disabled) == (True, True)


def test_what_is_no_run_is_said_in_the_widget(tmp_path: Path) -> None:
    monitor = RunMonitor(tmp_path)
    assert "Nothing to show" in monitor.notice.value
    assert "no run has begun" in monitor.notice.value
    assert monitor.children == (monitor.notice,)


def test_a_complete_run_has_nothing_to_press_and_leaves_no_thread(run: Run) -> None:
    do(run, len(units_of(run)))
    before = threading.active_count()
    monitor = RunMonitor(run, every=0.01)
    assert "Complete" in monitor.words.value
    assert (monitor.start.disabled, monitor.stop.disabled) == (True, True)
    wait_for_threads(before)


def test_it_follows_by_itself_until_it_is_closed_or_replaced(run: Run) -> None:
    before = threading.active_count()
    first = RunMonitor(run, every=0.01)
    second = RunMonitor(run, every=0.01)
    wait_for_threads(before + 1)
    begin(run, units_of(run)[0], host="far")
    deadline = time.monotonic() + 120
    while "step 5 of 20" not in second.numbers.value:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "step 5 of 20" not in first.numbers.value
    second.close()
    wait_for_threads(before)
    assert run.path.resolve() not in run_monitor._OPEN


def wait_for_threads(count: int) -> None:
    deadline = time.monotonic() + 120
    while threading.active_count() > count:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.02)


def test_numbers_and_losses(run: Run) -> None:
    do(run, 1)
    begin(run, units_of(run)[1])
    monitor = RunMonitor(run, every=0)
    count = len(units_of(run))
    assert f"1 of {count} units done, {count - 1} missing" in monitor.numbers.value
    assert f'value="{1.25 / count:.4f}"' in monitor.numbers.value
    assert "time left: " in monitor.numbers.value
    assert "bn/net" in monitor.curve.value
    assert "No pictures yet" in monitor.growing.sheet.value
    assert monitor.growing._controls.layout.display == "none"


def report(run: Run, unit: str, step: int, value: float) -> None:
    losses = {"bn/net": value}
    run.event(STAGE, event="step", unit=unit, step=step, steps=20, losses=losses)


def test_losses_of_units_at_work_side_by_side_are_looked_at_one_by_one(run: Run) -> None:
    first, second = units_of(run)[:2]
    begin(run, first)
    run.event(STAGE, event="unit_start", unit=second)
    for step in (6, 7):
        report(run, second, step, 4.0)
        report(run, first, step, 1.0)
    monitor = RunMonitor(run, every=0)
    assert f"Losses of {second}" in monitor.curve.value  # begun last, though not heard of last
    assert [*monitor.growing.unit.options] == ["latest", first, second]
    monitor.growing.unit.value = first
    assert f"Losses of {first}" in monitor.curve.value
    (path,) = re.findall(r'points="([^"]+)"', monitor.curve.value)
    assert len(path.split()) == 3
    assert "No pictures yet" in monitor.growing.sheet.value
    film(run, second, 0, 5)
    monitor.refresh()
    assert "No pictures of this unit" in monitor.growing.sheet.value
    assert monitor.growing.step.disabled
    monitor.growing.unit.value = "latest"
    assert f"<b>{second}</b>, step 5" in monitor.growing.sheet.value
    assert not monitor.growing.step.disabled


def test_a_unit_whose_pictures_are_there_but_not_its_losses_says_so(run: Run) -> None:
    film(run, "prism/<b>", 0)
    monitor = RunMonitor(run, every=0)
    monitor.growing.unit.value = "prism/<b>"
    assert "No losses of prism/&lt;b&gt; in the event log" in monitor.curve.value


def film(run: Run, unit: str, *steps: int) -> None:
    """Write pictures of two images each, whose grey is the step."""
    folder = run.file(f"previews/{unit}")
    about = {"unit": unit, "steps": 20, "images": [[3, 0], [4, 1]], "resample_every": 10}
    fileio.write_json(
        folder / "about.json", {**about, "bn_teachers": [["a"], ["b<"]], "logit_teachers": ["a"]}
    )
    for step in steps:
        picture = torch.full((3, 8, 16), step, dtype=torch.uint8)
        fileio.write_bytes(folder / f"{step:06d}.png", encode_image(picture))


def drawn(words: str) -> str:
    """The line below the pictures, which everyone sees."""
    return f'<div class="prism-drawn">Networks drawn for these images: {words}.</div>'


def test_the_latest_picture_is_shown_until_another_is_picked(run: Run) -> None:
    open_run_module.open_run(run_name=run.name, runs_dir=run.path.parent)  # records the classes
    film(run, "prism/images000-000_classes000-009", 0, 5)
    growing = RunMonitor(run, every=0).growing
    assert ", step 5 of 20" in growing.sheet.value
    assert drawn("BN statistics of a; logits of a") in growing.sheet.value
    assert 'alt="three, image 0"' in growing.sheet.value
    assert 'alt="four, image 1"' in growing.sheet.value
    assert growing.later.disabled
    film(run, "prism/images000-000_classes000-009", 15)
    growing.refresh()
    assert ", step 15 of 20" in growing.sheet.value
    assert drawn("BN statistics of b&lt;; logits of a") in growing.sheet.value
    growing.earlier.click()
    assert ", step 5 of 20" in growing.sheet.value
    film(run, "prism/images000-000_classes000-009", 20)
    growing.refresh()
    assert ", step 5 of 20" in growing.sheet.value
    growing.earlier.click()
    assert "(as it begins)" in growing.sheet.value
    assert growing.earlier.disabled
    growing.step.value = 15
    growing.later.click()
    assert ", step 20 of 20" in growing.sheet.value


def test_pictures_of_a_unit_that_are_gone_make_room_for_the_next(run: Run) -> None:
    first, second = (f"prism/images00{k}-00{k}_classes000-009" for k in (0, 1))
    film(run, first, 0)
    growing = RunMonitor(run, every=0).growing
    growing.unit.value, growing.step.value = first, 0
    for path in run.file(f"previews/{first}").iterdir():
        path.unlink()
    growing.refresh()
    assert "No pictures yet" in growing.sheet.value
    film(run, second, 5, 10)
    growing.refresh()
    assert ", step 10 of 20" in growing.sheet.value
    assert growing.unit.value == "latest"


def test_without_pictures_it_says_by_what_setting(run: Run) -> None:
    quiet = run.with_settings(run.settings.model_copy(update={"preview_every": 0}))
    assert "preview_every" in RunMonitor(quiet, every=0).growing.sheet.value


def test_a_run_whose_files_cannot_be_read_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = RunMonitor(run, every=0)

    def gone(*_: object) -> None:
        raise PrismError("the disk is gone")

    monkeypatch.setattr(monitor._follower, "read", gone)
    monitor.refresh()
    assert "The run cannot be read: the disk is gone" in monitor.words.value


def test_curves_lie_on_a_logarithmic_scale() -> None:
    svg = curves_svg({"bn": [(0, 1.0), (50, 10.0), (100, 100.0)]}, steps=100)
    points = svg.split('points="')[1].split('"')[0].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1 > y2


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf")])
def test_no_value_breaks_the_curves(value: float) -> None:
    terms = {"<b>": [(1, value), (2, 1.0)], "none": []}
    assert "nan" not in curves_svg(terms, steps=0)
    assert "&lt;b&gt;" in loss_terms_table(terms)


def test_the_stage_is_the_one_that_the_pipeline_knows() -> None:
    assert STAGE in pipeline.STAGES
