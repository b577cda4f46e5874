"""Expected seconds of stages by `prism-nb plan`, against the seconds that they then take."""

from __future__ import annotations

import tempfile
from typing import Any

import safetensors.torch

from prism_nb.core import fileio
from prism_nb.core.device import choose_device
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.models.pool import untrained_teacher

_LARGE: dict[str, Any] = {
    "image_size": 224,
    "teachers": ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"],
    "primary": "resnet18",
    "holdout_networks": ["test_mambaout"],
    "methods": ["prism", "prism_intra"],
    "ipc": 4,
    "batch_size": 20,
    "recipe": {"iterations": 12, "init": "noise"},
    "recipes": {"prism_intra": {"resample_every": 2}},
}


def forecast_rows() -> list[dict[str, Any]]:
    """Return a row per stage: seconds expected, seconds taken, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        digits = open_run_module.open_run(preset="digits", runs_dir=folder)
        large = open_run_module.open_run(
            run_name="large", preset="digits", runs_dir=folder, changes=_LARGE
        )
        _give_fresh_weights(large)
        stages = ("squeeze", "synthesis", "relabel", "evaluation")
        rows = [_row("digits", digits, stage) for stage in stages]
        return [*rows, _row("224 px, a pool of 3", large, "synthesis")]


def _row(case: str, run: Run, stage: str) -> dict[str, Any]:
    expected = pipeline.plan(run, stage, measure=True).seconds_left or 0.0
    taken = pipeline.execute(run, stage).seconds
    print(
        f"{case:<22}{stage:<12}expected {expected:7.1f} s   taken {taken:7.1f} s   "
        f"{expected / taken:.2f}",
        flush=True,
    )
    return {"case": case, "stage": stage, "expected": expected, "taken": taken}


def _give_fresh_weights(run: Run) -> None:
    """Replace training, which steps do not depend on."""
    dataset, device = open_dataset(run.settings), choose_device(run.settings.device)
    for unit in pipeline.stage_units(run, "squeeze"):
        network = untrained_teacher(unit.params["network"], dataset, device).network
        tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        fileio.write_bytes(run.file(unit.params["weights"]), safetensors.torch.save(tensors))
        run.units.finish(unit, paths=[unit.params["weights"]], record={"seconds": 0.0})
