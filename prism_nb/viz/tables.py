"""A run's results as tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.presets import PROTOCOLS, project_root, protocol_metadata, protocol_values
from prism_nb.core.run import Run
from prism_nb.core.settings import EVAL_VARIANTS, REFERENCE
from prism_nb.core.text import DASH, format_bytes, format_duration, format_value
from prism_nb.core.unit_plan import batch_of, method_units, network_units
from prism_nb.core.units import Unit
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.metrics import METRICS, Metric, metrics_of
from prism_nb.evaluation.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from prism_nb.evaluation.stage import student_records, student_table
from prism_nb.execution.pipeline import (
    StagePlan,
    class_count,
    stage_units,
)
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

NAN = float("nan")
THIS_RUN = "this run"
_PUBLISHED = ("method", "dataset", "student", "ipc", "top1", "std", "source")


def method_titles(run: Run) -> dict[str, str]:
    """Return the titles of the real reference and of a run's methods, by name."""
    methods = {name: run.settings.recipe_of(name).title for name in run.settings.methods}
    return {REFERENCE: "Real images", **methods}


def settings_table(run: Run) -> pd.DataFrame:
    """Return every setting with its value and its meaning."""
    fields = run.settings.fields()
    rows = [
        {"setting": name, "value": format_value(value), "meaning": fields[name].description or ""}
        for name, value in run.settings.plain().items()
    ]
    return pd.DataFrame(rows).set_index("setting")


def plan_table(plan: StagePlan) -> pd.DataFrame:
    """Return a stage's plan in one row."""
    per_image = ""
    if plan.images and plan.seconds_left is not None:
        per_image = f"{plan.seconds_left / plan.images:.2g} s"
    row = {
        "units": len(plan.states),
        "to do": plan.missing,
        **{f"{state} units": count for state, count in sorted(plan.counts.items())},
        "time": format_duration(plan.seconds_left),
        "per image": per_image,
        "peak memory": format_bytes(plan.memory_bytes),
        "disk": format_bytes(plan.disk_bytes),
        **({"cache": format_bytes(plan.cache_bytes)} if plan.cache_bytes else {}),
    }
    return pd.DataFrame([row], index=pd.Index([plan.stage], name="stage"))


# --- Teachers and synthesis ---


def teacher_table(run: Run) -> pd.DataFrame:
    """Return one row per network: role, size, BN layers, accuracy on held-out images.

    Networks with published weights have the published accuracy too, and whether the class order
    of their head was checked. Columns that are empty for every network are left out.
    """
    checked = {None: None, True: "yes", False: "no"}
    rows = []
    for unit in network_units(run.settings):
        record = run.units.record(unit)
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
                "published %": 100 * (record.get("published_accuracy") or NAN),
                "class order checked": checked.get(record.get("order_checked")),
                "seconds": record["seconds"],
                "reused from": record["reused_from"],
            }
        )
    return pd.DataFrame(rows).set_index("network").dropna(axis="columns", how="all")


def _role(run: Run, network: str) -> str:
    if network == run.settings.primary:
        return "primary"
    return "teacher" if network in run.settings.teachers else "holdout"


def unit_table(run: Run) -> pd.DataFrame:
    """Return one row per synthesis unit: its BN teachers, last logit loss and seconds."""
    rows = []
    for unit in stage_units(run, "synthesis"):
        record = run.units.record(unit)
        logit_loss, _ = _last_losses(record)
        rows.append(
            {
                "unit": unit.name,
                "images": record["images"],
                "BN teachers": _draw_summary(record.get("draws", {}).get("bn_teachers", [])),
                "logit loss": logit_loss,
                "seconds": record["seconds"],
            }
        )
    return pd.DataFrame(rows).set_index("unit")


def _draw_summary(draws: list[list[str]]) -> str:
    if len(draws) > 1:
        mean = sum(map(len, draws)) / len(draws)
        return f"{len(draws)} draws, {mean:.1f} networks on average"
    return ", ".join(draws[0]) if draws else "none (not optimised)"


def _last_losses(record: dict[str, Any]) -> tuple[float, float]:
    """Return the last logit and BN loss of a unit's record, means over networks."""
    losses = record.get("losses", {})
    terms = [[v for name, v in losses.items() if name.startswith(t)] for t in ("logit/", "bn/")]
    logit, bn = (sum(values) / len(values) if values else NAN for values in terms)
    return logit, bn


def bn_loss_share_table(run: Run) -> pd.DataFrame:
    """Return each network's share of the weighted BN loss, mean over a method's units, in %."""
    units = stage_units(run, "synthesis")
    count = Counter(unit.params["method"] for unit in units)
    total: Counter[tuple[str, str]] = Counter()
    for unit in units:
        for network, share in run.units.record(unit).get("bn_loss_shares", {}).items():
            total[unit.params["method"], network] += share
    rows = [
        {"method": method, "network": network, "share %": 100 * share / count[method]}
        for (method, network), share in total.items()
    ]
    return pd.DataFrame(rows, columns=["method", "network", "share %"])


def bn_teacher_usage_table(run: Run) -> pd.DataFrame:
    """Return for how many % of its steps each unit used each network as BN teacher."""
    rows = {}
    for unit in stage_units(run, "synthesis"):
        draws = run.units.record(unit).get("draws")
        if draws is not None:
            recipe = run.settings.recipe_of(unit.params["method"])
            steps = recipe.for_image_index(unit.params["image_indices"][0]).iterations
            schedule = TeacherSchedule(
                draws["resample_every"], tuple(map(tuple, draws["bn_teachers"]))
            )
            used = Counter(
                network for step in range(steps) for network in schedule.bn_teachers_at(step)
            )
            rows[unit.name] = {network: 100 * count / steps for network, count in used.items()}
    networks = [name for name in run.settings.teachers if any(name in row for row in rows.values())]
    return pd.DataFrame.from_dict(rows, orient="index", columns=networks).rename_axis("unit")


def loss_table(run: Run) -> pd.DataFrame:
    """Return the loss curves (method, unit, step, term, value) of each unit's latest attempt."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for event in run.events.read("synthesis"):
        if event.get("event") == "unit_start":
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


def image_table(run: Run, method: str, classes: Sequence[int]) -> pd.DataFrame:
    """Return what a run has recorded of a method's images, class by class.

    Args:
        run: The run.
        method: A method, `REFERENCE` for real images.
        classes: Class indices.

    Returns:
        Columns `class`, `image_index`, `made` (whether the image exists), `unit`, `teachers` (the
        unit's BN teachers), and the unit's last `logit loss` and `BN loss`, NaN where it has none.
    """
    position, rows = {c: i for i, c in enumerate(classes)}, []
    if method == REFERENCE:
        every = [(c, index) for c in classes for index in range(run.settings.ipc)]
        rows = [(*key, True, "", "", NAN, NAN) for key in every]
    else:
        for unit in method_units(run, method, class_count(run)):
            keys = [key for key in batch_of(unit).members() if key[0] in position]
            known = _unit_details(run, unit) if keys else ()
            rows += [(*key, *known) for key in keys]
    rows.sort(key=lambda row: (position[row[0]], row[1]))
    columns = ["class", "image_index", "made", "unit", "teachers", "logit loss", "BN loss"]
    return pd.DataFrame(rows, columns=columns)


def _unit_details(run: Run, unit: Unit) -> tuple[bool, str, str, float, float]:
    marker = run.units.marker(unit)
    if marker is None:
        return False, unit.name, "", NAN, NAN
    draws = marker["record"].get("draws", {}).get("bn_teachers", [])
    networks = dict.fromkeys(name for drawn in draws for name in drawn)
    return True, unit.name, ", ".join(networks), *_last_losses(marker["record"])


def image_keys(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Return class and index of each row of an image table."""
    return list(zip(table["class"].to_list(), table["image_index"].to_list(), strict=True))


# --- Diversity ---


def _diversity_records(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    for unit in stage_units(run, "diversity"):
        yield unit.name, run.units.record(unit)


def diversity_table(run: Run) -> pd.DataFrame:
    """Return intra-class cosine and share recognised, per method and feature network."""
    rows = []
    for method, record in _diversity_records(run):
        for network, space in record["spaces"].items():
            metrics = space["metrics"]
            rows.append(
                {
                    "method": method,
                    "feature network": network,
                    "intra-class cosine": _mean(metrics, METRICS["cosine"]),
                    "recognised %": _mean(metrics, METRICS["recognised"]),
                }
            )
    return pd.DataFrame(rows).set_index("method")


def metric_table(run: Run, network: str) -> pd.DataFrame:
    """Return every metric in the features of a network: a row per metric, a column per method.

    Shares are in percent, the radius is a multiple of the real images'. Undefined ones are NaN;
    `undefined_table` has the reasons.
    """
    found = {name: r["spaces"][network]["metrics"] for name, r in _diversity_records(run)}
    columns = {}
    for name, metrics in found.items():
        cells = {metric.heading: _mean(metrics, metric) for metric in metrics_of("class", "set")}
        ratio = _ratio(metrics["radius"], found[REFERENCE]["radius"])
        cells[METRICS["radius"].heading] = ratio
        columns[name] = cells
    table = pd.DataFrame(columns).rename_axis(index="measure", columns="method")
    return table.rename(index={METRICS["radius"].heading: "radius / real"})


def _mean(metrics: dict[str, Any], metric: Metric) -> float:
    value = metrics.get(metric.name, {}).get("mean")  # none of a metric added after the run
    return NAN if value is None else value * (100 if metric.percent else 1)


def _ratio(mine: dict[str, Any], real: dict[str, Any]) -> float:
    """Divide means over the classes for which both are defined."""
    a, b = (np.array(found["per_class"], dtype=float) for found in (mine, real))
    both = np.isfinite(a) & np.isfinite(b)
    return float(a[both].sum() / b[both].sum()) if b[both].sum() > 0 else NAN


def diversity_per_class(run: Run) -> pd.DataFrame:
    """Return method, features (the network), class, and a column per metric, NaN if undefined."""
    names = class_titles(open_dataset(run.settings).classes)
    parts = [pd.DataFrame(columns=["method", "features", "class"])]
    for method, record in _diversity_records(run):
        for network, space in record["spaces"].items():
            undefined = {"per_class": [None] * len(names)}
            columns = {
                m.name: space["metrics"].get(m.name, undefined)["per_class"]
                for m in metrics_of("class")
            }
            part = pd.DataFrame({"class": names, **columns}).astype(dict.fromkeys(columns, float))
            parts.append(part.assign(method=method, features=network))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def nearest_table(run: Run, network: str) -> pd.DataFrame:
    """Return the nearest training image of every image, the nearest pairs first.

    Columns: method, class, name (of the class), image_index, training image (its index in the
    training split), distance in [0, 2] between unit features. Undefined ones are left out. The
    reference's distances show how near two real images are.
    """
    names, rows = class_titles(open_dataset(run.settings).classes), []
    for method, record in _diversity_records(run):
        nearest = record["spaces"][network]["nearest_real"]
        pairs = zip(nearest["index"], nearest["distance"], strict=True)
        for i, pair in enumerate(pairs):
            c, image_index = divmod(i, run.settings.ipc)
            rows.append((method, c, names[c], image_index, *pair))
    columns = ["method", "class", "name", "image_index", "training image", "distance"]
    frame = pd.DataFrame(rows, columns=columns).dropna().astype({"training image": int})
    return frame.sort_values("distance", kind="stable", ignore_index=True)


def agreement_table(run: Run) -> pd.DataFrame:
    """Return how far the pool's teachers agree on the images, a row per method."""
    rows = {
        name: {m.heading: _mean(record["teachers"]["metrics"], m) for m in metrics_of("teachers")}
        for name, record in _diversity_records(run)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def undefined_table(run: Run) -> pd.DataFrame:
    """Return why metrics are undefined, a row per reason; empty where all are defined."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, record in _diversity_records(run):
        spaces = {**record["spaces"], "the teachers": record["teachers"]}
        for space, values in spaces.items():
            for metric, summary in values["metrics"].items():
                if summary["undefined"]:
                    key = (name, space, summary["undefined"])
                    rows.setdefault(key, []).append(METRICS[metric].title)
    plain = [(*key[:2], ", ".join(titles), key[2]) for key, titles in rows.items()]
    return pd.DataFrame(plain, columns=["method", "features", "measures", "undefined because"])


def only_measured(run: Run) -> Run:
    """Return the run as if it had only the methods whose diversity is measured.

    Raises:
        UsageError: The real reference is not measured.
    """
    units = stage_units(run, "diversity")
    done = {unit.name for unit in units if run.units.marker(unit) is not None}
    if REFERENCE not in done:
        raise UsageError("the real images are not measured, or damaged: run notebook 03")
    methods = tuple(name for name in run.settings.methods if name in done)
    return Run(run.path, run.settings.model_copy(update={"methods": methods}))


# --- Labels and students ---


def label_table(run: Run) -> pd.DataFrame:
    """Return the accuracy of teachers and ensemble on the images, a row per method."""
    rows = []
    for unit in stage_units(run, "relabel"):
        record = run.units.record(unit)
        teachers = zip(record["teachers"], record["teacher_accuracy"], strict=True)
        rows.append(
            {
                "method": unit.name,
                "ensemble %": 100 * record["ensemble_accuracy"],
                **{f"{name} %": 100 * value for name, value in teachers},
                "MB": sum(run.file(p).stat().st_size for p in run.units.files(unit)) / 1e6,
                "seconds": record["seconds"],
            }
        )
    return pd.DataFrame(rows).set_index("method")


def protocol_units(run: Run) -> list[Unit]:
    """Return the students trained by the run's protocol, without other evaluation variants."""
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
    grouped = student_table(run).groupby(["method", "student"], sort=False)
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
    """Return an accuracy table as methods by students: mean ± standard deviation."""
    cells = [mean_std(row.mean, row.std) for row in accuracies.itertuples(index=False)]
    frame = accuracies.assign(cell=cells)
    return frame.pivot_table("cell", "method", "student", aggfunc="first", sort=False)


def mean_std(mean: float, std: float) -> str:
    """Return a mean and its standard deviation as text; the mean alone where there is one value."""
    return f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"


def summary_table(run: Run) -> pd.DataFrame:
    """Return a run's main results: accuracy per student, diversity and fidelity, by method."""
    accuracies, diversity = accuracy_table(run), diversity_table(run)
    table = transfer_table(accuracies).add_suffix(" %")
    table["seeds"] = accuracies.groupby("method")["seeds"].min()
    means = diversity.groupby("method")[["intra-class cosine", "recognised %"]].mean()
    for name, digits in (("intra-class cosine", 3), ("recognised %", 1)):
        table[name] = [
            DASH if pd.isna(value) else f"{value:.{digits}f}"
            for value in means.loc[table.index, name]
        ]
    return table.rename_axis(columns=None)


def tradeoff_table(run: Run) -> pd.DataFrame:
    """Return each method's accuracy, diversity and fidelity, means over networks."""
    accuracies = accuracy_table(run).groupby("method", sort=False)["mean"]
    means = diversity_table(run).groupby("method")[["intra-class cosine", "recognised %"]].mean()
    table = pd.DataFrame({"top-1 %": accuracies.mean(), "std over students": accuracies.std()})
    return table.join(means)


def eval_variant_table(run: Run) -> pd.DataFrame:
    """Return top-1 in percent, mean ± deviation over seeds, per evaluation variant.

    One row per method and student; students of all real training images are last.
    """
    keys = ["method", "student", "variant"]
    grouped = student_records(run).groupby(keys, sort=False)["last"]
    cells = grouped.apply(lambda values: mean_std(100 * values.mean(), 100 * values.std()))
    wide = cells.unstack("variant", sort=False)
    wide = wide[[name for name in EVAL_VARIANTS if name in wide]].fillna(DASH)
    return wide.rename(index={REFERENCE: "All real images"}, level="method")


def score_table(run: Run) -> pd.DataFrame:
    """Return DD-Ranking's scores per method and student, accuracies as fractions.

    NaN where the run has not trained the students that a score needs, see `missing_for_scores`.
    """
    keys = ["method", "student", "variant"]
    top1 = student_records(run).groupby(keys, sort=False)["last"].mean()
    random, rows = next(iter(_random_methods(run)), ""), []

    def accuracy(*key: str) -> float:
        return float(top1.get(key, NAN))

    for method, student in product(run.settings.methods, run.settings.students):
        recovery = hard_label_recovery(
            accuracy(REFERENCE, student, "hard_labels"), accuracy(method, student, "hard_labels")
        )
        gain, gain_no_aug = (
            improvement_over_random(accuracy(method, student, v), accuracy(random, student, v))
            for v in ("protocol", "no_aug")
        )
        rows.append(
            {
                "method": method,
                "student": student,
                "HLR": recovery,
                "IOR": gain,
                "LRS": label_robust_score(recovery, gain),
                "ARS": augmentation_robust_score(gain, gain_no_aug),
            }
        )
    return pd.DataFrame(rows).set_index(["method", "student"])


def missing_for_scores(run: Run) -> list[str]:
    """Return the settings that DD-Ranking's scores need and the run does not have."""
    missing = [] if _random_methods(run) else ["methods: [..., random_real]"]
    variants = EVAL_VARIANTS[:3]
    if not set(variants) <= set(run.settings.eval_variants):
        missing.append(f"eval_variants: [{', '.join(variants)}]")
    return missing if run.settings.train_on_real else [*missing, "train_on_real: true"]


def _random_methods(run: Run) -> list[str]:
    """Return the methods of a run that are random real images."""
    recipes = {method: run.settings.recipe_of(method) for method in run.settings.methods}
    return [
        m for m, r in recipes.items() if r.image_source == "initial" and r.init == "real_random"
    ]


def class_accuracy_table(run: Run) -> pd.DataFrame:
    """Return top-1 of each class in percent, mean over students and seeds: class by method."""
    names, columns = class_titles(open_dataset(run.settings).classes), {}
    for method in run.settings.methods:
        units = [unit for unit in protocol_units(run) if unit.params["method"] == method]
        shares = [run.units.record(unit)["per_class"] for unit in units]
        columns[method] = 100 * pd.DataFrame(shares, columns=names, dtype=float).mean()
    return pd.DataFrame(columns).rename_axis(index="class", columns="method")


def default_baseline(methods: Sequence[str]) -> str:
    """Return the method to compare with: SRe2L, random real images, or the first."""
    return next((name for name in ("sre2l", "random_real") if name in methods), methods[0])


def class_gain_table(classes: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return each method's gain over a baseline per class, in points, least first.

    Args:
        classes: The result of `class_accuracy_table`.
        baseline: The method to compare with.
    """
    gains = classes.drop(columns=baseline).sub(classes[baseline], axis=0)
    return gains.sort_values(gains.columns[0], kind="stable") if len(gains.columns) else gains


def confusion_matrix(run: Run, method: str, student: str) -> pd.DataFrame:
    """Return a student's confusion matrix, in percent of each class's held-out images.

    Returns:
        One row per class, one column per predicted class, all seeds together.
    """
    names = class_titles(open_dataset(run.settings).classes)
    counts = np.zeros((len(names), len(names)))
    for unit in protocol_units(run):
        if (unit.params["method"], unit.params["student"]) == (method, student):
            found = pd.read_csv(run.file(f"{unit.params['folder']}/confusion.csv"))
            counts[found["class"], found["predicted"]] += found["images"]
    with np.errstate(invalid="ignore"):  # a class without held-out images
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    return pd.DataFrame(shares, index=names, columns=names).rename_axis("class")


def top_confusions(shares: pd.DataFrame, *, most: int = 10) -> pd.DataFrame:
    """Return the most frequent mistakes of a `confusion_matrix`, largest first."""
    mistakes = shares.to_numpy(copy=True)
    np.fill_diagonal(mistakes, 0)
    mistakes = np.nan_to_num(mistakes)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    rows = [
        (shares.index[i], shares.columns[j], mistakes[i, j])
        for i, j in zip(*np.unravel_index(order, mistakes.shape), strict=True)
        if mistakes[i, j] > 0
    ]
    columns = ["class", "taken for", "of its images %"]
    return pd.DataFrame(rows, columns=columns).set_index("class")


# --- Published results ---


def published_results() -> pd.DataFrame:
    """Return `data/published_results.csv`: top-1 in percent as printed by others.

    Raises:
        PrismError: The file is missing, or has other columns.
    """
    path = project_root() / "data" / "published_results.csv"
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise PrismError(f"{path} cannot be read: {error}; restore it with git") from None
    if tuple(frame.columns) != _PUBLISHED:
        expected = ", ".join(_PUBLISHED)
        raise PrismError(f"{path} must have the columns {expected}; restore it with git")
    return frame


def published_table(run: Run) -> pd.DataFrame:
    """Return a run's accuracies and the published ones of the same dataset, student and IPC.

    Returns:
        Columns method, title, student, ipc, mean and std (top-1 in percent), source (`THIS_RUN`
        for the run's own). For each student the run's methods come first, then the published
        ones, best first. Empty where nothing is published, or where the run scores on part of
        the training images.

    Raises:
        PrismError: The evaluation is not complete.
    """
    own, known, settings = accuracy_table(run), published_results(), run.settings
    known = known[(known["dataset"] == settings.dataset) & (known["ipc"] == settings.ipc)]
    known = known.sort_values("top1", ascending=False, kind="stable")
    columns = ["method", "title", "student", "ipc", "mean", "std", "source"]
    parts = []
    for student in settings.students if settings.eval_split == "test" else ():
        theirs = known[known["student"] == student.removeprefix("torchvision/")]
        if len(theirs):
            mine = own[own["student"] == student].assign(ipc=settings.ipc, source=THIS_RUN)
            mine["title"] = mine["method"].map(method_titles(run))
            theirs = theirs.assign(student=student, mean=theirs["top1"])
            theirs["title"] = theirs["method"] + " (published)"
            parts += [mine[columns], theirs[columns]]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def protocol_table(run: Run) -> pd.DataFrame:
    """Return how students are trained in a run and in the papers of published results."""
    published = {
        protocol_metadata(name)["title"]: protocol_values(name) for name in PROTOCOLS.names()
    }
    known = [title for title in published if title in set(published_results()["method"])]
    values = {THIS_RUN: run.settings.plain(), **{title: published[title] for title in known}}
    rows = {
        title: {
            "epochs": found.get("student_epochs") or found["label_epochs"],
            "batch": found["student_batch"],
            "loss": found["student_loss"],
            "temperature": found.get("student_temperature"),
            "CE weight": found.get("ce_weight"),
            "least crop": found["label_crop_min"],
            "mixing": found["label_mix"],
        }
        for title, found in values.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("protocol")


# --- Classes ---

ALL_CLASSES = "all classes"


def class_label(info: ClassInfo) -> str:
    """Return a class's index and the first of its names."""
    return f"{info.index} · {info.name.split(',')[0]}"


def class_titles(classes: Sequence[ClassInfo]) -> list[str]:
    """Return every class's name, with its folder where two classes share a name."""
    count = Counter(info.name for info in classes)
    return [
        info.name if count[info.name] == 1 else f"{info.name} ({info.folder})" for info in classes
    ]


def parse_class_selection(text: str, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
    """Return the classes that a text names, in its order, each once.

    Args:
        text: Indices, ranges of them (`3-7`), names, folders or labels, separated by commas;
            empty or `all classes` for all.
        classes: The dataset's classes.

    Raises:
        UsageError: A part names no class, or several.
    """
    if text.strip().lower() in {"", "all", ALL_CLASSES}:
        return tuple(range(len(classes)))
    # ImageNet's names have commas: "tench, Tinca tinca".
    parts = [text] if _named(text, classes) else [p for p in text.split(",") if p.strip()]
    return tuple(dict.fromkeys(c for part in parts for c in _parse_part(part.strip(), classes)))


def _parse_part(text: str, classes: Sequence[ClassInfo]) -> list[int]:
    span = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", text)
    if span:
        first, last = int(span[1]), int(span[2] or span[1])
        if first <= last < len(classes):
            return list(range(first, last + 1))
        raise UsageError(f"no class {text}; they are numbered from 0 to {len(classes) - 1}")
    found = _named(text, classes)
    if len(found) > 1:
        raise UsageError(f"{text!r} is the name of several classes; give a number: {found}")
    if not found:
        names = {name for info in classes for name in (*_names(info), info.folder)}
        raise UsageError(f"no class {text!r}; {suggest(text.lower(), names)}")
    return found


def _named(text: str, classes: Sequence[ClassInfo]) -> list[int]:
    """Return the classes of a label or folder, else those of a name."""
    text = text.strip().lower()
    exact = [i.index for i in classes if text in {class_label(i).lower(), i.folder.lower()}]
    return exact or [i.index for i in classes if text in {i.name.lower(), *_names(i)}]


def _names(info: ClassInfo) -> list[str]:
    return [name.strip().lower() for name in info.name.split(",")]
