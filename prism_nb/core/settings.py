"""Settings of a run: sections inside, one flat list of names for YAML, CLI and notebooks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import getitem
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.presets import protocol_values
from prism_nb.core.recipe import Names, Recipe, TeacherPool, load_recipe
from prism_nb.core.units import is_pretrained_name, unit_seed
from prism_nb.core.yaml_io import StrictModel

REFERENCE = "real"  # the "method" whose images are the real ones
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a run or a method
STAGES = ("squeeze", "synthesis", "diversity", "relabel", "evaluation", "report")
# What a method's students may have of their own, such as the winner of a study's search.
TUNABLE = ("student_optimizer", "student_lr", "student_weight_decay")
EVAL_VARIANTS = ("protocol", "no_aug", "hard_labels", "hard_labels_no_aug")
Precision = Literal["fp32", "tf32", "bf16"]
DatasetName = Literal[
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "folder",
    "imagenet1k",
    "mnist",
    "tiny_imagenet",
]


@dataclass(frozen=True)
class Group:
    """Settings that decide the results of the same stages; fields carry it as an annotation."""

    name: str  # for `Settings.group_values`
    stages: tuple[str, ...] = ()  # whose results these settings decide


DATA = Group("data", STAGES)
WEIGHTS = Group("weights", STAGES)  # of pretrained networks alone
SOURCE = Group("source")  # where the data are; what they are is hashed into `dataset_hash`
SQUEEZE = Group("squeeze", STAGES)
SYNTHESIS = Group("synthesis", STAGES[1:])
RELABEL = Group("relabel", STAGES[3:])
DIVERSITY = Group("diversity")  # its quick units are measured again when these change
EVALUATION = Group("evaluation", STAGES[4:])
MACHINE = Group("machine")  # decides nothing but rounding

# Marks of single fields. EXTENDS: may change at any time, since it adds units or has quick ones
# measured again. BATCHES: decides the training batches that convolution statistics come from.
EXTENDS = "extends"
BATCHES = "batches"


class Squeeze(StrictModel):
    """Training of the networks on the real data; flat names begin with `squeeze_`."""

    epochs: int = Field(10, ge=1, le=10_000, description="epochs of training per network")
    batch: Annotated[int, BATCHES] = Field(64, ge=2, description="images per training step")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="optimizer; sgd has Nesterov momentum 0.9"
    )
    lr: float = Field(3e-3, gt=0, description="peak learning rate")
    schedule: Literal["one_cycle", "cosine"] = Field(
        "one_cycle", description="learning rate schedule over the steps; cosine decays to 0"
    )
    weight_decay: float = Field(0.05, ge=0, description="weight decay of all parameters")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing")
    max_shift: Annotated[int, BATCHES] = Field(
        3, ge=0, le=256, description="largest random shift, in pixels"
    )
    crop_min: Annotated[float, BATCHES] = Field(
        1.0, gt=0, le=1, description="smallest random crop, as a share of the area; 1: no crops"
    )
    flip: Annotated[bool, BATCHES] = Field(False, description="mirror half of the images")
    views: Annotated[Literal["per_batch", "per_image"], BATCHES] = Field(
        "per_batch", description="whether a batch or each image has its own shift, crop and flip"
    )
    precision: Precision = Field(
        "fp32", description="precision of the layers in training; evaluation is in fp32"
    )


class Label(StrictModel):
    """Soft labels of augmented views of the images; flat names begin with `label_`."""

    teachers: Names = Field((), description="networks that label; empty: the pool")
    ensemble: Literal["norm_balanced", "primary_half", "mean", "accuracy"] = Field(
        "norm_balanced", description="how the logits of several networks are combined"
    )
    statistics: Literal["running", "batch"] = Field(
        "running", description="batch norm statistics of the labelling networks; batch: train mode"
    )
    batch: int = Field(256, ge=2, le=65_536, description="views per forward pass")
    epochs: int = Field(300, ge=1, le=9_999, description="epochs of views and labels to store")
    format: Literal["fp32", "fp16", "int8", "top_k"] = Field(
        "fp16", description="storage format of the logits"
    )
    top_k: int = Field(10, ge=1, le=10_000, description="logits stored per view by `top_k`")
    crop_min: float = Field(
        0.25, gt=0, le=1, description="smallest random crop, as a share of the area"
    )
    flip: bool = Field(True, description="mirror half of the views")
    mix: Literal["cutmix", "mixup", "none"] = Field("cutmix", description="mixing of two views")
    precision: Precision = Field("fp32", description="precision of the labelling networks' layers")


class Student(StrictModel):
    """Training of the students; flat names begin with `student_`, or are the field's alias."""

    seeds: Annotated[int, EXTENDS] = Field(
        3, ge=1, le=1000, description="runs per student, with seeds 0, 1, ..."
    )
    epochs: int | None = Field(
        None, ge=1, le=9_999, description="epochs of training; None: label_epochs"
    )
    cycle_labels: bool = Field(
        False,
        alias="cycle_labels",
        description="reuse the stored labels from the first epoch on where students train longer",
    )
    batch: int = Field(50, ge=2, description="images per training step")
    optimizer: Literal["adamw", "sgd", "sgd_momentum", "muon"] = Field(
        "adamw",
        description="optimizer; sgd has Nesterov momentum 0.9, sgd_momentum the classical one; "
        "muon is for matrices and convolution kernels, with adamw for the rest",
    )
    lr: float = Field(1e-3, gt=0, description="initial learning rate")
    weight_decay: float = Field(
        0.01, ge=0, description="weight decay, except of biases and normalisation layers"
    )
    schedule: Literal["cosine_then_linear", "cosine", "cosine_eta2", "step", "constant"] = Field(
        "cosine_then_linear",
        description="learning rate schedule over the epochs; step: a tenth in the second half",
    )
    loss: Literal["mse_gt", "kl", "ce"] = Field(
        "mse_gt",
        description="mse_gt: MSE of logits plus ce_weight x cross-entropy; kl: KL divergence at "
        "student_temperature; ce: cross-entropy with the true classes, for hard labels",
    )
    ce_weight: float = Field(
        0.1,
        ge=0,
        alias="ce_weight",
        description="weight of the cross-entropy with the true classes in `mse_gt`",
    )
    temperature: float = Field(20.0, gt=0, description="distillation temperature of the `kl` loss")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of an averaged copy, which is evaluated; 0: none"
    )
    evaluate_every: int = Field(
        10, ge=1, alias="evaluate_every", description="epochs between two evaluations"
    )
    precision: Precision = Field(
        "fp32", description="precision of the layers in training; evaluation is in fp32"
    )


class Settings(StrictModel):
    """Everything a run depends on.

    Users write flat names: a section's name, `_` and the field's name, e.g. `squeeze_epochs`.
    A new setting is one field here or in a section: its annotation names the results it decides.
    """

    dataset: Annotated[DatasetName, DATA] = Field("digits", description="name of the dataset")
    image_size: Annotated[int, DATA] = Field(
        32, ge=8, le=2048, description="side of the square images, in pixels"
    )
    eval_split: Annotated[Literal["test", "tuning"], DATA] = Field(
        "test",
        description="images to evaluate on; tuning: a quarter of the training images, which are "
        "then not trained on, to choose settings without the test images",
    )
    seed: Annotated[int, DATA] = Field(
        0, ge=0, lt=2**63, description="seed of the run; every unit derives its own from it"
    )
    dataset_hash: Annotated[str | None, DATA] = Field(
        None,
        description="hash of the dataset's classes and files; recorded when a run begins, which "
        "then refuses other files. None for embedded datasets",
    )

    data_dir: Annotated[str | None, SOURCE] = Field(
        None,
        description="the dataset's folder, from the working directory; may have `~` and `$NAME`",
    )
    class_list: Annotated[Names, SOURCE] = Field(
        (),
        description="folder names of the classes to use, in this order, or a text file with one "
        "per line; empty: all classes, sorted",
    )
    download: Annotated[bool, SOURCE] = Field(
        False, description="download a dataset that torchvision provides"
    )
    skip_damaged: Annotated[bool, SOURCE] = Field(
        False,
        description="leave out image files that cannot be decoded; all are tried once, before work",
    )

    holdout_networks: Annotated[Names, SQUEEZE, EXTENDS] = Field(
        (), description="networks that take no part in the synthesis, to measure with"
    )
    squeeze: Annotated[Squeeze, SQUEEZE] = Squeeze.model_validate({})
    resample: Annotated[bool, WEIGHTS] = Field(
        True,
        description="bring images to the size that a network's weights were trained at; false: "
        "networks with weights take them at image_size, which is faster where that is less",
    )

    teachers: Annotated[Names, SYNTHESIS] = Field(
        description="the pool: networks that label and may give BN statistics; with weights: "
        "resnet18@IMAGENET1K_V1, resnet50.a1_in1k, resnet18@FILE",
    )
    primary: Annotated[str, SYNTHESIS] = Field(
        description="the network of the pool that gives the logits"
    )
    bn_only: Annotated[Names, SYNTHESIS] = Field(
        (),
        description="networks of the pool that give BN statistics alone, such as backbones with "
        "weights but without a head for these classes",
    )
    logits_only: Annotated[Names, SYNTHESIS] = Field(
        (),
        description="networks of the pool that give logits and labels alone, such as networks "
        "without batch norm",
    )
    methods: Annotated[Names, SYNTHESIS, EXTENDS] = Field(
        ("prism",), description="methods to run, by the names of their recipes"
    )
    ipc: Annotated[int, SYNTHESIS] = Field(10, ge=1, le=10_000, description="images per class")
    batch_size: Annotated[int, SYNTHESIS] = Field(
        100, ge=1, description="images optimised together (one unit)"
    )
    recipe: Annotated[dict[str, Any], SYNTHESIS] = Field(
        {}, description="changes to the recipe of every method that optimises"
    )
    recipes: Annotated[dict[str, dict[str, Any]], SYNTHESIS, EXTENDS] = Field(
        {}, description="changes to one method's recipe, or a new recipe (values or a file)"
    )
    precision: Annotated[Precision, SYNTHESIS] = Field(
        "fp32", description="precision of the layers; statistics and losses are always fp32"
    )
    replicate: Annotated[int, SYNTHESIS] = Field(
        0,
        ge=0,
        description="number of the repetition: new images, views and students, same teachers",
    )

    labels: Annotated[Literal["stored", "online", "hard"], RELABEL] = Field(
        "stored",
        description="stored: soft labels made once for all students; online: soft labels made "
        "while a student trains; hard: the true classes",
    )
    label: Annotated[Label, RELABEL] = Label.model_validate({})

    feature_networks: Annotated[Names, DIVERSITY] = Field(
        (), description="networks whose features measure diversity; empty: the holdout networks"
    )
    real_per_class: Annotated[int, DIVERSITY] = Field(
        500, ge=1, le=100_000, description="random real training images per class to compare with"
    )

    students: Annotated[Names, EVALUATION, EXTENDS] = Field(
        description="networks trained from scratch on the images; [] leaves the evaluation out"
    )
    student: Annotated[Student, EVALUATION] = Student.model_validate({})
    tuned_students: Annotated[dict[str, dict[str, Any]], EVALUATION, EXTENDS] = Field(
        {},
        description="student_optimizer, student_lr or student_weight_decay of one method's "
        "students, e.g. {random_real: {student_lr: 0.003}}; what a study's search chose",
    )
    eval_variants: Annotated[Names, EVALUATION, EXTENDS] = Field(
        ("protocol",),
        description="ways to train each student: protocol (as set), no_aug (images without "
        "augmentation), hard_labels (true classes), hard_labels_no_aug (both)",
    )
    train_on_real: Annotated[bool, EVALUATION, EXTENDS] = Field(
        False, description="also train each student on all real training images, with hard labels"
    )
    protocol: str = Field(
        "fair",
        description="named values of the label and student settings; settings written out override "
        "them",
    )

    device: Annotated[str, MACHINE] = Field("auto", description="auto, cpu, cuda or cuda:N")
    compile: Annotated[bool, MACHINE] = Field(
        False,
        description="compile the networks of the synthesis (torch.compile): pays in long runs",
    )
    micro_batch_size: Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], MACHINE] = Field(
        "auto",
        description="images per forward pass in the synthesis; auto: the whole batch, halved when "
        "memory runs out. The gradient is that of the whole batch, to rounding",
    )
    backend: Annotated[Literal["process", "ray", "slurm"], MACHINE] = Field(
        "process",
        description="where units run: in this process one by one, in Ray workers, or in SLURM jobs",
    )
    workers: Annotated[Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"], MACHINE] = Field(
        "auto", description="units at a time, with ray or slurm; auto: one per GPU, or per core"
    )
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | Literal["auto"], MACHINE] = Field(
        "auto",
        description="CPU threads per unit; auto: every core that this process may use, or one in a "
        "worker. Results on CPUs depend on it by rounding",
    )
    gpus_per_worker: Annotated[float, MACHINE] = Field(
        1.0, ge=0, le=64, description="GPUs of a worker, also a fraction; ignored without GPUs"
    )
    ray_address: Annotated[str | None, MACHINE] = Field(
        None, description="address of a Ray cluster, or auto to find one; None: this machine"
    )
    slurm: Annotated[dict[str, Any], MACHINE] = Field(
        {}, description="SLURM job options by submitit's names, e.g. {slurm_partition: gpu}"
    )
    checkpoint_interval_min: Annotated[float, MACHINE] = Field(
        10.0,
        ge=0,
        description="minutes between checkpoints of a unit's synthesis; 0 disables",
    )
    fetch_weights: Annotated[bool, MACHINE] = Field(
        False, description="download missing pretrained weights"
    )
    progress: Annotated[bool, MACHINE] = Field(True, description="show a progress bar")
    preview_every: Annotated[Annotated[int, Field(ge=0)] | Literal["auto"], MACHINE] = Field(
        "auto",
        description="steps between previews of a unit's images, for the run monitor; auto: twelve "
        "per unit; 0: none",
    )

    # -- flat names --------------------------------------------------------------------------

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Return every setting by its flat name."""
        return {name: field for name, (_, field) in _places().items()}

    @classmethod
    def parse(cls, values: dict[str, Any], *, where: str) -> Self:
        """Build settings from plain values by flat name; see `StrictModel.parse`."""
        unknown = [name for name in values if name not in _places()]
        if unknown:
            lines = [f"unknown setting {name!r}; {suggest(name, _places())}" for name in unknown]
            raise UsageError(f"{where}: " + "; ".join(lines))
        nested: dict[str, Any] = {}
        for name, value in values.items():
            *section, field = _places()[name][0]
            (nested.setdefault(section[0], {}) if section else nested)[field] = value
        return super().parse(nested, where=where)

    @classmethod
    def location(cls, loc: tuple[str | int, ...]) -> str:
        """Return the flat name of a place in the nested values, for messages."""
        for name, (place, _) in _places().items():
            if loc[: len(place)] == place:
                return ".".join([name, *map(str, loc[len(place) :])])
        return super().location(loc)

    def plain(self) -> dict[str, Any]:
        """Return the plain values by flat name."""
        values = self.model_dump(mode="json")
        return {name: reduce(getitem, place, values) for name, (place, _) in _places().items()}

    def replace(self, **changes: Any) -> Settings:
        """Return a validated copy with some values changed, by flat name."""
        return Settings.parse({**self.plain(), **changes}, where="settings")

    def group_values(self, *groups: Group) -> dict[str, Any]:
        """Return the plain values of some groups, by flat name, without those that only extend."""
        values = self.plain()
        return {
            name: values[name] for name in values if group_of(name) in groups and not extends(name)
        }

    # -- values with their defaults filled in ------------------------------------------------

    @property
    def epochs(self) -> int:
        """Epochs that a student is trained for."""
        return self.student.epochs or self.label.epochs

    @property
    def networks(self) -> Names:
        """Every network that the squeeze trains: the pool, then the holdout networks."""
        return self.teachers + self.holdout_networks

    @property
    def pool(self) -> TeacherPool:
        """The pool, with what each of its networks may give."""
        return TeacherPool(self.primary, self.teachers, self.bn_only, self.logits_only)

    @property
    def label_teachers_used(self) -> Names:
        """The networks whose logits become the soft labels."""
        return self.label.teachers or self.pool.logits

    @property
    def label_teacher_count(self) -> int:
        """How many networks label; 0 where labels are the true classes."""
        return 0 if self.labels == "hard" else len(self.label_teachers_used)

    @property
    def feature_networks_used(self) -> Names:
        """The networks whose features measure diversity."""
        return self.feature_networks or self.holdout_networks

    @property
    def data_free(self) -> bool:
        """Whether there are no real images: ImageNet-1K's classes without its folder."""
        return self.dataset == "imagenet1k" and self.data_dir is None

    @property
    def image_sets(self) -> Names:
        """The sets of images whose diversity is measured: real ones, if any, then the methods'."""
        return self.methods if self.data_free else (REFERENCE, *self.methods)

    @property
    def replicate_seed(self) -> int:
        """The seed of everything that a repetition makes anew: images, views and students."""
        return unit_seed(self.seed, "replicate", self.replicate)

    @property
    def part(self) -> int:
        """Images per forward pass in the synthesis; 0: the whole batch."""
        return 0 if self.micro_batch_size == "auto" else self.micro_batch_size

    def recipe_of(self, method: str) -> Recipe:
        """Return a method's recipe with this run's changes applied; see `load_recipe`."""
        return load_recipe(method, self.recipes.get(method, {}), self.recipe)

    def for_students_of(self, method: str) -> Settings:
        """Return the settings by which students of a method are trained; see `tuned_students`."""
        changes = self.tuned_students.get(method)
        return self.replace(**changes, tuned_students={}) if changes else self

    # -- checks ------------------------------------------------------------------------------

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_lists()
        self._check_networks()
        self._check_labels()
        self._check_variants()
        if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", self.device):
            raise ValueError(f"device: {self.device!r} is no device; use auto, cpu, cuda or cuda:N")
        if self.micro_batch_size != "auto" and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size: {self.micro_batch_size} is more than batch_size "
                f"{self.batch_size}; leave it at auto for the whole batch"
            )
        return self

    def _check_lists(self) -> None:
        for name, value in self.plain().items():
            if Settings.fields()[name].annotation == Names and len(set(value)) < len(value):
                doubled = ", ".join(sorted(name for name in set(value) if value.count(name) > 1))
                raise ValueError(f"{name}: {doubled} is named twice")
        for name in ("teachers", "methods"):
            if not getattr(self, name):
                raise ValueError(f"{name}: name at least one")
        problem = "is not among the methods (keep it in `methods`, or take its entry out)"
        _check_known("recipes", self.recipes, self.methods, problem)
        for name in self.methods:
            if not FOLDER_NAME.fullmatch(name) or name == REFERENCE:
                raise ValueError(
                    f"methods: {name!r} cannot name a folder of results; use letters, digits, dot, "
                    f"dash and underscore, and not {REFERENCE!r}; a `title` may be any text"
                )

    def _check_networks(self) -> None:
        for name in self.students:
            if is_pretrained_name(name):
                raise ValueError(
                    f"students: {name!r} names weights, but a student starts untrained; name the "
                    "architecture alone, without @ or a tag"
                )
        _check_known("primary", [self.primary], self.teachers, "is not in the pool")
        self._check_parts()
        shared = sorted(set(self.teachers) & set(self.holdout_networks))
        if shared:
            raise ValueError(
                f"holdout_networks: {', '.join(shared)} is also a teacher, but a holdout network "
                "takes no part in the synthesis; remove it from one of the two"
            )
        if not self.feature_networks_used:
            raise ValueError(
                "holdout_networks: name at least one network to measure diversity with, or name "
                "a teacher in feature_networks"
            )
        untrained = "is neither teacher nor holdout network, so it is not trained"
        _check_known("label_teachers", self.label.teachers, self.networks, untrained)
        _check_known("feature_networks", self.feature_networks, self.networks, untrained)

    def _check_parts(self) -> None:
        for setting in ("bn_only", "logits_only"):
            _check_known(setting, getattr(self, setting), self.teachers, "is not in the pool")
        for name in self.bn_only:
            if name in self.logits_only:
                raise ValueError(f"logits_only: {name!r} is among bn_only too; change one of them")
            if name == self.primary:
                raise ValueError(
                    f"bn_only: {name!r} is the primary, which gives logits; choose another primary"
                )
            for setting, names in (
                ("label_teachers", self.label.teachers),
                ("feature_networks", self.feature_networks),
            ):
                if name in names:
                    raise ValueError(
                        f"{setting}: {name!r} is among bn_only, so it gives no logits and its "
                        "features are not used; change one of the two"
                    )

    def _check_labels(self) -> None:
        protocol_values(self.protocol)  # refuses an unknown name
        if (self.labels == "hard") != (self.student.loss == "ce"):
            raise ValueError(
                f"student_loss: {self.student.loss!r} does not go with labels {self.labels!r}; "
                "hard labels take ce, and ce takes nothing else"
            )
        longer = self.labels == "stored" and self.epochs > self.label.epochs
        if longer and not self.student.cycle_labels:
            raise ValueError(
                f"student_epochs: {self.epochs} is more than the {self.label.epochs} epochs of "
                "labels; raise label_epochs, or set cycle_labels to reuse them"
            )
        if self.label.ensemble == "primary_half" and self.primary not in self.label_teachers_used:
            raise ValueError("label_ensemble: primary_half needs the primary among label_teachers")

    def _check_variants(self) -> None:
        for method, changes in self.tuned_students.items():
            problem = "is not among the methods"
            _check_known("tuned_students", [method], self.methods, problem)
            _check_known(f"tuned_students.{method}", changes, TUNABLE, "is not a method's own")
            self.for_students_of(method)
        _check_known("eval_variants", self.eval_variants, EVAL_VARIANTS, "is none")
        if "protocol" not in self.eval_variants:
            raise ValueError(
                "eval_variants: protocol must be among them, since methods are compared by it"
            )
        if self.labels == "hard" and any(name.startswith("hard") for name in self.eval_variants):
            raise ValueError(
                "eval_variants: labels are hard already, so hard_labels variants would train the "
                "same students again; take them out"
            )


@cache
def group_of(name: str) -> Group | None:
    """Return the group of a setting, by flat name; None for one that decides nothing."""
    field = Settings.model_fields[_places()[name][0][0]]
    return next((mark for mark in field.metadata if isinstance(mark, Group)), None)


def extends(name: str) -> bool:
    """Return whether a setting, by flat name, may change at any time."""
    return EXTENDS in _places()[name][1].metadata


def _check_known(setting: str, names: Iterable[str], valid: Sequence[str], problem: str) -> None:
    for name in names:
        if name not in valid:
            raise ValueError(f"{setting}: {name!r} {problem}; {suggest(name, valid)}")


@cache
def _places() -> dict[str, tuple[tuple[str, ...], FieldInfo]]:
    """Return each setting's place, (field,) or (section, field), and its field, by flat name."""
    found: dict[str, tuple[tuple[str, ...], FieldInfo]] = {}
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, StrictModel):
            for inner, within in section.model_fields.items():
                found[within.alias or f"{name}_{inner}"] = (name, inner), within
        else:
            found[name] = (name,), field
    return found
