"""The work of the evaluation: train one student and write down what it learned."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence

import safetensors.torch
import timm
import torch
import torchvision

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.device import choose_device
from prism_nb.core.run import Run
from prism_nb.core.units import OnEvent, Unit, unit_seed
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.student import load_student_data, train_student
from prism_nb.models.checkpoint import Checkpoint

_GUESSES = ("class", "guess", "images")  # columns of `guesses.csv`, the last epoch's


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Train one student from one seed on one method's images, in one of the eval_variants."""
    settings, variant, folder = run.settings, unit.params["variant"], unit.params["folder"]
    device = choose_device(settings.device)
    start = time.monotonic()
    checkpoint = Checkpoint(run.file(f"{folder}/checkpoint.safetensors"), _source(run, unit))
    student, rows, verdict = train_student(
        unit.params["student"],
        open_dataset(settings),
        load_student_data(run, unit.params["method"], variant, device),
        settings.student,
        lambda values: on_event({"event": "step", "unit": unit.name, **values}),
        checkpoint,
        epochs=settings.epochs,
        seed=unit_seed(settings.replicate_seed, "student", unit.params["seed"]),
    )
    summary = {
        "last": verdict.top1,
        "best": max(row["top1"] for row in rows),
        "top5": verdict.top5,
        "per_class": verdict.per_class,
        "seconds": round(time.monotonic() - start, 3),
        "device": str(device),
    }
    contents = {
        "metrics.csv": _csv(rows).encode(),
        "guesses.csv": _csv(
            [dict(zip(_GUESSES, row, strict=True)) for row in verdict.guesses]
        ).encode(),
        "summary.json": fileio.json_bytes(summary),
        "last.safetensors": safetensors.torch.save(_weights(student)),
    }
    for name, content in contents.items():
        fileio.write_bytes(run.file(f"{folder}/{name}"), content)
    run.finish(unit, paths=[f"{folder}/{name}" for name in contents], record=summary)
    checkpoint.clear()


def _source(run: Run, unit: Unit) -> str:
    """Return what a training depends on: its settings, images, labels and where it is done."""
    device = choose_device(run.settings.device).type
    versions = [torch.__version__, torchvision.__version__, timm.__version__]
    return short_hash([unit.fingerprint, run.content(unit.inputs), device, versions])


def _weights(student: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.cpu().contiguous().clone() for name, value in student.state_dict().items()}


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
