"""What distilled images are worth apart from labels and augmentation: treatments and scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prism_nb.class_names import class_titles
from prism_nb.data import open_dataset
from prism_nb.evaluation.scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from prism_nb.run import Run
from prism_nb.settings import REFERENCE, TREATMENTS, Settings
from prism_nb.tables import (
    accuracy_table,
    diversity_table,
    mean_std,
    method_title,
    protocol_units,
    treatment_records,
)

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
    names = class_titles(open_dataset(run.settings).classes)
    units = protocol_units(run)
    columns = {}
    for method in run.settings.methods:
        shares = [run.record(unit)["per_class"] for unit in units if unit.key["method"] == method]
        columns[method] = 100 * pd.DataFrame(shares, columns=names, dtype=float).mean()
    return pd.DataFrame(columns).rename_axis(index="class", columns="method")


def guess_table(run: Run, method: str, student: str) -> pd.DataFrame:
    """Return what a student takes each class for, in percent of the class's held-out images.

    Returns:
        One row per class, one column per guess, mean over seeds; empty where the run's students
        were trained by a kit that did not record it.
    """
    names = class_titles(open_dataset(run.settings).classes)
    counts = np.zeros((len(names), len(names)))
    for unit in protocol_units(run):
        path = run.file(f"{unit.key['folder']}/guesses.csv")
        if (unit.key["method"], unit.key["student"]) == (method, student) and path.is_file():
            found = pd.read_csv(path)
            counts[found["class"], found["guess"]] += found["images"]
    if not counts.any():
        return pd.DataFrame()
    with np.errstate(invalid="ignore"):
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    return pd.DataFrame(shares, index=names, columns=names).rename_axis("class")


def mistake_table(guesses: pd.DataFrame, *, most: int = 10) -> pd.DataFrame:
    """Return the most frequent mistakes of a `guess_table`, largest first."""
    shares = guesses.to_numpy(copy=True)
    np.fill_diagonal(shares, -1)
    order = np.argsort(-np.nan_to_num(shares, nan=-1), axis=None, kind="stable")[:most]
    rows = [
        {
            "class": guesses.index[i],
            "taken for": guesses.columns[j],
            "of its images %": shares[i, j],
        }
        for i, j in zip(*np.unravel_index(order, shares.shape), strict=True)
        if shares[i, j] > 0
    ]
    return pd.DataFrame(rows, columns=["class", "taken for", "of its images %"]).set_index("class")


def usual_base(methods: Sequence[str]) -> str:
    """Return the method that others are compared with: the single-teacher one where it is there."""
    return next((name for name in ("sre2l", "random_real") if name in methods), methods[0])


def gain_table(classes: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return how much better than `base` each method does per class, in points, worst first.

    Args:
        classes: The result of `class_accuracy_table`.
        base: The method to compare with.
    """
    gains = classes.drop(columns=base).sub(classes[base], axis=0)
    return gains.sort_values(gains.columns[0], kind="stable") if len(gains.columns) else gains


def trade_table(run: Run) -> pd.DataFrame:
    """Return each method's accuracy beside its diversity and fidelity, means over the networks."""
    accuracies, diversity = accuracy_table(run), diversity_table(run)
    rows = []
    for method in run.settings.methods:
        mine, measured = accuracies[accuracies["method"] == method], diversity.loc[[method]]
        rows.append(
            {
                "method": method,
                "top-1 %": mine["mean"].mean(),
                "std over students": mine["mean"].std(),
                "intra-class cosine": measured["intra-class cosine"].mean(),
                "recognised %": measured["recognised %"].mean(),
            }
        )
    return pd.DataFrame(rows).set_index("method")


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
