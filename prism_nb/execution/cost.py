"""Expected time, operations, memory and disk space of a run's units.

A unit's work is a number of images per `Use`: one network in one role. What a use costs per image
is measured once on the run's device (seconds) or counted once without values (operations, bytes).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from prism_nb.core.device import (
    benchmark,
    choose_device,
    seeded,
    tf32_mode,
    timing_batch_size,
)
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Settings
from prism_nb.core.unit_plan import batch_of, is_hard, is_plain
from prism_nb.core.units import ImageBatch, Unit, is_pretrained_name
from prism_nb.data.augment import epoch_params
from prism_nb.data.dataset import ImageDataset, Split
from prism_nb.data.distilled import MAX_RESIDENT_BYTES
from prism_nb.data.image_io import encode_image, quantize
from prism_nb.data.registry import DATASETS, open_dataset
from prism_nb.evaluation.label_store import EpochLabels
from prism_nb.evaluation.student import student_trainer, train_epoch
from prism_nb.execution.disk_space import trains_on_all_real, unit_bytes, weight_bytes
from prism_nb.models.architectures import architecture_of
from prism_nb.models.ensemble import EnsembleLabeler
from prism_nb.models.layer_stats import MeanVar, conv_layer_stats
from prism_nb.models.pool import untrained_teacher
from prism_nb.models.pretrained import build_options, native_preprocess
from prism_nb.models.train import train_loop
from prism_nb.models.zoo import META, build_network, build_on_meta, count_flops
from prism_nb.synthesis.loop import sample_augmentations
from prism_nb.synthesis.micro_batch import MicroBatchedBackward, StepInputs
from prism_nb.synthesis.objective import Objective, StatMatcher, build_stat_matcher
from prism_nb.synthesis.teacher_sampling import TeacherNames, TeacherSchedule, teacher_schedule

_FORWARD_BATCH = 64
_TRAINING_STEPS = 3  # timed together
_GRADIENT_ROLES = ("logit", "stats", "both")  # of a network in a step of the synthesis


@dataclass(frozen=True)
class Use:
    """One way in which units process images."""

    # `forward`; `squeeze` or `student` (a training step); `logit`, `stats` or `both` (a network's
    # gradient in the synthesis); `step` (the synthesis step without networks); `store` (encoding
    # an image); `label` (one view by all label teachers).
    role: str
    network: str = ""  # empty where the role has none
    batch: int = _FORWARD_BATCH  # images per step
    variant: str = ""  # which statistics a synthesis step matches
    # Of a synthesis step, or the first method that shares its cost.
    method: str = field(default="", compare=False)


def unit_uses(settings: Settings, dataset: ImageDataset, unit: Unit) -> dict[Use, float]:
    """Return how many images a unit processes in each way."""
    return _USES[unit.stage](settings, dataset, unit)


def _squeeze_uses(settings: Settings, dataset: ImageDataset, unit: Unit) -> dict[Use, float]:
    """Train unless pretrained, then evaluate; or collect statistics of the real images."""
    train = len(dataset.labels("train"))
    if "networks" in unit.params:  # one pass for the ranking, one for the groups
        return {Use("forward", name): 2 * train for name in unit.params["networks"]}
    name = unit.params["network"]
    if "patch" in unit.params:
        return {Use("forward", name): train}
    uses: dict[Use, float] = {Use("forward", name): len(dataset.labels("val"))}
    if not is_pretrained_name(name):
        batch = min(settings.squeeze.batch, train)
        uses[Use("squeeze", name, batch)] = settings.squeeze.epochs * train
    return uses


def _synthesis_uses(settings: Settings, dataset: ImageDataset, unit: Unit) -> dict[Use, float]:
    """Score real images if the recipe does, take the steps with the networks drawn, and encode.

    Where features are matched, a step is taken for one with logits, of so many networks and tiles.
    The real images of a class are scored once for all its images, so each has its share of that.
    """
    method, batch = unit.params["method"], batch_of(unit)
    recipe = settings.recipe_of(method).for_image_index(batch.image_indices[0])
    images = len(batch.members())
    uses: dict[Use, float] = defaultdict(float)
    uses[Use("store")] = images
    if recipe.needs_scorer:
        real = len(dataset.labels("train")) / len(dataset.classes)
        passes = {"patches": recipe.crops_per_image, "forgetting": 0}
        chosen = min(recipe.max_scored_images or real, real)
        forward = passes.get(recipe.init, 1) * chosen / settings.ipc
        if recipe.residual_source == "retrieved":  # features of the class's patches, and its own
            forward += chosen / recipe.grid(dataset.image_size) ** 2 / settings.ipc
            forward += len(recipe.sizes) - 1
        uses[Use("forward", settings.primary)] += images * forward
    if recipe.image_source != "optimized":
        return uses
    tiles = recipe.tiles(dataset.image_size)
    share = tiles * recipe.mean_networks(settings.pool) if recipe.match == "features" else 1
    for (logit_teachers, bn_teachers, active), steps in _step_kinds(settings, method, batch):
        count = steps * active * recipe.mean_area
        uses[Use("step", "", images, method=method)] += count
        for name in dict.fromkeys([*logit_teachers, *bn_teachers]):
            role = "stats" if name not in logit_teachers else "both"
            role = role if name in bn_teachers else "logit"
            uses[Use(role, name, tiles * images, recipe.statistics, method)] += share * count
    return uses


def _diversity_uses(settings: Settings, dataset: ImageDataset, unit: Unit) -> dict[Use, float]:
    """Extract features and predictions; the reference also those of the real images."""
    images = len(dataset.classes) * settings.ipc
    uses: dict[Use, float] = defaultdict(float)
    for name in [*settings.feature_networks_used, *settings.pool.logits]:
        uses[Use("forward", name)] += images
    if unit.params["method"] == REFERENCE:
        real = len(dataset.classes) * (settings.ipc + settings.real_per_class)
        for name in settings.feature_networks_used:
            uses[Use("forward", name)] += min(real, len(dataset.labels("train")))
    return uses


def _relabel_uses(settings: Settings, dataset: ImageDataset, _: Unit) -> dict[Use, float]:
    """Label every stored epoch, and the images without augmentation."""
    epochs = settings.label.epochs if settings.labels == "stored" else 0
    return {Use("label"): (epochs + 1) * len(dataset.classes) * settings.ipc}


def _evaluation_uses(settings: Settings, dataset: ImageDataset, unit: Unit) -> dict[Use, float]:
    """Train and evaluate a student; label while it trains where labels are not stored."""
    name, variant = unit.params["student"], unit.params["variant"]
    real = unit.params["method"] == REFERENCE
    images = len(dataset.labels("train")) if real else len(dataset.classes) * settings.ipc
    evaluations = -(-settings.epochs // settings.student.evaluate_every)
    if is_hard(settings, variant):
        labelled = 0
    elif is_plain(variant):
        labelled = 1
    else:
        labelled = settings.epochs if settings.labels == "online" else 0
    return {
        Use("student", name, min(settings.student.batch, images)): settings.epochs * images,
        Use("forward", name): evaluations * len(dataset.labels("val")),
        Use("label"): labelled * images,
    }


_USES: dict[str, Callable[[Settings, ImageDataset, Unit], dict[Use, float]]] = {
    "squeeze": _squeeze_uses,
    "synthesis": _synthesis_uses,
    "diversity": _diversity_uses,
    "relabel": _relabel_uses,
    "evaluation": _evaluation_uses,
}

# Logit teachers, BN teachers and number of images of a step, and how many steps are so.
StepKinds = tuple[tuple[tuple[TeacherNames, TeacherNames, int], int], ...]


def _step_kinds(settings: Settings, method: str, batch: ImageBatch) -> StepKinds:
    recipe = settings.recipe_of(method).for_image_index(batch.image_indices[0])
    starts = sorted(recipe.start_step(index, settings.ipc) for _, index in batch.members())
    return _count_steps(teacher_schedule(settings, method, batch), tuple(starts), recipe.iterations)


@lru_cache(maxsize=1024)  # thousands of units share a few schedules
def _count_steps(schedule: TeacherSchedule, starts: tuple[int, ...], iterations: int) -> StepKinds:
    counts = Counter(
        (
            schedule.logit_teachers_at(step),
            schedule.bn_teachers_at(step),
            bisect_right(starts, step),
        )
        for step in range(starts[0], iterations)
    )
    return tuple(counts.items())


class StepTimer:
    """Seconds per image of each use, from a few real steps with untrained networks."""

    def __init__(self, settings: Settings, dataset: ImageDataset) -> None:
        self._settings, self._dataset = settings, dataset
        self._device, self._size = choose_device(settings.device), dataset.image_size
        self._known: dict[Use, float] = {}
        resample = settings.resample
        self._teacher = cache(
            lambda name: untrained_teacher(name, dataset, self._device, resample=resample)
        )
        self._work = {
            **dict.fromkeys(("step", *_GRADIENT_ROLES), self._synthesis),
            **{"forward": self._forward, "label": self._label, "store": self._store},
            **{"squeeze": self._squeeze, "student": self._student},
        }

    def unit_seconds(self, unit: Unit) -> float:
        """Return the expected seconds of a unit."""
        uses = unit_uses(self._settings, self._dataset, unit)
        return sum(count * self.seconds(use) for use, count in uses.items() if count)

    def seconds(self, use: Use) -> float:
        """Return the seconds of one image; measured with fewer images where they are enough."""
        use = replace(use, batch=timing_batch_size(self._device, use.batch, size=self._size))
        if use not in self._known:
            work, images = self._work[use.role](use)
            with seeded(0, self._device), tf32_mode(self._precision(use.role), self._device):
                self._known[use] = benchmark(self._device, work) / images
            if use.role in _GRADIENT_ROLES:  # a step with the network, less one without
                bare = self.seconds(replace(use, role="step", network="", variant=""))
                self._known[use] = max(0.0, self._known[use] - bare)
        return self._known[use]

    def _precision(self, role: str) -> str:
        if role in _GRADIENT_ROLES or role == "step":
            return self._settings.precision
        if role in {"squeeze", "student"}:
            return getattr(self._settings, role).precision
        return "fp32"

    def _forward(self, use: Use) -> tuple[Callable[[], object], int]:
        teacher, images = self._teacher(use.network), self._images(use.batch)
        return torch.no_grad()(lambda: teacher(images)), use.batch

    def _squeeze(self, use: Use) -> tuple[Callable[[], object], int]:
        config = self._settings.squeeze.model_copy(update={"epochs": 1, "batch": use.batch})
        network = build_network(
            architecture_of(use.network), classes=len(self._dataset.classes), image_size=self._size
        )
        network.to(self._device).to(memory_format=torch.channels_last)
        images = self._images(_TRAINING_STEPS * use.batch)
        labels = torch.zeros(len(images), dtype=torch.int64, device=self._device)
        work = lambda: train_loop(network, images, labels, config, lambda _: None)  # noqa: E731
        return work, len(images)

    def _student(self, use: Use) -> tuple[Callable[[], object], int]:
        config = self._settings.student.model_copy(update={"batch": use.batch})
        trainer = student_trainer(use.network, self._dataset, config, self._device, epochs=1)
        images = self._images(_TRAINING_STEPS * use.batch)
        logits = torch.zeros(len(images), len(self._dataset.classes), dtype=torch.float16)
        views = epoch_params(self._settings, len(images), 0, self._device)
        labels = EpochLabels(views, logits.to(self._device))
        classes = torch.zeros(len(images), dtype=torch.int64, device=self._device)
        return lambda: train_epoch(trainer, images, classes, labels, config), len(images)

    def _label(self, use: Use) -> tuple[Callable[[], object], int]:
        teachers = [self._teacher(name) for name in self._settings.label_teachers_used]
        labeler = EnsembleLabeler(self._settings, teachers, [1.0] * len(teachers))
        images = self._images(use.batch)
        views = epoch_params(self._settings, use.batch, 0, self._device)
        return lambda: labeler(images, views), use.batch

    def _store(self, _: Use) -> tuple[Callable[[], object], int]:
        images = torch.randn(8, 3, self._size, self._size)
        work = lambda: [encode_image(p) for p in quantize(self._dataset, images, mode="png")]  # noqa: E731
        return work, len(images)

    def _synthesis(self, use: Use) -> tuple[Callable[[], object], int]:
        """Take a synthesis step with one network or none."""
        recipe = self._settings.recipe_of(use.method)
        images = self._images(use.batch).requires_grad_()
        labels = torch.arange(use.batch, device=self._device) % len(self._dataset.classes)
        generator = torch.Generator().manual_seed(0)
        aug_params = sample_augmentations(recipe, 0, use.batch, self._size, [generator])
        matchers = {use.network: self._matcher(use.network, use.method)} if use.network else {}
        backward = MicroBatchedBackward(Objective(recipe, matchers), self._settings.part)
        logit = [] if use.role == "stats" else list(matchers)
        bn = [] if use.role == "logit" else list(matchers)
        inputs = StepInputs([images], aug_params, labels, logit, bn)
        optimizer = torch.optim.Adam([images])

        def step() -> None:
            backward(inputs)
            optimizer.step()

        return step, use.batch

    def _matcher(self, name: str, method: str) -> StatMatcher:
        teacher, conv_stats = self._teacher(name), None
        recipe = self._settings.recipe_of(method)
        if recipe.statistics == "bn_conv":
            layers = conv_layer_stats(teacher.network, recipe.conv_patch_size)
            with torch.no_grad():
                stats = teacher.stats_only(self._images(2), layers)
            conv_stats = {at.name: MeanVar(*each) for at, each in zip(layers, stats, strict=True)}
        return build_stat_matcher(
            teacher,
            recipe,
            conv_stats=conv_stats,
            generator=torch.Generator().manual_seed(0),
            precision=self._settings.precision,
        )

    def _images(self, count: int) -> Tensor:
        images = torch.randn(count, 3, self._size, self._size)
        return images.to(self._device, memory_format=torch.channels_last)


_PASSES = {"forward": 1, **dict.fromkeys(_GRADIENT_ROLES, 2), "squeeze": 3, "student": 3}
_OPTIMIZER_STATE = {"adamw": 2, "sgd": 1, "muon": 3}  # values per weight


class StepCounter:
    """Operations and memory of each use, counted on tensors without values.

    Operations are those of convolutions and matrix products, a multiply-add being two. A gradient
    with respect to the images is taken to cost another forward pass, one with respect to weights
    as well two. The dataset may be known by its sizes alone.
    """

    def __init__(self, settings: Settings, dataset: ImageDataset) -> None:
        self._settings, self._dataset = settings, dataset
        self._network = cache(self._build)
        self._forward_flop = cache(self._count_forward)
        self.activation_bytes = cache(self._activation_bytes)
        self._weight_bytes = cache(
            lambda name: weight_bytes(name, len(dataset.classes), dataset.image_size)
        )

    def unit_flop(self, unit: Unit) -> float:
        """Return the operations of a unit."""
        uses = unit_uses(self._settings, self._dataset, unit)
        return sum(count * self.flop(use) for use, count in uses.items())

    def flop(self, use: Use) -> float:
        """Return the operations of one image."""
        if use.role == "label":
            return sum(map(self._forward_flop, self._settings.label_teachers_used))
        return _PASSES[use.role] * self._forward_flop(use.network) if use.network else 0.0

    def unit_memory(self, unit: Unit) -> float:
        """Return the most device memory of a unit's training or optimisation steps, in bytes.

        Counted are weights, gradients, optimizer state, images on the device and the activations
        saved for the backward pass, in float32; the scratch memory of kernels comes on top.
        """
        settings, size = self._settings, self._dataset.image_size
        uses = unit_uses(settings, self._dataset, unit)
        frozen = {use.network for use in uses if use.role in _GRADIENT_ROLES}
        most = 0.0
        for use, images in uses.items():
            if use.role in _GRADIENT_ROLES:
                optimized = 4 * 4 * 3 * size**2 * use.batch  # images, gradient, Adam's two moments
                batch = min(use.batch, settings.part or use.batch)
                weights = sum(map(self._weight_bytes, frozen))
                most = max(most, weights + optimized + self.activation_bytes(use.network, batch))
            elif use.role in {"squeeze", "student"}:
                most = max(most, self._training_bytes(use, unit, images))
        return most

    def _training_bytes(self, use: Use, unit: Unit, images: float) -> float:
        settings, squeeze = self._settings, use.role == "squeeze"
        optimizer = settings.squeeze.optimizer if squeeze else settings.student.optimizer
        copies = 2 + _OPTIMIZER_STATE[optimizer] + (not squeeze and settings.student.ema > 0)
        epochs = settings.squeeze.epochs if squeeze else settings.epochs
        resident = 3 * self._dataset.image_size**2 * images / epochs
        if trains_on_all_real(unit) and resident > MAX_RESIDENT_BYTES:
            resident = 0  # streamed
        weights = copies * self._weight_bytes(use.network)
        return weights + resident + self.activation_bytes(use.network, use.batch, training=True)

    def _count_forward(self, name: str) -> float:
        network, size = self._network(name)
        return float(count_flops(network, image_size=size))

    def _activation_bytes(self, name: str, batch: int, *, training: bool = False) -> float:
        """Return the bytes of the tensors that a forward pass saves for the backward pass."""
        network, size = self._network(name)
        own = {id(value.untyped_storage()) for value in network.state_dict().values()}
        saved: dict[int, torch.UntypedStorage] = {}  # one entry for all views of a storage

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[id(storage)] = storage
            return tensor

        images = torch.empty(batch, 3, size, size, device=META, requires_grad=not training)
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            network.train(training).requires_grad_(training)(images)
        return float(sum(storage.nbytes() for key, storage in saved.items() if key not in own))

    def _build(self, name: str) -> tuple[nn.Module, int]:
        """Return a network without values and the side of its images."""
        size, classes = self._dataset.image_size, len(self._dataset.classes)
        if is_pretrained_name(name):
            size = native_preprocess(name, self._dataset, resample=self._settings.resample).size
        architecture, options = architecture_of(name), build_options(name)
        network = build_on_meta(architecture, classes=classes, image_size=size, options=options)
        return network, size


def estimate_run(run: Run, dataset: ImageDataset, units: Sequence[Unit]) -> pd.DataFrame:
    """Estimate units, whether done or not, by stage and method, the cache, and all together.

    The run need not exist, and the dataset may be known by its sizes alone.

    Returns:
        Columns units; files, markers included; bytes of images, labels and weights at most; flop
        of networks; memory of the device in the largest training or optimisation step, in bytes.
    """
    settings, counter = run.settings, StepCounter(run.settings, dataset)
    rows = [
        {
            "stage": unit.stage,
            "method": unit.params.get("method", ""),
            "units": 1,
            "files": 1 + _files(settings, unit),
            "bytes": unit_bytes(settings, unit, len(dataset.classes)),
            "flop": counter.unit_flop(unit),
            "memory": counter.unit_memory(unit),
        }
        for unit in units
    ]
    rows.append(_cache_row(settings, dataset, all_real=any(map(trains_on_all_real, units))))
    totals = {"units": "sum", "files": "sum", "bytes": "sum", "flop": "sum", "memory": "max"}
    each = pd.DataFrame(rows)
    table = pd.concat([each, each.assign(stage="in all", method="")])
    return table.groupby(["stage", "method"], sort=False).agg(totals)


def _cache_row(settings: Settings, dataset: ImageDataset, *, all_real: bool) -> dict[str, object]:
    """Return the row of the cache of decoded real images."""
    splits: list[Split] = ["val"]
    if all_real or settings.eval_split == "tuning":  # which reads both from all training images
        splits = ["val", "train"]
    if DATASETS[settings.dataset].in_memory:
        splits = []
    images = sum(len(dataset.labels(split)) for split in splits)
    size = 3.0 * dataset.image_size**2 * images
    empty = {"method": "", "units": 1, "flop": 0.0, "memory": 0.0}
    return {"stage": "cache", "files": len(splits), "bytes": size, **empty}


def _files(settings: Settings, unit: Unit) -> int:
    """Return how many files a unit writes besides its marker."""
    if unit.stage == "synthesis":
        return len(batch_of(unit).members())
    stored = settings.label.epochs if settings.labels == "stored" else 0
    return {"squeeze": 1, "diversity": 1, "relabel": stored, "evaluation": 4}[unit.stage]


def estimate_table(estimates: pd.DataFrame, *, rate: float | None = None) -> pd.DataFrame:
    """Return the result of `estimate_run` as text; with hours at `rate` operations per second."""
    memory = estimates["memory"].map(lambda size: f"{size / 1e9:,.1f}" if size else "")
    shown = {
        "units": estimates["units"].map("{:,}".format),
        "files": estimates["files"].map("{:,}".format),
        "GB": (estimates["bytes"] / 1e9).map("{:,.2f}".format),
        "GPU GB": memory,
        "PFLOP": (estimates["flop"] / 1e15).map("{:,.2f}".format),
    }
    if rate is not None:
        shown["hours"] = (estimates["flop"] / rate / 3600).map("{:,.1f}".format)
    return pd.DataFrame(shown).reset_index()


def measured_costs(run: Run, units: Sequence[Unit]) -> dict[str, float]:
    """Return the seconds of each unit by its name, from a few real steps on this device."""
    timer = StepTimer(run.settings, open_dataset(run.settings))
    return {unit.name: timer.unit_seconds(unit) for unit in units}
