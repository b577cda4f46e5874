"""The diversity of a run's images as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from prism_nb.absent_units import absent
from prism_nb.class_names import class_titles
from prism_nb.data import open_dataset
from prism_nb.diversity.catalogue import IN_SPACE, MEASURES, OF_CLASSES, OF_TEACHERS, Measure
from prism_nb.errors import UsageError
from prism_nb.pipeline import class_count, stage_units
from prism_nb.plans.diversity import REFERENCE, diversity_unit
from prism_nb.run import Run
from prism_nb.tables import method_title

RATIO = "radius / real"
Summaries = dict[str, dict[str, Any]]


def space_table(run: Run, network: str) -> pd.DataFrame:
    """Return every measure in the feature space of a network, a row per set of images.

    Shares are in percent; the radius is that of the real reference times so much. What is
    undefined is NaN; `undefined_table` says why.
    """
    found = {name: record["spaces"][network]["measures"] for name, record in _records(run)}
    rows = {
        method_title(run, name): {
            **_cells(measures, IN_SPACE),
            MEASURES["radius"].heading: _ratio(measures["radius"], found[REFERENCE]["radius"]),
        }
        for name, measures in found.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("images")
    return table.rename(columns={MEASURES["radius"].heading: RATIO})


def agreement_table(run: Run) -> pd.DataFrame:
    """Return whether the pool's teachers see the same in the images, a row per set of images."""
    rows = {
        method_title(run, name): _cells(record["teachers"]["measures"], OF_TEACHERS)
        for name, record in _records(run)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("images")


def undefined_table(run: Run) -> pd.DataFrame:
    """Return why measures are undefined, a row per reason; empty where all are defined."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, record in _records(run):
        spaces = {**record["spaces"], "the teachers": record["teachers"]}
        for space, values in spaces.items():
            for measure, summary in values["measures"].items():
                if summary["undefined"]:
                    key = (method_title(run, name), space, summary["undefined"])
                    rows.setdefault(key, []).append(MEASURES[measure].title)
    plain = [(*key[:2], ", ".join(titles), key[2]) for key, titles in rows.items()]
    return pd.DataFrame(plain, columns=["images", "seen by", "measures", "undefined because"])


def diversity_per_class(run: Run) -> pd.DataFrame:
    """Return method, features (the network), class, and a column per measure, NaN if undefined."""
    names = class_titles(open_dataset(run.settings).classes)
    parts = [pd.DataFrame(columns=["method", "features", "class"])]
    for method, record in _records(run):
        for network, space in record["spaces"].items():
            columns = {m.name: space["measures"][m.name]["per_class"] for m in OF_CLASSES}
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
        pairs = zip(nearest["place"], nearest["distance"], strict=True)
        for i, pair in enumerate(pairs):
            c, slot = divmod(i, run.settings.ipc)
            rows.append((method, c, names[c], slot, *pair))
    columns = ["method", "class", "name", "slot", "training image", "distance"]
    frame = pd.DataFrame(rows, columns=columns).dropna().astype({"training image": int})
    return frame.sort_values("distance", kind="stable", ignore_index=True)


def measured(run: Run) -> Run:
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


def _cells(measures: Summaries, wanted: tuple[Measure, ...]) -> dict[str, float]:
    return {m.heading: _shown(measures[m.name]["mean"], m) for m in wanted}


def _shown(value: float | None, measure: Measure) -> float:
    return float("nan") if value is None else value * (100 if measure.percent else 1)


def _ratio(mine: dict[str, Any], real: dict[str, Any]) -> float:
    """Divide means over the classes for which both are defined."""
    a, b = (np.array(found["per_class"], dtype=float) for found in (mine, real))
    both = np.isfinite(a) & np.isfinite(b)
    return float(a[both].sum() / b[both].sum()) if b[both].sum() > 0 else float("nan")
