"""Runs whose synthesis is pretended: markers and events without any image."""

import socket
import time

import torch

from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.data.image_io import encode_image
from prism_nb.execution import pipeline
from prism_nb.viz.monitor import STAGE
from prism_nb.viz.widgets.run_monitor import RunMonitor


def unit_names(run: Run) -> list[str]:
    return [unit.name for unit in pipeline.stage_units(run, STAGE)]


def finish_units(run: Run, count: int) -> None:
    """Write the markers of all teachers and of the first units, with a file each."""
    for stage, limit in (("squeeze", None), (STAGE, count)):
        for unit in pipeline.stage_units(run, stage)[:limit]:
            path = f"{stage}/{unit.name}.bin"
            fileio.write_bytes(run.file(path), b"content")
            run.units.finish(unit, paths=[path], record={"seconds": 3.0})


def begin_unit(run: Run, unit: str) -> None:
    """Write the events of a driver that has done 5 of 20 steps of a unit."""
    run.events.append(STAGE, event="start", process=1, host=socket.gethostname())
    run.events.append(STAGE, event="unit_start", unit=unit)
    report_step(run, unit, 5, 2.0)


def report_step(run: Run, unit: str, step: int, loss: float) -> None:
    run.events.append(STAGE, event="step", unit=unit, step=step, steps=20, losses={"bn/net": loss})


def report_shares(run: Run, unit: str, step: int, **of_bn: float) -> None:
    """Write an event with shares of the gradient, by BN teacher."""
    shares = {f"bn/{network}": share for network, share in of_bn.items()}
    run.events.append(STAGE, event="gradient", unit=unit, step=step, shares=shares)


def write_previews(run: Run, unit: str, *steps: int) -> None:
    """Write pictures of two images each."""
    folder = run.file(f"previews/{unit}")
    about = {"unit": unit, "steps": 20, "images": [[3, 0], [4, 1]], "resample_every": 10}
    fileio.write_json(
        folder / "about.json", {**about, "bn_teachers": [["a"], ["b<"]], "logit_teachers": ["a"]}
    )
    for step in steps:
        picture = torch.full((3, 8, 16), step, dtype=torch.uint8)
        fileio.write_bytes(folder / f"{step:06d}.png", encode_image(picture))


def refresh_until(monitor: RunMonitor, text: str) -> None:
    """Refresh a monitor until its message holds a text."""
    deadline = time.monotonic() + 240
    while text not in monitor.message.value:
        assert time.monotonic() < deadline, monitor.message.value
        time.sleep(0.05)
        monitor.refresh()
