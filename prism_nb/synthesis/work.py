"""The work of the synthesis: make one batch of images and write it down."""

from __future__ import annotations

import math
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
from prism_nb.errors import PrismError
from prism_nb.plans.batches import Batch
from prism_nb.plans.synthesis import batch_of, image_path
from prism_nb.run import Run
from prism_nb.synthesis.initial import initial_images
from prism_nb.synthesis.recover import recover
from prism_nb.synthesis.scales import network_scales
from prism_nb.teachers.pool import load_teacher
from prism_nb.teachers.selection import plan_draws
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
    recipe = settings.recipe_of(method).at_slot(batch.slots[0])
    device = choose_device(settings.device)
    seed = unit_seed(settings.seed, "synthesis", method, *batch.slots, *batch.classes)
    generator = torch.Generator().manual_seed(seed)
    draws = plan_draws(recipe, settings.primary, settings.teachers, generator)
    primary = load_teacher(run, settings.primary)
    teachers = {name: load_teacher(run, name) for name in draws.networks}
    start = initial_images(recipe.init, batch, dataset, seed=settings.seed, generator=generator)

    def real_images() -> Tensor:
        pixels = random_real(dataset, batch.members(), seed=settings.seed, tag="scale")
        return dataset.canonical(pixels.to(device))

    scales = network_scales(recipe, primary, list(teachers.values()), real_images)
    progress = _Progress(unit, recipe.iterations, on_event)
    images = recover(
        start.to(device, memory_format=torch.channels_last),
        torch.tensor([c for c, _ in batch.members()], device=device),
        primary=primary,
        teachers=teachers,
        draws=draws,
        scales=scales,
        bounds=dataset.bounds(device),
        recipe=recipe,
        generator=generator,
        on_step=progress,
    )
    record = {
        "seed": seed,
        "draws": {"every": draws.every, "teams": draws.teams},
        "scales": scales,
        "shares": _shares(progress.sums, scales),
        "losses": progress.last,
        "device": str(device),
    }
    return dataset.bytes_of(images).cpu(), record


class _Progress:
    """Reads the losses about a hundred times per unit, so that a GPU rarely waits for Python."""

    def __init__(self, unit: Unit, steps: int, on_event: OnEvent) -> None:
        self._unit, self._steps, self._on_event = unit, steps, on_event
        self.last: dict[str, float] = {}
        self.sums: dict[str, float] = {}

    def __call__(self, step: int, losses: dict[str, Tensor]) -> None:
        if step % max(1, self._steps // _REPORTS) and step != self._steps:
            return
        self.last = {name: value.item() for name, value in losses.items()}
        for name, value in self.last.items():
            if not math.isfinite(value):
                raise PrismError(
                    f"unit {self._unit.name} diverged: {name} is {value} at step {step}; lower lr "
                    "or bn_weight in the recipe"
                )
            self.sums[name] = self.sums.get(name, 0.0) + value
        progress = {"step": step, "steps": self._steps, "losses": self.last}
        self._on_event({"event": "step", "unit": self._unit.name, **progress})


def _shares(sums: dict[str, float], scales: dict[str, float]) -> dict[str, float]:
    """Return each network's share of the weighted BN loss over the steps that were read."""
    weighted = {name: factor * sums.get(f"bn/{name}", 0.0) for name, factor in scales.items()}
    total = sum(weighted.values())
    return {name: value / total if total else 0.0 for name, value in weighted.items()}


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
