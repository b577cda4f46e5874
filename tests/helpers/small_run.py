"""A run of a few small images."""

import hashlib
from pathlib import Path
from typing import Any

from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import open_run

SMALL: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": ["prism_intra", "random_real"],
    "ipc": 2,
    "batch_size": 10,
    "recipe": {"iterations": 9, "resample_every": 3},
}


def squeezed_run(folder: Path, name: str, **changes: Any) -> Run:
    """Return a run with its teachers, taken over from other runs in the folder if possible."""
    run = open_run(
        run_name=name, preset="digits_quick", runs_dir=folder, changes={**SMALL, **changes}
    )
    pipeline.execute(run, "squeeze")
    return run


def image_hashes(run: Run) -> dict[str, str]:
    """Return the hash of every image's file by its name."""
    found = sorted(run.path.glob("synthesis/*/images/*/*.png"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
