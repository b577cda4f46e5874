"""Diversity in a real JupyterLab: choices by keyboard, and every figure of the dashboard."""

from tests.helpers.browser_page import cut_off
from tests.helpers.jupyter_lab import Lab, wait_until


def follows_choices(lab: Lab) -> None:
    metrics, figures = 'nb.table(run, "metrics"', 'nb.figure(run, "image_map"'
    before = lab.outputs(metrics)
    lab.press_down("Features", "test_byobnet")
    lab.press_down("Measure", "cosine of the recognised images")
    lab.press_down("Measure", "cosine to centroid")
    lab.wait_for_figure("Cosine to centroid, classes in ascending order")
    lab.stays_clean()
    lab.tall_shot("notebook_03_diversity_chosen")
    assert lab.outputs(metrics) != before
    assert "features of test_byobnet" in lab.outputs(figures)


def test_choices_and_every_figure_of_the_dashboard(lab: Lab) -> None:
    page = lab.page
    lab.run_clean("03_diversity")
    follows_choices(lab)
    curve = page.get_by_role("button", name="Curve over classes")
    curve.wait_for(timeout=240_000)
    widget = page.locator(".jp-OutputArea-output:has(button:text('Curve over classes'))").first
    widget.locator(".js-plotly-plot").wait_for(timeout=60_000)
    widget.get_by_label("Measure", exact=True).select_option(label="Vendi score")
    widget.get_by_text("Vendi score, classes in ascending order").wait_for(timeout=30_000)

    widget.get_by_role("button", name="Map", exact=True).click()
    widget.get_by_label("Classes", exact=True).fill("all classes")
    page.keyboard.press("Enter")
    frame = page.frame_locator("iframe[title^='PCA of 560 images']")
    frame.locator(".js-plotly-plot").wait_for(timeout=60_000)
    frame.locator("#tray canvas").first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Image inspector")
    dialog.get_by_role("heading", name="Real images, 0 · zero, image 0").wait_for(timeout=10_000)
    page.keyboard.press("ArrowLeft")
    dialog.get_by_role("heading", name="Random real, 9 · nine").wait_for(timeout=10_000)
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    curve.scroll_into_view_if_needed()
    lab.shot("dashboard_map")
    assert cut_off(page) == []
    widget.get_by_label("Map by", exact=True).select_option(label="UMAP")
    page.wait_for_selector("iframe[title^='UMAP of 560 images']", timeout=180_000)

    widget.get_by_role("button", name="Similarity matrix").click()
    page.wait_for_selector("text=A similarity matrix is of one class")
    widget.get_by_label("Classes", exact=True).fill("three")
    page.keyboard.press("Enter")
    frame = page.frame_locator("iframe[title^='Cosine of all pairs, class 3']")
    frame.locator(".nsewdrag").first.hover()
    frame.locator("#tray canvas[title^='Real images, 3 · three']").first.wait_for(timeout=10_000)
    curve.scroll_into_view_if_needed()
    lab.shot("dashboard_matrix")
    assert cut_off(page) == []

    widget.get_by_role("button", name="Nearest neighbours").click()
    widget.locator(".js-plotly-plot").wait_for(timeout=60_000)
    widget.get_by_role("button", name="Save figure").click()
    saved = lab.runs / "digits" / "figures" / "dashboard_nearest.html"
    wait_until(saved.is_file, "the figure was not saved")
