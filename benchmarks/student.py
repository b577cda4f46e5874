"""An epoch of student training: images resident on the device, against PIL files with a loader.

Both train the same student on the same views of the same images with the same loss and optimizer.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from benchmarks.common import ROOT
from prism_nb.core.device import choose_device, disable_malloc_trim
from prism_nb.core.settings import Student
from prism_nb.data.augment import BatchAugParams, sample_epoch_params
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import DeviceImages
from prism_nb.data.small import Digits
from prism_nb.evaluation.label_store import EpochLabels
from prism_nb.evaluation.student import (
    mse_gt_loss,
    student_trainer,
    train_epoch,
)
from prism_nb.models.train import new_optimizer
from prism_nb.models.zoo import build_network

_SIZE, _COUNT, _BATCH, _ROUNDS, _EPOCHS = 224, 100, 50, 2, 2
# Precision of the kit's loops; the other one works as most programs of the field do.
_LOOPS = {"PIL files, DataLoader": None, "kit": "fp32", "kit bf16": "bf16"}
_PLAN = Student(epochs=1, batch=_BATCH, evaluate_every=1, precision="fp32")


class _Files(Dataset[tuple[Tensor, int]]):
    """Views of image files, as most programs of the field make them."""

    def __init__(self, folder: Path, views: BatchAugParams, dataset: ImageDataset) -> None:
        self._paths, self._views, self._dataset = sorted(folder.iterdir()), views, dataset

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self._paths[index]).convert("RGB")
        top, left, height, width = self._views.crop[index].tolist()
        shown = transforms.resized_crop(image, top, left, height, width, [_SIZE, _SIZE])
        if self._views.flip[index]:
            shown = transforms.hflip(shown)
        return self._dataset.normalize(transforms.pil_to_tensor(shown)), index


def student_rows() -> list[dict[str, Any]]:
    """Return seconds per step of either way, and of the kit's in bfloat16."""
    taken: dict[str, list[float]] = {name: [] for name in _LOOPS}
    for _ in range(_ROUNDS):
        for name in _LOOPS:
            taken[name] += _in_a_process(name)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    reference = next(iter(medians.values()))
    title = f"resnet18, {_SIZE} px, batch {_BATCH}"
    for name, seconds in medians.items():
        print(f"{title:<28}{name:<24}{seconds:8.3f} s/step {reference / seconds:6.2f} x")
    return [
        {"case": title, "loop": name, "seconds": seconds, "speed": reference / seconds}
        for name, seconds in medians.items()
    ]


def _in_a_process(name: str) -> list[float]:
    """Run a loop in a process of its own, since the kit's memory settings would help them all."""
    command = [sys.executable, "-m", "benchmarks.student", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def take(name: str) -> list[float]:
    """Return the seconds per step of each epoch of a loop but the first."""
    device, dataset = choose_device("auto"), Digits(_SIZE)
    pixels = torch.randint(0, 256, (_COUNT, 3, _SIZE, _SIZE), dtype=torch.uint8)
    views = sample_epoch_params(
        _COUNT,
        _SIZE,
        crop_min=0.25,
        flip=True,
        mix="cutmix",
        generator=torch.Generator().manual_seed(0),
    )
    labels = EpochLabels(views, torch.randn(_COUNT, 10).half())
    classes = torch.arange(_COUNT) % 10
    with tempfile.TemporaryDirectory() as folder:
        for place, image in enumerate(pixels):
            transforms.to_pil_image(image).save(Path(folder) / f"{place:04d}.png")
        precision = _LOOPS[name]
        if precision is None:
            epoch = _from_files(_Files(Path(folder), views, dataset), labels, classes, device)
        else:
            epoch = _resident(dataset, pixels, labels, classes, device, precision)
        return [_seconds(epoch, device) for _ in range(1 + _EPOCHS)][1:]


def _seconds(epoch: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    epoch()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / (_COUNT // _BATCH)


def _resident(
    dataset: ImageDataset,
    pixels: Tensor,
    labels: EpochLabels,
    classes: Tensor,
    device: torch.device,
    precision: str,
) -> Callable[[], object]:
    disable_malloc_trim()
    plan = _PLAN.model_copy(update={"precision": precision})
    pupil = student_trainer("resnet18", dataset, plan, device, epochs=1)
    images = DeviceImages(pixels.to(device, memory_format=torch.channels_last), dataset)
    on_device = EpochLabels(labels.params.to(device), labels.logits.to(device))
    targets = classes.to(device)
    return lambda: train_epoch(pupil, images, targets, on_device, plan)


def _from_files(
    files: _Files, labels: EpochLabels, classes: Tensor, device: torch.device
) -> Callable[[], object]:
    """Train in PyTorch's default memory layout, by its default optimizer kernels."""
    student = build_network("resnet18", classes=10, image_size=_SIZE).to(device).train()
    decay = {"weight_decay": _PLAN.weight_decay, "decay_vectors": False}
    groups = new_optimizer(student, "adamw", lr=_PLAN.lr, **decay).param_groups
    optimizer = torch.optim.AdamW([{**group, "fused": None} for group in groups], lr=_PLAN.lr)
    loader = DataLoader(
        files, batch_size=_BATCH, shuffle=True, num_workers=2, persistent_workers=True
    )

    def epoch() -> None:
        for images, rows in loader:
            top, left, height, width = labels.params.mix_bbox[rows[0]].tolist()
            images[..., top : top + height, left : left + width] = images.flip(0)[
                ..., top : top + height, left : left + width
            ]
            logits = student(images.to(device))
            soft, hard = labels.logits[rows].float().to(device), classes[rows].to(device)
            optimizer.zero_grad()
            mse_gt_loss(logits, soft, hard, ce_weight=0.1).backward()
            optimizer.step()

    return epoch


if __name__ == "__main__":
    print(json.dumps(take(sys.argv[1])))
