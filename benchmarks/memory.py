"""What a process holds as images per class grow: each stage in a process of its own, at two IPCs.

Random real images stand in for synthetic ones, since they take the same memory and are made at
once; PRISM's own unit holds one batch, whatever the IPC is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.common import ROOT
from prism_nb import pipeline
from prism_nb.device import choose_device, peak_memory_bytes

_IPCS = (4, 80)
_CLASSES = 10
_CHANGES: dict[str, Any] = {
    "image_size": 128,
    "methods": ["random_real"],
    "teachers": ["test_resnet"],
    "primary": "test_resnet",
    "observers": ["test_mambaout"],
    "students": ["test_resnet"],
    "student_seeds": 1,
    "squeeze_epochs": 1,
    "label_epochs": 1,
    "batch_size": 20,
    "real_per_class": 4,
    "device": "cpu",
}


def memory_rows() -> list[dict[str, Any]]:
    """Return a row per stage: peak memory at both IPCs, and its growth per image."""
    with tempfile.TemporaryDirectory() as folder:
        peaks = {ipc: _peaks(folder, ipc) for ipc in _IPCS}
    few, many = _IPCS
    rows = []
    for stage, low in peaks[few].items():
        high = peaks[many][stage]
        grown = (high - low) / ((many - few) * _CLASSES)
        print(
            f"{stage:<12}{low / 1e6:8.0f} MB {high / 1e6:8.0f} MB {high / low:6.2f} x"
            f"{grown / 1e3:8.1f} KB per image",
            flush=True,
        )
        rows.append({"stage": stage, "bytes": [low, high], "per_image": grown})
    return rows


def _peaks(folder: str, ipc: int) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory", folder]
    found = {}
    for stage in pipeline.STAGES:
        done = subprocess.run(  # noqa: S603 (our own module)
            [*command, stage, str(ipc)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{stage} at IPC {ipc} failed:\n{done.stderr[-2000:]}")
        found[stage] = int(json.loads(done.stdout.splitlines()[-1]))
    return found


def _take(folder: str, stage: str, ipc: str) -> int:
    """Do one stage in this process, and return the most memory that it has held."""
    changes = {**_CHANGES, "ipc": int(ipc)}
    run = pipeline.open_run(
        run_name=f"ipc{ipc}", preset="digits_quick", runs_dir=folder, changes=changes
    )
    pipeline.execute(run, stage)
    return peak_memory_bytes(choose_device("cpu"))


if __name__ == "__main__":
    print(json.dumps(_take(*sys.argv[1:])))
