"""How soon the picker is seen, and follows the filter: `python tests/browser/picker_speed.py`."""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import expect

from tests.helpers.jupyter_lab import ROOT, Lab, opened_lab

ROUNDS = 3
WORDS = ("mobilenet", "mobilenetv3_small", "resnet 50", "")


def main() -> None:
    """Print medians over rounds, each with a JupyterLab and a kernel of its own."""
    seen, filtered = list[float](), list[float]()
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / "notebooks", Path(folder) / "notebooks")
            with opened_lab(Path(folder)) as lab:
                seen.append(seconds_to_show(lab))
                filtered += [seconds_to_filter(lab, words) for words in WORDS]
    print(f"seen after {statistics.median(seen):.2f} s (slowest {max(seen):.2f} s)")
    print(f"filtered in {statistics.median(filtered):.2f} s (slowest {max(filtered):.2f} s)")


def seconds_to_show(lab: Lab) -> float:
    """Return the seconds from running the picker's two cells until its list is seen."""
    page = lab.page
    lab.open("01_teacher_pool")
    page.get_by_text("picker = TeacherPicker(run)").first.click()
    lab.command("notebook:run-all-above")
    begin = time.perf_counter()
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    page.locator(".prism-picker").get_by_text("networks with batch norm").wait_for()
    return time.perf_counter() - begin


def seconds_to_filter(lab: Lab, words: str) -> float:
    """Return the seconds from typing a filter until the list has followed."""
    picker = lab.page.locator(".prism-picker")
    count = picker.get_by_text("networks with batch norm")
    before = count.inner_text()
    begin = time.perf_counter()
    picker.get_by_label("Filter").fill(words)
    expect(count).not_to_have_text(before)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
