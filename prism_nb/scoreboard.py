"""What distilled images are worth apart from labels and augmentation: treatments and scores."""

from __future__ import annotations

import pandas as pd

from prism_nb.data import open_dataset
from prism_nb.evaluation.scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from prism_nb.run import Run
from prism_nb.settings import REFERENCE, TREATMENTS, Settings
from prism_nb.tables import mean_std, method_title, protocol_units, treatment_records

SCORES = ("HLR", "IOR", "LRS", "ARS")


def treatment_table(run: Run) -> pd.DataFrame:
    """Return top-1 in percent, mean ± deviation over seeds, by treatment.

    One row per method and student; all real images, where the run has trained on them, are last.
    """
    records = treatment_records(run)
    frame = pd.DataFrame(
        [
            {
                "images": "All real images" if method == REFERENCE else method_title(run, method),
                "student": student,
                "treatment": treatment,
                "top-1 %": mean_std(100 * group.mean(), 100 * group.std()),
            }
            for (method, student, treatment), group in records.groupby(
                ["method", "student", "treatment"], sort=False
            )["last"]
        ]
    )
    wide = frame.pivot_table(
        "top-1 %", ["images", "student"], "treatment", aggfunc="first", sort=False
    )
    return wide[[name for name in TREATMENTS if name in wide]].fillna("–")


def class_accuracy_table(run: Run) -> pd.DataFrame:
    """Return top-1 of each class in percent, mean over students and seeds: class by method."""
    names = [info.name for info in open_dataset(run.settings).classes]
    units = protocol_units(run)
    columns = {}
    for method in run.settings.methods:
        shares = [run.record(unit)["per_class"] for unit in units if unit.key["method"] == method]
        columns[method] = 100 * pd.DataFrame(shares, columns=names, dtype=float).mean()
    return pd.DataFrame(columns).rename_axis("class")


def score_table(run: Run) -> pd.DataFrame:
    """Return DD-Ranking's scores per method and student, accuracies as fractions.

    See `evaluation.scores`. NaN stands where a run lacks what a score needs: `missing_for_scores`
    says what. The control that others are compared with is random real images.
    """
    means = treatment_records(run).groupby(["method", "student", "treatment"], sort=False)["last"]
    known: dict[tuple[str, str, str], float] = means.mean().to_dict()
    random = next(iter(_random_methods(run.settings)), "")
    rows = []
    for method in run.settings.methods:
        for student in run.settings.students:
            scores = _scores(known, method, student, random)
            rows.append({"images": method_title(run, method), "student": student, **scores})
    return pd.DataFrame(rows).set_index(["images", "student"])


def missing_for_scores(run: Run) -> list[str]:
    """Return the settings that the scores need and the run does not have, as one writes them."""
    settings = run.settings
    missing = [] if _random_methods(settings) else ["methods: [..., random_real]"]
    lacking = [name for name in TREATMENTS[:3] if name not in settings.treatments]
    if lacking:
        missing.append(f"treatments: [{', '.join(TREATMENTS[:3])}]")
    return missing if settings.ceiling else [*missing, "ceiling: true"]


def _scores(
    known: dict[tuple[str, str, str], float], method: str, student: str, random: str
) -> dict[str, float]:
    nothing = float("nan")

    def of(images: str, treatment: str) -> float:
        return known.get((images, student, treatment), nothing)

    recovery = hard_label_recovery(of(REFERENCE, "hard"), of(method, "hard"))
    improvement, plain = (
        improvement_over_random(of(method, way), of(random, way)) for way in ("protocol", "plain")
    )
    values = (
        recovery,
        improvement,
        label_robust_score(recovery, improvement),
        augmentation_robust_score(improvement, plain),
    )
    return dict(zip(SCORES, values, strict=True))


def _random_methods(settings: Settings) -> list[str]:
    """Return the methods of a run that are random real images."""
    recipes = {method: settings.recipe_of(method) for method in settings.methods}
    return [m for m, r in recipes.items() if r.images == "initial" and r.init == "real_random"]
