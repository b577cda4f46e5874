"""Steps of student training: images resident on the device, against PIL files with a loader.

All train the same student on the same views of the same images with the same loss and optimizer,
each in a process of its own (`python -m benchmarks.student LOOP`), since the kit's memory settings
would help them all.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from benchmarks.common import in_a_process, seconds_of
from prism_nb.core.device import choose_device, disable_malloc_trim
from prism_nb.core.settings import Student
from prism_nb.data.augment import sample_epoch_params
from prism_nb.data.distilled import DeviceImages
from prism_nb.data.small import Digits
from prism_nb.evaluation.label_store import EpochLabels
from prism_nb.evaluation.student import mse_gt_loss, student_trainer, train_epoch
from prism_nb.models.train import new_optimizer
from prism_nb.models.zoo import build_network

_SIZE, _COUNT, _BATCH, _ROUNDS, _EPOCHS = 224, 100, 50, 2, 2
_FILES = "PIL files, DataLoader"
_KIT_PRECISION = {"kit": "fp32", "kit bf16": "bf16"}
_PLAN = Student(epochs=1, batch=_BATCH, evaluate_every=1, precision="fp32")


def student_rows() -> list[dict[str, Any]]:
    """Return seconds per step of the files' loop, and of the kit's in either precision."""
    taken: dict[str, list[float]] = {loop: [] for loop in (_FILES, *_KIT_PRECISION)}
    for _ in range(_ROUNDS):
        for loop, seconds in taken.items():
            seconds += in_a_process("benchmarks.student", loop)
    reference = statistics.median(taken[_FILES])
    medians = {loop: statistics.median(seconds) for loop, seconds in taken.items()}
    return [{"loop": loop, "seconds": s, "speed": reference / s} for loop, s in medians.items()]


def take_steps(loop: str) -> list[float]:
    """Return the mean seconds per step of each epoch of a loop but the first."""
    device = choose_device("auto")
    pixels = torch.randint(0, 256, (_COUNT, 3, _SIZE, _SIZE), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    options = {"crop_min": 0.25, "flip": True, "mix": "cutmix"}
    views = sample_epoch_params(_COUNT, _SIZE, **options, generator=generator)
    labels = EpochLabels(views, torch.randn(_COUNT, 10).half())
    with tempfile.TemporaryDirectory() as folder:
        if loop == _FILES:
            for place, image in enumerate(pixels):
                transforms.to_pil_image(image).save(Path(folder) / f"{place:04d}.png")
            epoch = _epoch_of_files(Path(folder), labels, device)
        else:
            epoch = _epoch_of_the_kit(pixels, labels, device, _KIT_PRECISION[loop])
        return [seconds_of(epoch) * _BATCH / _COUNT for _ in range(1 + _EPOCHS)][1:]


def _epoch_of_the_kit(
    pixels: Tensor, labels: EpochLabels, device: torch.device, precision: str
) -> Callable[[], object]:
    disable_malloc_trim()
    dataset, plan = Digits(_SIZE), _PLAN.model_copy(update={"precision": precision})
    trainer = student_trainer("resnet18", dataset, plan, device, epochs=1)
    images = DeviceImages(pixels.to(device, memory_format=torch.channels_last), dataset)
    on_device = EpochLabels(labels.params.to(device), labels.logits.to(device))
    targets = (torch.arange(_COUNT) % 10).to(device)
    return lambda: train_epoch(trainer, images, targets, on_device, plan)


class _Files(Dataset[tuple[Tensor, int]]):
    """Views of image files, as most programs of the field make them."""

    def __init__(self, folder: Path, labels: EpochLabels) -> None:
        self._paths, self._views = sorted(folder.iterdir()), labels.params
        self._dataset = Digits(_SIZE)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self._paths[index]).convert("RGB")
        top, left, height, width = self._views.crop[index].tolist()
        view = transforms.resized_crop(image, top, left, height, width, [_SIZE, _SIZE])
        if self._views.flip[index]:
            view = transforms.hflip(view)
        return self._dataset.normalize(transforms.pil_to_tensor(view)), index


def _epoch_of_files(
    folder: Path, labels: EpochLabels, device: torch.device
) -> Callable[[], object]:
    """Train in PyTorch's default memory layout, by its default optimizer kernels."""
    student = build_network("resnet18", classes=10, image_size=_SIZE).to(device).train()
    decay = {"weight_decay": _PLAN.weight_decay, "decay_vectors": False}
    groups = new_optimizer(student, "adamw", lr=_PLAN.lr, **decay).param_groups
    optimizer = torch.optim.AdamW([{**group, "fused": None} for group in groups], lr=_PLAN.lr)
    loader = DataLoader(
        _Files(folder, labels),
        batch_size=_BATCH,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
    )

    def epoch() -> None:
        for images, rows in loader:
            top, left, height, width = labels.params.mix_bbox[rows[0]].tolist()
            box = (..., slice(top, top + height), slice(left, left + width))
            images[box] = images.flip(0)[box]
            logits = student(images.to(device))
            soft, hard = labels.logits[rows].float().to(device), (rows % 10).to(device)
            optimizer.zero_grad()
            mse_gt_loss(logits, soft, hard, ce_weight=0.1).backward()
            optimizer.step()

    return epoch


if __name__ == "__main__":
    print(json.dumps(take_steps(sys.argv[1])))
