"""The units of the evaluation: one student from one seed on one method's images."""

from __future__ import annotations

from typing import Any

from prism_nb.config import digest
from prism_nb.plans.labels import label_unit
from prism_nb.run import Run
from prism_nb.settings import REFERENCE, DataSettings, EvaluationSettings, LabelSettings, Settings
from prism_nb.units import Unit, slug

_ASKED = ("students", "student_seeds", "treatments", "ceiling")  # which units, not how


def is_hard(settings: Settings, treatment: str) -> bool:
    """Return whether a treatment teaches the true classes."""
    return settings.labels == "hard" or treatment.startswith("hard")


def is_plain(treatment: str) -> bool:
    """Return whether a treatment shows images as they are."""
    return treatment.endswith("plain")


def units(run: Run, classes: int) -> list[Unit]:
    """Return the units of every method, treatment, student and seed."""
    settings = run.settings
    pairs = [(method, way) for method in settings.methods for way in settings.treatments]
    pairs += [(REFERENCE, "hard")] if settings.ceiling else []
    return [
        student_unit(run, method, treatment, student, seed, classes)
        for method, treatment in pairs
        for student in settings.students
        for seed in range(settings.student_seeds)
    ]


def student_unit(
    run: Run, method: str, treatment: str, student: str, seed: int, classes: int
) -> Unit:
    """Return the unit that trains one student, on all real images where the method is those."""
    way = "" if treatment == "protocol" else f"-{treatment}"
    name = f"{method}/{slug(student)}{way}-seed{seed}"
    key = {"method": method, "treatment": treatment, "student": student, "seed": seed}
    source, inputs = _source(run, method, classes)
    return Unit(
        stage="evaluation",
        name=name,
        marker=f"evaluation/{name}/unit.json",
        binding=digest({**key, "settings": _how(run.settings), "source": source}),
        key={**key, "folder": f"evaluation/{name}"},
        inputs=inputs,
    )


def _source(run: Run, method: str, classes: int) -> tuple[Any, tuple[str, ...]]:
    """Return what a student's images and labels depend on, and the markers of what it reads."""
    if method == REFERENCE:
        views = run.settings.section(DataSettings, LabelSettings)
        return [views, run.settings.replicate], ()
    labels = label_unit(run, method, classes)
    return labels.binding, (labels.marker, *labels.inputs)


def _how(settings: Settings) -> dict[str, Any]:
    values = settings.section(EvaluationSettings)
    return {name: value for name, value in values.items() if name not in _ASKED}
