"""Notebooks in a real JupyterLab on a finished run: whole, clean, and within the window."""

from pathlib import Path

from tests.helpers.browser_page import checked_page, watched
from tests.helpers.jupyter_lab import ARTEFACTS, Lab


def reads_well_offline(lab: Lab, page_file: Path, name: str) -> None:
    """Open a page in light and in dark without a network, and keep pictures of both."""
    grounds = set()
    for scheme in ("light", "dark"):
        browser = lab.page.context.browser
        with checked_page(browser, offline=True, color_scheme=scheme) as page:
            page.goto(page_file.as_uri())
            page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=30_000)
            ground, width = page.evaluate(
                "() => [getComputedStyle(document.body).backgroundColor,"
                " document.documentElement.scrollWidth]"
            )
            grounds.add(ground)
            assert width <= 1280
            page.screenshot(path=ARTEFACTS / f"{name}_{scheme}.png", full_page=True)
    assert len(grounds) == 2


def test_labels_are_shown(lab: Lab) -> None:
    lab.run_clean("04_relabel")


def test_evaluation_follows_choices_by_keyboard(lab: Lab) -> None:
    lab.run_clean("05_evaluation")
    learning = 'nb.figure(run, "learning"'
    assert "PRISM, test_resnet" in lab.outputs(learning)
    lab.press_down("Student", "test_mambaout")
    lab.wait_for_figure("PRISM, test_mambaout")
    assert "PRISM, test_resnet" not in lab.outputs(learning)
    lab.press_down("Baseline", "Random real")
    lab.wait_for_figure("Gain over Random real")
    lab.press_down("Images of", "SRe2L")
    lab.wait_for_figure("test_mambaout, trained on SRe2L")
    lab.stays_clean()
    lab.tall_shot("notebook_05_evaluation_chosen")


def test_the_start_shows_the_class_that_is_chosen(lab: Lab) -> None:
    lab.run_clean("00_start")
    lab.press_down("Class", "1 · one")
    for figure in ("what each term asks for", "the same noise"):
        lab.wait_for_figure(f"Class 1 · one: {figure}")
    lab.stays_clean()
    lab.tall_shot("notebook_00_start_chosen")


def test_what_is_written_opens_by_its_link(lab: Lab) -> None:
    lab.run_clean("06_report")
    page = lab.page
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="figures/report.html").click()
    with watched(opened.value) as report:
        report.locator("h1").wait_for(timeout=60_000)
        report.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=60_000)
        report.close()
    page.get_by_role("link", name="figures/accuracy.plotly.json").click()
    tab = page.locator(".jp-MimeDocument")
    tab.locator(".main-svg").first.wait_for(timeout=60_000)
    lab.shot("opened_figure")
    lab.command("application:close")
    page.get_by_role("link", name="figures/images_prism.png").click()
    page.locator(".jp-ImageViewer img").wait_for(timeout=60_000)
    lab.command("application:close")
    page.get_by_role("button", name="Show in the file browser").click()
    page.locator(".jp-DirListing-item", has_text="config.yaml").wait_for(timeout=60_000)
    lab.shot("opened_folder")
    reads_well_offline(lab, lab.runs / "digits" / "figures" / "report.html", "report")


def test_a_study_is_shown_and_its_page_opens_anywhere(lab: Lab) -> None:
    lab.run_clean("07_ablation")
    lab.run_clean("08_diagnostics")
    reads_well_offline(lab, lab.runs / "small" / "study.html", "study")
