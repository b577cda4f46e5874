"""How a network is trained on the real data."""

from __future__ import annotations

from dataclasses import dataclass

from prism_nb.settings import Settings
from prism_nb.teachers.augment import Augmentation
from prism_nb.units import unit_seed


@dataclass(frozen=True)
class SqueezePlan:
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        batch: Images per step; the last, smaller batch of an epoch is left out.
        lr: Peak step size.
        shift: Largest random shift per axis, in pixels.
        seed: Seed of the weights, the order, the views and any dropout.
        optimiser: `adamw`, or `sgd` with Nesterov momentum.
        schedule: `one_cycle` (Smith and Topin 2018) or `cosine`, over the steps.
        weight_decay: Of all parameters.
        smoothing: Share of the true class that all classes get.
        crop_min: Smallest random crop, by area in (0, 1]; 1: none.
        flip: Whether half of the images are mirrored.
        per_image: Whether views are drawn for each image, or for a batch.
        precision: Of the network's layers; weights and loss are fp32.
    """

    epochs: int
    batch: int
    lr: float
    shift: int
    seed: int
    optimiser: str = "adamw"
    schedule: str = "one_cycle"
    weight_decay: float = 0.05
    smoothing: float = 0.0
    crop_min: float = 1.0
    flip: bool = False
    per_image: bool = False
    precision: str = "fp32"

    @property
    def augment(self) -> Augmentation:
        """What shows the training images through random views."""
        return Augmentation(self.shift, self.crop_min, self.flip, self.per_image)


def squeeze_plan(settings: Settings, name: str) -> SqueezePlan:
    """Return how a run trains one of its networks."""
    return SqueezePlan(
        epochs=settings.squeeze_epochs,
        batch=settings.squeeze_batch,
        lr=settings.squeeze_lr,
        shift=settings.squeeze_shift,
        seed=unit_seed(settings.seed, "squeeze", name),
        optimiser=settings.squeeze_optimiser,
        schedule=settings.squeeze_schedule,
        weight_decay=settings.squeeze_weight_decay,
        smoothing=settings.squeeze_label_smoothing,
        crop_min=settings.squeeze_crop_min,
        flip=settings.squeeze_flip,
        per_image=settings.squeeze_views == "image",
        precision=settings.squeeze_precision,
    )
