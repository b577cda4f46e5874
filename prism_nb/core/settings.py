"""Settings of a run: one flat set of names, strict types, grouped by the stage they bind."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from prism_nb.core.errors import suggest
from prism_nb.core.presets import protocol_values
from prism_nb.core.recipe import Names, Recipe, make_recipe
from prism_nb.core.units import is_pretrained_name, unit_seed
from prism_nb.core.yaml_io import StrictModel

REFERENCE = "real"  # names the real images that stand beside every method
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a run or a method
Precision = Literal["fp32", "tf32", "bf16"]
_NAME_LISTS = (
    "teachers",
    "holdout_networks",
    "methods",
    "students",
    "label_teachers",
    "feature_networks",
    "eval_variants",
    "class_list",
)
EVAL_VARIANTS = (
    "protocol",
    "no_aug",
    "hard_labels",
    "hard_labels_no_aug",
)  # ways a student is taught


class DataSettings(StrictModel):
    """What is distilled."""

    dataset: str = Field("digits", description="name of the dataset")
    image_size: int = Field(32, ge=8, le=2048, description="side of the square images, in pixels")
    eval_split: Literal["test", "tuning"] = Field(
        "test",
        description="held-out images, or a quarter of the training images that nothing then "
        "learns from: for choosing settings without a look at the test images",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the run; every unit derives its own")
    dataset_hash: str | None = Field(
        None,
        description="digest of the dataset's classes and files; filled in when a run begins, which "
        "then refuses other files. None for embedded data",
    )


class SourceSettings(StrictModel):
    """Where the real images come from.

    They bind no result by themselves: a dataset may move to another disk. What they lead to is
    digested into `dataset_hash`, which binds.
    """

    data_dir: str | None = Field(
        None, description="the dataset's folder, from the working directory; None if embedded"
    )
    class_list: Names = Field(
        (),
        description="folder names of the classes to take, in this order, or a text file with one "
        "per line; none: all classes, sorted",
    )
    skip_corrupt: bool = Field(
        False, description="decode every image once at indexing, and leave out what is damaged"
    )
    download: bool = Field(False, description="fetch a dataset that torchvision can fetch")


class SqueezeSettings(StrictModel):
    """How networks are trained on the real data (squeeze)."""

    holdout_networks: Names = Field(
        (), description="networks kept out of synthesis, to measure with"
    )
    squeeze_epochs: int = Field(10, ge=1, le=10_000, description="epochs of training per network")
    squeeze_batch: int = Field(64, ge=2, description="images per training step")
    squeeze_optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="sgd: with Nesterov momentum 0.9"
    )
    squeeze_lr: float = Field(3e-3, gt=0, description="peak step size")
    squeeze_schedule: Literal["one_cycle", "cosine"] = Field(
        "one_cycle", description="of the step size over the steps; cosine: from its peak to 0"
    )
    squeeze_weight_decay: float = Field(0.05, ge=0, description="of all parameters")
    squeeze_label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the true class that all classes get"
    )
    squeeze_max_shift: int = Field(3, ge=0, le=256, description="largest random shift, in pixels")
    squeeze_crop_min: float = Field(
        1.0, gt=0, le=1, description="smallest random crop, by area; 1: no crops"
    )
    squeeze_flip: bool = Field(False, description="mirror half of the training images")
    squeeze_views: Literal["per_batch", "per_image"] = Field(
        "per_batch", description="for what each shift, crop and flip is drawn"
    )
    squeeze_precision: Precision = Field(
        "fp32", description="of the layers of networks in training; they are judged in fp32"
    )


class PoolSettings(StrictModel):
    """Which of the trained networks steer the synthesis."""

    teachers: Names = Field(
        description="the pool: networks that label and may give BN statistics; with weights: "
        "resnet18@IMAGENET1K_V1, resnet50.a1_in1k, resnet18@FILE",
    )
    primary: str = Field(description="the member of the pool that gives the logits")


class SynthesisSettings(StrictModel):
    """Which methods run, and how many images they make."""

    methods: Names = Field(("prism",), description="recipes to run")
    ipc: int = Field(10, ge=1, le=10_000, description="images per class")
    batch_size: int = Field(100, ge=1, description="images optimised together (one unit)")
    recipe: dict[str, Any] = Field({}, description="changes to every optimising method's recipe")
    recipes: dict[str, dict[str, Any]] = Field(
        {}, description="changes to one method's recipe, or a recipe of your own (or its file)"
    )
    precision: Precision = Field(
        "fp32", description="of the networks' layers; statistics and losses are always fp32"
    )
    replicate: int = Field(
        0, ge=0, description="repetition: other images, views and students of the same teachers"
    )


class LabelSettings(StrictModel):
    """How the teachers label augmented views of the images (relabel)."""

    labels: Literal["stored", "online", "hard"] = Field(
        "stored",
        description="stored: labelled once, for all students; online: by the teachers while a "
        "student learns; hard: the true classes",
    )
    label_teachers: Names = Field((), description="networks that label; none named: the pool")
    label_ensemble: Literal["norm_balanced", "primary_half", "mean", "accuracy"] = Field(
        "norm_balanced", description="how several networks' logits become one label"
    )
    label_statistics: Literal["running", "batch"] = Field(
        "running", description="what the labelling networks normalise by; batch: train mode"
    )
    label_batch: int = Field(256, ge=2, le=65_536, description="views that are labelled together")
    label_epochs: int = Field(
        300, ge=1, le=9_999, description="epochs of views and labels to store"
    )
    label_format: Literal["fp32", "fp16", "int8", "top_k"] = Field(
        "fp16", description="how logits are stored"
    )
    label_top_k: int = Field(10, ge=1, le=10_000, description="logits kept per view by top_k")
    label_crop_min: float = Field(0.25, gt=0, le=1, description="smallest crop of a view, by area")
    label_flip: bool = Field(True, description="mirror half of the views")
    label_mix: Literal["cutmix", "mixup", "none"] = Field(
        "cutmix", description="mixing of two views"
    )
    label_precision: Precision = Field("fp32", description="of the labelling networks' layers")


class DiversitySettings(StrictModel):
    """In whose feature space diversity is measured, and beside how many real images."""

    feature_networks: Names = Field((), description="none named: the holdout networks")
    real_per_class: int = Field(
        500, ge=1, le=100_000, description="real training images to compare with, drawn at random"
    )


class EvaluationSettings(StrictModel):
    """Which students learn from the images, and how."""

    students: Names = Field(description="networks trained from scratch")
    student_seeds: int = Field(3, ge=1, le=1000, description="runs per student: seeds 0, 1, ...")
    student_epochs: int | None = Field(
        None, ge=1, le=9_999, description="epochs of training; None: label_epochs"
    )
    cycle_labels: bool = Field(
        False, description="let students that train for longer go over the stored epochs again"
    )
    student_batch: int = Field(50, ge=2, description="images per training step")
    student_optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="sgd: with momentum 0.9"
    )
    student_lr: float = Field(1e-3, gt=0, description="initial step size")
    student_weight_decay: float = Field(0.01, ge=0, description="none on vectors and scalars")
    student_schedule: Literal["cosine_then_linear", "cosine", "cosine_eta2", "constant"] = Field(
        "cosine_then_linear", description="of the step size over the epochs"
    )
    student_loss: Literal["mse_gt", "kl", "ce"] = Field(
        "mse_gt",
        description="mse_gt: of logits, and ce_weight x cross-entropy; kl: of softened "
        "probabilities; ce: cross-entropy with the true classes, mixed as the views are",
    )
    ce_weight: float = Field(
        0.1, ge=0, description="weight of the true class beside the soft label, in mse_gt"
    )
    student_temperature: float = Field(20.0, gt=0, description="that kl softens by")
    student_ema: float = Field(
        0.0, ge=0, lt=1, description="decay of an averaged copy, which is judged; 0: none"
    )
    eval_variants: Names = Field(
        ("protocol",),
        description="ways each student is taught: protocol (as set above), plain (its labels of "
        "the images as they are), hard (true classes), hard_labels_no_aug (both)",
    )
    train_on_real: bool = Field(
        False, description="train each student on all real training images as well, hard labels"
    )
    evaluate_every: int = Field(10, ge=1, description="epochs between two evaluations")
    student_precision: Precision = Field(
        "fp32", description="of the students' layers in training; they are judged in fp32"
    )


class ProtocolSettings(StrictModel):
    """Whose way of labelling and training it is; the name alone decides nothing."""

    protocol: str = Field(
        "fair", description="named values of the label and student settings, below one's own"
    )


class MachineSettings(StrictModel):
    """Where and how visibly a run works; free to change, since it decides nothing but rounding."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    compile: Literal["auto", "never", "always"] = Field(
        "auto", description="how networks are run; auto: compiled where a run is long enough"
    )
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="images that a network sees at once in the synthesis; auto: the whole batch, "
        "halved when memory runs out. The gradient is that of the whole batch, to rounding",
    )
    backend: Literal["process", "ray", "slurm"] = Field(
        "process",
        description="who does the units: this process, one after the other; ray: several workers, "
        "on this machine or a cluster; slurm: jobs of a queue",
    )
    workers: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        "auto", description="units at a time, with ray or slurm; auto: one per GPU, or per core"
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto",
        description="CPU threads of whoever does a unit; auto: every core in this process, one in "
        "a worker. On CPUs, other numbers round otherwise",
    )
    gpus_per_worker: float = Field(
        1.0, ge=0, le=64, description="GPUs of a worker, or a share of one; without GPUs: none"
    )
    ray_address: str | None = Field(
        None, description="a Ray cluster's address, or auto for one found; None: this machine"
    )
    slurm: dict[str, Any] = Field(
        {}, description="of SLURM's jobs, as submitit calls them, e.g. {slurm_partition: gpu}"
    )
    checkpoint_interval_min: float = Field(
        10.0,
        ge=0,
        description="minutes between two snapshots of a unit's synthesis, from which it goes on "
        "when it was interrupted; 0: none",
    )
    fetch_weights: bool = Field(
        False, description="fetch weights that networks are named with and that are not here yet"
    )
    progress: bool = Field(True, description="show a progress bar")
    preview_every: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="steps between two small pictures of the batch at work, for the run monitor; "
        "auto: twelve per unit; 0: none",
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", device):
            raise ValueError(f"{device!r} is no device; use auto, cpu, cuda or cuda:N")
        return device


class Settings(
    MachineSettings,
    ProtocolSettings,
    EvaluationSettings,
    DiversitySettings,
    LabelSettings,
    SynthesisSettings,
    PoolSettings,
    SqueezeSettings,
    SourceSettings,
    DataSettings,
):
    """Everything a run depends on, by flat names."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in _NAME_LISTS:
            _refuse_doubles(name, getattr(self, name))
        for name in ("teachers", "methods", "students"):
            if not getattr(self, name):
                raise ValueError(f"{name}: name at least one")
        _refuse_weights(self.students)
        if self.primary not in self.teachers:
            raise ValueError(
                f"primary: {self.primary!r} is not in the pool; "
                f"{suggest(self.primary, self.teachers)}"
            )
        shared = set(self.teachers) & set(self.holdout_networks)
        if shared:
            raise ValueError(
                f"holdout_networks: {', '.join(sorted(shared))} is also a teacher; a "
                "holdout network takes no part in the synthesis, so take it out of one of the two"
            )
        if self.micro_batch_size != "auto" and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size: {self.micro_batch_size} is more than batch_size "
                f"{self.batch_size}; a "
                "network never sees more images at once than there are, so leave it at auto"
            )
        if not self.feature_spaces:
            raise ValueError(
                "holdout_networks: name at least one network to measure diversity with, or name "
                "a teacher in feature_networks"
            )
        for name in ("label_teachers", "feature_networks"):
            self._refuse_untrained(name)
        self._require_labels()
        _refuse_strangers("recipes", self.recipes, self.methods)
        _refuse_unfit_names(self.methods)
        return self

    def _refuse_untrained(self, name: str) -> None:
        trained = self.networks
        for network in getattr(self, name):
            if network not in trained:
                raise ValueError(
                    f"{name}: {network!r} is neither teacher nor holdout network, so it is not "
                    f"trained; "
                    f"{suggest(network, trained)}"
                )

    def _require_labels(self) -> None:
        """Refuse labels that a student's loss, length or eval_variants cannot do with."""
        protocol_values(self.protocol)
        if (self.labels == "hard") != (self.student_loss == "ce"):
            raise ValueError(
                f"student_loss: {self.student_loss!r} does not go with labels {self.labels!r}; "
                "hard labels take ce, and ce takes nothing else"
            )
        if self.labels == "stored" and self.epochs > self.label_epochs and not self.cycle_labels:
            raise ValueError(
                f"student_epochs: {self.epochs} is more than the {self.label_epochs} epochs of "
                "labels; raise label_epochs, or let cycle_labels go over them again"
            )
        if self.label_ensemble == "primary_half" and self.primary not in self.label_teachers_used:
            raise ValueError("label_ensemble: primary_half needs the primary among label_teachers")
        self._require_treatments()

    def _require_treatments(self) -> None:
        for name in self.eval_variants:
            if name not in EVAL_VARIANTS:
                raise ValueError(f"eval_variants: {name!r} is none; {suggest(name, EVAL_VARIANTS)}")
        if "protocol" not in self.eval_variants:
            raise ValueError(
                "eval_variants: protocol must be among them, since methods are compared by it"
            )
        if self.labels == "hard" and any(name.startswith("hard") for name in self.eval_variants):
            raise ValueError(
                "eval_variants: labels are hard already, so hard_labels variants would train "
                "the same "
                "students again; take them out"
            )

    @property
    def epochs(self) -> int:
        """Epochs that a student is trained for."""
        return self.student_epochs or self.label_epochs

    @property
    def networks(self) -> Names:
        """Every network that the squeeze trains: the pool, then the holdout networks."""
        return self.teachers + self.holdout_networks

    @property
    def label_teachers_used(self) -> Names:
        """The networks whose logits become the soft labels."""
        return self.label_teachers or self.teachers

    @property
    def feature_spaces(self) -> Names:
        """The networks whose features measure diversity."""
        return self.feature_networks or self.holdout_networks

    def recipe_of(self, method: str) -> Recipe:
        """Return a method's recipe with this run's changes laid over it.

        A method of one's own has an entry in `recipes`; see `recipes.make_recipe`.
        """
        return make_recipe(method, self.recipes.get(method, {}), self.recipe)

    @property
    def replicate_seed(self) -> int:
        """The seed of everything that a repetition makes anew: images, views and students."""
        return unit_seed(self.seed, "replicate", self.replicate)

    @property
    def part(self) -> int:
        """Images that a network sees at once in the synthesis; 0: the whole batch."""
        return 0 if self.micro_batch_size == "auto" else self.micro_batch_size

    def section(self, *groups: type[StrictModel]) -> dict[str, Any]:
        """Return the plain values of some groups, e.g. `section(DataSettings)`."""
        names = {name for group in groups for name in group.model_fields}
        return {name: value for name, value in self.plain().items() if name in names}


def _refuse_doubles(name: str, values: Names) -> None:
    doubled = sorted({value for value in values if values.count(value) > 1})
    if doubled:
        raise ValueError(f"{name}: {', '.join(doubled)} is named twice")


def _refuse_weights(students: Names) -> None:
    for name in students:
        if is_pretrained_name(name):
            raise ValueError(
                f"students: {name!r} names weights, but a student starts untrained; name the "
                "architecture alone, without @ or a tag"
            )


def _refuse_strangers(name: str, values: dict[str, Any], valid: Names) -> None:
    for value in values:
        if value not in valid:
            raise ValueError(f"{name}: {value!r} is not among the methods; {suggest(value, valid)}")


def _refuse_unfit_names(methods: Names) -> None:
    for name in methods:
        if not FOLDER_NAME.fullmatch(name) or name == REFERENCE:
            raise ValueError(
                f"methods: {name!r} cannot name a folder of results; use letters, digits, dot, "
                f"dash and underscore, and not {REFERENCE!r}; a `title` may say anything"
            )
