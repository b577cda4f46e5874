"""Notebooks and widgets in a real JupyterLab: whole, clean, within the window, and at work.

One file, so that one worker of pytest-xdist runs all, with one JupyterLab.
"""

from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from playwright.sync_api import expect

from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import open_run
from tests.helpers.browser_page import checked_page, cut_off, unnamed, watched
from tests.helpers.jupyter_lab import (
    ARTEFACTS,
    KERNEL_IS_IDLE,
    ROOT,
    Lab,
    set_parameters,
    wait_until,
)


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
            assert unnamed(page) == []
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


# -- diversity and its dashboard -------------------------------------------------------------------


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
    lab.use_theme("JupyterLab Dark")  # a frame of another scheme than its page would be white
    scheme = frame.locator("html")
    expect(scheme).to_have_css("color-scheme", "dark")
    lab.use_theme("JupyterLab Light")
    expect(scheme).not_to_have_css("color-scheme", "dark")
    frame.locator("#tray .tile").first.focus()
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
    frame.locator("#tray .tile[title^='Real images, 3 · three']").first.wait_for(timeout=10_000)
    curve.scroll_into_view_if_needed()
    lab.shot("dashboard_matrix")
    assert cut_off(page) == []

    widget.get_by_role("button", name="Nearest neighbours").click()
    widget.locator(".js-plotly-plot").wait_for(timeout=60_000)
    widget.get_by_role("button", name="Save figure").click()
    saved = lab.runs / "digits" / "figures" / "dashboard_nearest.html"
    wait_until(saved.is_file, "the figure was not saved")


# -- the gallery -----------------------------------------------------------------------------------


def test_images_are_chosen_sorted_and_saved(lab: Lab) -> None:
    page = lab.page
    lab.run_clean("02_synthesis")
    images = page.locator(".prism-gallery [data-tile]")
    images.first.wait_for(timeout=240_000)
    methods = page.get_by_label("Images", exact=True)
    methods.scroll_into_view_if_needed()
    assert page.locator(".prism-panel").count() == 4
    assert images.count() == 8  # two of the first class each
    lab.shot("gallery")
    images.nth(1).click()
    dialog = page.get_by_role("dialog", name="Image inspector")
    dialog.get_by_role("heading", name="Real images, 0 · zero, image 1").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert cut_off(page) == []

    methods.select_option(label=["PRISM", "Real images"])
    classes = page.get_by_label("Classes", exact=True)
    classes.fill("all classes")
    page.keyboard.press("Enter")
    page.get_by_label("Sorted by", exact=True).select_option(label="agreement of the teachers")
    page.wait_for_selector("text=JS 0", timeout=60_000)
    page.get_by_label("Size (px)").select_option("96")
    page.get_by_label("Show initial images too").check()
    page.wait_for_selector("text=each after its initial image", timeout=60_000)
    methods.scroll_into_view_if_needed()
    lab.shot("gallery_sorted")
    assert cut_off(page) == []

    page.get_by_role("button", name="Save contact sheet").click()
    page.wait_for_selector("text=saved as figures/gallery_all_by_agreement_page1.png")
    sheet = lab.runs / "digits" / "figures" / "gallery_all_by_agreement_page1.png"
    with Image.open(sheet) as picture:
        assert picture.width > 2 * 96

    classes.fill("tvelve")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=no class 'tvelve'; did you mean")
    classes.fill("3-5")
    page.keyboard.press("Enter")
    expect(images).to_have_count(12)


# -- the run monitor -------------------------------------------------------------------------------


SMALL = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": ["prism", "sre2l"],
    "recipe": {"iterations": 240},
    "batch_size": 10,
}
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"


def ready_run(lab: Lab) -> Run:
    """Make a run with teachers and no images, and the notebook `monitored` that opens it."""
    notebook = ROOT / "notebooks" / "02_synthesis.ipynb"
    copy = lab.runs.parent / "notebooks" / "monitored.ipynb"
    set_parameters(notebook, to=copy, run_name="monitored")
    run = open_run(run_name="monitored", preset="digits_quick", runs_dir=lab.runs, changes=SMALL)
    pipeline.execute(run, "squeeze")
    return run


def show_monitor(lab: Lab) -> None:
    """Run the notebook up to the monitor and no further."""
    lab.run_up_to("display(nb.monitor(run))")
    progress = lab.page.get_by_role("progressbar", name="synthesis")
    progress.wait_for(timeout=120_000)
    progress.scroll_into_view_if_needed()


def test_a_run_is_started_stopped_resumed_and_found_again(lab: Lab) -> None:
    run, page = ready_run(lab), lab.page
    lab.open("monitored")
    show_monitor(lab)
    page.wait_for_selector("text=No units yet")
    page.wait_for_selector("text=/cpu · [0-9]+ cores · fp32 · .* GB · load/")
    assert page.get_by_role("button", name="Stop").is_disabled()

    page.get_by_role("button", name="Start", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Running in process", timeout=120_000)
    page.wait_for_selector("text=at work: prism/", timeout=120_000)
    page.get_by_alt_text("three, image 0").wait_for(timeout=60_000)
    page.wait_for_selector("text=/test_resnet [0-9]+% .logits [0-9]+%/")
    answer = f"() => {KERNEL}.requestExecute({{code: '6 * 7'}}).done.then(r => r.content.status)"
    assert page.evaluate(answer) == "ok"  # the kernel is free while the run continues
    page.wait_for_selector("text=/, step [1-9][0-9]*0 of 240/", timeout=120_000)
    lab.shot("monitor_running")
    assert cut_off(page) == []
    page.wait_for_selector("text=/[1-3] of 4 units done/", timeout=120_000)

    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("text=Stopped. Finished units are kept", timeout=60_000)
    assert [*run.path.glob("synthesis/*/units/*.json")]

    page.get_by_role("button", name="Resume").click()
    page.wait_for_selector("text=at work: ", timeout=120_000)
    page.evaluate(f"() => {KERNEL}.restart()")
    page.wait_for_function(KERNEL_IS_IDLE, timeout=60_000)
    show_monitor(lab)
    page.wait_for_selector("text=all 4 units are done", timeout=300_000)
    wait_until(lambda: not pipeline.state(run, "synthesis").missing, "the units are not whole")

    page.wait_for_selector("text=, step 240 of 240")
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text=, step 220 of 240")
    lab.shot("monitor_finished")
    assert cut_off(page) == []
    lab.use_theme("JupyterLab Dark")
    page.set_viewport_size({"width": 1920, "height": 1080})
    lab.shot("monitor_dark")
    lab.use_theme("JupyterLab Light")


# -- the teacher picker ----------------------------------------------------------------------------


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
