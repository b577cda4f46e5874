"""How large a rehearsal is, where it lies, and what it changes of the preset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from prism_nb.core.config import read_preset
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.zoo import architecture_of

PRESET = "imagenet1k_ipc10"
_CROPS = 4  # real images that one of RDED's is made of
_NETWORKS = ("teachers", "holdout_networks", "label_teachers", "feature_networks")


@dataclass(frozen=True)
class Scale:
    """What is turned down.

    Attributes:
        classes: Number of classes; of a thousand, all, else as many spread over the order.
        ipc: Images per class.
        image_size: Side of the images, in pixels.
        steps: Steps per unit of the synthesis; with as many slots or fewer, later ones get fewer.
        epochs: Epochs of labels, and of training.
        batch_size: Images per unit.
        students: Students, one seed each, in place of the preset's.
        stand_ins: Smaller architectures, in place of the preset's.
    """

    classes: int = 1000
    ipc: int = 2
    image_size: int = 72
    steps: int = 2
    epochs: int = 1
    batch_size: int = 100
    students: tuple[str, ...] = ("resnet18",)
    stand_ins: Mapping[str, str] = field(default_factory=dict)

    @property
    def wnids(self) -> list[str]:
        """The classes, in the order that published heads have."""
        wnids = imagenet_wnids()
        return [wnids[i * len(wnids) // self.classes] for i in range(self.classes)]

    @property
    def train(self) -> int:
        """Training images per class: as many as RDED needs."""
        return _CROPS * self.ipc

    @property
    def networks(self) -> dict[str, str]:
        """Architecture to be had for each of the preset's networks with weights."""
        preset = read_preset(PRESET)
        names = [name for role in _NETWORKS for name in preset[role]]
        own = {name: architecture_of(name) for name in names}
        return {name: self.stand_ins.get(network, network) for name, network in own.items()}


@dataclass(frozen=True)
class Place:
    """The folder of a rehearsal.

    Attributes:
        folder: It.
    """

    folder: Path

    @property
    def tree(self) -> Path:
        """The generated images."""
        return self.folder / "imagenet"

    @property
    def cache(self) -> Path:
        """The kit's cache."""
        return self.folder / "cache"

    @property
    def run(self) -> Path:
        """The run."""
        return self.folder / "runs" / PRESET

    def weights(self, architecture: str) -> Path:
        """Return the file of a network's weights."""
        return self.folder / "weights" / f"{architecture}.safetensors"

    def network(self, architecture: str) -> str:
        """Return the name of a network with those weights; short within the clone."""
        path = self.weights(architecture).absolute()
        path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        return f"{architecture}@{path}"


def changes(scale: Scale, place: Place) -> dict[str, Any]:
    """Return what a rehearsal sets over the preset: files, sizes and counts, nothing else."""
    preset = read_preset(PRESET)
    named = {name: place.network(network) for name, network in scale.networks.items()}
    roles = {role: [named[name] for name in preset[role]] for role in _NETWORKS}
    everything = scale.classes == len(imagenet_wnids())
    return {
        "data_dir": str(place.tree.absolute()),
        **({} if everything else {"class_list": scale.wnids}),
        **roles,
        "primary": named[preset["primary"]],
        "image_size": scale.image_size,
        "ipc": scale.ipc,
        "batch_size": scale.batch_size,
        "recipe.iterations": scale.steps,
        "recipes.prism.early_late_step": int(scale.ipc <= scale.steps),
        "recipes.rded.mosaic_grid": 2,  # as at 224 px
        "recipes.rded.crops_per_image": 1,
        "label_epochs": scale.epochs,
        "real_per_class": scale.ipc,
        "students": list(scale.students),
        "student_seeds": 1,
        "evaluate_every": 1,
    }


def assignments(scale: Scale, place: Place) -> list[str]:
    """Return the changes as arguments of `prism-nb run`."""
    values = changes(scale, place).items()
    return [part for name, value in values for part in ("--set", f"{name}={json.dumps(value)}")]
