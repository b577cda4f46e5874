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
from prism_nb.synthesis.loop import ImageOptimizer
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

_MAX_IMAGES = 20  # images of a batch in a preview
_MAX_SIDE = 96  # pixels; larger images are shrunk
_PER_UNIT = 12  # previews of a unit where preview_every is auto


class PreviewWriter:
    """Writes `previews/<method>/<batch>/<step>.png`: the first images of a batch in a row.

    Only the latest unit of each method has previews. A writer thread does the work, and a
    preview that cannot be written is skipped.

    Args:
        run: The run.
        unit: The unit in optimization.
        schedule: Its teachers, recorded in `about.json`.
        optimizer: Its images; those of the present step are the first preview.
        writer: The thread.
    """

    def __init__(
        self,
        run: Run,
        unit: Unit,
        schedule: TeacherSchedule,
        optimizer: ImageOptimizer,
        writer: ThreadPoolExecutor,
    ) -> None:
        every, steps = run.settings.preview_every, optimizer.total_steps
        self._every = max(1, -(-steps // _PER_UNIT)) if every == "auto" else every
        self._folder, self._writer = run.file(f"previews/{unit.name}"), writer
        self._dataset = open_dataset(run.settings)
        shown = batch_of(unit).members()[:_MAX_IMAGES]
        about = {"unit": unit.name, "steps": steps, "images": shown, **asdict(schedule)}
        writer.submit(_reset_folder, self._folder, about)
        self(optimizer, {})

    def __call__(self, optimizer: ImageOptimizer, losses: dict[str, Tensor]) -> None:
        """Write a preview every few steps, the last step included."""
        step = optimizer.step
        if step % self._every == 0 or step == optimizer.total_steps:
            path = self._folder / f"{step:06d}.png"
            self._writer.submit(_write, path, self._pixels(optimizer))

    @torch.no_grad()
    def _pixels(self, optimizer: ImageOptimizer) -> Tensor:
        """Return the first images as uint8 [n, 3, side, side] on the CPU."""
        images = optimizer.images[:_MAX_IMAGES]
        if images.shape[-1] > _MAX_SIDE:
            images = functional.interpolate(images, size=_MAX_SIDE, mode="area")
        return self._dataset.to_uint8(images).cpu()


@contextmanager
def preview_writer(
    run: Run, unit: Unit, schedule: TeacherSchedule, optimizer: ImageOptimizer
) -> Iterator[list[PreviewWriter]]:
    """Provide a unit's preview callback, or none where `preview_every` is 0."""
    if run.settings.preview_every == 0:
        yield []
        return
    with ThreadPoolExecutor(1) as writer:
        yield [PreviewWriter(run, unit, schedule, optimizer, writer)]


def _reset_folder(folder: Path, about: dict[str, object]) -> None:
    shutil.rmtree(folder.parent, ignore_errors=True)
    with suppress(PrismError):
        fileio.write_json(folder / "about.json", about)


def _write(path: Path, pixels: Tensor) -> None:
    with suppress(PrismError):
        fileio.write_bytes(path, encode_image(torch.cat(list(pixels), dim=2)))
