"""A run's results as tables: what the notebooks show, the figures draw and the report prints."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from prism_nb.pipeline import StagePlan, stage_units
from prism_nb.plans.diversity import REFERENCE
from prism_nb.plans.squeeze import network_units
from prism_nb.run import Run
from prism_nb.teachers.selection import Draws
from prism_nb.units import Unit
from prism_nb.words import DASH, value_words


def method_title(run: Run, method: str) -> str:
    """Return how a method is called in tables and figures."""
    return "Real images" if method == REFERENCE else run.settings.recipe_of(method).title


def settings_table(run: Run) -> pd.DataFrame:
    """Return every setting with its value and what it means."""
    fields = type(run.settings).model_fields
    rows = [
        {"setting": name, "value": value_words(value), "meaning": fields[name].description or ""}
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
        "time": duration(plan.seconds_left),
        "per image": _per_image(plan),
        "peak memory": size_in_words(plan.memory_bytes),
        "disk": size_in_words(plan.disk_bytes),
        **({"cache": size_in_words(plan.cache_bytes)} if plan.cache_bytes else {}),
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


def draw_table(run: Run) -> pd.DataFrame:
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
                "BN teachers": _teams(record.get("draws", {}).get("teams", [])),
                "logit loss": logit[0] if logit else float("nan"),
                "seconds": record["seconds"],
            }
        )
    return pd.DataFrame(rows).set_index("unit")


def share_table(run: Run) -> pd.DataFrame:
    """Return each network's share of the weighted BN loss, mean over a method's units, in %."""
    units = stage_units(run, "synthesis")
    count = Counter(unit.key["method"] for unit in units)
    total: Counter[tuple[str, str]] = Counter()
    for unit in units:
        for network, share in run.record(unit).get("shares", {}).items():
            total[unit.key["method"], network] += share
    rows = [
        {"method": method, "network": network, "share %": 100 * share / count[method]}
        for (method, network), share in total.items()
    ]
    return pd.DataFrame(rows, columns=["method", "network", "share %"])


def presence_table(run: Run) -> pd.DataFrame:
    """Return in how many of its steps each unit aligned each network, in %; absent ones empty."""
    rows = {}
    for unit in stage_units(run, "synthesis"):
        record = run.record(unit)
        if "draws" in record:
            recipe = run.settings.recipe_of(unit.key["method"]).at_slot(unit.key["slots"][0])
            draws = Draws(record["draws"]["every"], tuple(map(tuple, record["draws"]["teams"])))
            steps = Counter(n for step in range(recipe.iterations) for n in draws.at(step))
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
            means = {name: found["mean"] for name, found in space["measures"].items()}
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
    for unit in stage_units(run, "labels"):
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


def student_table(run: Run) -> pd.DataFrame:
    """Return one row per student trained by the run's protocol.

    Columns: method, student, seed, last and best top-1, and last top-5, each in [0, 1].
    """
    frame = treatment_records(run)
    return frame[frame["treatment"] == "protocol"].drop(columns="treatment").reset_index(drop=True)


def protocol_units(run: Run) -> list[Unit]:
    """Return the students that are taught by the run's protocol, without other treatments."""
    return [u for u in stage_units(run, "evaluation") if u.key["treatment"] == "protocol"]


def treatment_records(run: Run) -> pd.DataFrame:
    """Return the columns of `student_table`, and the treatment, for every trained student."""
    rows = []
    for unit in stage_units(run, "evaluation"):
        record = run.record(unit)
        key = {name: unit.key[name] for name in ("method", "treatment", "student", "seed")}
        rows.append({**key, **{name: record[name] for name in ("last", "best", "top5")}})
    return pd.DataFrame(rows)


def learning_table(run: Run) -> pd.DataFrame:
    """Return the learning curves by the run's protocol: method, student, seed, epoch, top1..."""
    parts = []
    for unit in protocol_units(run):
        frame = pd.read_csv(run.file(f"{unit.key['folder']}/metrics.csv"))
        parts.append(frame.assign(**{k: unit.key[k] for k in ("method", "student", "seed")}))
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


def matrix_table(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Return how far each method's images carry over: mean ± deviation, method by student.

    Args:
        accuracies: The result of `accuracy_table`.
    """
    cells = [mean_std(row.mean, row.std) for row in accuracies.itertuples(index=False)]
    frame = accuracies.assign(cell=cells)
    return frame.pivot_table("cell", "method", "student", aggfunc="first", sort=False)


def answer_table(run: Run) -> pd.DataFrame:
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
    return "teacher" if name in run.settings.teachers else "observer"


def _teams(teams: list[list[str]]) -> str:
    if not teams:
        return "none (not optimised)"
    if len(teams) == 1:
        return ", ".join(teams[0])
    mean = sum(len(team) for team in teams) / len(teams)
    return f"{len(teams)} draws, {mean:.1f} networks on average"


def mean_std(mean: float, std: float) -> str:
    """Return a mean and its deviation for people; the mean alone where there is one value."""
    return f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"


def _mean_or_dash(values: pd.Series, digits: int) -> str:
    return DASH if values.isna().all() else f"{values.mean():.{digits}f}"


def duration(seconds: float | None) -> str:
    """Return a length of time for people, from seconds to days."""
    if seconds is None:
        return "not measured"
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _per_image(plan: StagePlan) -> str:
    if not plan.images or plan.seconds_left is None:
        return ""
    return f"{plan.seconds_left / plan.images:.2g} s"


def size_in_words(value: int | None) -> str:
    """Return bytes for people, in MB or GB."""
    if value is None:
        return "not measured"
    return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"
