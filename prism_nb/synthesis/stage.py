"""The synthesis stage: makes the images of one unit and writes them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.device import choose_device, tf32_mode
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, image_path
from prism_nb.core.units import ImageBatch, OnEvent, Unit, WriteResult, unit_seed
from prism_nb.data.distilled import random_real
from prism_nb.data.image_io import encode_image, quantize
from prism_nb.data.imported import imported_set
from prism_nb.data.registry import open_dataset
from prism_nb.models.checkpoint import Checkpoint, unit_checkpoint
from prism_nb.models.difficulty import group_targets
from prism_nb.models.pool import load_conv_targets, load_groups, load_teacher
from prism_nb.synthesis.features import FeatureBackward
from prism_nb.synthesis.init import UnitInit, prepare_unit, real_tiles
from prism_nb.synthesis.loop import Callback, ImageOptimizer, recover
from prism_nb.synthesis.micro_batch import Backward, MicroBatchedBackward
from prism_nb.synthesis.objective import (
    Objective,
    StatMatcher,
    bn_loss_scales,
    build_stat_matcher,
)
from prism_nb.synthesis.preview import preview_writer
from prism_nb.synthesis.retrieval import retrieve
from prism_nb.synthesis.teacher_sampling import TeacherSchedule, teacher_schedule

_LOGS_PER_UNIT = 100
_GRADIENTS_PER_UNIT = 5  # measurements, each of which costs one to two steps


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> WriteResult:
    """Make the images of one unit; the returned function writes them and the unit's marker."""
    method, start = unit.params["method"], time.monotonic()
    imported = run.settings.recipe_of(method).image_source == "imported"
    pixels, record = _import(run, unit) if imported else _synthesize(run, unit, on_event)
    record |= {"seconds": round(time.monotonic() - start, 3), "images": len(pixels)}

    def write() -> None:
        run.units.finish(
            unit, paths=_write_images(run, method, batch_of(unit), pixels), record=record
        )
        _checkpoint(run, unit).clear()

    return write


def _import(run: Run, unit: Unit) -> tuple[Tensor, dict[str, Any]]:
    images = imported_set(run.settings, unit.params["method"], open_dataset(run.settings))
    return images.images(batch_of(unit).members())


def _synthesize(run: Run, unit: Unit, on_event: OnEvent) -> tuple[Tensor, dict[str, Any]]:
    """Return the unit's pixels, uint8 [N, 3, S, S], and its record."""
    start = prepare_unit(run, unit)
    images, record = start.images, dict[str, Any]()
    if start.recipe.image_source == "optimized":
        with tf32_mode(run.settings.precision, choose_device(run.settings.device)):
            images, record = _optimize(run, unit, start, on_event)
    pixels = quantize(open_dataset(run.settings), images, mode=start.recipe.image_format)
    return pixels, record | {"seed": start.seed}


def _optimize(
    run: Run, unit: Unit, start: UnitInit, on_event: OnEvent
) -> tuple[Tensor, dict[str, Any]]:
    """Return the optimized canonical images, and the record of their optimization."""
    schedule = teacher_schedule(run.settings, unit.params["method"], batch_of(unit))
    backward, bn_scales = unit_backward(run, unit, start, schedule)
    optimizer = unit_optimizer(run, unit, start, schedule, backward)
    logger, gradients = LossLogger(unit, on_event), GradientLogger(unit, on_event)
    checkpoint = _checkpoint(run, unit)
    saver = _checkpoint_saver(checkpoint, optimizer, {"losses": logger, "gradients": gradients})
    if optimizer.step == 0:
        gradients.measure(optimizer)
    with preview_writer(run, unit, schedule, optimizer) as previews:
        images = recover(optimizer, [logger, gradients, *previews, saver])
    record = {
        "draws": asdict(schedule),
        "bn_scales": bn_scales,
        "bn_loss_shares": logger.bn_loss_shares(bn_scales),
        "gradient_shares": gradients.shares,
        "losses": logger.last,
        "device": str(choose_device(run.settings.device)),
        "compile": run.settings.compile,
        "precision": run.settings.precision,
        "micro_batch_size": backward.micro_batch_size,
    }
    return images, record


def unit_optimizer(
    run: Run, unit: Unit, start: UnitInit, schedule: TeacherSchedule, backward: Backward
) -> ImageOptimizer:
    """Return the images of a unit before their first step."""
    settings, recipe, members = run.settings, start.recipe, batch_of(unit).members()
    device, dataset = choose_device(settings.device), open_dataset(settings)
    images = start.images.to(device, memory_format=torch.channels_last)
    labels = torch.tensor([c for c, _ in members], device=device)
    residual = None
    if recipe.residual_source == "retrieved":
        network, classes = load_teacher(run, settings.primary), [c for c, _ in members]
        residual = partial(retrieve, recipe, dataset, network, classes, settings.replicate_seed)
    return ImageOptimizer(
        images,
        labels,
        backward=backward,
        schedule=schedule,
        recipe=recipe,
        pixel_bounds=dataset.pixel_bounds(device),
        generators=[start.generator] if recipe.match != "features" else _generators(run, unit),
        start_steps=[recipe.start_step(index, settings.ipc) for _, index in members],
        residual=residual,
    )


def _generators(run: Run, unit: Unit) -> list[torch.Generator]:
    """Return a CPU generator for each image of a unit, whatever the unit's other images are."""
    method, members = unit.params["method"], batch_of(unit).members()
    seeds = [unit_seed(run.settings.replicate_seed, "views", method, *key) for key in members]
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def unit_backward(
    run: Run, unit: Unit, start: UnitInit, schedule: TeacherSchedule
) -> tuple[Backward, dict[str, float]]:
    """Return the backward pass of a unit's loss, and the factor of each BN loss in it."""
    settings, dataset, recipe = run.settings, open_dataset(run.settings), start.recipe
    device = choose_device(settings.device)
    if recipe.match == "features":
        teachers = {name: load_teacher(run, name) for name in schedule.networks}
        real = real_tiles(run, unit).to(device)
        return FeatureBackward(teachers, real, settings.precision, settings.part), {}
    matchers = _build_matchers(run, unit, schedule, start)

    def real_images() -> Tensor:
        keys = batch_of(unit).members()
        pixels = random_real(dataset, keys, seed=settings.replicate_seed, tag="scale")
        return dataset.normalize(pixels.to(device))

    bn_matchers = [matchers[name] for name in schedule.bn_networks]
    reference = matchers.get(settings.pool.scale_reference)
    bn_scales = bn_loss_scales(recipe, reference, bn_matchers, real_images)
    return MicroBatchedBackward(Objective(recipe, matchers, bn_scales), settings.part), bn_scales


def _build_matchers(
    run: Run, unit: Unit, schedule: TeacherSchedule, start: UnitInit
) -> dict[str, StatMatcher]:
    """Load every network of a unit, and the one that others are scaled to."""
    recipe, batch = start.recipe, batch_of(unit)
    group = batch.image_indices[0] if recipe.by_difficulty else batch.classes[0]
    reference, matchers = recipe.networks(run.settings.pool, "scales"), {}
    groups = load_groups(run, unit.params["method"]) if recipe.has_groups else {}
    for name in dict.fromkeys([*schedule.networks, *reference]):
        conv_stats = None
        if recipe.statistics == "bn_conv" and name in [*schedule.bn_networks, *reference]:
            conv_stats = load_conv_targets(run, name, recipe.conv_patch_size)
        teacher = load_teacher(run, name)
        matchers[name] = build_stat_matcher(
            teacher,
            recipe,
            bn_stats=group_targets(groups, teacher, group) if name in groups else None,
            conv_stats=conv_stats,
            generator=start.generator,
            precision=run.settings.precision,
            compiled=run.settings.compile,
        )
    return matchers


def _checkpoint(run: Run, unit: Unit) -> Checkpoint:
    every = 60 * run.settings.checkpoint_interval_min or math.inf
    return unit_checkpoint(run, unit, run.settings.compile, every=every)


class LossLogger:
    """Callback that logs mean losses about a hundred times per unit, and ends a diverged one.

    Losses stay on the device between two logs, so that a GPU rarely waits for Python.

    Attributes:
        last: Means of the latest log, by term.
        sums: Sums over all logged steps, by term.
    """

    def __init__(self, unit: Unit, on_event: OnEvent) -> None:
        self._unit, self._on_event = unit, on_event
        self._window: dict[str, list[Tensor]] = {}
        self.last: dict[str, float] = {}
        self.sums: dict[str, float] = {}

    def __call__(self, optimizer: ImageOptimizer, losses: dict[str, Tensor]) -> None:
        """Collect the losses of a step, and log them if it is time to."""
        for name, loss in losses.items():
            self._window.setdefault(name, []).append(loss.detach())
        step, steps = optimizer.step, optimizer.total_steps
        if step % max(1, steps // _LOGS_PER_UNIT) and step != steps:
            return
        values = {name: torch.stack(window) for name, window in self._window.items()}
        self._window = {}
        self.last = {name: value.mean().item() for name, value in values.items()}
        for name, mean in self.last.items():
            if not math.isfinite(mean):
                raise PrismError(
                    f"unit {self._unit.name} diverged: {name} is {mean} at step {step}; lower lr "
                    "or r_bn in the recipe"
                )
            self.sums[name] = self.sums.get(name, 0.0) + mean * len(values[name])
        event = {"event": "step", "unit": self._unit.name, "step": step, "steps": steps}
        self._on_event({**event, "losses": self.last})

    def bn_loss_shares(self, bn_scales: dict[str, float]) -> dict[str, float]:
        """Return each network's share of the scaled BN loss, summed over the steps."""
        return _shares(
            {name: s * self.sums.get(f"bn/{name}", 0.0) for name, s in bn_scales.items()}
        )

    def state_dict(self) -> dict[str, Any]:
        """Return plain values; they include the losses that are not logged yet."""
        window = {name: torch.stack(losses).tolist() for name, losses in self._window.items()}
        return {"last": self.last, "sums": self.sums, "window": window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore such values."""
        self.last, self.sums = state["last"], state["sums"]
        self._window = {
            name: list(torch.tensor(losses).unbind()) for name, losses in state["window"].items()
        }


class GradientLogger:
    """Callback that logs, a few times per unit, each term's share of the gradient on the images.

    A share is the norm of the weighted term's gradient, divided by the sum of these norms over the
    terms of networks. Where networks give statistics of different scales, the loss's shares do not
    show which of them pulls the images.
    """

    def __init__(self, unit: Unit, on_event: OnEvent) -> None:
        self._unit, self._on_event = unit, on_event
        self._norms = Counter[str]()  # sums over the measured steps

    def __call__(self, optimizer: ImageOptimizer, losses: dict[str, Tensor]) -> None:
        """Measure the next step if it is time to."""
        step, steps = optimizer.step, optimizer.total_steps
        if step < steps and step % max(1, steps // _GRADIENTS_PER_UNIT) == 0:
            self.measure(optimizer)

    def measure(self, optimizer: ImageOptimizer) -> None:
        """Measure and log the shares of the next step."""
        norms = {term: _norm(parts) for term, parts in optimizer.gradients()}
        self._norms.update(norms)
        if norms:
            event = {"event": "gradient", "unit": self._unit.name, "step": optimizer.step}
            self._on_event({**event, "shares": _shares(norms)})

    @property
    def shares(self) -> dict[str, float]:
        """Each term's share, of norms summed over the measured steps."""
        return _shares(self._norms)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of norms."""
        return {"norms": dict(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._norms = Counter(state["norms"])


def _norm(parts: Sequence[Tensor]) -> float:
    return float(torch.stack([part.square().sum() for part in parts]).sum().sqrt())


def _shares(values: Mapping[str, float]) -> dict[str, float]:
    total = sum(values.values())
    return {name: value / total if total else 0.0 for name, value in values.items()}


def _checkpoint_saver(
    checkpoint: Checkpoint,
    optimizer: ImageOptimizer,
    loggers: Mapping[str, LossLogger | GradientLogger],
) -> Callback:
    """Restore the state of an interrupted call, and return the callback that saves states."""
    parts: dict[str, Any] = {"optimizer": optimizer, **loggers}
    state = checkpoint.load()
    if state is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])

    def save(optimizer: ImageOptimizer, losses: dict[str, Tensor]) -> None:
        if checkpoint.due and optimizer.step < optimizer.total_steps:
            checkpoint.save({name: part.state_dict() for name, part in parts.items()})

    return save


def _write_images(run: Run, method: str, batch: ImageBatch, pixels: Tensor) -> list[str]:
    paths = []
    for (class_index, image_index), image in zip(batch.members(), pixels, strict=True):
        path = image_path(method, class_index, image_index)
        fileio.write_bytes(run.file(path), encode_image(image))
        paths.append(path)
    return paths
