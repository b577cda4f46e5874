"""The work of the synthesis: make one batch of images and write it down."""

from __future__ import annotations

import time
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from prism_nb import files
from prism_nb.backends import OnEvent
from prism_nb.data import ImageDataset, open_dataset
from prism_nb.data.subset import random_real
from prism_nb.device import choose_device
from prism_nb.plans.batches import Batch
from prism_nb.plans.synthesis import batch_of, bn_candidates, image_path
from prism_nb.run import Run
from prism_nb.synthesis import initial
from prism_nb.synthesis.recover import recover
from prism_nb.teachers.pool import load_teacher
from prism_nb.teachers.selection import draw_bn_teachers
from prism_nb.units import Unit, unit_seed

_REPORTS = 100  # loss records per unit


def do_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Make the images of one unit."""
    batch = batch_of(unit)
    dataset = open_dataset(run.settings)
    start = time.monotonic()
    if run.settings.recipe_of(unit.key["method"]).images == "real":
        pixels = random_real(
            dataset, batch.members(), seed=run.settings.seed, tag=unit.key["method"]
        )
        record: dict[str, Any] = {}
    else:
        pixels, record = _recover(run, unit, batch, dataset, on_event)
    paths = _write_images(run, unit.key["method"], batch, pixels)
    seconds = round(time.monotonic() - start, 3)
    run.finish(unit, paths=paths, record={**record, "seconds": seconds, "images": len(paths)})


def _recover(
    run: Run, unit: Unit, batch: Batch, dataset: ImageDataset, on_event: OnEvent
) -> tuple[Tensor, dict[str, Any]]:
    settings, method = run.settings, unit.key["method"]
    recipe, device = settings.recipe_of(method), choose_device(settings.device)
    seed = unit_seed(settings.seed, "synthesis", method, *batch.slots, *batch.classes)
    generator = torch.Generator().manual_seed(seed)
    drawn = draw_bn_teachers(
        settings.primary,
        bn_candidates(settings, method),
        primary_in_bn=recipe.primary_in_bn,
        slots=recipe.bn_slots,
        probability=recipe.bn_probability,
        generator=generator,
    )
    start = (
        initial.noise(batch, dataset, generator)
        if recipe.init == "noise"
        else initial.real_in_order(batch, dataset)
    )
    last: dict[str, float] = {}

    def on_step(step: int, losses: dict[str, Tensor]) -> None:
        if step % max(1, recipe.iterations // _REPORTS) == 0 or step == recipe.iterations:
            last.update({name: value.item() for name, value in losses.items()})
            progress = {"step": step, "steps": recipe.iterations, "losses": dict(last)}
            on_event({"event": "step", "unit": unit.name, **progress})

    images = recover(
        start.to(device, memory_format=torch.channels_last),
        torch.tensor([c for c, _ in batch.members()], device=device),
        primary=load_teacher(run, settings.primary),
        bn_teachers=[load_teacher(run, name) for name in drawn],
        bounds=dataset.bounds(device),
        recipe=recipe,
        generator=generator,
        on_step=on_step,
    )
    record = {"seed": seed, "bn_teachers": list(drawn), "losses": last, "device": str(device)}
    return dataset.bytes_of(images).cpu(), record


def _write_images(run: Run, method: str, batch: Batch, pixels: Tensor) -> list[str]:
    paths = []
    for (class_index, slot), image in zip(batch.members(), pixels, strict=True):
        path = image_path(method, class_index, slot)
        files.write_bytes(run.file(path), encode_png(image))
        paths.append(path)
    return paths


def encode_png(image: Tensor) -> bytes:
    """Encode a uint8 RGB image [3, H, W] as PNG."""
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
