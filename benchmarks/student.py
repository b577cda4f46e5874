"""An epoch of student training: images resident on the device, beside PIL files and a DataLoader.

Both train the same student on the same views of the same images with the same loss and optimiser.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from prism_nb.artifacts.images import Resident
from prism_nb.artifacts.labels import EpochLabels
from prism_nb.artifacts.views import Views, draw_views
from prism_nb.data import ImageDataset
from prism_nb.data.digits import Digits
from prism_nb.device import choose_device, keep_freed_memory
from prism_nb.evaluation.protocol import match_logits
from prism_nb.evaluation.student import Curriculum, Pupil, train_epoch

_SIZE, _COUNT, _BATCH, _ROUNDS = 224, 100, 50, 3
_PLAN = Curriculum(
    epochs=1,
    batch=_BATCH,
    optimiser="adamw",
    lr=1e-3,
    weight_decay=0.01,
    schedule="slow_drop",
    loss="mse_ce",
    hard_weight=0.1,
    temperature=20.0,
    ema=0.0,
    evaluate_every=1,
    seed=0,
)


class _Files(Dataset[tuple[Tensor, int]]):
    """Views of image files, as most programs of the field make them."""

    def __init__(self, folder: Path, views: Views, dataset: ImageDataset) -> None:
        self._paths, self._views, self._dataset = sorted(folder.iterdir()), views, dataset

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self._paths[index]).convert("RGB")
        top, left, height, width = self._views.crop[index].tolist()
        shown = transforms.resized_crop(image, top, left, height, width, [_SIZE, _SIZE])
        if self._views.flip[index]:
            shown = transforms.hflip(shown)
        return self._dataset.canonical(transforms.pil_to_tensor(shown)), index


def student_rows() -> list[dict[str, Any]]:
    """Return seconds per step of either way, and of the kit's in bfloat16."""
    keep_freed_memory()
    device, dataset = choose_device("auto"), Digits(_SIZE)
    pixels = torch.randint(0, 256, (_COUNT, 3, _SIZE, _SIZE), dtype=torch.uint8)
    views = draw_views(
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
        loops = {
            "PIL files, DataLoader": _from_files(
                _Files(Path(folder), views, dataset), labels, classes, device
            ),
            "kit": _resident(dataset, pixels, labels, classes, device, "fp32"),
            "kit bf16": _resident(dataset, pixels, labels, classes, device, "bf16"),
        }
        taken: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(1 + _ROUNDS):
            for name, epoch in loops.items():
                begin = time.perf_counter()
                epoch()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                taken[name].append((time.perf_counter() - begin) / (_COUNT // _BATCH))
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
    reference = medians["PIL files, DataLoader"]
    title = f"resnet18, {_SIZE} px, batch {_BATCH}"
    for name, seconds in medians.items():
        print(f"{title:<28}{name:<24}{seconds:8.3f} s/step {reference / seconds:6.2f} x")
    return [
        {"case": title, "loop": name, "seconds": seconds, "speed": reference / seconds}
        for name, seconds in medians.items()
    ]


def _resident(
    dataset: ImageDataset,
    pixels: Tensor,
    labels: EpochLabels,
    classes: Tensor,
    device: torch.device,
    precision: str,
) -> Callable[[], object]:
    plan = replace(_PLAN, precision=precision)
    pupil = Pupil("resnet18", dataset, plan, device)
    images = Resident(pixels.to(device, memory_format=torch.channels_last), dataset)
    on_device = EpochLabels(labels.views.to(device), labels.logits.to(device))
    targets = classes.to(device)
    return lambda: train_epoch(pupil, images, targets, on_device, plan)


def _from_files(
    files: _Files, labels: EpochLabels, classes: Tensor, device: torch.device
) -> Callable[[], object]:
    pupil = Pupil("resnet18", Digits(_SIZE), _PLAN, device)
    loader = DataLoader(
        files, batch_size=_BATCH, shuffle=True, num_workers=2, persistent_workers=True
    )

    def epoch() -> None:
        pupil.student.train()
        for images, rows in loader:
            top, left, height, width = labels.views.box[rows[0]].tolist()
            images[..., top : top + height, left : left + width] = images.flip(0)[
                ..., top : top + height, left : left + width
            ]
            logits = pupil.student(images.to(device, memory_format=torch.channels_last))
            soft, hard = labels.logits[rows].float().to(device), classes[rows].to(device)
            pupil.step(match_logits(logits, soft, hard, hard_weight=0.1))

    return epoch
