"""The run monitor in a real JupyterLab: start, stop, resume, and a restart of the kernel."""

from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import open_run
from tests.helpers.browser_page import cut_off
from tests.helpers.jupyter_lab import KERNEL_IS_IDLE, ROOT, Lab, set_parameters, wait_until

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
