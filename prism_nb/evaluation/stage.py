"""Evaluation stage: one student's training, its scores and its files."""

from __future__ import annotations

import time

import pandas as pd
import safetensors.torch

from prism_nb.core import fileio
from prism_nb.core.device import choose_device
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import student_units
from prism_nb.core.units import OnEvent, Unit, unit_seed
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.student import load_student_data, train_student
from prism_nb.models.checkpoint import unit_checkpoint


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Train one student from one seed on one method's images, and write its scores."""
    settings, folder = run.settings, unit.params["folder"]
    device, start = choose_device(settings.device), time.monotonic()
    checkpoint = unit_checkpoint(run, unit)
    student, rows, result = train_student(
        unit.params["student"],
        open_dataset(settings),
        load_student_data(run, unit.params["method"], unit.params["variant"], device),
        settings.for_students_of(unit.params["method"]).student,
        epochs=settings.epochs,
        # Equal for all methods, which are thus compared from the same initial weights.
        seed=unit_seed(settings.replicate_seed, "student", unit.params["seed"]),
        on_epoch=lambda values: on_event({"event": "step", "unit": unit.name, **values}),
        checkpoint=checkpoint,
    )
    summary = {
        "last": result.top1,
        "best": max(row["top1"] for row in rows),
        "top5": result.top5,
        "test_loss": result.loss,
        "per_class": result.per_class,
        "seconds": round(time.monotonic() - start, 3),
        "device": str(device),
    }
    confusions = pd.DataFrame(result.confusions, columns=["class", "predicted", "images"])
    weights = {
        name: value.cpu().contiguous().clone() for name, value in student.state_dict().items()
    }
    contents = {
        "metrics.csv": pd.DataFrame(rows).to_csv(index=False).encode(),
        "confusion.csv": confusions.to_csv(index=False).encode(),
        "summary.json": fileio.json_bytes(summary),
        "last.safetensors": safetensors.torch.save(weights),
    }
    for name, content in contents.items():
        fileio.write_bytes(run.file(f"{folder}/{name}"), content)
    run.units.finish(unit, paths=[f"{folder}/{name}" for name in contents], record=summary)
    checkpoint.clear()


def student_table(run: Run) -> pd.DataFrame:
    """Return one row per student trained by the run's protocol.

    Columns: method, student, seed, last and best top-1 and last top-5, each in [0, 1], and test
    loss, NaN where a student's evaluation did not record it.
    """
    frame = student_records(run)
    return frame[frame["variant"] == "protocol"].drop(columns="variant").reset_index(drop=True)


def student_records(run: Run) -> pd.DataFrame:
    """Return the columns of `student_table`, and the variant, for every trained student."""
    classes = len(run.read_classes() or open_dataset(run.settings).classes)
    rows = []
    for unit in student_units(run, classes):
        record = run.units.record(unit)
        key = {name: unit.params[name] for name in ("method", "variant", "student", "seed")}
        scores = {name: record[name] for name in ("last", "best", "top5")}
        rows.append({**key, **scores, "test loss": record.get("test_loss", float("nan"))})
    return pd.DataFrame(rows)
