"""The units of the evaluation: one student from one seed on one method's images."""

from __future__ import annotations

from prism_nb.config import EvaluationSettings, digest
from prism_nb.plans.labels import label_unit
from prism_nb.run import Run
from prism_nb.units import Unit, slug


def units(run: Run, classes: int) -> list[Unit]:
    """Return the units of every method, student and seed."""
    return [
        student_unit(run, method, student, seed, classes)
        for method in run.settings.methods
        for student in run.settings.students
        for seed in range(run.settings.student_seeds)
    ]


def student_unit(run: Run, method: str, student: str, seed: int, classes: int) -> Unit:
    """Return the unit that trains one student."""
    values = run.settings.section(EvaluationSettings)
    del values["students"], values["student_seeds"]
    labels = label_unit(run, method, classes)
    folder = f"evaluation/{method}/{slug(student)}-seed{seed}"
    key = {"method": method, "student": student, "seed": seed}
    return Unit(
        stage="evaluation",
        name=f"{method}/{slug(student)}-seed{seed}",
        marker=f"{folder}/unit.json",
        binding=digest({**key, "settings": values, "labels": labels.binding}),
        key={**key, "folder": folder},
        inputs=(labels.marker, *labels.inputs),
    )
