"""What a study measured, as plain tables."""

from __future__ import annotations

import pandas as pd

from prism_nb import tables
from prism_nb.pipeline import stage_units
from prism_nb.study.cells import variants
from prism_nb.study.folder import StudyFolder

COLUMNS = ("scenario", "replicate", "method", "student", "top1")


def accuracy_records(folder: StudyFolder) -> pd.DataFrame:
    """Return one row per trained student: `COLUMNS`, top1 in percent at the last epoch.

    Students of several seeds in one replicate are averaged, since they share their images.
    """
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for (scenario, replicate), cell in folder.finished.items():
        frame = tables.student_table(folder.run(cell))
        mean = frame.groupby(["method", "student"], sort=False)["last"].mean().reset_index()
        mean = mean.assign(scenario=scenario, replicate=replicate, top1=100 * mean["last"])
        parts.append(mean[list(COLUMNS)])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def image_records(folder: StudyFolder) -> pd.DataFrame:
    """Return one row per scenario, replicate and method: what the images are like and cost.

    Columns: cosine (intra-class, mean over feature networks), recognised % (by networks that took
    no part), the same two of as many real images, and seconds of synthesis per image.
    """
    rows = []
    for (scenario, replicate), cell in folder.finished.items():
        run = folder.run(cell)
        diversity = (
            tables.diversity_table(run)
            .groupby("method")[["intra-class cosine", "recognised %"]]
            .mean()
        )
        units = [(unit.key["method"], run.record(unit)) for unit in stage_units(run, "synthesis")]
        for method in cell.settings.methods:
            mine = [record for name, record in units if name == method]
            rows.append(
                {
                    "scenario": scenario,
                    "replicate": replicate,
                    "method": method,
                    "cosine": diversity.loc[method, "intra-class cosine"],
                    "recognised %": diversity.loc[method, "recognised %"],
                    "real cosine": diversity.loc["real", "intra-class cosine"],
                    "real recognised %": diversity.loc["real", "recognised %"],
                    "seconds per image": sum(record["seconds"] for record in mine)
                    / sum(record["images"] for record in mine),
                }
            )
    return pd.DataFrame(rows)


def ceilings(folder: StudyFolder) -> dict[str, float]:
    """Return what each student reaches when squeezed on all real images, in percent.

    Known for the students that are also teachers or observers of the study's runs.
    """
    found: dict[str, float] = {}
    for cell in folder.finished.values():
        accuracy = tables.teacher_table(folder.run(cell))["accuracy %"]
        found |= {s: float(accuracy[s]) for s in cell.settings.students if s in accuracy}
    return found


def titles(folder: StudyFolder) -> dict[str, str]:
    """Return how each method of the study is called in figures."""
    return {
        method: cell.settings.recipe_of(method).title
        for cell in folder.scenarios.values()
        for method in cell.settings.methods
    }


def search_records(folder: StudyFolder) -> pd.DataFrame:
    """Return one row per search, method and combination: its values, top1 in percent, chosen."""
    choice, rows = folder.choice, []
    for search, method in choice:
        scores = folder.search_table(search, method)
        for name, values in variants(folder.study, search, method).items():
            chosen = values == choice[search, method]
            rows.append(
                {"search": search, "method": method, **values, "top1": 100 * scores[name]}
                | {"chosen": "✓" if chosen else ""}
            )
    return pd.DataFrame(rows)
