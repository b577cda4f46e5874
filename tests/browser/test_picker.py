"""The teacher picker in a real JupyterLab: a pool picked by hand, saved and trained."""

from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import expect

from prism_nb.execution.open_run import open_run
from tests.helpers.browser_page import cut_off
from tests.helpers.jupyter_lab import ROOT, Lab, set_parameters, wait_until


def test_teachers_are_picked_by_hand(lab: Lab) -> None:
    page = lab.page
    # The run takes its teachers over from its neighbour `digits`.
    open_run(run_name="picked", preset="digits_quick", runs_dir=lab.runs)
    notebook = ROOT / "notebooks" / "01_teacher_pool.ipynb"
    copy = lab.runs.parent / "notebooks" / "picked.ipynb"
    set_parameters(notebook, to=copy, run_name="picked")
    lab.open("picked")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.wait_for_selector("text=Waiting for the teacher picker", timeout=200_000)
    assert lab.outputs('nb.plan(run, "squeeze")') == "[]"  # the cells below wait
    picker = page.locator(".prism-picker")
    picker.get_by_role("button", name="Train").click()
    page.wait_for_selector("text=all 5 units are complete and undamaged", timeout=400_000)
    expect(picker.get_by_text("Finished: all 5 units are done.")).to_be_visible(timeout=60_000)
    lab.stays_clean()
    lab.tall_shot("notebook_01_teacher_pool")
    text = picker.get_by_label("Filter")
    text.scroll_into_view_if_needed()
    lab.shot("picker")
    text.fill("no such network")
    page.wait_for_selector("text=No network fits: shorten the filter")

    # From here by keyboard alone: the filter, the first line of the list, Enter.
    text.fill("mobilenetv3_small_050")
    found = picker.get_by_label("Candidates")
    page.wait_for_selector("text=/^1 of [0-9]+ networks/")
    expect(found.locator("option")).to_have_count(1)
    found.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Added: mobilenetv3_small_050", timeout=60_000)
    text.fill("lcnet_035")
    expect(found.locator("option")).to_have_count(1)
    found.locator("option").dblclick()
    page.wait_for_selector("text=Added: lcnet_035", timeout=60_000)

    for name, answer in (
        ("inception_v3", "cannot take 32-pixel images"),
        ("test_convnext", "Added: test_convnext"),
        ("resnet18", "Networks of the primary's family (resnet)"),
    ):
        picker.get_by_label("By name").fill(name)
        picker.get_by_label("By name").press("Enter")
        page.wait_for_selector(f"text={answer}", timeout=60_000)
    picker.get_by_role("button", name="Compare").click()
    page.wait_for_selector("text=Linear CKA of features", timeout=60_000)
    picker.get_by_role("button", name="Compare").scroll_into_view_if_needed()
    lab.shot("picker_compares")
    everything_fits(page)

    for name in ("resnet18", "test_convnext", "lcnet_035"):
        member = picker.locator(".prism-member", has_text=name)
        member.get_by_role("button", name="Remove").click()
        expect(member).to_have_count(0, timeout=60_000)
    picker.get_by_label("Primary", exact=True).select_option("test_byobnet")
    picker.get_by_label("Draw", exact=True).select_option("at random, again and again (intra)")
    picker.get_by_label("Steps per draw").fill("5")
    picker.get_by_label("Steps per draw").press("Tab")
    page.wait_for_selector("text=resample_every: 5", state="attached")
    expect(picker.get_by_text("Not saved yet: ")).to_be_visible()
    picker.get_by_role("button", name="Compare").scroll_into_view_if_needed()
    lab.shot("picker_ready")
    everything_fits(page)

    picker.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=primary test_resnet → test_byobnet", timeout=60_000)
    page.wait_for_selector("text=5 kept, 1 to train (mobilenetv3_small_050)", timeout=60_000)
    picker.get_by_role("button", name="Save").scroll_into_view_if_needed()
    lab.shot("picker_saved")
    config = lab.runs / "picked" / "config.yaml"
    wait_until(lambda: read(config)["primary"] == "test_byobnet", "the pick did not reach the run")
    assert read(config)["teachers"][-1] == "mobilenetv3_small_050"
    assert read(config)["recipes"] == {"prism": {"selection": "intra", "resample_every": 5}}
    text.fill("")
    picker.get_by_role("button", name="Suggest a pool").click()
    page.wait_for_selector("text=Suggested: test_byobnet, ", timeout=60_000)
    everything_fits(page)
    lab.use_theme("JupyterLab Dark")
    page.set_viewport_size({"width": 1920, "height": 1080})
    picker.get_by_role("button", name="Suggest a pool").scroll_into_view_if_needed()
    lab.shot("picker_dark")
    lab.use_theme("JupyterLab Light")


def everything_fits(page: Any) -> None:
    """Check that the picker and its tables fit a window of 1280 pixels."""
    ends = (
        "one => [one, ...one.querySelectorAll('table')].map(e => e.getBoundingClientRect().right)"
    )
    picker, *tables = page.eval_on_selector(".prism-picker", ends)
    assert picker <= 1280
    assert all(end <= picker for end in tables)
    assert cut_off(page) == []


def read(config: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(config.read_text())
    return values
