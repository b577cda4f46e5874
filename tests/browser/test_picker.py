"""The teacher picker in a real JupyterLab with a real browser: a pool picked by hand."""

from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import expect

from tests.helpers.browser_page import cut_off
from tests.helpers.jupyter_lab import Lab, wait_until


def test_teachers_are_picked_by_hand(lab: Lab) -> None:
    page = lab.page
    lab.open("01_teacher_pool")
    lab.run_all()
    page.wait_for_selector("text=all 5 units are complete and whole", timeout=400_000)
    page.locator(".js-plotly-plot").first.wait_for(state="attached", timeout=60_000)
    picker = page.locator(".prism-picker")
    filter_ = picker.get_by_label("Filter")
    filter_.scroll_into_view_if_needed()
    lab.shot("picker")
    assert picker.get_by_label("Primary", exact=True).input_value() == "test_resnet"

    filter_.fill("no such network")
    page.wait_for_selector("text=No network fits: shorten the filter")
    lab.shot("picker_without_match")
    # From here by keyboard alone: the filter, the first line of the list, the button.
    filter_.fill("mobilenetv3_small_050")
    found = picker.get_by_label("Candidates")
    page.wait_for_selector("text=/^1 of [0-9]+ networks/")
    expect(found.locator("option")).to_have_count(1)
    found.focus()
    page.keyboard.press("ArrowDown")
    add = picker.get_by_role("button", name="Add to pool")
    expect(add).to_be_enabled(timeout=60_000)
    add.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Added: mobilenetv3_small_050", timeout=60_000)

    picker.get_by_label("By name").fill("test_convnext")
    picker.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_selector("text=no BN layers", timeout=60_000)
    lab.shot("picker_refuses")

    picker.get_by_label("By name").fill("resnet18")
    picker.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_selector("text=resnet18 is of the primary's family (resnet)", timeout=60_000)
    picker.get_by_role("button", name="Compare").click()
    page.wait_for_selector("text=Linear CKA of features", timeout=60_000)
    picker.get_by_role("button", name="Compare").scroll_into_view_if_needed()
    lab.shot("picker_compares")
    everything_fits(page)

    pool = picker.get_by_label("Pool", exact=True)
    pool.select_option("resnet18")
    picker.get_by_role("button", name="Remove from pool").click()
    picker.get_by_label("Primary", exact=True).select_option("test_byobnet")
    picker.get_by_label("Draw", exact=True).select_option("at random, again and again (intra)")
    picker.get_by_label("Steps per draw").fill("5")
    picker.get_by_label("Steps per draw").press("Tab")
    page.wait_for_selector("text=resample_every: 5")
    picker.get_by_label("Draw", exact=True).scroll_into_view_if_needed()
    lab.shot("picker_draws")
    picker.get_by_text("Ready.").scroll_into_view_if_needed()
    lab.shot("picker_ready")
    everything_fits(page)

    lab.run_cell("run.with_settings(picker.value)")
    config = lab.runs / "digits_quick" / "config.yaml"
    wait_until(lambda: read(config)["primary"] == "test_byobnet", "the pick did not reach the run")
    assert read(config)["teachers"][-1] == "mobilenetv3_small_050"
    assert read(config)["recipes"] == {"prism": {"selection": "intra", "resample_every": 5}}

    pool.select_option([name.strip() for name in pool.locator("option").all_inner_texts()])
    picker.get_by_role("button", name="Remove from pool").click()
    page.wait_for_selector("text=the pool is empty", timeout=30_000)
    lab.shot("picker_empty")
    use_theme(page, "JupyterLab Dark")
    filter_.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)
    lab.shot("picker_dark")
    use_theme(page, "JupyterLab Light")


def use_theme(page: Any, name: str) -> None:
    """Change JupyterLab's theme, which it remembers beyond this test."""
    page.evaluate(
        "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name
    )
    page.wait_for_selector(f"body[data-jp-theme-name='{name}']", state="attached")


def everything_fits(page: Any) -> None:
    """Check that the picker is no wider than its place in a window of 1280 pixels."""
    ends = (
        "one => [one, ...one.querySelectorAll('table')].map(e => e.getBoundingClientRect().right)"
    )
    place, *tables = page.eval_on_selector(".prism-picker", ends)
    assert place <= 1280
    assert all(end <= place for end in tables)
    assert cut_off(page) == []


def read(config: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(config.read_text())
    return values
