"""Small pictures of a batch as it grows, for whoever watches; no result depends on them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of
from prism_nb.core.units import Unit
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.image_io import encode_png
from prism_nb.data.registry import open_dataset
from prism_nb.synthesis.loop import OnImages
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

_IMAGES = 20  # of a batch that are shown, at most
_SIDE = 96  # pixels; larger images are shown at this size
_PER_UNIT = 12


@contextmanager
def preview_writer(
    run: Run, unit: Unit, draws: TeacherSchedule, steps: int
) -> Iterator[OnImages | None]:
    """Give what writes `snapshots/<method>/<batch>/<step>.png` while a unit is at work.

    A picture is a strip of the batch's first images, side by side. Of each method, its latest
    unit's pictures are kept. They are written beside the work, and one that cannot be written is
    left out: looking must not end a run.

    Args:
        run: The run; its `preview_every` says how often.
        unit: The unit at work.
        draws: Who steers it, noted beside the pictures.
        steps: Steps of the unit's schedule.
    """
    asked = run.settings.preview_every
    every = max(1, -(-steps // _PER_UNIT)) if asked == "auto" else asked
    if not every:
        yield None
        return
    folder = run.file(f"snapshots/{unit.name}")
    shown = batch_of(unit).members()[:_IMAGES]
    about = {"unit": unit.name, "steps": steps, "images": shown, **_steering(draws)}
    with ThreadPoolExecutor(1) as writer:
        writer.submit(_begin, folder, about)
        yield _Looker(folder, writer, open_dataset(run.settings), every, steps, len(shown))


def _steering(draws: TeacherSchedule) -> dict[str, object]:
    return {
        "every": draws.every,
        "bn_teachers": draws.bn_teachers,
        "logit_teachers": draws.logit_teachers,
    }


def _begin(folder: Path, about: dict[str, object]) -> None:
    """Forget the pictures of the method's other units, and say what the coming ones show."""
    shutil.rmtree(folder.parent, ignore_errors=True)
    with suppress(PrismError):
        fileio.write_json(folder / "about.json", about)


class _Looker:
    """Takes pictures of images at chosen steps, the first and the last included."""

    def __init__(
        self,
        folder: Path,
        writer: ThreadPoolExecutor,
        dataset: ImageDataset,
        every: int,
        steps: int,
        count: int,
    ) -> None:
        self._folder, self._writer, self._dataset = folder, writer, dataset
        self._every, self._steps, self._count = every, steps, count

    def __call__(self, step: int, groups: Sequence[Tensor]) -> None:
        if step % self._every == 0 or step == self._steps:
            path = self._folder / f"{step:06d}.png"
            self._writer.submit(_write, path, self._pixels(groups))

    @torch.no_grad()
    def _pixels(self, groups: Sequence[Tensor]) -> Tensor:
        """Return the first images as uint8 on the CPU, [n, 3, side, side]."""
        images = torch.cat([group.detach()[: self._count] for group in groups])[: self._count]
        if images.shape[-1] > _SIDE:
            images = functional.interpolate(images, size=_SIDE, mode="area")
        return self._dataset.bytes_of(images).cpu()


def _write(path: Path, pixels: Tensor) -> None:
    with suppress(PrismError):
        fileio.write_bytes(path, encode_png(torch.cat(list(pixels), dim=2)))
