"""What a network of a run will cost until it can be used, from a few real steps on this device."""

from __future__ import annotations

import shutil
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from prism_nb.core.config import default_cache_dir
from prism_nb.core.device import (
    benchmark,
    check_compiler,
    choose_device,
    seeded,
    tf32_mode,
    timing_batch_size,
)
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.recipe import Recipe
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Settings
from prism_nb.core.text import format_bytes
from prism_nb.core.unit_plan import batch_of, chosen_compile, is_hard, is_plain, synthesis_networks
from prism_nb.core.units import ImageBatch, Unit, is_pretrained_name
from prism_nb.data.augment import AugParams, augment, epoch_params
from prism_nb.data.dataset import ImageDataset, Split
from prism_nb.data.distilled import MAX_RESIDENT_BYTES, set_bytes
from prism_nb.data.image_io import encode_image, quantize
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import EpochLabels
from prism_nb.evaluation.student import StudentTrainer, train_epoch
from prism_nb.execution import pipeline
from prism_nb.execution.forecast import (
    NetworkCosts,
    cache_bytes,
    count_flop,
    peak_bytes,
    trains_on_all_real,
    unit_bytes,
)
from prism_nb.execution.pipeline import STAGES
from prism_nb.models.ensemble import EnsembleLabeler
from prism_nb.models.layer_stats import MeanVar, conv_layer_stats
from prism_nb.models.pool import untrained_teacher
from prism_nb.models.teacher import Teacher
from prism_nb.models.train import train_loop
from prism_nb.models.zoo import META, architecture_of, build_network
from prism_nb.synthesis.loop import sample_augmentations
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective, StatMatcher, build_stat_matcher, weighted_sum
from prism_nb.synthesis.teacher_sampling import TeacherNames, TeacherSchedule, teacher_schedule

_STEPS = 3  # timed together, at most
_MOST = 64  # images that are judged in one go


def squeeze_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take.

    Weights from elsewhere cost a pass over the held-out images, and statistics of convolutions
    one over the training images.
    """
    known: dict[tuple[str, bool], float] = {}
    for unit in units:
        name, passes = unit.params["network"], _only_passes(unit)
        if (name, passes) not in known:
            known[name, passes] = (inference_seconds if passes else _epoch_seconds)(run, name)
    return [known[u.params["network"], _only_passes(u)] * _times(run, u) for u in units]


def inference_seconds(run: Run, name: str) -> float:
    """Return the seconds that a frozen network takes for one image."""
    dataset, device = open_dataset(run.settings), choose_device(run.settings.device)
    teacher, size = untrained_teacher(name, dataset, device), dataset.image_size
    images = torch.zeros(timing_batch_size(device, _MOST, size=size), 3, size, size, device=device)
    with torch.no_grad():
        return benchmark(device, lambda: teacher(images)) / len(images)


def _only_passes(unit: Unit) -> bool:
    return "patch" in unit.params or is_pretrained_name(unit.params["network"])


def _times(run: Run, unit: Unit) -> int:
    """Return how many of what was timed a unit does: epochs, or images that are looked at."""
    if not _only_passes(unit):
        return run.settings.squeeze.epochs
    return len(open_dataset(run.settings).labels("train" if "patch" in unit.params else "val"))


def _epoch_seconds(run: Run, name: str) -> float:
    settings, dataset = run.settings, open_dataset(run.settings)
    device, size = choose_device(settings.device), dataset.image_size
    count = len(dataset.labels("train"))
    batch = min(settings.squeeze.batch, count)
    shown = timing_batch_size(device, _STEPS * batch, size=size)
    plan = settings.squeeze.model_copy(update={"epochs": 1, "batch": min(batch, shown)})
    with seeded(0, device), tf32_mode(plan.precision, device):
        network = build_network(
            architecture_of(name), classes=len(dataset.classes), image_size=size
        )
        network.to(device).to(memory_format=torch.channels_last)
        images = torch.randn(shown, 3, size, size)
        images = images.to(device, memory_format=torch.channels_last)
        labels = torch.zeros(len(images), dtype=torch.int64, device=device)
        seconds = benchmark(
            device, lambda: train_loop(network, images, labels, plan, lambda _: None)
        )
    return seconds / (shown // plan.batch * plan.batch) * (count // batch * batch)


_REMEMBERED = {"adamw": 2, "sgd": 1}  # values per weight


def squeeze_flop(
    settings: Settings, arithmetic: NetworkCosts, units: Sequence[Unit]
) -> list[float]:
    """Return the operations of each unit.

    A network is trained on all training images, unless it has weights, and then judged by all
    held-out ones; the statistics of its convolutions are one pass over the training images.
    """
    return [_flop(settings, arithmetic, unit) for unit in units]


def _flop(settings: Settings, arithmetic: NetworkCosts, unit: Unit) -> float:
    name = unit.params["network"]
    train, val = (len(arithmetic.dataset.labels(split)) for split in ("train", "val"))
    if "patch" in unit.params:
        return train * arithmetic.forward(name)
    judged = val * arithmetic.forward(name)
    if is_pretrained_name(name):
        return judged
    return judged + settings.squeeze.epochs * train * arithmetic.learning(name)


def squeeze_peak_bytes(
    settings: Settings, arithmetic: NetworkCosts, units: Sequence[Unit]
) -> float:
    """Return what the largest training of some units takes of a device; 0 where none is trained."""
    trained = {unit.params["network"] for unit in units if "patch" not in unit.params}
    batch, kind = settings.squeeze.batch, settings.squeeze.optimizer
    needs = [
        training_bytes(arithmetic, n, batch, kind) for n in trained if not is_pretrained_name(n)
    ]
    return max(needs) + resident_image_bytes(arithmetic) if needs else 0.0


def training_bytes(arithmetic: NetworkCosts, name: str, batch: int, optimizer: str) -> float:
    """Return what a training step takes: weights, what an optimizer remembers, and the step."""
    weights = arithmetic.weight_bytes(name) * (1 + _REMEMBERED[optimizer])
    return weights + arithmetic.learning_bytes(name, batch)


def resident_image_bytes(arithmetic: NetworkCosts) -> float:
    """Return what the training images take that stay on a device; 0 where they are too many."""
    dataset = arithmetic.dataset
    taken = 3.0 * dataset.image_size**2 * len(dataset.labels("train"))
    return taken if taken <= MAX_RESIDENT_BYTES else 0.0


def labelling_flop(settings: Settings, arithmetic: NetworkCosts) -> float:
    """Return the operations of one label: one view, seen by every label teacher."""
    return sum(arithmetic.forward(name) for name in settings.label_teachers_used)


_MAX_VIEWS = 64  # images


def view_seconds(run: Run) -> float:
    """Return the seconds that a run's label teachers take for one view of one image."""
    settings, dataset = run.settings, open_dataset(run.settings)
    device, size = choose_device(settings.device), dataset.image_size
    teachers = [untrained_teacher(name, dataset, device) for name in settings.label_teachers_used]
    labeler = EnsembleLabeler(settings, teachers, [1.0] * len(teachers))
    count = min(len(dataset.classes) * settings.ipc, _MAX_VIEWS)
    count = timing_batch_size(device, count, size=size)
    images = torch.zeros(count, 3, size, size, device=device)

    def label() -> None:
        labeler(images, epoch_params(settings, count, 0, device))

    return benchmark(device, label) / count


_PRIORS = ("tv_l1", "l2_scale", "densification_weight")

TeacherUse = tuple[str, bool, bool]  # a network, whether it gives_logits, whether it matches_stats
StepKind = tuple[
    TeacherNames, TeacherNames, int
]  # who gives_logits and who matches_stats in a step, and its images


def synthesis_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take with the run's engine."""
    compiled = chosen_compile(run) == "compiled"
    timer = StepTimer(run.settings, open_dataset(run.settings), compiled=compiled)
    return [timer.unit_seconds(unit.params["method"], batch_of(unit)) for unit in units]


@dataclass
class StepTimer:
    """Times steps of a run's methods, each kind once.

    Args:
        settings: The run's.
        dataset: Its real images.
        compiled: Whether networks are compiled.
    """

    settings: Settings
    dataset: ImageDataset
    compiled: bool = False
    _teachers: dict[str, Teacher] = field(default_factory=dict)
    _known: dict[tuple[object, ...], float] = field(default_factory=dict)

    def unit_seconds(self, method: str, batch: ImageBatch) -> float:
        """Return the seconds that a unit will take, but for scoring real images to begin with."""
        with tf32_mode(self.settings.precision, self._device):
            return self._unit_cost(method, batch)

    @property
    def _device(self) -> torch.device:
        return choose_device(self.settings.device)

    def _measure(self, work: Callable[[], object]) -> float:
        """Return what some work costs here, in seconds; another measure would do as well."""
        return benchmark(self._device, work)

    def _unit_cost(self, method: str, batch: ImageBatch) -> float:
        recipe = self.settings.recipe_of(method).for_image_index(batch.image_indices[0])
        size = len(batch.members())
        cost = size * self._image_cost()
        if recipe.image_source != "optimized":
            return cost
        for (logit_teachers, bn_teachers, active), steps in step_histogram(
            self.settings, method, batch
        ):
            cost += (
                steps * active / size * self._step_cost(recipe, logit_teachers, bn_teachers, size)
            )
        return cost

    def _step_cost(
        self, recipe: Recipe, logit_teachers: TeacherNames, bn_teachers: TeacherNames, size: int
    ) -> float:
        timed = timing_batch_size(self._device, size, size=self.settings.image_size)
        rest, shown = self._bare_cost(recipe, timed)
        parts = [
            (n, n in logit_teachers, n in bn_teachers)
            for n in dict.fromkeys([*logit_teachers, *bn_teachers])
        ]
        cost = rest + sum(max(0.0, self._part_cost(recipe, p, timed) - shown) for p in parts)
        return cost * size / timed

    def _part_cost(self, recipe: Recipe, part: TeacherUse, size: int) -> float:
        """Time the gradient of one network in one role, the view included."""
        aligned = (recipe.statistics, recipe.conv_patch_size, recipe.conv_drop_prob)
        key = (part, aligned, recipe.views, size)
        if key not in self._known:
            name, gives_logits, matches_stats = part
            images, labels, views = self._batch(recipe, size)
            alone = recipe.model_copy(update=dict.fromkeys(_PRIORS, 0.0))
            objective = Objective(alone, {name: self._watch(name, recipe, images)})
            gradient = MicroBatchedBackward(objective, self.settings.part)
            logit_teachers, bn_teachers = [name] * gives_logits, [name] * matches_stats
            self._known[key] = self._measure(
                lambda: gradient(
                    [images], views, labels, logit_teachers=logit_teachers, bn_teachers=bn_teachers
                )
            )
        return self._known[key]

    def _bare_cost(self, recipe: Recipe, size: int) -> tuple[float, float]:
        """Time a step without networks, and its view alone."""
        weighed = tuple(getattr(recipe, name) for name in _PRIORS)
        keys = [(what, recipe.views, weighed, size) for what in ("step", "view")]
        if keys[0] not in self._known:
            images, labels, views = self._batch(recipe, size)
            objective = Objective(recipe, {})
            optimizer = torch.optim.Adam([images])

            def show(*, with_priors: bool) -> None:
                view = augment(images, views)
                ends, slopes = [view], [torch.ones_like(view)]
                priors = objective.priors(images, view, labels) if with_priors else {}
                if priors:
                    total = weighted_sum(priors, objective.weights([], []))
                    ends, slopes = [*ends, total], [*slopes, torch.ones_like(total)]
                torch.autograd.backward(ends, slopes)

            def step() -> None:
                show(with_priors=True)
                optimizer.step()

            self._known[keys[0]] = self._measure(step)
            self._known[keys[1]] = self._measure(lambda: show(with_priors=False))
        return self._known[keys[0]], self._known[keys[1]]

    def _image_cost(self) -> float:
        """Time what an image takes beside the steps: to round and to encode it."""
        if ("image",) not in self._known:
            noise = torch.randn(8, 3, self.settings.image_size, self.settings.image_size)

            def store() -> None:
                for pixels in quantize(self.dataset, noise, mode="png"):
                    encode_image(pixels)

            self._known["image",] = self._measure(store) / len(noise)
        return self._known["image",]

    def _batch(self, recipe: Recipe, size: int) -> tuple[Tensor, Tensor, list[AugParams]]:
        side, device = self.settings.image_size, self._device
        generator = torch.Generator().manual_seed(0)
        images = self._noise((size, 3, side, side), generator)
        images = images.to(device, memory_format=torch.channels_last).requires_grad_()
        labels = torch.arange(size, device=device) % len(self.dataset.classes)
        return images, labels, sample_augmentations(recipe, 0, size, side, generator)

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator)

    def _watch(self, name: str, recipe: Recipe, images: Tensor) -> StatMatcher:
        teacher, targets = self._teacher(name), None
        if recipe.statistics == "bn_conv":
            with torch.no_grad():
                probes = conv_layer_stats(teacher.network, recipe.conv_patch_size)
                seen = teacher.stats_only(images[:2], probes)
            targets = {p.name: MeanVar(*s) for p, s in zip(probes, seen, strict=True)}
        return build_stat_matcher(
            teacher,
            recipe,
            conv_stats=targets,
            generator=torch.Generator().manual_seed(0),
            precision=self.settings.precision,
            compiled=self.compiled,
        )

    def _teacher(self, name: str) -> Teacher:
        if name not in self._teachers:
            self._teachers[name] = untrained_teacher(name, self.dataset, self._device)
        return self._teachers[name]


def step_histogram(
    settings: Settings, method: str, batch: ImageBatch
) -> tuple[tuple[StepKind, int], ...]:
    """Return which kinds of steps a unit takes, and how many of each."""
    recipe = settings.recipe_of(method).for_image_index(batch.image_indices[0])
    joins = sorted(
        recipe.start_step(image_index, settings.ipc) for _, image_index in batch.members()
    )
    return _kinds(teacher_schedule(settings, method, batch), tuple(joins), recipe.iterations)


# Thousands of units share a few draws, and each has thousands of steps.
@lru_cache(maxsize=1024)
def _kinds(
    draws: TeacherSchedule, joins: tuple[int, ...], iterations: int
) -> tuple[tuple[StepKind, int], ...]:
    kinds = Counter(
        (draws.logit_teachers_at(step), draws.bn_teachers_at(step), bisect_right(joins, step))
        for step in range(joins[0], iterations)
    )
    return tuple(kinds.items())


def synthesis_flop(
    settings: Settings, arithmetic: NetworkCosts, units: Sequence[Unit]
) -> list[float]:
    """Return the operations of each unit.

    A class whose real images are scored is scored once per process, so its first unit has that.
    """
    counter = StepFlops(settings, arithmetic.dataset, _known=arithmetic.steps)
    scored, found = set[object](), []
    for unit in units:
        method, batch = unit.params["method"], batch_of(unit)
        fresh = [c for c in range(*batch.classes) if (method, c) not in scored]
        scored |= {(method, c) for c in fresh}
        scoring = len(fresh) * _scoring(settings, arithmetic, method)
        found.append(counter.unit_flop(method, batch) + scoring)
    return found


def _scoring(settings: Settings, arithmetic: NetworkCosts, method: str) -> float:
    """Return what it takes to score a class's real images, where a recipe asks for that."""
    recipe = settings.recipe_of(method)
    if not recipe.needs_scorer:
        return 0.0
    looks = recipe.crops_per_image if recipe.init == "patches" else 1
    real = min(recipe.max_scored_images, mean_images_per_class(arithmetic.dataset))
    return looks * real * arithmetic.forward(settings.primary)


def mean_images_per_class(dataset: ImageDataset) -> float:
    """Return the training images of a class, in the mean."""
    return float(np.size(dataset.labels("train")) / len(dataset.classes))


@dataclass
class StepFlops(StepTimer):
    """Adds up the operations of steps as its base adds up their seconds, on tensors without values.

    Not counted: the one pass over real images by which some recipes scale losses.
    """

    def unit_flop(self, method: str, batch: ImageBatch) -> float:
        """Return the operations of a unit's steps."""
        return self._unit_cost(method, batch)

    @property
    def _device(self) -> torch.device:
        return META

    def _measure(self, work: Callable[[], object]) -> float:
        return count_flop(work)

    def _image_cost(self) -> float:
        return 0.0  # to round and to encode an image takes no product

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.empty(shape, device=META)


_HELD = 3  # times the images: themselves, and Adam's two means of their gradient


def synthesis_peak_bytes(
    settings: Settings, arithmetic: NetworkCosts, units: Sequence[Unit]
) -> float:
    """Return what the largest step of some units takes at once; 0 where none is optimised."""
    counter = StepPeakMemory(settings, arithmetic.dataset, _known=arithmetic.peaks)
    found = [0.0]
    for method, batch in dict.fromkeys((unit.params["method"], batch_of(unit)) for unit in units):
        networks = synthesis_networks(settings, method)
        step = counter.step_bytes(method, batch)
        found.append(step + sum(map(arithmetic.weight_bytes, networks)) if step else 0.0)
    return max(found)


@dataclass
class StepPeakMemory(StepFlops):
    """Finds the largest moment of steps, eager and in float32.

    A step's networks run one after the other, and each lets go of what it kept before the next one
    runs, so the most memory is that of the largest of them.
    """

    def step_bytes(self, method: str, batch: ImageBatch) -> float:
        """Return the bytes that a unit's largest step takes beside the networks' weights."""
        recipe = self.settings.recipe_of(method).for_image_index(batch.image_indices[0])
        if recipe.image_source != "optimized":
            return 0.0
        size, side = len(batch.members()), self.settings.image_size
        parts = {
            (name, name in logit_teachers, name in bn_teachers)
            for (logit_teachers, bn_teachers, _), _ in step_histogram(self.settings, method, batch)
            for name in {*logit_teachers, *bn_teachers}
        }
        images = 4 * 3 * side**2 * size
        return _HELD * images + max(self._part_cost(recipe, part, size) for part in parts)

    def _measure(self, work: Callable[[], object]) -> float:
        return peak_bytes(work)


# Compiling a network takes a minute or so of two cores and saves an eighth of a large step (`make
# bench`): below this a run could gain minutes at the most, and is not held up to find out.
_FEWEST_STEPS = 2_000
_COMPILE_SECONDS = 90  # per network, of two cores
_LARGEST_GAIN = 0.5  # of the time of a step; only runs that could gain are tried


def choose_engine(run: Run, units: Sequence[Unit]) -> None:
    """Decide the engine of a run whose setting is `auto`, unless that was done before.

    A run with too few steps for a compiler to pay is left eager, without a word in its manifest:
    it may still grow.
    """
    if run.settings.compile != "auto" or "compile" in run.manifest.read():
        return
    left = _to_recover(run, units)
    steps = sum(run.settings.recipe_of(unit.params["method"]).iterations for unit in left)
    if steps >= _FEWEST_STEPS:
        choice, why = _decide(run, left)
        run.manifest.update(engine={"choice": choice, "why": why})


def _decide(run: Run, units: Sequence[Unit]) -> tuple[str, str]:
    try:
        check_compiler(choose_device(run.settings.device))
    except UsageError as error:
        return "eager", str(error)
    eager = _seconds(run, units, compiled=False)
    networks = len(run.settings.teachers)
    if _LARGEST_GAIN * eager < networks * _COMPILE_SECONDS:
        return "eager", f"{eager:.0f} s of work are too few for a compiler to pay"
    begin = time.monotonic()
    compiled = _seconds(run, units, compiled=True)
    spent = time.monotonic() - begin
    why = f"{eager:.0f} s eager, {compiled:.0f} s compiled, measured in {spent:.0f} s"
    return "compiled" if compiled + spent < eager else "eager", why


def _seconds(run: Run, units: Sequence[Unit], *, compiled: bool) -> float:
    timer = StepTimer(run.settings, open_dataset(run.settings), compiled=compiled)
    return sum(timer.unit_seconds(u.params["method"], batch_of(u)) for u in units)


def _to_recover(run: Run, units: Sequence[Unit]) -> list[Unit]:
    """Return the units that are to be optimised; those that are done cost nothing more."""
    return [
        unit
        for unit in units
        if run.settings.recipe_of(unit.params["method"]).image_source == "optimized"
        and not run.units.is_done(unit, verify_hashes=False)
    ]


_STUDENT_STEPS = 3  # timed together, at most
_JUDGED = 256  # images


def student_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take, from the costs of its student."""
    costs = {n: _student_costs(run, n) for n in dict.fromkeys(u.params["student"] for u in units)}
    label = view_seconds(run) if run.settings.labels == "online" else 0.0
    return [_student_seconds(run, unit, label, *costs[unit.params["student"]]) for unit in units]


def _student_seconds(run: Run, unit: Unit, label: float, train: float, judge: float) -> float:
    """Return a unit's seconds from those of an image: labelled, learned from, and judged."""
    settings, dataset = run.settings, open_dataset(run.settings)
    real = unit.params["method"] == REFERENCE
    count = len(dataset.labels("train")) if real else len(dataset.classes) * settings.ipc
    evaluations = -(-settings.epochs // settings.student.evaluate_every)
    if unit.params["variant"] == "protocol":
        train += label
    return train * count * settings.epochs + judge * len(dataset.labels("val")) * evaluations


def _student_costs(run: Run, name: str) -> tuple[float, float]:
    """Return the seconds that a student takes to learn from an image, and to judge one."""
    settings, dataset = run.settings, open_dataset(run.settings)
    device, plan = choose_device(settings.device), settings.student
    size, classes = dataset.image_size, len(dataset.classes)
    count = classes * settings.ipc
    with seeded(0, device), tf32_mode(plan.precision, device):
        shown = timing_batch_size(device, min(count, _STUDENT_STEPS * plan.batch), size=size)
        images = torch.randn(shown, 3, size, size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = EpochLabels(
            epoch_params(settings, len(images), 0, device),
            torch.zeros(len(images), classes, dtype=torch.float16, device=device),
        )
        targets = torch.zeros(len(images), dtype=torch.int64, device=device)
        pupil = StudentTrainer(name, dataset, plan, device)
        train = benchmark(device, lambda: train_epoch(pupil, images, targets, labels, plan))
        student = pupil.eval_model.eval()
        some = images[:_JUDGED]
        with torch.no_grad():
            judge = benchmark(device, lambda: student(some))
    return train / len(images), judge / len(some)


def student_flop(
    settings: Settings, arithmetic: NetworkCosts, units: Sequence[Unit]
) -> list[float]:
    """Return the operations of each unit: images learned from, judged by, and labelled for it."""
    return [_student_flop(settings, arithmetic, unit) for unit in units]


def student_peak_bytes(
    settings: Settings, arithmetic: NetworkCosts, units: Sequence[Unit]
) -> float:
    """Return what the largest training of some units takes of a device, its images included."""
    kinds = dict.fromkeys((unit.params["method"], unit.params["student"]) for unit in units)
    return max(_bytes(settings, arithmetic, *kind) for kind in kinds)


def _bytes(settings: Settings, arithmetic: NetworkCosts, method: str, student: str) -> float:
    dataset = arithmetic.dataset
    made = len(dataset.classes) * settings.ipc
    real = method == REFERENCE
    held = resident_image_bytes(arithmetic) if real else 3.0 * dataset.image_size**2 * made
    batch = min(settings.student.batch, len(dataset.labels("train")) if real else made)
    averaged = arithmetic.weight_bytes(student) if settings.student.ema else 0.0
    kind = settings.student.optimizer
    return held + averaged + training_bytes(arithmetic, student, batch, kind)


def _student_flop(settings: Settings, arithmetic: NetworkCosts, unit: Unit) -> float:
    name, dataset = unit.params["student"], arithmetic.dataset
    real = unit.params["method"] == REFERENCE
    images = len(dataset.labels("train")) if real else len(dataset.classes) * settings.ipc
    judged = -(-settings.epochs // settings.student.evaluate_every) * len(dataset.labels("val"))
    labelled = _labelled(settings, unit.params["variant"]) * images
    return (
        settings.epochs * images * arithmetic.learning(name)
        + judged * arithmetic.forward(name)
        + labelled * labelling_flop(settings, arithmetic)
    )


def _labelled(settings: Settings, variant: str) -> int:
    """Return how often an image is labelled while a student learns."""
    if is_hard(settings, variant):
        return 0
    if is_plain(variant):
        return 1
    return settings.epochs if settings.labels == "online" else 0


def relabel_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds that each unit will take: one and the same for every method."""
    settings = run.settings
    if settings.labels != "stored":
        return [0.0] * len(units)
    views = len(open_dataset(settings).classes) * settings.ipc * settings.label.epochs
    return [view_seconds(run) * views] * len(units)


def relabel_flop(
    settings: Settings, arithmetic: NetworkCosts, units: Sequence[Unit]
) -> list[float]:
    """Return the operations of each unit: every stored epoch, and the images as they are."""
    epochs = settings.label.epochs if settings.labels == "stored" else 0
    images = len(arithmetic.dataset.classes) * settings.ipc
    return [(epochs + 1) * images * labelling_flop(settings, arithmetic)] * len(units)


def diversity_seconds(run: Run, units: Sequence[Unit]) -> list[float]:
    """Return the seconds of the networks of each unit; those of the measures are not foreseen."""
    settings, dataset = run.settings, open_dataset(run.settings)

    @cache
    def seconds(name: str) -> float:
        return inference_seconds(run, name)

    with tf32_mode("fp32", choose_device(settings.device)):
        return [network_cost(settings, dataset, seconds, unit) for unit in units]


def diversity_flop(
    settings: Settings, arithmetic: NetworkCosts, units: Sequence[Unit]
) -> list[float]:
    """Return the operations of each unit.

    Every network sees an image once. The real images that all sets are compared with are seen
    once per process, which the unit of the reference is given. The products of the measures
    themselves are not counted.
    """
    return [network_cost(settings, arithmetic.dataset, arithmetic.forward, unit) for unit in units]


def network_cost(
    settings: Settings, dataset: ImageDataset, cost: Callable[[str], float], unit: Unit
) -> float:
    """Add up what the networks of a unit cost, from what each costs by its name for one image."""
    spaces = sum(cost(name) for name in settings.feature_spaces)
    teachers = sum(cost(name) for name in settings.teachers)
    total = len(dataset.classes) * settings.ipc * (spaces + teachers)
    if unit.params["method"] == REFERENCE:
        total += _real_images(settings, dataset) * spaces
    return total


def _real_images(settings: Settings, dataset: ImageDataset) -> int:
    """Return how many real images sets are compared with, the reference among them."""
    wanted = len(dataset.classes) * (settings.ipc + settings.real_per_class)
    return min(wanted, len(dataset.labels("train")))


CACHE = "cache"  # names the images that are decoded once, beside the stages
_IN_MEMORY = {"digits", "cifar10", "cifar100"}  # datasets that are read whole, and never decoded

_FLOP: dict[str, Callable[[Settings, NetworkCosts, Sequence[Unit]], list[float]]] = {
    "squeeze": squeeze_flop,
    "synthesis": synthesis_flop,
    "diversity": diversity_flop,
    "relabel": relabel_flop,
    "evaluation": student_flop,
}
_MEMORY: dict[str, Callable[[Settings, NetworkCosts, Sequence[Unit]], float]] = {
    "squeeze": squeeze_peak_bytes,
    "synthesis": synthesis_peak_bytes,
    "evaluation": student_peak_bytes,
}


@dataclass(frozen=True)
class CostEstimate:
    """What some units take.

    Attributes:
        stage: Their stage.
        method: Their method; empty where they belong to none.
        units: Their number.
        flop: Floating-point operations of networks, a multiply-add being two.
        files: Files that they leave, markers included.
        bytes: What images, labels and weights take of them, at most; the rest is small.
        memory: The most bytes that tensors on a device take at once in a training or optimising
            step of them; 0 where there is none.
    """

    stage: str
    method: str
    units: int
    flop: float
    files: int
    bytes: float
    memory: float = 0.0


def estimate_run(run: Run, arithmetic: NetworkCosts) -> list[CostEstimate]:
    """Count each method of each stage of a run, whatever is done of it, and the image cache."""
    dataset, found, everything = arithmetic.dataset, list[CostEstimate](), list[Unit]()
    for name, stage in STAGES.items():
        by_method: dict[str, list[Unit]] = {}
        for unit in stage.units(run, len(dataset.classes)):
            by_method.setdefault(unit.params.get("method", ""), []).append(unit)
            everything.append(unit)
        found += [
            _count(run.settings, arithmetic, name, method, units)
            for method, units in by_method.items()
        ]
    return [*found, _cache(run.settings, dataset, everything)]


def _cache(settings: Settings, dataset: ImageDataset, units: Sequence[Unit]) -> CostEstimate:
    """Count what is decoded once: real images that lie in files, and large sets of images.

    Held-out images are judged on by all; training images are gone over by networks that are
    trained; sets are those of all methods, and the real one that they are compared with.
    """
    splits: list[Split] = ["val", "train"] if any(map(trains_on_all_real, units)) else ["val"]
    real = 3.0 * dataset.image_size**2 * sum(len(dataset.labels(split)) for split in splits)
    in_files = settings.dataset not in _IN_MEMORY
    each = set_bytes(settings, len(dataset.classes))
    sets = 1 + len(settings.methods) if each else 0
    files = (1 + len(splits) if in_files else 0) + sets  # the index is one
    return CostEstimate(CACHE, "", 1, 0.0, files, (real if in_files else 0.0) + sets * each)


def flop_of(run: Run, arithmetic: NetworkCosts, stage: str, units: Sequence[Unit]) -> float:
    """Return the operations of some units of a stage."""
    return sum(_FLOP[stage](run.settings, arithmetic, units))


def count_table(counts: Sequence[CostEstimate], *, rate: float | None = None) -> pd.DataFrame:
    """Return counts for people, and their sum; hours at `rate` operations per second, if given."""
    total = CostEstimate(
        "in all",
        "",
        sum(c.units for c in counts),
        sum(c.flop for c in counts),
        sum(c.files for c in counts),
        sum(c.bytes for c in counts),
        max(c.memory for c in counts),
    )
    rows = []
    for count in [*counts, total]:
        row = {
            "stage": count.stage,
            "method": count.method,
            "units": f"{count.units:,}",
            "files": f"{count.files:,}",
            "GB": f"{count.bytes / 1e9:,.2f}",
            "GPU GB": f"{count.memory / 1e9:,.1f}" if count.memory else "",
            "PFLOP": f"{count.flop / 1e15:,.2f}",
        }
        hours = {} if rate is None else {"hours": f"{count.flop / rate / 3600:,.1f}"}
        rows.append(row | hours)
    return pd.DataFrame(rows)


def _count(
    settings: Settings, arithmetic: NetworkCosts, stage: str, method: str, units: Sequence[Unit]
) -> CostEstimate:
    return CostEstimate(
        stage=stage,
        method=method,
        units=len(units),
        flop=sum(_FLOP[stage](settings, arithmetic, units)),
        files=sum(1 + _files(settings, unit) for unit in units),  # a marker each
        bytes=sum(unit_bytes(settings, arithmetic, unit) for unit in units),
        memory=_MEMORY[stage](settings, arithmetic, units) if stage in _MEMORY else 0.0,
    )


def _files(settings: Settings, unit: Unit) -> int:
    """Return how many files a unit leaves beside its marker."""
    if unit.stage == "synthesis":
        return len(batch_of(unit).members())
    stored = settings.label.epochs if settings.labels == "stored" else 0
    return {"squeeze": 1, "relabel": stored, "evaluation": 3}.get(unit.stage, 0)


def check_disk_space(run: Run) -> None:
    """Check that there is room for all that is left of a run, stage by stage and of the cache.

    What is there already needs none. Images are counted as if they were noise, so that the sum is
    the most that can be needed; markers, figures and checkpoints come on top, and are small.

    Raises:
        PrismError: There is less; with what each part needs, and what is free.
    """
    plans = [pipeline.plan(run, stage, deep=False) for stage in pipeline.STAGES]
    parts = {plan.stage: pipeline.remaining_bytes(run, plan) for plan in plans}
    left = [unit for plan in plans for unit in plan.left]
    cache, folder = {"decoded images": cache_bytes(run, left)}, default_cache_dir()
    if _is_one_disk(run.path, folder):
        _require(run, parts | cache, run.path, "choose another folder for the runs")
        return
    _require(run, parts, run.path, "choose another folder for the runs")
    _require(run, cache, folder, "set PRISM_CACHE to a folder on a larger disk")


def _require(run: Run, parts: dict[str, int], folder: Path, remedy: str) -> None:
    needed, free = sum(parts.values()), shutil.disk_usage(_there(folder)).free
    if needed <= free:
        return
    words = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items() if size)
    raise PrismError(
        f"run {run.name} still needs up to {format_bytes(needed)} at {folder} ({words}), but "
        f"{format_bytes(free)} are free; free some space, {remedy}, or do the stages that fit one "
        "by one by `prism-nb stage`"
    )


def _is_one_disk(one: Path, other: Path) -> bool:
    return _there(one).stat().st_dev == _there(other).stat().st_dev


def _there(folder: Path) -> Path:
    """Return a folder, or the nearest above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())
