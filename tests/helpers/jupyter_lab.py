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

from tests.helpers.browser_page import chromium, watched_page

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
    """A JupyterLab over a copy of the notebooks, and the page that looks at it.

    Attributes:
        address: Where it listens.
        runs: The folder of its runs.
        page: Playwright's page.
    """

    address: str
    runs: Path
    page: Any

    def open(self, notebook: str) -> None:
        """Open a notebook, in tabs of its own, and wait for its kernel."""
        place = f"workspaces/{notebook}/tree/{notebook}.ipynb"
        self.page.goto(f"{self.address}/lab/{place}?token={TOKEN}")
        self.page.wait_for_selector(".jp-NotebookPanel-notebook", timeout=90_000)
        self.page.wait_for_function(KERNEL_IS_IDLE, timeout=90_000)

    def run_all(self) -> None:
        """Run every cell, and wait for the last."""
        self.command("notebook:run-all-cells")

    def run_from(self, text: str) -> None:
        """Run the cell that holds a text and all below it, and wait for the last."""
        self.page.get_by_text(text).first.click()
        self.command("notebook:run-all-below")

    def command(self, name: str) -> None:
        """Carry out one of JupyterLab's commands, and wait for its end."""
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)

    def code_cells(self) -> list[dict[str, Any]]:
        """Return the code cells of the open notebook, with their outputs, as nbformat has them."""
        cells: list[dict[str, Any]] = self.page.evaluate(f"() => {NOTEBOOK}.model.toJSON().cells")
        return [cell for cell in cells if cell["cell_type"] == "code"]

    def run_cell(self, text: str) -> None:
        """Run the cell that holds a text."""
        self.page.get_by_text(text).first.click()
        self.page.keyboard.press("Shift+Enter")

    def outputs(self, text: str) -> str:
        """Return what the code cell that holds a text has shown, as JSON."""
        (cell,) = [c for c in self.code_cells() if text in "".join(c["source"])]
        return json.dumps(cell["outputs"], ensure_ascii=False)

    def shot(self, name: str) -> Path:
        """Keep a picture of what the page shows."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def tall_shot(self, name: str) -> Path:
        """Keep a picture of the whole notebook, from its first cell to its last."""
        seen = self.page.viewport_size
        height = self.page.evaluate(f"() => {SCROLLED}.scrollHeight + 100")
        self.page.set_viewport_size({**seen, "height": height})
        self.page.evaluate(f"() => {SCROLLED}.scrollTo(0, 0)")
        self.page.wait_for_timeout(500)  # figures are drawn anew
        path = self.shot(name)
        self.page.set_viewport_size(seen)
        return path


@contextmanager
def opened_lab(folder: Path) -> Iterator[Lab]:
    """Open a JupyterLab over a folder's `notebooks` and `runs`, and a page to look at it.

    Raises:
        AssertionError: At the end, where the browser complained of something.
    """
    server, address = start_server(folder)
    try:
        wait_for_server(f"{address}/api?token={TOKEN}", server)
        with chromium() as browser, watched_page(browser) as page:
            yield Lab(address, folder / "runs", page)
    finally:
        server.terminate()
        server.wait(30)


def prefer(folder: Path, plugin: str, **values: Any) -> None:
    """Have the lab over a folder prefer some settings, of a plugin such as `apputils/themes`."""
    extension, name = plugin.split("/")
    path = folder / f"settings/@jupyterlab/{extension}-extension/{name}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def set_parameters(notebook: Path, **values: Any) -> None:
    """Write values under a notebook's parameters, as a person would."""
    content = nbformat.read(notebook, as_version=4)
    cell = next(c for c in content.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    nbformat.write(content, notebook)


def start_server(folder: Path) -> "tuple[subprocess.Popen[bytes], str]":
    """Start a JupyterLab over a folder's notebooks, and return it and its address."""
    prefer(folder, "apputils/notification", fetchNews="false", checkForUpdates=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *("--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}"),
            *(
                "--LabApp.expose_app_in_browser=True",
                f"--notebook-dir={folder / 'notebooks'}",
            ),
        ],
        env={
            **os.environ,
            "PRISM_RUNS": str(folder / "runs"),
            "PRISM_HOME": str(ROOT),
            # Open tabs and themes of other sessions are not this one's.
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return server, f"http://127.0.0.1:{port}"


def wait_for_server(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Wait until a server answers."""

    def answers() -> bool:
        assert server.poll() is None, "JupyterLab ended at once"
        try:
            urllib.request.urlopen(url, timeout=2)
        except OSError:
            return False
        return True

    wait_until(answers, "JupyterLab did not answer", seconds=90)


def wait_until(true: Callable[[], bool], complaint: str, *, seconds: float = 60) -> None:
    """Wait until something is so; fail with the complaint where it does not become so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)
