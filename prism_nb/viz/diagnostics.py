"""Diagnostics of distilled sets: own loss, budgets, variance by stage, rankings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from prism_nb.core.config import short_hash
from prism_nb.core.recipe import Recipe
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.evaluation.stage import student_records, student_table
from prism_nb.execution.pipeline import class_count, stage_units
from prism_nb.models.architectures import architecture_of
from prism_nb.synthesis.objective import Objective
from prism_nb.viz import tables

MIN_SETS = 4  # of a rank correlation
MIN_ARCHITECTURES = 3  # of a rank correlation between architectures
BUDGETS = ["images seen", "label passes"]
# Of a recipe, fields that change a loss but not its unit.
_OPTIMIZATION = {
    *("init", "iterations", "lr", "lr_schedule", "weight_decay", "clamp", "beta1", "beta2")
}

BUDGET_NOTE = (
    "Images seen: views that a student was trained on. Label passes: forward passes of the label "
    "teachers, one view each. The table has both at the end, and top-1 in percent by epoch."
)
DCS_NOTE = (
    "DCS: Spearman's rank correlation of own loss and test loss. Losses of two methods have "
    "different units, so each is by itself, and its sets are ranked among those of one group, "
    "which differ in replicate, initial images, steps and step size alone. No number for fewer "
    f"than {MIN_SETS} sets, not counting one per further group."
)
VARIANCE_NOTE = (
    "Standard deviation in points that each stage's seed adds (nested random effects, variance "
    "averaged over students); seeds: of teachers × replicates × of students. A stage that is not "
    "varied is part of the one before it; one seed of the teachers is part of none."
)
RANKING_NOTE = (
    "Top-1 in percent. Kendall's tau is between a row's order of the architectures and that of "
    "networks trained on all real images: students where train_on_real is set, else the run's own "
    f"networks. It needs {MIN_ARCHITECTURES} architectures that are both."
)

# -- own loss and test loss ------------------------------------------------------------------


def set_losses(run: Run) -> pd.DataFrame:
    """Return one row per method that optimises: its own loss and its students' test loss.

    Columns: method, `group` (hash of what gives losses their units), own loss (`own_loss`, mean
    over the images) and test loss (mean cross-entropy, nats, mean over the students).
    """
    settings, rows = run.settings, []
    test = student_table(run).groupby("method")["test loss"].mean()
    replaced = dict.fromkeys(("replicate", "methods", "recipe", "recipes", "tuned_students"))
    for method in settings.methods:
        recipe, units = settings.recipe_of(method), stage_units(run, "synthesis")
        records = [run.units.record(unit) for unit in units if unit.params["method"] == method]
        if recipe.image_source == "optimized":
            losses = [own_loss(recipe, record) for record in records]
            own = np.average(losses, weights=[record["images"] for record in records])
            fields = recipe.model_dump(mode="json", exclude=_OPTIMIZATION)
            group = short_hash([settings.for_students_of(method).plain() | replaced, fields])
            rows.append((method, group, own, test[method]))
    return pd.DataFrame(rows, columns=["method", "group", "own loss", "test loss"])


def own_loss(recipe: Recipe, record: Mapping[str, Any]) -> float:
    """Return a synthesis unit's objective: its last logged losses by the recipe's weights."""
    losses = record["losses"]
    logit, bn = (
        [name.removeprefix(kind) for name in losses if name.startswith(kind)]
        for kind in ("logit/", "bn/")
    )
    weights = Objective(recipe, {}, record["bn_scales"]).weights(logit, bn)
    # A distance of features has no weight: it is all of the loss.
    return float(sum(weights.get(name, 1.0) * loss for name, loss in losses.items()))


def dcs_table(sets: pd.DataFrame) -> pd.DataFrame:
    """Return each method's number of sets and groups (`set_losses`), and its DCS."""
    rows = []
    for method, mine in sets.groupby("method", sort=False):
        value = rank_correlation(mine["own loss"], mine["test loss"], mine["group"])
        sizes = {"sets": len(mine), "groups": mine["group"].nunique()}
        rows.append({"method": method, **sizes, "DCS": value})
    return pd.DataFrame(rows)


def rank_correlation(a: pd.Series, b: pd.Series, groups: pd.Series) -> float:
    """Return Spearman's rank correlation within groups; of one group, the usual one.

    Ranks are taken in each group and counted from their mean there, so that what distinguishes the
    groups plays no part. NaN for fewer than `MIN_SETS` pairs, not counting one per further group,
    or where a or b does not vary.
    """
    ranks = pd.DataFrame({"a": a, "b": b}).groupby(groups).rank()
    apart = ranks - ranks.groupby(groups).transform("mean")
    if len(ranks) - groups.nunique() + 1 < MIN_SETS or not apart.any().all():
        return math.nan
    return float(apart["a"].corr(apart["b"]))


# -- budgets ---------------------------------------------------------------------------------


def budget_table(run: Run) -> pd.DataFrame:
    """Return the learning curves (`learning_table`), and what was spent until each evaluation.

    `images seen` are the views that a student was trained on; `label passes`, forward passes of
    label teachers, one view each: none for hard labels, nor for stored ones that are used again.
    """
    settings, curves = run.settings, tables.learning_table(run)
    images, epochs = settings.ipc * class_count(run), curves["epoch"]
    labelled = epochs.clip(upper=settings.label.epochs) if settings.labels == "stored" else epochs
    spent = [images * epochs, images * settings.label_teacher_count * labelled]
    return curves.assign(**dict(zip(BUDGETS, spent, strict=True)))


# -- variance by stage -----------------------------------------------------------------------


def variance_row(accuracies: pd.DataFrame) -> dict[str, str]:
    """Return the standard deviation of one method's accuracy by stage, in points, as text.

    `accuracies` are rows of `student_table` with scenario, here a seed of the teachers, and
    replicate. Variances are means over the students; `seeds` is the number of each stage's.
    """
    counts, parts = [accuracies[name].nunique() for name in ("scenario", "seed")], []
    for _, mine in accuracies.groupby("student", sort=False):
        wide = mine.pivot_table("last", "replicate", ["scenario", "seed"]).dropna()
        values = wide.to_numpy().reshape(len(wide), *counts).swapaxes(0, 1)
        parts.append(nested_variances(100 * values))
    means = zip(("teachers", "synthesis", "students"), np.mean(parts, axis=0), strict=True)
    cells = {s: "not varied" if np.isnan(v) else f"{v**0.5:.2f}" for s, v in means}
    return {"seeds": " × ".join(map(str, values.shape)), **cells}


def nested_variances(values: np.ndarray) -> list[float]:
    """Return the variance that each level of a balanced nested design adds.

    `values` has one axis per level, the outermost first. ANOVA estimators: the difference of a
    level's mean square and the next one's, divided by the values per unit of the level; negative
    ones are 0 (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4). NaN for a
    level of one unit, whose part is then in the next outer level that varies.
    """
    found = [math.nan] * values.ndim
    inner, square = 1, 0.0  # values per unit of a level, and the mean square of the next level
    for axis in reversed(range(values.ndim)):
        units = values.shape[axis]
        means = values.mean(axis=tuple(range(axis + 1, values.ndim)))
        if units > 1:
            degrees = means.size // units * (units - 1)
            apart = means - means.mean(axis=-1, keepdims=True)
            own = float(inner * np.square(apart).sum() / degrees)
            found[axis], square = max(0.0, own - square) / inner, own
        inner *= units
    return found


# -- architectures ---------------------------------------------------------------------------


def real_accuracies(run: Run) -> dict[str, float]:
    """Return top-1 in percent of students' architectures trained on all real images, if known.

    These are the students of `train_on_real`, else the run's own networks of the architecture.
    """
    if run.settings.train_on_real:
        records = student_records(run)
        real = records[records["method"] == REFERENCE].groupby("student")["last"].mean()
        return {str(name): 100 * value for name, value in real.items()}
    networks = tables.teacher_table(run).get("accuracy %", pd.Series(dtype=float)).dropna()
    trained = {architecture_of(str(name)): float(value) for name, value in networks.items()}
    return {name: trained[name] for name in run.settings.students if name in trained}


def ranking_table(accuracies: pd.DataFrame, real: Mapping[str, float]) -> pd.DataFrame:
    """Return top-1 by student and Kendall's tau (tau-b) to that of all real images, as first row.

    `accuracies` has a column per student and the number of label teachers, and `method` in its
    index; `real` are those of the same architectures, as far as known. Empty where none is; tau is
    NaN below `MIN_ARCHITECTURES`.
    """
    if not real:
        return pd.DataFrame()
    options = {"method": "kendall", "min_periods": MIN_ARCHITECTURES}
    taus = accuracies.T.apply(pd.Series(real).corr, **options)
    table = accuracies.assign(**{"Kendall's tau": taus}).reset_index()
    keys = {**dict.fromkeys(accuracies.index.names, ""), "method": "All real images"}
    first = pd.DataFrame([{**keys, **real, tables.LABEL_TEACHERS: 0}], columns=table.columns)
    return pd.concat([first, table], ignore_index=True)
