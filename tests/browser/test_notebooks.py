"""Every notebook in a real JupyterLab on a finished run: whole, clean, and within the window."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import expect

from tests.helpers.browser_page import checked_page, cut_off, watched
from tests.helpers.jupyter_lab import (
    ARTEFACTS,
    NOTEBOOK,
    ROOT,
    Lab,
    opened_lab,
    set_parameters,
    write_lab_settings,
)

SMALL_STUDY = {
    "title": "A small study",
    "preset": "digits_quick",
    "settings": {
        "teachers": ["test_resnet", "test_byobnet"],
        "holdout_networks": [],
        "feature_networks": ["test_byobnet"],
        "squeeze_epochs": 1,
        "methods": ["prism", "random_real"],
        "recipe": {"iterations": 5},
        "ipc": 2,
        "label_epochs": 2,
        "students": ["test_resnet"],
        "student_seeds": 1,
    },
    "searches": {"one": {"grid": {"lr": [0.05, 0.2]}}},
    "scenarios": {"tuned": {"title": "Tuned", "tuned_by": "one"}},
    "replicates": 2,
}


@pytest.fixture(scope="module")
def lab(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab for all of these tests, with a finished run and the file of a study."""
    place = tmp_path_factory.mktemp("lab")
    shutil.copytree(finished_runs, place / "runs")
    notebooks = shutil.copytree(ROOT / "notebooks", place / "notebooks")
    (place / "small.yaml").write_text(yaml.safe_dump(SMALL_STUDY))
    two = ["test_mambaout", "test_byobnet"]
    set_parameters(notebooks / "03_diversity.ipynb", feature_networks=two)
    for notebook in ("07_ablation", "08_diagnostics"):
        set_parameters(notebooks / f"{notebook}.ipynb", study=str(place / "small.yaml"))
    # Cells out of sight are drawn too, and the last one ends the page.
    write_lab_settings(place, "notebook/tracker", windowingMode="none", scrollPastEnd=False)
    with opened_lab(place) as opened:
        yield opened


def run_clean(lab: Lab, notebook: str) -> None:
    """Run a notebook from top to bottom; nothing may fail, complain, or be cut off."""
    lab.open(notebook)
    lab.run_all()
    stays_clean(lab)
    lab.tall_shot(f"notebook_{notebook}")


def stays_clean(lab: Lab) -> None:
    for cell in lab.code_cells():
        assert cell["execution_count"] is not None, cell["source"]
        for output in cell["outputs"]:
            assert output["output_type"] != "error", output
            assert output.get("name") != "stderr", output
    assert cut_off(lab.page) == []


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


@pytest.mark.parametrize("notebook", ["01_teacher_pool", "02_synthesis", "04_relabel"])
def test_a_notebook_runs_clean_on_what_is_finished(lab: Lab, notebook: str) -> None:
    run_clean(lab, notebook)


def press_down(lab: Lab, label: str, value: str) -> None:
    """Choose the next value of a list by keyboard; no other cell becomes the active one."""
    choice = lab.page.locator(".prism-keys").get_by_label(label, exact=True).first
    choice.focus()
    active = lab.page.evaluate(f"() => {NOTEBOOK}.activeCellIndex")
    lab.page.keyboard.press("ArrowDown")
    expect(choice).to_have_js_property("value", value)
    assert lab.page.evaluate(f"() => {NOTEBOOK}.activeCellIndex") == active


def test_diversity_follows_choices_by_keyboard(lab: Lab) -> None:
    run_clean(lab, "03_diversity")
    metrics, figures = 'nb.table(run, "metrics"', 'nb.figure(run, "image_map"'
    before = lab.outputs(metrics)
    press_down(lab, "Features", "test_byobnet")
    press_down(lab, "Measure", "cosine of the recognised images")
    press_down(lab, "Measure", "cosine to centroid")
    lab.wait_for_figure("Cosine to centroid, classes in ascending order")
    stays_clean(lab)
    lab.tall_shot("notebook_03_diversity_chosen")
    assert lab.outputs(metrics) != before
    assert "features of test_byobnet" in lab.outputs(figures)


def test_evaluation_follows_choices_by_keyboard(lab: Lab) -> None:
    run_clean(lab, "05_evaluation")
    learning = 'nb.figure(run, "learning"'
    assert "PRISM, test_resnet" in lab.outputs(learning)
    press_down(lab, "Student", "test_mambaout")
    lab.wait_for_figure("PRISM, test_mambaout")
    assert "PRISM, test_resnet" not in lab.outputs(learning)
    press_down(lab, "Baseline", "Random real")
    lab.wait_for_figure("Gain over Random real")
    press_down(lab, "Images of", "SRe2L")
    lab.wait_for_figure("test_mambaout, trained on SRe2L")
    stays_clean(lab)
    lab.tall_shot("notebook_05_evaluation_chosen")


def test_the_start_shows_the_class_that_is_chosen(lab: Lab) -> None:
    run_clean(lab, "00_start")
    press_down(lab, "Class", "1 · one")
    for figure in ("what each term asks for", "the same noise"):
        lab.wait_for_figure(f"Class 1 · one: {figure}")
    stays_clean(lab)
    lab.tall_shot("notebook_00_start_chosen")


def test_what_is_written_opens_by_its_link(lab: Lab) -> None:
    run_clean(lab, "06_report")
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


def test_the_report_opens_anywhere(lab: Lab) -> None:
    reads_well_offline(lab, lab.runs / "digits" / "figures" / "report.html", "report")


def test_a_study_is_carried_out_and_its_page_opens_anywhere(lab: Lab) -> None:
    run_clean(lab, "07_ablation")
    run_clean(lab, "08_diagnostics")
    reads_well_offline(lab, lab.runs / "small" / "study.html", "study")
