"""What results a run's folder has, and which settings they forbid to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prism_nb.settings import (
    DataSettings,
    EvaluationSettings,
    LabelSettings,
    PoolSettings,
    Settings,
    SqueezeSettings,
    SynthesisSettings,
)
from prism_nb.strict import Strict

STAGES = ("teachers", "synthesis", "diversity", "labels", "evaluation", "report")

# The stages whose results a group of settings decides; what is not listed decides none.
_DECIDES: dict[type[Strict], tuple[str, ...]] = {
    DataSettings: STAGES,
    SqueezeSettings: STAGES,
    PoolSettings: ("synthesis", "diversity", "labels", "evaluation", "report"),
    SynthesisSettings: ("synthesis", "diversity", "labels", "evaluation", "report"),
    LabelSettings: ("labels", "evaluation", "report"),
    EvaluationSettings: ("evaluation", "report"),
}
# More may be asked of a run at any time: these add units, or, for the two that name networks to
# measure with, have the quick diversity units made again. Recipes are compared method by method.
_EXTENDS = {
    "methods",
    "students",
    "student_seeds",
    "treatments",
    "ceiling",
    "observers",
    "feature_networks",
    "recipes",
}
_RESULTS = {
    "teachers": "teachers/units/*.json",
    "synthesis": "synthesis/*/units/*.json",
    "diversity": "diversity/*.json",
    "labels": "labels/*/unit.json",
    "evaluation": "evaluation/*/*/unit.json",
    "report": "figures/report.html",
}
_RESULTS_OF_METHOD = (
    "synthesis/{}/units/*.json",
    "diversity/{}.json",
    "labels/{}/unit.json",
    "evaluation/{}/*/unit.json",
)


def has_results(folder: Path, stage: str) -> bool:
    """Return whether a stage has finished any unit in a run's folder."""
    return any(folder.glob(_RESULTS[stage]))


def differences(folder: Path, recorded: Settings, asked: Settings) -> list[str]:
    """Return in words which settings would mix a run's results with others.

    Args:
        folder: The run's.
        recorded: The settings that the run has.
        asked: Those that it is asked to have.
    """
    old, new = recorded.plain(), asked.plain()
    found = []
    for method in sorted(old["recipes"].keys() | new["recipes"].keys()):
        mine, theirs = (_binding_recipe(values, method) for values in (new, old))
        if mine != theirs and _has_results_of(folder, method):
            found.append(_in_words(f"recipes.{method}", theirs, mine))
    free = _EXTENDS | ({"label_teachers"} if recorded.labellers == asked.labellers else set())
    for name in old:
        if old[name] != new[name] and name not in free and _has_decided(folder, name):
            found.append(_in_words(name, old[name], new[name]))
    return found


def _in_words(name: str, old: Any, new: Any) -> str:
    return f"{name} is {old!r} in the run, {new!r} asked for"


def _has_results_of(folder: Path, method: str) -> bool:
    """Return whether any stage has finished a unit of a method."""
    return any(any(folder.glob(pattern.format(method))) for pattern in _RESULTS_OF_METHOD)


def _has_decided(folder: Path, name: str) -> bool:
    """Return whether there are results that a setting has decided."""
    stages = next((s for group, s in _DECIDES.items() if name in group.model_fields), ())
    return any(has_results(folder, stage) for stage in stages)


def _binding_recipe(values: dict[str, Any], method: str) -> dict[str, Any]:
    """Return what a run's settings change of a method's recipe, without its words."""
    words = {"title", "paper", "lacks"}
    changes: dict[str, Any] = values["recipes"].get(method, {})
    return {name: value for name, value in changes.items() if name not in words}
