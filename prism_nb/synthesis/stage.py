"""The work of the synthesis: make one batch of images and write it down."""

from __future__ import annotations

import math
import time
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.device import choose_device, tf32_mode
from prism_nb.core.errors import PrismError
from prism_nb.core.recipe import Recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, chosen_compile, image_path
from prism_nb.core.units import ImageBatch, OnEvent, Unit, WriteResult
from prism_nb.data.distilled import random_real
from prism_nb.data.image_io import encode_png, quantise
from prism_nb.data.imported import imported_set
from prism_nb.data.registry import open_dataset
from prism_nb.models.checkpoint import Checkpoint, Stateful
from prism_nb.models.pool import load_conv_targets, load_teacher
from prism_nb.synthesis.init import prepare_unit
from prism_nb.synthesis.loop import recover
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective, StatMatcher, bn_loss_scales, build_stat_matcher
from prism_nb.synthesis.preview import preview_writer
from prism_nb.synthesis.teacher_sampling import TeacherSchedule, teacher_schedule

_REPORTS = 100  # loss records per unit


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> WriteResult:
    """Make the images of one unit; what is returned writes them down."""
    method, start = unit.params["method"], time.monotonic()
    imported = run.settings.recipe_of(method).image_source == "imported"
    pixels, record = _import(run, unit) if imported else _make(run, unit, on_event)
    record |= {"seconds": round(time.monotonic() - start, 3), "images": len(pixels)}

    def finish() -> None:
        run.finish(unit, paths=_write_images(run, method, batch_of(unit), pixels), record=record)
        _checkpoint(run, unit).clear()

    return finish


def _checkpoint(run: Run, unit: Unit) -> Checkpoint:
    """Return where a unit goes on after an interruption; by whatever it was made, it is bound."""
    device = choose_device(run.settings.device).type
    versions = [torch.__version__, torchvision.__version__, timm.__version__]
    made_by = [device, chosen_compile(run), *versions]
    return Checkpoint(
        run.file(f"{unit.marker.removesuffix('.json')}.checkpoint.safetensors"),
        short_hash([unit.fingerprint, run.content(unit.inputs), *made_by]),
        every=60 * run.settings.checkpoint_interval_min,
    )


def _import(run: Run, unit: Unit) -> tuple[Tensor, dict[str, Any]]:
    found = imported_set(run.settings, unit.params["method"], open_dataset(run.settings))
    return found.images(batch_of(unit).members())


def _make(run: Run, unit: Unit, on_event: OnEvent) -> tuple[Tensor, dict[str, Any]]:
    settings = run.settings
    dataset, start = open_dataset(settings), prepare_unit(run, unit)
    images, recipe = start.images, start.recipe
    record: dict[str, Any] = {}
    if recipe.image_source == "optimized":
        with tf32_mode(settings.precision, choose_device(settings.device)):
            images, record = _recover(run, unit, recipe, images, start.generator, on_event)
    return quantise(dataset, images, how=recipe.image_format), record | {"seed": start.seed}


def _recover(
    run: Run,
    unit: Unit,
    recipe: Recipe,
    initial: Tensor,
    generator: torch.Generator,
    on_event: OnEvent,
) -> tuple[Tensor, dict[str, Any]]:
    settings, batch = run.settings, batch_of(unit)
    device, dataset = choose_device(settings.device), open_dataset(settings)
    draws = teacher_schedule(settings, unit.params["method"], batch)
    matchers = _watches(run, recipe, draws, generator)

    def real_images() -> Tensor:
        pixels = random_real(dataset, batch.members(), seed=settings.replicate_seed, tag="scale")
        return dataset.canonical(pixels.to(device))

    drawn = [matchers[name] for name in draws.bn_networks]
    scales = bn_loss_scales(recipe, matchers.get(settings.primary), drawn, real_images)
    kept = _checkpoint(run, unit) if settings.checkpoint_interval_min else None
    progress = _Progress(unit, recipe.iterations, on_event, kept)
    gradient = MicroBatchedBackward(Objective(recipe, matchers, scales), settings.part)
    with preview_writer(run, unit, draws, recipe.iterations) as look:
        images = recover(
            initial.to(device, memory_format=torch.channels_last),
            torch.tensor([c for c, _ in batch.members()], device=device),
            gradient=gradient,
            draws=draws,
            recipe=recipe,
            bounds=dataset.bounds(device),
            generator=generator,
            on_step=progress,
            joins=[
                recipe.start_step(image_index, settings.ipc) for _, image_index in batch.members()
            ],
            look=look,
            memory=progress,
        )
    record = {
        "draws": {
            "every": draws.every,
            "bn_teachers": draws.bn_teachers,
            "logits": draws.logit_teachers,
        },
        "scales": scales,
        "shares": _shares(progress.sums, scales),
        "losses": progress.last,
        "device": str(device),
        "compile": chosen_compile(run),
        "precision": settings.precision,
        "micro_batch_size": gradient.part,
    }
    return images, record


def _watches(
    run: Run, recipe: Recipe, draws: TeacherSchedule, generator: torch.Generator
) -> dict[str, StatMatcher]:
    """Load every network that a unit needs, and the primary where others are scaled to it."""
    anchor = [run.settings.primary] if recipe.bn_normalize != "none" else []
    compiled = chosen_compile(run) == "compiled"
    matchers = {}
    for name in dict.fromkeys([*draws.networks, *anchor]):
        targets = None
        if recipe.statistics == "bn_conv" and name in [*draws.bn_networks, *anchor]:
            targets = load_conv_targets(run, name, recipe.conv_patch_size)
        teacher = load_teacher(run, name)
        matchers[name] = build_stat_matcher(
            teacher,
            recipe,
            conv_targets=targets,
            generator=generator,
            precision=run.settings.precision,
            compiled=compiled,
        )
    return matchers


class _Progress:
    """Sums losses where they are, and reads their means about a hundred times per unit.

    So a GPU rarely waits for Python, and networks that take turns are all heard. An interrupted
    unit goes on from a step at which they were read, with the sums as they were.
    """

    def __init__(
        self, unit: Unit, steps: int, on_event: OnEvent, checkpoint: Checkpoint | None = None
    ) -> None:
        self._unit, self._steps, self._on_event = unit, steps, on_event
        self._checkpoint = checkpoint
        self._window: dict[str, list[Tensor]] = {}
        self.last: dict[str, float] = {}
        self.sums: dict[str, float] = {}

    def __call__(self, step: int, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            self._window.setdefault(name, []).append(loss.detach())
        if step % max(1, self._steps // _REPORTS) and step != self._steps:
            return
        seen = {name: torch.stack(values) for name, values in self._window.items()}
        self._window = {}
        self.last = {name: values.mean().item() for name, values in seen.items()}
        for name, value in self.last.items():
            if not math.isfinite(value):
                raise PrismError(
                    f"unit {self._unit.name} diverged: {name} is {value} at step {step}; lower lr "
                    "or r_bn in the recipe"
                )
            self.sums[name] = self.sums.get(name, 0.0) + value * len(seen[name])
        progress = {"step": step, "steps": self._steps, "losses": self.last}
        self._on_event({"event": "step", "unit": self._unit.name, **progress})

    def recall(self, work: Stateful) -> None:
        """Go on from where an interrupted call of this unit stood, if it has left that."""
        found = self._checkpoint.restore(work) if self._checkpoint else None
        if found is not None:
            self.last, self.sums = found["last"], found["sums"]

    def offer(self, work: Stateful) -> None:
        """Keep where the unit stands, if all losses are read and it is time to."""
        if self._checkpoint and not self._window:
            self._checkpoint.offer(work, {"last": self.last, "sums": self.sums})


def _shares(sums: dict[str, float], scales: dict[str, float]) -> dict[str, float]:
    """Return each network's share of the weighted BN loss, summed over the steps."""
    weighted = {name: factor * sums.get(f"bn/{name}", 0.0) for name, factor in scales.items()}
    total = sum(weighted.values())
    return {name: value / total if total else 0.0 for name, value in weighted.items()}


def _write_images(run: Run, method: str, batch: ImageBatch, pixels: Tensor) -> list[str]:
    paths = []
    for (class_index, image_index), image in zip(batch.members(), pixels, strict=True):
        path = image_path(method, class_index, image_index)
        fileio.write_bytes(run.file(path), encode_png(image))
        paths.append(path)
    return paths
