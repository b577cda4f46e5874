"""Previews of a batch in optimization, for the run monitor; no result depends on them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of
from prism_nb.core.units import Unit
from prism_nb.data.image_io import encode_image
from prism_nb.data.registry import open_dataset
from prism_nb.synthesis.loop import Callback, ImageOptimizer
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

_MAX_IMAGES = 20  # images of a batch in a preview
_MAX_SIDE = 96  # pixels; larger images are shrunk
_PER_UNIT = 12  # previews of a unit where preview_every is auto


@contextmanager
def preview_writer(
    run: Run, unit: Unit, schedule: TeacherSchedule, optimizer: ImageOptimizer
) -> Iterator[list[Callback]]:
    """Provide a callback that writes `previews/<method>/<batch>/<step>.png`, or none.

    A preview has the first images of the batch in a row, every few steps, those of the present step
    first and those of the last step last; none are written where `preview_every` is 0. Only the
    latest unit of each method has previews. A thread writes them, and a preview that cannot be
    written is skipped. The schedule is recorded in `about.json`.
    """
    setting, steps = run.settings.preview_every, optimizer.total_steps
    if setting == 0:
        yield []
        return
    every = max(1, -(-steps // _PER_UNIT)) if setting == "auto" else setting
    folder, dataset = run.file(f"previews/{unit.name}"), open_dataset(run.settings)
    shown = batch_of(unit).members()[:_MAX_IMAGES]
    about = {"unit": unit.name, "steps": steps, "images": shown, **asdict(schedule)}
    with ThreadPoolExecutor(1) as writer:

        def write(optimizer: ImageOptimizer, _: dict[str, Tensor]) -> None:
            step = optimizer.step
            if step % every == 0 or step == steps:
                pixels = dataset.to_uint8(_shrunk(optimizer.images)).cpu()
                writer.submit(_write, folder / f"{step:06d}.png", pixels)

        writer.submit(_reset_folder, folder, about)
        write(optimizer, {})
        yield [write]


def _shrunk(images: Tensor) -> Tensor:
    """Return the first images, small enough for a preview."""
    images = images[:_MAX_IMAGES]
    if images.shape[-1] <= _MAX_SIDE:
        return images
    return functional.interpolate(images, size=_MAX_SIDE, mode="area")


def _reset_folder(folder: Path, about: dict[str, object]) -> None:
    shutil.rmtree(folder.parent, ignore_errors=True)
    with suppress(PrismError):
        fileio.write_json(folder / "about.json", about)


def _write(path: Path, pixels: Tensor) -> None:
    with suppress(PrismError):
        fileio.write_bytes(path, encode_image(torch.cat(list(pixels), dim=2)))
