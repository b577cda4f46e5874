"""The first notebook in a real JupyterLab with a real browser: pick teachers by hand."""

from pathlib import Path

import yaml
from jupyter_lab import Lab, wait_until


def test_teachers_are_picked_by_hand(lab: Lab) -> None:
    page = lab.page
    lab.open("01_teacher_pool")
    lab.run_all()
    page.wait_for_selector("text=all 5 units are complete and whole", timeout=240_000)
    primary = page.get_by_label("Primary")
    primary.scroll_into_view_if_needed()
    assert primary.input_value() == "test_resnet"

    page.get_by_label("Add a network").fill("test_convnext")
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_selector("text=no BN layers", timeout=30_000)
    lab.shot("picker_refuses")

    primary.select_option("test_byobnet")
    page.wait_for_selector("text=primary: test_byobnet")
    lab.shot("picker")
    lab.run_cell("run.with_settings(picker.value)")
    config = lab.runs / "digits_quick" / "config.yaml"
    wait_until(lambda: primary_of(config) == "test_byobnet", "the pick did not reach the run")

    page.locator(".js-plotly-plot").first.scroll_into_view_if_needed()
    lab.shot("pool")


def primary_of(config: Path) -> str:
    return str(yaml.safe_load(config.read_text())["primary"])
