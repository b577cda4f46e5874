"""A real JupyterLab in a real Chromium, as a person would use it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from tests.helpers.browser_page import checked_page, chromium, cut_off, unnamed

ROOT = Path(__file__).parents[2]
ARTEFACTS = ROOT / "tests" / "artefacts"
TOKEN = "only-for-this-test"
NOTEBOOK = "window.jupyterapp.shell.currentWidget.content"
SCROLLED = "document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer')"
KERNEL_IS_IDLE = (
    "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
    " === 'idle'"
)


@dataclass
class Lab:
    """A JupyterLab over a folder like a clone, in a browser.

    Attributes:
        address: Address of the server.
        runs: The folder of its runs.
        page: Playwright's page.
    """

    address: str
    runs: Path
    page: Any

    def open(self, notebook: str) -> None:
        """Open a notebook, in tabs of its own, and wait for its kernel; end all other kernels."""
        for session in self._api("GET", "sessions"):
            self._api("DELETE", f"sessions/{session['id']}")
        place = f"workspaces/{notebook}/tree/notebooks/{notebook}.ipynb"
        self.page.goto(f"{self.address}/lab/{place}?token={TOKEN}")
        self.page.wait_for_selector(".jp-NotebookPanel-notebook", timeout=90_000)
        self.page.wait_for_function(KERNEL_IS_IDLE, timeout=90_000)

    def _api(self, method: str, path: str) -> Any:
        """Call JupyterLab's server."""
        address = f"{self.address}/api/{path}?token={TOKEN}"
        with urllib.request.urlopen(urllib.request.Request(address, method=method)) as answer:
            return json.loads(answer.read() or "null")

    def run_clean(self, notebook: str) -> None:
        """Run a notebook from top to bottom; nothing may fail, complain, or be cut off."""
        self.open(notebook)
        self.run_all()
        self.stays_clean()
        self.tall_shot(f"notebook_{notebook}")

    def stays_clean(self) -> None:
        """Check that all cells were run, without an error, and fit the page."""
        for cell in self.code_cells():
            assert cell["execution_count"] is not None, cell["source"]
            for output in cell["outputs"]:
                assert output["output_type"] != "error", output
                assert output.get("name") != "stderr", output
        assert cut_off(self.page) == []
        assert unnamed(self.page) == []

    def press_down(self, label: str, value: str) -> None:
        """Choose the next value of a list by keyboard; no other cell becomes the active one."""
        from playwright.sync_api import expect

        choice = self.page.locator(".prism-keys").get_by_label(label, exact=True).first
        choice.focus()
        active = self.page.evaluate(f"() => {NOTEBOOK}.activeCellIndex")
        self.page.keyboard.press("ArrowDown")
        expect(choice).to_have_js_property("value", value)
        assert self.page.evaluate(f"() => {NOTEBOOK}.activeCellIndex") == active

    def command(self, name: str, **arguments: Any) -> None:
        """Carry out one of JupyterLab's commands, and wait for its end."""
        script = "([name, given]) => window.jupyterapp.commands.execute(name, given)"
        self.page.evaluate(script, [name, arguments])

    def run_all(self) -> None:
        """Run every cell, and wait for the last."""
        self.command("notebook:run-all-cells")

    def run_up_to(self, text: str) -> None:
        """Run all cells above the one that holds a text, wait for them, and run that one."""
        self.page.get_by_text(text).first.click()
        self.command("notebook:run-all-above")
        self.page.keyboard.press("Shift+Enter")

    def run_cell(self, text: str) -> None:
        """Run the cell that holds a text."""
        self.page.get_by_text(text).first.click()
        self.page.keyboard.press("Shift+Enter")

    def use_theme(self, theme: str) -> None:
        """Change JupyterLab's theme."""
        self.command("apputils:change-theme", theme=theme)
        self.page.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")

    def code_cells(self) -> list[dict[str, Any]]:
        """Return the code cells of the open notebook with their outputs, as in nbformat."""
        cells: list[dict[str, Any]] = self.page.evaluate(f"() => {NOTEBOOK}.model.toJSON().cells")
        return [cell for cell in cells if cell["cell_type"] == "code"]

    def outputs(self, text: str) -> str:
        """Return the outputs of the code cell that holds a text, as JSON."""
        (cell,) = [c for c in self.code_cells() if text in "".join(c["source"])]
        return json.dumps(cell["outputs"], ensure_ascii=False)

    def wait_for_figure(self, text: str) -> None:
        """Wait until a figure on the page shows a text."""
        self.page.locator(".main-svg text", has_text=text).first.wait_for(timeout=60_000)

    def shot(self, name: str) -> None:
        """Save a picture of the window in `tests/artefacts`."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png")

    def tall_shot(self, name: str) -> None:
        """Save a picture of the whole notebook, from its first cell to its last."""
        window = self.page.viewport_size
        height = self.page.evaluate(f"() => {SCROLLED}.scrollHeight + 100")
        self.page.set_viewport_size({**window, "height": height})
        self.page.evaluate(f"() => {SCROLLED}.scrollTo(0, 0)")
        self.page.wait_for_timeout(500)  # figures are drawn anew
        self.shot(name)
        self.page.set_viewport_size(window)


@contextmanager
def opened_lab(folder: Path) -> Iterator[Lab]:
    """Open a JupyterLab over a folder with `notebooks` and `runs`, like a clone, in a browser.

    Raises:
        AssertionError: At the end, if the browser complained of anything.
    """
    with lab_server(folder) as address, chromium() as browser, checked_page(browser) as page:
        yield Lab(address, folder / "runs", page)


@contextmanager
def lab_server(folder: Path) -> Iterator[str]:
    """Start a JupyterLab over a folder like a clone, and return its address."""
    write_lab_settings(folder, "apputils/notification", fetchNews="false", checkForUpdates=False)
    (folder / "data").symlink_to(ROOT / "data")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "ip": "127.0.0.1",
        "port": port,
        "IdentityProvider.token": TOKEN,
        "LabApp.expose_app_in_browser": True,
        "notebook-dir": folder,
    }
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        env={
            **os.environ,
            "PRISM_RUNS": str(folder / "runs"),
            "PRISM_HOME": str(folder),
            # Open tabs and themes of other sessions are not this one's.
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        assert server.poll() is None, "JupyterLab ended at once"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}", timeout=2)
        except OSError:
            return False
        return True

    try:
        wait_until(answers, "JupyterLab did not answer", seconds=90)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def write_lab_settings(folder: Path, plugin: str, **values: Any) -> None:
    """Write settings of the lab over a folder, of a plugin such as `apputils/themes`."""
    extension, name = plugin.split("/")
    path = folder / f"settings/@jupyterlab/{extension}-extension/{name}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def set_parameters(notebook: Path, *, to: Path | None = None, **values: Any) -> None:
    """Add values to the parameters of a notebook, or of a copy, as a person would."""
    content = nbformat.read(notebook, as_version=4)
    cell = next(c for c in content.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    nbformat.write(content, to or notebook)


def wait_until(condition: Callable[[], bool], complaint: str, *, seconds: float = 60) -> None:
    """Wait until a condition holds; fail with the complaint if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)
