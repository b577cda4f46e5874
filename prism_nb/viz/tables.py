"""A run's results as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import psutil

from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import EVAL_VARIANTS, REFERENCE, Settings
from prism_nb.core.text import DASH, format_bytes, format_duration, format_value
from prism_nb.core.unit_plan import batch_of, method_units, network_units
from prism_nb.core.units import Unit
from prism_nb.diversity.metrics import METRICS, Metric, metrics_of
from prism_nb.evaluation.dd_ranking import dd_ranking_scores
from prism_nb.evaluation.stage import student_records, student_table
from prism_nb.execution.pipeline import StagePlan, class_count, stage_units
from prism_nb.viz.classes import class_names

NAN = float("nan")
LABEL_TEACHERS = "label teachers"  # heading of their number


def method_titles(run: Run) -> dict[str, str]:
    """Return the titles of the real images, if there are any, and of a run's methods, by name."""
    settings = run.settings
    titles = {name: settings.recipe_of(name).title for name in settings.methods}
    return {name: titles.get(name, "Real images") for name in settings.image_sets}


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
        **({"taken over": len(plan.reusable)} if plan.reusable else {}),
        **{s: count for s, count in sorted(plan.counts.items()) if s not in {"done", "missing"}},
        "time": format_duration(plan.seconds_left),
        "per image": per_image,
        "peak memory": format_bytes(plan.memory_bytes),
        "disk": format_bytes(plan.disk_bytes),
        **({"cache": format_bytes(plan.cache_bytes)} if plan.cache_bytes else {}),
    }
    if plan.other_cores is not None:
        row["others' load"] = f"{plan.other_cores:.1f} of {psutil.cpu_count()} cores"
    return pd.DataFrame([row], index=pd.Index([plan.stage], name="stage"))


# -- teachers and synthesis ------------------------------------------------------------------


def teacher_table(run: Run) -> pd.DataFrame:
    """Return a row per network; columns that are empty for every network are left out."""
    pool = run.settings.pool
    roles = {
        **dict.fromkeys(pool.teachers, "teacher"),
        **dict.fromkeys(pool.bn_only, "teacher (BN only)"),
        **dict.fromkeys(pool.logits_only, "teacher (logits only)"),
        pool.primary: "primary",
    }
    rows = {}
    for unit in network_units(run.settings):
        record = run.units.record(unit)
        checked, distance = record.get("order_checked"), record.get("bn_distance")
        rows[unit.name] = {
            "role": roles.get(unit.name, "holdout"),
            "source": record["source"],
            "parameters": record["parameters"],
            "GFLOP": record["flops"] / 1e9,
            "BN layers": record["bn_layers"],
            "BN channels": record["bn_channels"],
            "accuracy %": 100 * (NAN if record["accuracy"] is None else record["accuracy"]),
            "published %": 100 * (record.get("published_accuracy") or NAN),
            "BN distance": NAN if distance is None else distance,
            "class order checked": None if checked is None else format_value(checked),
            "seconds": record["seconds"],
            "reused from": record["reused_from"],
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("network")
    return table.dropna(axis="columns", how="all")


def unit_table(run: Run) -> pd.DataFrame:
    """Return one row per synthesis unit: its BN teachers, last logit loss and seconds."""
    rows = {}
    for unit in stage_units(run, "synthesis"):
        record = run.units.record(unit)
        rows[unit.name] = {
            "images": record["images"],
            "BN teachers": _drawn(record) or ("none" if _draws(record) else "none (not optimised)"),
            "draws": len(_draws(record)),
            "logit loss": _last_loss(record, "logit"),
            "seconds": record["seconds"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("unit")


def _draws(record: dict[str, Any]) -> list[list[str]]:
    """Return the BN teachers of each draw of a unit; none where it is not optimised."""
    return record.get("draws", {}).get("bn_teachers", [])


def _drawn(record: dict[str, Any]) -> str:
    return ", ".join(dict.fromkeys(network for draw in _draws(record) for network in draw))


def _last_loss(record: dict[str, Any], term: str) -> float:
    """Return a unit's last loss of `logit` or `bn`, mean over networks."""
    values = [v for name, v in record.get("losses", {}).items() if name.startswith(f"{term}/")]
    return sum(values) / len(values) if values else NAN


SHARES = {"gradient": "gradient on the images", "BN loss": "weighted BN loss"}


def share_table(run: Run) -> pd.DataFrame:
    """Return each network's shares, mean over a method's units: method, of, term, network, share %.

    `of` is one of `SHARES`; `term`, `bn` or `logit`. Networks are in the pool's order.
    """
    units = stage_units(run, "synthesis")
    count = Counter(unit.params["method"] for unit in units)
    total: Counter[tuple[str, str, str]] = Counter()
    for unit in units:
        method, record = unit.params["method"], run.units.record(unit)
        for term, share in record.get("gradient_shares", {}).items():
            total[method, "gradient", term] += share
        for network, share in record.get("bn_loss_shares", {}).items():
            total[method, "BN loss", f"bn/{network}"] += share
    rows = [
        (method, of, *term.split("/", 1), 100 * share / count[method])
        for (method, of, term), share in total.items()
    ]
    orders = (run.settings.methods, tuple(SHARES), ("bn", "logit"), run.settings.teachers)
    rows.sort(key=lambda row: [order.index(key) for order, key in zip(orders, row, strict=False)])
    return pd.DataFrame(rows, columns=["method", "of", "term", "network", "share %"])


def drawn_networks(run: Run, method: str) -> list[list[str]]:
    """Return the BN teachers of every draw of a method."""
    units = [unit for unit in stage_units(run, "synthesis") if unit.params["method"] == method]
    return [draw for unit in units for draw in _draws(run.units.record(unit))]


def bn_teacher_usage_table(run: Run) -> pd.DataFrame:
    """Return in how many % of its draws each unit drew each network as BN teacher."""
    rows = {}
    for unit in stage_units(run, "synthesis"):
        draws = _draws(run.units.record(unit))
        if draws:
            drawn = Counter(network for draw in draws for network in draw)
            rows[unit.name] = {name: 100 * count / len(draws) for name, count in drawn.items()}
    networks = [name for name in run.settings.teachers if any(name in row for row in rows.values())]
    return pd.DataFrame.from_dict(rows, orient="index", columns=networks).rename_axis("unit")


def loss_table(run: Run) -> pd.DataFrame:
    """Return the loss curves (method, unit, step, term, value) of each unit's latest attempt."""
    curves: dict[str, list[tuple[Any, ...]]] = {}
    for event in run.events.read("synthesis"):
        unit = event.get("unit", "")
        if event.get("event") == "unit_start":
            curves[unit] = []
        elif event.get("event") == "step":
            key = (unit.split("/")[0], unit, event["step"])
            rows = [(*key, term, value) for term, value in event.get("losses", {}).items()]
            curves.setdefault(unit, []).extend(rows)
    rows = [row for curve in curves.values() for row in curve]
    return pd.DataFrame(rows, columns=["method", "unit", "step", "term", "value"])


def image_table(run: Run, method: str, classes: Sequence[int]) -> pd.DataFrame:
    """Return what is recorded of images of a method, or of `REFERENCE`, class by class.

    Columns `class`, `image_index`, `made` (whether the image exists), and of its unit the name,
    `unit`, BN `teachers`, and last `logit loss` and `BN loss`; NaN where unknown.
    """
    position, rows = {c: i for i, c in enumerate(classes)}, []
    if method == REFERENCE:
        rows = [(c, index, {"made": True}) for c in classes for index in range(run.settings.ipc)]
    else:
        for unit in method_units(run, method, class_count(run)):
            keys = [key for key in batch_of(unit).members() if key[0] in position]
            details = _unit_details(run, unit) if keys else {}
            rows += [(*key, details) for key in keys]
    rows.sort(key=lambda row: (position[row[0]], row[1]))
    columns = ["class", "image_index", "made", "unit", "teachers", "logit loss", "BN loss"]
    plain = [{"class": c, "image_index": index, **details} for c, index, details in rows]
    return pd.DataFrame(plain, columns=columns)


def _unit_details(run: Run, unit: Unit) -> dict[str, Any]:
    marker = run.units.marker(unit)
    details = {"made": marker is not None, "unit": unit.name}
    if marker is None:
        return details
    record = marker["record"]
    losses = {"logit loss": _last_loss(record, "logit"), "BN loss": _last_loss(record, "bn")}
    return {**details, "teachers": _drawn(record), **losses}


def image_keys(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Return class and index of each row of an image table."""
    return list(zip(table["class"].to_list(), table["image_index"].to_list(), strict=True))


# -- diversity -------------------------------------------------------------------------------

TEACHERS = "the teachers"  # in place of a feature network, where their agreement is measured


def _metric_records(run: Run) -> pd.DataFrame:
    """Return a row per method, features (a network, or `TEACHERS`) and metric.

    Columns: `value` as tables show it, `per_class`, `undefined` (the reason, or None).
    """
    rows, of_real = [], dict[tuple[str, str], dict[str, Any]]()
    for unit in stage_units(run, "diversity"):  # the real images, if any, come first
        record = run.units.record(unit)
        for features, found in {**record["spaces"], TEACHERS: record["teachers"]}.items():
            for name in (name for name in METRICS if name in found["metrics"]):
                summary = found["metrics"][name]
                if unit.name == REFERENCE:
                    of_real[features, name] = summary
                real = of_real.get((features, name))
                key = {"method": unit.name, "features": features, "metric": name}
                value = _value(METRICS[name], summary, real)
                if METRICS[name].relative and real is None:
                    summary = {**summary, "undefined": "needs real images to compare with"}
                rows.append({**key, **summary, "value": value})
    return pd.DataFrame(rows)


def _value(metric: Metric, mine: dict[str, Any], real: dict[str, Any] | None) -> float:
    """Return a metric's mean over the classes, of both sets where it is relative."""
    if metric.relative:
        if real is None:
            return NAN
        a, b = (np.array(found["per_class"], dtype=float) for found in (mine, real))
        both = np.isfinite(a) & np.isfinite(b)
        return float(a[both].sum() / b[both].sum()) if b[both].sum() > 0 else NAN
    return NAN if mine["mean"] is None else mine["mean"] * (100 if metric.percent else 1)


def diversity_table(run: Run) -> pd.DataFrame:
    """Return each method's intra-class cosine and share recognised, means over the networks."""
    return _metric_means(run, {"cosine": "intra-class cosine", "recognised": "recognised %"})


def fidelity_table(run: Run) -> pd.DataFrame:
    """Return each method's recognition and diversity, of all images and of the recognised ones.

    Means over classes and networks; NaN where a run was measured before there was a metric.
    """
    names = ("recognised", "vendi", "vendi_recognised", "cosine", "cosine_recognised")
    return _metric_means(run, {name: METRICS[name].heading.rstrip(" ↑↓") for name in names})


def _metric_means(run: Run, names: Mapping[str, str]) -> pd.DataFrame:
    means = _metric_records(run).groupby(["method", "metric"], sort=False)["value"].mean()
    return means.unstack().reindex(columns=[*names]).rename(columns=names).rename_axis(columns=None)


def unrecognised_methods(run: Run, network: str) -> list[str]:
    """Return the methods of which a network recognises fewer than half of the images."""
    shares = class_metric_table(run, network, "recognised").mean()
    return [method for method in run.settings.methods if shares.get(method, 1.0) < 0.5]


def metric_table(run: Run, network: str) -> pd.DataFrame:
    """Return every metric in the features of a network: metrics by methods, NaN if undefined.

    A metric that favours noise has no arrow where fewer than half of some method's images are
    recognised.
    """
    table = _metrics_by_method(run, network, metrics_of("class", "set"))
    if unrecognised_methods(run, network):
        plain = {m.heading: m.heading.rstrip(" ↑↓") for m in METRICS.values() if m.favours_noise}
        table = table.rename(index=plain)
    return table


def agreement_table(run: Run) -> pd.DataFrame:
    """Return how far the pool's teachers agree on the images, a row per method."""
    return _metrics_by_method(run, TEACHERS, metrics_of("teachers")).T.rename_axis(columns=None)


def _metrics_by_method(run: Run, features: str, metrics: Sequence[Metric]) -> pd.DataFrame:
    records = _metric_records(run)
    wide = records[records["features"] == features].pivot(
        index="metric", columns="method", values="value"
    )
    # Runs measured before a metric was added do not have it.
    wide = wide.reindex(index=[m.name for m in metrics], columns=records["method"].unique())
    wide.index = pd.Index([metric.heading for metric in metrics], name="measure")
    return wide.rename_axis(columns="method")


def class_metric_table(run: Run, network: str, metric: str) -> pd.DataFrame:
    """Return a metric of each class in the features of a network: class by method."""
    records = _metric_records(run)
    mine = records[(records["features"] == network) & (records["metric"] == metric)]
    values = dict(zip(mine["method"], mine["per_class"], strict=True))
    classes = pd.Index(class_names(run), name="class")
    return pd.DataFrame(values, classes, dtype=float).rename_axis(columns="method")


def nearest_table(run: Run, network: str) -> pd.DataFrame:
    """Return the nearest training image of every image, the nearest pairs first.

    A training image is an index of the training split, a distance in [0, 2] that of unit features.
    Undefined ones are left out; the reference's show how near two real images are.
    """
    names, rows = class_names(run), []
    for unit in stage_units(run, "diversity"):
        nearest = run.units.record(unit)["spaces"][network]["nearest_real"]
        pairs = zip(nearest["index"], nearest["distance"], strict=True)
        for i, pair in enumerate(pairs):
            c, image_index = divmod(i, run.settings.ipc)
            rows.append((unit.name, c, names[c], image_index, *pair))
    columns = ["method", "class", "name", "image_index", "training image", "distance"]
    frame = pd.DataFrame(rows, columns=columns).dropna().astype({"training image": int})
    return frame.sort_values("distance", kind="stable", ignore_index=True)


def undefined_table(run: Run) -> pd.DataFrame:
    """Return why metrics are undefined, a row per reason; empty where all are defined."""
    records = _metric_records(run).dropna(subset="undefined")
    records["measures"] = [METRICS[name].title for name in records["metric"]]
    keys = ["method", "features", "undefined"]
    table = records.groupby(keys, sort=False)["measures"].agg(", ".join).reset_index()
    table = table[["method", "features", "measures", "undefined"]]
    return table.rename(columns={"undefined": "undefined because"})


def only_measured(run: Run) -> Run:
    """Return the run as if it had only the methods whose diversity is measured."""
    units = stage_units(run, "diversity")
    done = {unit.name for unit in units if run.units.marker(unit) is not None}
    if run.settings.image_sets[0] not in done:
        first = method_titles(run)[run.settings.image_sets[0]]
        raise UsageError(f"{first}: not measured, or damaged; run notebook 03")
    methods = tuple(name for name in run.settings.methods if name in done)
    return Run(run.path, run.settings.model_copy(update={"methods": methods}))


# -- labels and students ---------------------------------------------------------------------


def label_table(run: Run) -> pd.DataFrame:
    """Return the accuracy of teachers and ensemble on the images, a row per method."""
    rows = {}
    for unit in stage_units(run, "relabel"):
        record = run.units.record(unit)
        teachers = zip(record["teachers"], record["teacher_accuracy"], strict=True)
        rows[unit.name] = {
            "ensemble %": 100 * record["ensemble_accuracy"],
            **{f"{name} %": 100 * value for name, value in teachers},
            "MB": sum(run.file(p).stat().st_size for p in run.units.files(unit)) / 1e6,
            "seconds": record["seconds"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def order_warnings(run: Run) -> list[str]:
    """Return the warnings of imported sets whose classes seem to be in another order."""
    titles, units = method_titles(run), stage_units(run, "relabel")
    records = {unit.name: (run.units.marker(unit) or {}).get("record", {}) for unit in units}
    found = {titles[name]: record.get("order_warning") for name, record in records.items()}
    return [f"{title}: {text}." for title, text in found.items() if text]


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
    table = diversity_table(run)
    if run.settings.students:
        accuracies = accuracy_table(run)
        table = transfer_table(accuracies).add_suffix(" %").join(table)
        seeds = accuracies.groupby("method")["seeds"].min()
        table.insert(len(run.settings.students), "seeds", seeds)
        count = run.settings.label_teacher_count
        table.insert(len(run.settings.students) + 1, LABEL_TEACHERS, count)
    else:
        table = table.reindex(run.settings.methods).rename_axis(index="method")
    for name, digits in (("intra-class cosine", 3), ("recognised %", 1)):
        table[name] = table[name].map(f"{{:.{digits}f}}".format, na_action="ignore").fillna(DASH)
    table["largest BN pull %"] = largest_pull(run).reindex(table.index).map(_rounded).fillna(DASH)
    return table.rename_axis(columns=None)


def _rounded(value: float) -> str | None:
    return None if pd.isna(value) else f"{value:.0f}"


def largest_pull(run: Run) -> pd.Series:
    """Return by method the largest share of one network in the BN teachers' gradient, in %."""
    shares = bn_gradient_shares(share_table(run)).groupby("method")["share %"]
    return 100 * shares.max() / shares.sum()


def bn_gradient_shares(shares: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a `share_table` on the BN teachers' part of the gradient."""
    return shares[(shares["of"] == "gradient") & (shares["term"] == "bn")]


def tradeoff_table(run: Run) -> pd.DataFrame:
    """Return each method's accuracy, diversity and fidelity, means over networks."""
    accuracies = accuracy_table(run).groupby("method", sort=False)["mean"]
    table = pd.DataFrame({"top-1 %": accuracies.mean(), "std over students": accuracies.std()})
    return table.join(diversity_table(run))


def eval_variant_table(run: Run) -> pd.DataFrame:
    """Return top-1 in percent, mean ± deviation over seeds, per evaluation variant.

    One row per method and student; students of all real training images are last. The number of
    label teachers is that of variants without `hard`.
    """
    keys = ["method", "student", "variant"]
    grouped = student_records(run).groupby(keys, sort=False)["last"]
    cells = grouped.apply(lambda values: mean_std(100 * values.mean(), 100 * values.std()))
    wide = cells.unstack("variant", sort=False)
    wide = wide[[name for name in EVAL_VARIANTS if name in wide]].fillna(DASH)
    soft = wide.index.get_level_values("method") != REFERENCE
    wide[LABEL_TEACHERS] = run.settings.label_teacher_count * soft
    return wide.rename(index={REFERENCE: "All real images"}, level="method")


def score_table(run: Run) -> pd.DataFrame:
    """Return DD-Ranking's scores per method and student, accuracies as fractions.

    They need `random_real` among the methods, its own evaluation variants, and `train_on_real`;
    NaN where the run has not trained the students that a score needs.
    """
    keys = ["student", "method", "variant"]
    top1 = student_records(run).groupby(keys)["last"].mean()
    random = random_method(run.settings)
    rows = {}
    for method, student in product(run.settings.methods, run.settings.students):
        rows[method, student] = dd_ranking_scores(
            full=top1.get((student, REFERENCE, "hard_labels"), NAN),
            hard=top1.get((student, method, "hard_labels"), NAN),
            soft=top1.get((student, method, "protocol"), NAN),
            random=top1.get((student, random, "protocol"), NAN),
            no_aug=top1.get((student, method, "no_aug"), NAN),
            random_no_aug=top1.get((student, random, "no_aug"), NAN),
        )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "student"])


def random_method(settings: Settings) -> str:
    """Return the method whose images are random real ones; empty where there is none."""
    recipes = {method: settings.recipe_of(method) for method in settings.methods}
    source = ("initial", "real_random")
    return next((m for m, r in recipes.items() if (r.image_source, r.init) == source), "")


def class_accuracy_table(run: Run) -> pd.DataFrame:
    """Return top-1 of each class in percent, mean over students and seeds: class by method."""
    names, columns = class_names(run), {}
    for method in run.settings.methods:
        units = [unit for unit in protocol_units(run) if unit.params["method"] == method]
        shares = [run.units.record(unit)["per_class"] for unit in units]
        columns[method] = 100 * pd.DataFrame(shares, columns=names, dtype=float).mean()
    return pd.DataFrame(columns).rename_axis(index="class", columns="method")


def default_baseline(methods: Sequence[str]) -> str:
    """Return the method to compare with: SRe2L, random real images, or the first."""
    return next((name for name in ("sre2l", "random_real") if name in methods), methods[0])


def class_gain_table(classes: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the gain over a baseline in a `class_accuracy_table`, points, least first."""
    gains = classes.drop(columns=baseline).sub(classes[baseline], axis=0)
    return gains.sort_values(gains.columns[0], kind="stable")


def confusion_matrix(run: Run, method: str, student: str) -> pd.DataFrame:
    """Return a student's confusions in percent of each class's held-out images, of all seeds.

    One row per class, NaN for a class without images; one column per predicted class.
    """
    names = class_names(run)
    counts = pd.DataFrame(0, index=range(len(names)), columns=range(len(names)))
    for unit in protocol_units(run):
        if (unit.params["method"], unit.params["student"]) == (method, student):
            found = pd.read_csv(run.file(f"{unit.params['folder']}/confusion.csv"))
            wide = found.pivot(index="class", columns="predicted", values="images")
            counts = counts.add(wide, fill_value=0)
    shares = 100 * counts.div(counts.sum(axis=1), axis=0)
    return shares.set_axis(names, axis=0).set_axis(names, axis=1).rename_axis("class")


def top_confusions(shares: pd.DataFrame, *, most: int = 10) -> pd.DataFrame:
    """Return the most frequent mistakes of a `confusion_matrix`, largest first."""
    mistakes = shares.rename_axis(columns="taken for").mask(np.eye(len(shares), dtype=bool)).stack()
    top = mistakes[mistakes > 0].sort_values(ascending=False, kind="stable").head(most)
    return top.rename("of its images %").reset_index("taken for")
