"""A gallery of 1,000 images: from files to a page, and from the page to the screen."""

from __future__ import annotations

import shutil
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, image_path, method_units
from prism_nb.data.registry import open_dataset
from prism_nb.viz.figures.gallery import GalleryView, gallery_html, panels

_METHOD = "random_real"  # which needs no teachers
_CLASSES, _IPC = 10, 100
_SIDES = {32: 32, 224: 64}  # of the images, and as they are shown
_ROUNDS = 3


def gallery_rows() -> list[dict[str, Any]]:
    """Time a page of 1,000 images of two sizes; print rows."""
    rows = []
    for size, side in _SIDES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_row(_filled(Path(folder) / "run", size), side))
    for row in rows:
        values = (f"{name} {value:.2f}" for name, value in row.items() if name != "case")
        print(f"{row['case']:<44}" + ", ".join(values))
    return rows


def _row(run: Run, side: int) -> dict[str, Any]:
    view = GalleryView((_METHOD,), tuple(range(_CLASSES)), per_page=_CLASSES * _IPC, side=side)
    classes, taken, work = open_dataset(run.settings).classes, [], []
    for _ in range(_ROUNDS):
        start, busy = time.perf_counter(), time.process_time()
        found = panels(run, view)
        page = gallery_html(found, view, classes)
        taken.append(time.perf_counter() - start)
        work.append(time.process_time() - busy)
    shown = len(found[0].rows)
    case = f"{shown} images of {run.settings.image_size} px, shown at {side} px"
    # Processor seconds of all threads hold on a busy machine too; seconds by the clock do not.
    seconds = {"page_s": min(taken), "slowest_page_s": max(taken), "processor_s": min(work)}
    return {"case": case, **seconds, "megabytes": len(page) / 1e6, "screen_s": _on_screen(page)}


def _filled(path: Path, size: int) -> Run:
    """Return a run whose images are grainy pictures, which pack about as synthetic ones do."""
    changes = {"image_size": size, "methods": [_METHOD], "ipc": _IPC, "batch_size": 100}
    run = Run.create(path, load_settings("digits_quick", changes))
    run.write_classes(open_dataset(run.settings).class_records())
    for unit in method_units(run, _METHOD, _CLASSES):
        paths = []
        for c, image_index in batch_of(unit).members():
            paths.append(image_path(_METHOD, c, image_index))
            fileio.write_bytes(run.file(paths[-1]), _picture(size, c * _IPC + image_index))
        run.units.finish(unit, paths=paths, record={"images": len(paths)})
    return run


def _picture(size: int, seed: int) -> bytes:
    rng, buffer = np.random.default_rng(seed), BytesIO()
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(np.float32)
    pixels = (smooth + rng.normal(0, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _on_screen(page: str) -> float:
    """Return the seconds in which Chromium takes a page and draws all of it; NaN without one."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        return float("nan")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 1000})
        start = time.perf_counter()
        tab.set_content(page)
        tab.screenshot(full_page=True)
        seconds = time.perf_counter() - start
        browser.close()
    return seconds
