"""A run's results as tables: what the notebooks show, the figures draw and the report prints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.manifest import UnitState
from prism_nb.core.run import Run
from prism_nb.core.settings import EVAL_VARIANTS, REFERENCE, Settings
from prism_nb.core.text import DASH, format_bytes, format_duration, format_value
from prism_nb.core.unit_plan import batch_of, diversity_unit, method_units, network_units
from prism_nb.core.units import Unit
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.distilled import load_subset
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.features import teacher_scores
from prism_nb.diversity.metrics import METRICS, Metric, metrics_of
from prism_nb.evaluation.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from prism_nb.execution.pipeline import (
    STAGES,
    StagePlan,
    class_count,
    stage_units,
    student_records,
    student_table,
)
from prism_nb.synthesis.teacher_sampling import TeacherSchedule


def method_title(run: Run, method: str) -> str:
    """Return how a method is called in tables and figures."""
    return "Real images" if method == REFERENCE else run.settings.recipe_of(method).title


def settings_table(run: Run) -> pd.DataFrame:
    """Return every setting with its value and what it means."""
    fields = type(run.settings).model_fields
    rows = [
        {"setting": name, "value": format_value(value), "meaning": fields[name].description or ""}
        for name, value in run.settings.plain().items()
    ]
    return pd.DataFrame(rows).set_index("setting")


def plan_table(plan: StagePlan) -> pd.DataFrame:
    """Return a stage's plan in one row; what nothing is known about says "not measured"."""
    states = {f"{state} units": count for state, count in sorted(plan.counts.items())}
    row = {
        "units": len(plan.states),
        "to do": plan.missing,
        **states,
        "time": format_duration(plan.seconds_left),
        "per image": _per_image(plan),
        "peak memory": format_bytes(plan.memory_bytes),
        "disk": format_bytes(plan.disk_bytes),
        **({"cache": format_bytes(plan.cache_bytes)} if plan.cache_bytes else {}),
    }
    return pd.DataFrame([row], index=pd.Index([plan.stage], name="stage"))


def teacher_table(run: Run) -> pd.DataFrame:
    """Return one row per network: role, size, BN layers, accuracy on held-out images.

    Of networks with weights, beside it: the accuracy that those were published with, and whether
    real images have shown that a head's classes are the dataset's, in their order. Columns that
    say nothing of any network are left out.
    """
    order = {None: "trained here", True: "yes", False: "no"}
    rows = []
    for unit in network_units(run.settings):
        record = run.record(unit)
        rows.append(
            {
                "network": unit.name,
                "role": _role(run, unit.name),
                "source": record["source"],
                "parameters": record["parameters"],
                "MFLOPs": record["flops"] / 1e6,
                "BN layers": record["bn_layers"],
                "BN channels": record["bn_channels"],
                "accuracy %": 100 * record["accuracy"],
                "published %": _percent(record.get("published_accuracy")),
                "order checked": order[record.get("order_checked")],
                "seconds": record["seconds"],
                "from run": record["reused_from"] or run.name,
            }
        )
    table = pd.DataFrame(rows).set_index("network")
    nothing = {
        "published %": table["published %"].isna(),
        "order checked": table["order checked"] == order[None],
        "from run": table["from run"] == run.name,
    }
    return table.drop(columns=[name for name, empty in nothing.items() if empty.all()])


def unit_table(run: Run) -> pd.DataFrame:
    """Return one row per synthesis unit: which networks steered it, and its last losses."""
    rows = []
    for unit in stage_units(run, "synthesis"):
        record = run.record(unit)
        losses = record.get("losses", {})
        logit = [value for name, value in losses.items() if name.startswith("logit/")]
        rows.append(
            {
                "unit": unit.name,
                "images": record["images"],
                "BN teachers": _teams(record.get("draws", {}).get("bn_teachers", [])),
                "logit loss": logit[0] if logit else float("nan"),
                "seconds": record["seconds"],
            }
        )
    return pd.DataFrame(rows).set_index("unit")


def bn_loss_share_table(run: Run) -> pd.DataFrame:
    """Return each network's share of the weighted BN loss, mean over a method's units, in %."""
    units = stage_units(run, "synthesis")
    count = Counter(unit.params["method"] for unit in units)
    total: Counter[tuple[str, str]] = Counter()
    for unit in units:
        for network, share in run.record(unit).get("bn_loss_shares", {}).items():
            total[unit.params["method"], network] += share
    rows = [
        {"method": method, "network": network, "share %": 100 * share / count[method]}
        for (method, network), share in total.items()
    ]
    return pd.DataFrame(rows, columns=["method", "network", "share %"])


def bn_teacher_usage_table(run: Run) -> pd.DataFrame:
    """Return in how many of its steps each unit aligned each network, in %; absent ones empty."""
    rows = {}
    for unit in stage_units(run, "synthesis"):
        record = run.record(unit)
        if "draws" in record:
            recipe = run.settings.recipe_of(unit.params["method"]).for_image_index(
                unit.params["image_indices"][0]
            )
            draws = TeacherSchedule(
                record["draws"]["resample_every"], tuple(map(tuple, record["draws"]["bn_teachers"]))
            )
            steps = Counter(
                n for step in range(recipe.iterations) for n in draws.bn_teachers_at(step)
            )
            rows[unit.name] = {n: 100 * count / recipe.iterations for n, count in steps.items()}
    networks = [name for name in run.settings.teachers if any(name in row for row in rows.values())]
    return pd.DataFrame.from_dict(rows, orient="index", columns=networks).rename_axis("unit")


def loss_table(run: Run) -> pd.DataFrame:
    """Return the loss curves: method, unit, step, term, value; the latest try of each unit."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for event in run.events("synthesis"):
        if event.get("event") == "begin":
            curves[event["unit"]] = []
        elif event.get("event") == "step":
            curves.setdefault(event["unit"], []).extend(
                {"unit": event["unit"], "step": event["step"], "term": term, "value": value}
                for term, value in event.get("losses", {}).items()
            )
    rows = [row for curve in curves.values() for row in curve]
    frame = pd.DataFrame(rows, columns=["unit", "step", "term", "value"])
    frame.insert(0, "method", frame["unit"].str.split("/", n=1).str[0])
    return frame


def diversity_table(run: Run) -> pd.DataFrame:
    """Return one row per set of images and feature network: diversity beside fidelity."""
    rows = []
    for unit in stage_units(run, "diversity"):
        for network, space in run.record(unit)["spaces"].items():
            means = {name: found["mean"] for name, found in space["metrics"].items()}
            cosine, seen = means["cosine"], means["recognised"]
            rows.append(
                {
                    "method": unit.name,
                    "images": method_title(run, unit.name),
                    "feature network": network,
                    "intra-class cosine": float("nan") if cosine is None else cosine,
                    "recognised %": float("nan") if seen is None else 100 * seen,
                }
            )
    return pd.DataFrame(rows).set_index("method")


def label_table(run: Run) -> pd.DataFrame:
    """Return one row per method: how well teachers and their ensemble know the images."""
    rows = []
    for unit in stage_units(run, "relabel"):
        record = run.record(unit)
        teachers = zip(record["teachers"], record["teacher_accuracy"], strict=True)
        rows.append(
            {
                "images": method_title(run, unit.name),
                "ensemble %": 100 * record["ensemble_accuracy"],
                **{f"{name} %": 100 * value for name, value in teachers},
                "MB": sum(run.file(p).stat().st_size for p in run.files_of(unit)) / 1e6,
                "seconds": record["seconds"],
            }
        )
    return pd.DataFrame(rows).set_index("images")


def protocol_units(run: Run) -> list[Unit]:
    """Return the students that are taught by the run's protocol, without other eval_variants."""
    return [u for u in stage_units(run, "evaluation") if u.params["variant"] == "protocol"]


def learning_table(run: Run) -> pd.DataFrame:
    """Return the learning curves by the run's protocol: method, student, seed, epoch, top1..."""
    parts = []
    for unit in protocol_units(run):
        frame = pd.read_csv(run.file(f"{unit.params['folder']}/metrics.csv"))
        parts.append(frame.assign(**{k: unit.params[k] for k in ("method", "student", "seed")}))
    return pd.concat(parts, ignore_index=True)


def accuracy_table(run: Run) -> pd.DataFrame:
    """Return mean and standard deviation over seeds, in percent, per method and student."""
    frame = student_table(run)
    grouped = frame.groupby(["method", "student"], sort=False)
    table = pd.DataFrame(
        {
            "mean": 100 * grouped["last"].mean(),
            "std": 100 * grouped["last"].std(),
            "best epoch": 100 * grouped["best"].mean(),
            "top-5": 100 * grouped["top5"].mean(),
            "seeds": grouped["last"].count(),
        }
    )
    return table.reset_index()


def transfer_table(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Return how far each method's images carry over: mean ± deviation, method by student.

    Args:
        accuracies: The result of `accuracy_table`.
    """
    cells = [mean_std(row.mean, row.std) for row in accuracies.itertuples(index=False)]
    frame = accuracies.assign(cell=cells)
    return frame.pivot_table("cell", "method", "student", aggfunc="first", sort=False)


def summary_table(run: Run) -> pd.DataFrame:
    """Return the table that a run is made for: accuracy per student beside diversity."""
    accuracies, rows = accuracy_table(run), []
    diversity = diversity_table(run)
    for method in run.settings.methods:
        title = method_title(run, method)
        mine = accuracies[accuracies["method"] == method]
        cells = {
            f"{row.student} %": mean_std(row.mean, row.std) for row in mine.itertuples(index=False)
        }
        measured = diversity.loc[[method]]
        rows.append(
            {
                "method": title,
                **cells,
                "seeds": int(mine["seeds"].min()),
                "intra-class cosine": _mean_or_dash(measured["intra-class cosine"], 3),
                "recognised %": _mean_or_dash(measured["recognised %"], 1),
            }
        )
    return pd.DataFrame(rows).set_index("method")


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


def _role(run: Run, name: str) -> str:
    if name == run.settings.primary:
        return "primary"
    return "teacher" if name in run.settings.teachers else "holdout"


def _teams(bn_teachers: list[list[str]]) -> str:
    if not bn_teachers:
        return "none (not optimised)"
    if len(bn_teachers) == 1:
        return ", ".join(bn_teachers[0])
    mean = sum(map(len, bn_teachers)) / len(bn_teachers)
    return f"{len(bn_teachers)} draws, {mean:.1f} networks on average"


def mean_std(mean: float, std: float) -> str:
    """Return a mean and its deviation for people; the mean alone where there is one value."""
    return f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"


def _mean_or_dash(values: pd.Series, digits: int) -> str:
    return DASH if values.isna().all() else f"{values.mean():.{digits}f}"


def _per_image(plan: StagePlan) -> str:
    if not plan.images or plan.seconds_left is None:
        return ""
    return f"{plan.seconds_left / plan.images:.2g} s"


RATIO = "radius / real"
Summaries = dict[str, dict[str, Any]]


def diversity_space_table(run: Run, network: str) -> pd.DataFrame:
    """Return every measure in the feature space of a network, a row per set of images.

    Shares are in percent; the radius is that of the real reference times so much. What is
    undefined is NaN; `undefined_table` says why.
    """
    found = {name: record["spaces"][network]["metrics"] for name, record in _records(run)}
    rows = {
        method_title(run, name): {
            **_cells(measures, metrics_of("class", "set")),
            METRICS["radius"].heading: _ratio(measures["radius"], found[REFERENCE]["radius"]),
        }
        for name, measures in found.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("images")
    return table.rename(columns={METRICS["radius"].heading: RATIO})


def agreement_table(run: Run) -> pd.DataFrame:
    """Return whether the pool's teachers see the same in the images, a row per set of images."""
    rows = {
        method_title(run, name): _cells(record["teachers"]["metrics"], metrics_of("teachers"))
        for name, record in _records(run)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("images")


def undefined_table(run: Run) -> pd.DataFrame:
    """Return why measures are undefined, a row per reason; empty where all are defined."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, record in _records(run):
        spaces = {**record["spaces"], "the teachers": record["teachers"]}
        for space, values in spaces.items():
            for measure, summary in values["metrics"].items():
                if summary["undefined"]:
                    key = (method_title(run, name), space, summary["undefined"])
                    rows.setdefault(key, []).append(METRICS[measure].title)
    plain = [(*key[:2], ", ".join(titles), key[2]) for key, titles in rows.items()]
    return pd.DataFrame(plain, columns=["images", "seen by", "measures", "undefined because"])


def diversity_per_class(run: Run) -> pd.DataFrame:
    """Return method, features (the network), class, and a column per measure, NaN if undefined."""
    names = class_titles(open_dataset(run.settings).classes)
    parts = [pd.DataFrame(columns=["method", "features", "class"])]
    for method, record in _records(run):
        for network, space in record["spaces"].items():
            columns = {m.name: space["metrics"][m.name]["per_class"] for m in metrics_of("class")}
            part = pd.DataFrame({"class": names, **columns}).astype(dict.fromkeys(columns, float))
            parts.append(part.assign(method=method, features=network))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def class_table(per_class: pd.DataFrame, measure: str, titles: dict[str, str]) -> pd.DataFrame:
    """Return one measure as a table, a row per class and a column per set of images.

    Args:
        per_class: The result of `diversity_per_class`, for one feature network.
        measure: The measure's name.
        titles: How each method is called.
    """
    columns = {
        titles[str(method)]: group.set_index("class")[measure]
        for method, group in per_class.groupby("method", sort=False)
    }
    return pd.DataFrame(columns).rename_axis("class")


def nearest_table(run: Run, network: str) -> pd.DataFrame:
    """Return the nearest training image of every image, the nearest pairs first.

    Columns: method, class, name (of the class), slot, training image (its place in the training
    split), distance in [0, 2] between normalised features. Undefined ones are left out. The real
    reference's show how near two real images come.
    """
    names, rows = class_titles(open_dataset(run.settings).classes), []
    for method, record in _records(run):
        nearest = record["spaces"][network]["nearest_real"]
        pairs = zip(nearest["index"], nearest["distance"], strict=True)
        for i, pair in enumerate(pairs):
            c, image_index = divmod(i, run.settings.ipc)
            rows.append((method, c, names[c], image_index, *pair))
    columns = ["method", "class", "name", "image_index", "training image", "distance"]
    frame = pd.DataFrame(rows, columns=columns).dropna().astype({"training image": int})
    return frame.sort_values("distance", kind="stable", ignore_index=True)


def measured_networks(run: Run) -> Run:
    """Return the run as if it had no methods but those whose images are measured.

    Raises:
        UsageError: Nothing is measured, or not the real images.
    """
    done = [unit.name for unit in stage_units(run, "diversity") if run.marker(unit) is not None]
    if REFERENCE not in done:
        real = diversity_unit(run, REFERENCE, class_count(run))
        raise UsageError(absent(run, [real], "not measured yet: run notebook 03"))
    methods = tuple(name for name in run.settings.methods if name in done)
    return Run(run.path, run.settings.model_copy(update={"methods": methods}))


def _records(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    for unit in stage_units(run, "diversity"):
        yield unit.name, run.record(unit)


def _cells(measures: Summaries, wanted: tuple[Metric, ...]) -> dict[str, float]:
    return {m.heading: _shown(measures[m.name]["mean"], m) for m in wanted}


def _shown(value: float | None, measure: Metric) -> float:
    return float("nan") if value is None else value * (100 if measure.percent else 1)


def _ratio(mine: dict[str, Any], real: dict[str, Any]) -> float:
    """Divide means over the classes for which both are defined."""
    a, b = (np.array(found["per_class"], dtype=float) for found in (mine, real))
    both = np.isfinite(a) & np.isfinite(b)
    return float(a[both].sum() / b[both].sum()) if b[both].sum() > 0 else float("nan")


SCORES = ("HLR", "IOR", "LRS", "ARS")


def eval_variant_table(run: Run) -> pd.DataFrame:
    """Return top-1 in percent, mean ± deviation over seeds, by variant.

    One row per method and student; all real images, where the run has trained on them, are last.
    """
    records = student_records(run)
    frame = pd.DataFrame(
        [
            {
                "images": "All real images" if method == REFERENCE else method_title(run, method),
                "student": student,
                "variant": variant,
                "top-1 %": mean_std(100 * group.mean(), 100 * group.std()),
            }
            for (method, student, variant), group in records.groupby(
                ["method", "student", "variant"], sort=False
            )["last"]
        ]
    )
    wide = frame.pivot_table(
        "top-1 %", ["images", "student"], "variant", aggfunc="first", sort=False
    )
    return wide[[name for name in EVAL_VARIANTS if name in wide]].fillna("–")


def class_accuracy_table(run: Run) -> pd.DataFrame:
    """Return top-1 of each class in percent, mean over students and seeds: class by method."""
    names = class_titles(open_dataset(run.settings).classes)
    units = protocol_units(run)
    columns = {}
    for method in run.settings.methods:
        shares = [
            run.record(unit)["per_class"] for unit in units if unit.params["method"] == method
        ]
        columns[method] = 100 * pd.DataFrame(shares, columns=names, dtype=float).mean()
    return pd.DataFrame(columns).rename_axis(index="class", columns="method")


def confusion_matrix(run: Run, method: str, student: str) -> pd.DataFrame:
    """Return what a student takes each class for, in percent of the class's held-out images.

    Returns:
        One row per class, one column per guess, mean over seeds; empty where the run's students
        were trained by a kit that did not record it.
    """
    names = class_titles(open_dataset(run.settings).classes)
    counts = np.zeros((len(names), len(names)))
    for unit in protocol_units(run):
        path = run.file(f"{unit.params['folder']}/guesses.csv")
        if (unit.params["method"], unit.params["student"]) == (method, student) and path.is_file():
            found = pd.read_csv(path)
            counts[found["class"], found["guess"]] += found["images"]
    if not counts.any():
        return pd.DataFrame()
    with np.errstate(invalid="ignore"):
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    return pd.DataFrame(shares, index=names, columns=names).rename_axis("class")


def top_confusions(guesses: pd.DataFrame, *, most: int = 10) -> pd.DataFrame:
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


def default_baseline(methods: Sequence[str]) -> str:
    """Return the method that others are compared with: the single-teacher one where it is there."""
    return next((name for name in ("sre2l", "random_real") if name in methods), methods[0])


def per_class_gain_table(classes: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return how much better than `base` each method does per class, in points, worst first.

    Args:
        classes: The result of `class_accuracy_table`.
        base: The method to compare with.
    """
    gains = classes.drop(columns=base).sub(classes[base], axis=0)
    return gains.sort_values(gains.columns[0], kind="stable") if len(gains.columns) else gains


def tradeoff_table(run: Run) -> pd.DataFrame:
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
    means = student_records(run).groupby(["method", "student", "variant"], sort=False)["last"]
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
    lacking = [name for name in EVAL_VARIANTS[:3] if name not in settings.eval_variants]
    if lacking:
        missing.append(f"eval_variants: [{', '.join(EVAL_VARIANTS[:3])}]")
    return missing if settings.train_on_real else [*missing, "train_on_real: true"]


def _scores(
    known: dict[tuple[str, str, str], float], method: str, student: str, random: str
) -> dict[str, float]:
    nothing = float("nan")

    def of(images: str, variant: str) -> float:
        return known.get((images, student, variant), nothing)

    recovery = hard_label_recovery(of(REFERENCE, "hard_labels"), of(method, "hard"))
    improvement, plain = (
        improvement_over_random(of(method, way), of(random, way)) for way in ("protocol", "no_aug")
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
    return [
        m for m, r in recipes.items() if r.image_source == "initial" and r.init == "real_random"
    ]


COLUMNS = ["class", "image_index", "made", "unit", "teachers", "logit loss", "BN loss"]
JUDGED = ["own loss", "agree", "apart"]


def image_table(run: Run, method: str, classes: Sequence[int]) -> pd.DataFrame:
    """Return what the run's records say of a method's images, class by class and slot by slot.

    Columns: `class`, `slot`, `made` (whether the image is there), `unit`, `teachers` (the BN
    teachers of the unit), and the unit's last `logit loss` and `BN loss` (mean over its networks):
    losses are recorded for the images of a unit together. NaN where a unit has none.

    Args:
        run: The run.
        method: A method, or `plans.diversity.REFERENCE` for real images.
        classes: The classes.
    """
    if method == REFERENCE:
        image_indices = range(run.settings.ipc)
        rows = [
            (c, image_index, True, "", "", float("nan"), float("nan"))
            for c in classes
            for image_index in image_indices
        ]
        return pd.DataFrame(rows, columns=COLUMNS)
    wanted, rows = set(classes), []
    for unit in method_units(run, method, class_count(run)):
        mine = [member for member in batch_of(unit).members() if member[0] in wanted]
        if mine:
            known = _known(run, unit)
            rows += [(*member, *known) for member in mine]
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = {c: place for place, c in enumerate(classes)}
    return table.sort_values(
        ["class", "image_index"],
        key=lambda column: column.map(order) if column.name == "class" else column,
    ).reset_index(drop=True)


def with_distance(table: pd.DataFrame, run: Run, method: str, network: str) -> pd.DataFrame:
    """Add `distance`: to the nearest training image of the class, in [0, 2], as recorded.

    NaN where notebook 03 has not measured it.
    """
    marker = run.marker(diversity_unit(run, method, class_count(run)))
    spaces = marker["record"]["spaces"] if marker else {}
    if network not in spaces:
        return table.assign(distance=float("nan"))
    every, ipc = spaces[network]["nearest_real"]["distance"], run.settings.ipc
    found = [every[c * ipc + image_index] for c, image_index in _members(table)]
    return table.assign(distance=pd.Series(found, dtype=float))


def with_teacher_scores(table: pd.DataFrame, run: Run, method: str) -> pd.DataFrame:
    """Add what the teachers make of each image that is there: `own loss`, `agree`, `apart`.

    See `diversity.judged.Judged`; `agree` in percent. They are found out now, and kept in memory.

    Raises:
        PrismError: An image cannot be read, or a teacher is not trained.
    """
    made = table[table["made"]]
    if not len(made):
        return table.assign(**dict.fromkeys(JUDGED, float("nan")))
    pixels = load_subset(run, method, open_dataset(run.settings), list(_members(made)))
    found = teacher_scores(run, pixels, torch.tensor(made["class"].to_list()))
    columns = {"own loss": found.loss, "agree": 100 * found.agreement, "apart": found.js_divergence}
    judged = pd.DataFrame({n: v.numpy() for n, v in columns.items()}, index=made.index)
    return table.join(judged)


def _members(table: pd.DataFrame) -> Iterator[tuple[int, int]]:
    return zip(table["class"].to_list(), table["image_index"].to_list(), strict=True)


def _known(run: Run, unit: Unit) -> tuple[bool, str, str, float, float]:
    marker, nothing = run.marker(unit), float("nan")
    if marker is None:
        return False, unit.name, "", nothing, nothing
    record = marker["record"]
    losses, draws = record.get("losses", {}), record.get("draws", {})
    bn_teachers = dict.fromkeys(
        name for bn_teachers in draws.get("bn_teachers", []) for name in bn_teachers
    )
    logit, bn = (_mean(losses, term) for term in ("logit/", "bn/"))
    return True, unit.name, ", ".join(bn_teachers), logit, bn


def _mean(losses: dict[str, float], term: str) -> float:
    values = [value for name, value in losses.items() if name.startswith(term)]
    return sum(values) / len(values) if values else float("nan")


ALL_CLASSES = "all classes"


def class_label(info: ClassInfo) -> str:
    """Return a class's number and the first of its names, which no other class has."""
    return f"{info.index} · {info.name.split(',')[0]}"


def class_titles(classes: Sequence[ClassInfo]) -> list[str]:
    """Return every class's name, with its folder where another class is called the same.

    ImageNet-1K has two cranes, a bird and a machine: a table by name alone would mix them.
    """
    count = Counter(info.name for info in classes)
    return [
        info.name if count[info.name] == 1 else f"{info.name} ({info.folder})" for info in classes
    ]


def parse_class_selection(text: str, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
    """Return the classes that a text names, in its order, each once.

    Args:
        text: Numbers, ranges of them (`3-7`), names, folders or labels, separated by commas; or
            nothing, or `all classes`.
        classes: The dataset's.

    Raises:
        UsageError: A part names no class, or several.
    """
    if text.strip().lower() in {"", "all", ALL_CLASSES}:
        return tuple(range(len(classes)))
    parts = [text] if _named(text, classes) else [p for p in text.split(",") if p.strip()]
    return tuple(dict.fromkeys(c for part in parts for c in _part(part.strip(), classes)))


def _part(text: str, classes: Sequence[ClassInfo]) -> list[int]:
    span = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", text)
    if span:
        first, last = int(span[1]), int(span[2] or span[1])
        if first <= last < len(classes):
            return list(range(first, last + 1))
        raise UsageError(f"no class {text}; they are numbered from 0 to {len(classes) - 1}")
    found = _named(text, classes)
    if len(found) == 1:
        return found
    if found:
        numbers = ", ".join(str(c) for c in found[:5])
        raise UsageError(f"{text!r} is the name of several classes; give a number: {numbers}")
    names = {word for info in classes for word in (*_words(info), info.folder)}
    raise UsageError(f"no class {text!r}; {suggest(text.lower(), names)}")


def _named(text: str, classes: Sequence[ClassInfo]) -> list[int]:
    """Return the classes that are called so: by label or folder, else by any of their names."""
    word = text.strip().lower()
    exact = [i.index for i in classes if word in {class_label(i).lower(), i.folder.lower()}]
    if exact:
        return exact
    return [i.index for i in classes if word in {i.name.lower(), *_words(i)}]


def _words(info: ClassInfo) -> list[str]:
    return [word.strip().lower() for word in info.name.split(",")]


def absent(run: Run, units: Sequence[Unit], unmade: str) -> str:
    """Say why units of a stage are not there: damaged, made by other settings, or never made.

    Args:
        run: The run.
        units: They, of one stage; at least one.
        unmade: What is said where none of them was ever made.
    """
    states = [run.inspect(unit, deep=False) for unit in units]
    spoilt = [state for state in states if state.state not in {"done", "missing"}]
    if not spoilt:
        return unmade
    number = STAGES[units[0].stage].notebook.partition("_")[0]
    return f"{_spoilt(spoilt, len(units))}; run notebook {number} again, which mends that"


def _spoilt(states: Sequence[UnitState], count: int) -> str:
    first = f"{states[0].state}: {states[0].reason}"
    return first if count == 1 else f"{len(states)} of {count} units not usable, first {first}"
