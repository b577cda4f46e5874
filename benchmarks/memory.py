"""What each stage holds in memory with few and with many images per class of 1,000 classes.

Images and networks are as small as they can be, so that what grows with the number of images is
not hidden by what does not. Each stage runs in a process of its own; pages of mapped files, which
the system takes back when it needs them, are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.common import ROOT, private_bytes
from benchmarks.rehearsal.drive import write_random_weights
from prism_nb.data.index import imagenet_wnids
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline

_IPCS = (16, 48)
_SIZE, _HELD_OUT, _REAL = 32, 2, 5
_LOOK = 0.05  # seconds between two samples of a process
_NETWORKS = ("test_resnet", "test_byobnet")


def memory_rows() -> list[dict[str, Any]]:
    """Return the peak of each stage at both numbers of images per class."""
    with tempfile.TemporaryDirectory() as name:
        folder, classes = Path(name), imagenet_wnids()
        _make_tree(folder / "tree", classes, train=max(_IPCS) + _REAL)
        for network in _NETWORKS:
            path = folder / f"{network}.safetensors"
            write_random_weights(path, network, list(classes), _SIZE)
        taken = {ipc: _stages(folder, ipc) for ipc in _IPCS}
    return [_row(stage, taken) for stage in pipeline.STAGES]


def _row(stage: str, taken: dict[int, dict[str, tuple[int, float]]]) -> dict[str, Any]:
    (few, low), (many, high) = ((ipc, found[stage][0]) for ipc, found in taken.items())
    each = (high - low) / ((many - few) * len(imagenet_wnids()))
    print(
        f"{stage:<12}{low / 1e6:8.0f} MB at IPC {few}{high / 1e6:8.0f} MB at IPC {many}"
        f"{each / 1e3:8.1f} KB per image",
        flush=True,
    )
    seconds = {f"seconds_ipc{ipc}": round(found[stage][1], 1) for ipc, found in taken.items()}
    peaks = {f"bytes_ipc{few}": low, f"bytes_ipc{many}": high}
    return {"stage": stage, **peaks, "bytes_per_image": round(each), **seconds}


def _stages(folder: Path, ipc: int) -> dict[str, tuple[int, float]]:
    """Do every stage of a run, and return the most memory and the seconds of each."""
    named = [f"{network}@{folder / network}.safetensors" for network in _NETWORKS]
    changes: dict[str, Any] = {
        "dataset": "folder",
        "data_dir": str(folder / "tree"),
        "image_size": _SIZE,
        "teachers": named,
        "primary": named[0],
        "holdout_networks": [],
        "feature_networks": named[1:],
        "methods": ["prism"],
        "ipc": ipc,
        "batch_size": 100,
        "recipe": {"iterations": 1, "early_late_step": 0},
        "preview_every": 0,
        "real_per_class": _REAL,
        "label_epochs": 1,
        "students": ["test_resnet"],
        "student_seeds": 1,
        "evaluate_every": 1,
        "threads": 2,
    }
    run = open_run_module.open_run(
        run_name=f"ipc{ipc}", preset="digits_quick", runs_dir=folder, changes=changes
    )
    return {stage: _watched(run.path, stage, folder / "cache") for stage in pipeline.STAGES}


def _watched(run: Path, stage: str, cache: Path) -> tuple[int, float]:
    command = [sys.executable, "-m", "prism_nb", "stage", run.name, stage]
    begin, peak = time.monotonic(), 0
    child = psutil.Popen(
        [*command, "--runs-dir", str(run.parent)],
        cwd=ROOT,
        env={**os.environ, "PRISM_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while child.poll() is None:
        peak = max(peak, private_bytes([child]))
        time.sleep(_LOOK)
    if child.returncode:
        raise SystemExit(f"stage {stage} of {run} failed")
    return peak, time.monotonic() - begin


def _make_tree(root: Path, classes: tuple[str, ...], *, train: int) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", _HELD_OUT)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            pixels = rng.integers(0, 256, (count, _SIZE, _SIZE, 3), dtype=np.uint8)
            for i, image in enumerate(pixels):
                Image.fromarray(image).save(folder / f"{i}.png", compress_level=0)
