"""The work of the evaluation: train one student and write down what it learned."""

from __future__ import annotations

import csv
import io
import time

import safetensors.torch
import torch

from prism_nb import files
from prism_nb.artifacts.images import load_images
from prism_nb.artifacts.labels import load_epoch
from prism_nb.backends import OnEvent
from prism_nb.config import Settings
from prism_nb.data import open_dataset
from prism_nb.device import choose_device
from prism_nb.evaluation.student import Curriculum, train_student
from prism_nb.run import Run
from prism_nb.units import Unit, unit_seed


def do_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Train one student from one seed on one method's images."""
    settings, method, folder = run.settings, unit.key["method"], unit.key["folder"]
    device, dataset = choose_device(settings.device), open_dataset(settings)
    start = time.monotonic()
    pixels, classes = load_images(run, method, dataset)
    student, rows = train_student(
        unit.key["student"],
        dataset,
        dataset.canonical(pixels.to(device, memory_format=torch.channels_last)),
        classes.to(device),
        lambda epoch: load_epoch(run, method, epoch, device),
        curriculum(settings, unit.key["seed"]),
        lambda values: on_event({"event": "step", "unit": unit.name, **values}),
    )
    summary = {
        "last": rows[-1]["top1"],
        "best": max(row["top1"] for row in rows),
        "seconds": round(time.monotonic() - start, 3),
        "device": str(device),
    }
    contents = {
        "metrics.csv": _csv(rows).encode(),
        "summary.json": files.json_bytes(summary),
        "last.safetensors": safetensors.torch.save(_weights(student)),
    }
    for name, content in contents.items():
        files.write_bytes(run.file(f"{folder}/{name}"), content)
    run.finish(unit, paths=[f"{folder}/{name}" for name in contents], record=summary)


def curriculum(settings: Settings, seed: int) -> Curriculum:
    """Return how a run trains the student of one seed; it is the same for every method."""
    return Curriculum(
        epochs=settings.label_epochs,
        batch=settings.student_batch,
        lr=settings.student_lr,
        weight_decay=settings.student_weight_decay,
        hard_weight=settings.hard_weight,
        evaluate_every=settings.evaluate_every,
        seed=unit_seed(settings.replicate_seed, "student", seed),
        precision=settings.student_precision,
    )


def _weights(student: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.cpu().contiguous() for name, value in student.state_dict().items()}


def _csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
