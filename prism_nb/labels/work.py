"""The work of the relabelling: label every epoch's views of one method's images."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from prism_nb.artifacts.images import load_images
from prism_nb.artifacts.labels import EpochLabels, has_epoch, label_path, save_epoch
from prism_nb.artifacts.views import Views, epoch_views, render
from prism_nb.backends import OnEvent
from prism_nb.config import digest
from prism_nb.data import open_dataset
from prism_nb.device import choose_device, half_precision, matrix_precision
from prism_nb.labels.ensemble import norm_balanced_mean
from prism_nb.run import Run
from prism_nb.teachers.pool import load_teacher
from prism_nb.teachers.teacher import Teacher
from prism_nb.units import Unit

_BATCH = 256


def do_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Label one method's images; epochs that are already labelled from them are kept."""
    settings, method = run.settings, unit.key["method"]
    device, dataset = choose_device(settings.device), open_dataset(settings)
    start = time.monotonic()
    pixels, classes = load_images(run, method, dataset)
    images = dataset.canonical(pixels.to(device))
    teachers = [load_teacher(run, name) for name in settings.labellers]
    # An interrupted unit has epochs but no marker, so each file names the images it is made from.
    binding = digest([unit.binding, run.content(unit.inputs)])
    for epoch in range(settings.label_epochs):
        if not has_epoch(run, method, epoch, binding=binding):
            views = epoch_views(settings, len(images), epoch, device)
            labels = label_epoch(images, teachers, views, precision=settings.label_precision)
            save_epoch(run, method, epoch, labels, binding=binding)
        progress = {"step": epoch + 1, "steps": settings.label_epochs}
        on_event({"event": "step", "unit": unit.name, **progress})
    plain = _logits(teachers, images, settings.label_precision)
    agreement = [float((block.argmax(1).cpu() == classes).float().mean()) for block in plain]
    run.finish(
        unit,
        paths=[label_path(method, epoch) for epoch in range(settings.label_epochs)],
        record={
            "seconds": round(time.monotonic() - start, 3),
            "teachers": list(settings.labellers),
            "teacher_accuracy": agreement,
            "ensemble_accuracy": float(
                (norm_balanced_mean(plain).argmax(1).cpu() == classes).float().mean()
            ),
        },
    )


@torch.no_grad()
def label_epoch(
    images: Tensor, teachers: list[Teacher], views: Views, *, precision: str = "fp32"
) -> EpochLabels:
    """Label one epoch's views of canonical images [N, 3, S, S] with an ensemble."""
    rendered = torch.cat(
        [render(images, views, rows) for rows in torch.arange(len(images)).split(_BATCH)]
    )
    return EpochLabels(views, norm_balanced_mean(_logits(teachers, rendered, precision)))


@torch.no_grad()
def _logits(teachers: list[Teacher], images: Tensor, precision: str) -> list[Tensor]:
    """Return each network's logits [N, classes], in float32 whatever its layers compute in."""
    device = images.device
    with matrix_precision(precision, device), half_precision(precision, device):
        blocks = [[teacher(part) for part in images.split(_BATCH)] for teacher in teachers]
    return [torch.cat(parts).float() for parts in blocks]
