"""A real JupyterLab in a real Chromium, as a person would use it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass
class Lab:
    """A JupyterLab over a copy of the notebooks, and the page that looks at it.

    Attributes:
        address: Where it listens.
        runs: The folder of its runs.
        page: Playwright's page.
        errors: What the browser's console complained of.
    """

    address: str
    runs: Path
    page: Any
    errors: list[str] = field(default_factory=list)

    def open(self, notebook: str) -> None:
        """Open a notebook, in tabs of its own, and wait for its kernel."""
        place = f"workspaces/{notebook}/tree/{notebook}.ipynb"
        self.page.goto(f"{self.address}/lab/{place}?token={TOKEN}")
        self.page.wait_for_selector(".jp-NotebookPanel-notebook", timeout=90_000)
        self.page.wait_for_function(KERNEL_IS_IDLE, timeout=90_000)

    def run_all(self) -> None:
        """Run every cell; what to wait for is the caller's to say."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def run_cell(self, text: str) -> None:
        """Run the cell that holds a text."""
        self.page.get_by_text(text).first.click()
        self.page.keyboard.press("Shift+Enter")

    def shot(self, name: str) -> Path:
        """Keep a picture of what the page shows."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path


@contextmanager
def opened_lab(folder: Path) -> Iterator[Lab]:
    """Open a JupyterLab over a folder's `notebooks` and `runs`, and a page to look at it.

    Raises:
        AssertionError: At the end, where the browser's console named an error.
    """
    from playwright.sync_api import sync_playwright

    server, address = start_server(folder)
    try:
        wait_for_server(f"{address}/api?token={TOKEN}", server)
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            opened = Lab(address, folder / "runs", page)
            page.on("pageerror", lambda error: opened.errors.append(str(error)))
            yield opened
            browser.close()
            assert not opened.errors
    finally:
        server.terminate()
        server.wait(30)


def prefer(folder: Path, plugin: str, **values: Any) -> None:
    """Have the lab over a folder prefer some settings, of a plugin such as `apputils/themes`."""
    extension, name = plugin.split("/")
    path = folder / f"settings/@jupyterlab/{extension}-extension/{name}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


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
