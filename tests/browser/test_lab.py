"""The first notebook in a real JupyterLab with a real browser: pick teachers by hand."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ARTEFACTS = ROOT / "tests" / "artefacts"
TOKEN = "only-for-this-test"
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
KERNEL_IS_IDLE = (
    "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
    " === 'idle'"
)

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A JupyterLab over a copy of the notebooks; yields its address and the runs folder."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    runs = tmp_path / "runs"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *("--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}"),
            *("--LabApp.expose_app_in_browser=True", f"--notebook-dir={tmp_path / 'notebooks'}"),
        ],
        env={**os.environ, "PRISM_RUNS": str(runs), "PRISM_HOME": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(f"{address}/api?token={TOKEN}", server)
        yield address, runs
    finally:
        server.terminate()
        server.wait(30)


def wait_for_server(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, "JupyterLab ended at once"
        try:
            urllib.request.urlopen(url, timeout=2)
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError("JupyterLab did not answer")


def test_teachers_are_picked_by_hand(lab: tuple[str, Path]) -> None:
    address, runs = lab
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(f"{address}/lab/tree/01_teacher_pool.ipynb?token={TOKEN}")
        page.wait_for_selector(".jp-NotebookPanel-notebook", timeout=90_000)
        page.wait_for_function(KERNEL_IS_IDLE, timeout=90_000)
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_selector("text=all 5 units are complete and whole", timeout=240_000)
        primary = page.get_by_label("Primary")
        primary.scroll_into_view_if_needed()
        assert primary.input_value() == "test_resnet"

        page.get_by_label("Add a network").fill("test_convnext")
        page.get_by_role("button", name="Add", exact=True).click()
        page.wait_for_selector("text=no BN layers", timeout=30_000)
        page.screenshot(path=shots() / "picker_refuses.png")

        primary.select_option("test_byobnet")
        page.wait_for_selector("text=primary: test_byobnet")
        page.screenshot(path=shots() / "picker.png")
        page.get_by_text("run.with_settings(picker.value)").first.click()
        page.keyboard.press("Shift+Enter")
        wait_for_primary(runs / "digits_quick" / "config.yaml", "test_byobnet")

        page.locator(".js-plotly-plot").first.scroll_into_view_if_needed()
        page.screenshot(path=shots() / "pool.png")
        browser.close()


def shots() -> Path:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return ARTEFACTS


def wait_for_primary(config: Path, name: str) -> None:
    deadline = time.monotonic() + 60
    while yaml.safe_load(config.read_text())["primary"] != name:
        assert time.monotonic() < deadline, "the pick did not reach the run"
        time.sleep(0.2)
