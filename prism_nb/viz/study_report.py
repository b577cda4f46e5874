"""A study's results: records, paired t-tests, named results, and the page with all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.errors import PrismError
from prism_nb.core.manifest import environment
from prism_nb.core.presets import protocol_sentence
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.yaml_io import write_yaml
from prism_nb.evaluation.stage import student_table
from prism_nb.execution.pipeline import stage_units
from prism_nb.execution.study import StudyFolder, StudyRun, grid_points
from prism_nb.viz import diagnostics, findings, tables
from prism_nb.viz.figures import study as figures
from prism_nb.viz.figures.gallery import image_sheet, sheet_classes
from prism_nb.viz.html import LabelMap, Result, picture_html, render_page, table_html
from prism_nb.viz.report import result_section, today
from prism_nb.viz.results import budget_result, with_label_teachers
from prism_nb.viz.style import Legend, with_chance

PAGE = "study.html"
RECORD_COLUMNS = ["scenario", "replicate", "method", "student", "top1"]
PAIR_COLUMNS = [
    *("scenario", "a", "b", "difference", "low", "high"),
    *("p", "p_holm", "replicates", "winner"),
]


def write_study_page(folder: StudyFolder) -> str:
    """Write a study's page, and its tables as CSV files.

    Returns:
        The page's path, relative to the study's folder. It works offline.
    """
    records = accuracy_records(folder)
    if not len(records):
        raise PrismError(f"no scenario of {folder.path} is finished; run `prism-nb study` first")
    csv = {
        "students": records,
        "images": image_records(folder),
        "pairs": compare_pairs(records),
        "summary": summarize(records),
        "search": search_records(folder),
    }
    for name, table in csv.items():
        counted = _with_counts(folder, table)
        fileio.write_text(folder.path / f"{name}.csv", counted.to_csv(index=False))
    fileio.write_text(folder.path / PAGE, render_page("study.html", **_content(folder)))
    return PAGE


# -- records ---------------------------------------------------------------------------------


def accuracy_records(folder: StudyFolder) -> pd.DataFrame:
    """Return one row per trained student: `RECORD_COLUMNS`, top1 in percent at the last epoch.

    Students of several seeds in one replicate are averaged, since they share their images.
    """
    if not folder.finished:
        return pd.DataFrame(columns=RECORD_COLUMNS)
    students = _of_runs(folder, student_table).assign(top1=lambda rows: 100 * rows["last"])
    return students.groupby(RECORD_COLUMNS[:-1], sort=False)["top1"].mean().reset_index()


def _of_runs(folder: StudyFolder, table: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of all finished runs, of at least one, with scenario and replicate."""
    parts = [
        table(folder.run(cell)).assign(scenario=scenario, replicate=replicate)
        for (scenario, replicate), cell in folder.finished.items()
    ]
    return pd.concat(parts, ignore_index=True)


def image_records(folder: StudyFolder) -> pd.DataFrame:
    """Return one row per scenario, replicate and method: diversity, fidelity and cost of images.

    Columns: cosine (intra-class) and recognised %, means over feature networks; the same two of
    as many real images; seconds of synthesis per image.
    """
    rows = []
    for (scenario, replicate), cell in folder.finished.items():
        run = folder.run(cell)
        means = tables.diversity_table(run).set_axis(["cosine", "recognised %"], axis=1)
        real = means.loc[REFERENCE].add_prefix("real ")
        units = [(u.params["method"], run.units.record(u)) for u in stage_units(run, "synthesis")]
        for method in cell.settings.methods:
            records = [record for name, record in units if name == method]
            seconds = sum(record["seconds"] for record in records)
            images = sum(record["images"] for record in records)
            key = {"scenario": scenario, "replicate": replicate, "method": method}
            rows.append({**key, **means.loc[method], **real, "seconds per image": seconds / images})
    return pd.DataFrame(rows)


def search_records(folder: StudyFolder) -> pd.DataFrame:
    """Return one row per search, method and combination: its values, top1 in percent, chosen."""
    rows = []
    for (search, method), best in folder.choice.items():
        accuracies = folder.search_table(search, method)
        for name, values in grid_points(folder.study, search, method).items():
            result = {"top1": 100 * accuracies[name], "chosen": "✓" if values == best else ""}
            rows.append({"search": search, "method": method, **values, **result})
    return pd.DataFrame(rows)


# -- statistics ------------------------------------------------------------------------------


def summarize(records: pd.DataFrame) -> pd.DataFrame:
    """Return mean accuracy with its 95 % interval (Student's t), per scenario and method.

    A replicate counts once, as the mean over its students, because students of one replicate
    learn from the same images.

    Returns:
        Columns scenario, method, mean, low, high, std, replicates, and one mean per student. The
        interval is within 0 to 100, and NaN for fewer than `findings.MIN_REPEATS` replicates.
    """
    rows = []
    for (scenario, method), group in records.groupby(["scenario", "method"], sort=False):
        values = group.groupby("replicate")["top1"].mean()
        row = {"scenario": scenario, "method": method, **_mean_interval(values)}
        students = group.groupby("student", sort=False)["top1"].mean().to_dict()
        rows.append({**row, "std": values.std(), "replicates": len(values), **students})
    table = pd.DataFrame(rows)
    enough = table[table["replicates"] >= findings.MIN_REPEATS]
    return table.assign(**enough[["low", "high"]].clip(0, 100))


def compare_pairs(records: pd.DataFrame) -> pd.DataFrame:
    """Compare every two methods of a scenario by a paired t-test over replicates.

    Within a replicate both methods share teachers, label views and students' seeds, so their
    difference is taken there. P-values are corrected for the number of pairs in the scenario
    (Holm 1979).

    Returns:
        `PAIR_COLUMNS`, one row per scenario and unordered pair: difference is a - b in points, low
        and high its 95 % interval, winner the better of the two, or `none` where the difference is
        not significant or there are fewer than `MIN_REPEATS` replicates. Without a spread, as with
        one replicate, p is NaN.
    """
    parts = [pd.DataFrame(columns=PAIR_COLUMNS)]
    for scenario, group in records.groupby("scenario"):
        means = group.groupby(["replicate", "method"])["top1"].mean().unstack("method")
        methods = list(dict.fromkeys(group["method"]))
        pairs = pd.DataFrame([_compare(means, a, b) for a, b in combinations(methods, 2)])
        if len(pairs):
            pairs["scenario"] = scenario
            pairs["p_holm"] = _holm(pairs["p"].to_numpy(float))
            leader = pairs["a"].where(pairs["difference"] > 0, pairs["b"])
            decided = pairs["p_holm"].lt(findings.LEVEL) & pairs["replicates"].ge(
                findings.MIN_REPEATS
            )
            pairs["winner"] = leader.where(decided, "none")
            parts.append(pairs[PAIR_COLUMNS])
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _compare(means: pd.DataFrame, a: str, b: str) -> dict[str, object]:
    from scipy import stats  # takes half a second to import

    both = means[[a, b]].dropna()
    differences = both[a] - both[b]
    interval = _mean_interval(differences)
    # Without a spread there is no test: accuracies move in steps of one image, and tie.
    tested = len(differences) > 1 and differences.std() > 0
    return {
        "a": a,
        "b": b,
        "difference": interval.pop("mean"),
        **interval,
        "p": float(stats.ttest_1samp(differences, 0.0).pvalue) if tested else np.nan,
        "replicates": len(differences),
    }


def _mean_interval(values: pd.Series) -> dict[str, float]:
    """Return a mean with Student's 95 % interval, which one value does not have."""
    mean, half = values.mean(), findings.half_interval(values)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values step down: the smallest times n, the next times n - 1, never falling."""
    order = np.argsort(p)
    stepped = np.minimum(p[order] * np.arange(len(p), 0, -1), 1.0)
    corrected = np.empty_like(stepped)
    corrected[order] = np.maximum.accumulate(stepped)
    return corrected


# -- named results ---------------------------------------------------------------------------


def study_legend(folder: StudyFolder) -> Legend:
    """Return titles and styles of a study's methods and of the real images."""
    titles = {
        method: cell.settings.recipe_of(method).title
        for cell in folder.scenarios.values()
        for method in cell.settings.methods
    }
    return Legend({REFERENCE: "Real images", **titles})


def _scenario_titles(folder: StudyFolder) -> dict[str, str]:
    return {name: scenario.title for name, scenario in folder.study.scenarios.items()}


def study_labels(folder: StudyFolder) -> LabelMap:
    """Return the titles of names in a study's tables."""
    methods = dict.fromkeys(("method", "a", "b", "winner"), study_legend(folder).titles)
    return {**methods, "scenario": _scenario_titles(folder)}


def _with_counts(folder: StudyFolder, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table by scenario or search with the number of label teachers."""
    for key, runs in (("scenario", folder.scenarios), ("search", folder.searches)):
        if key in table:
            counts = {name: cell.settings.label_teacher_count for (name, _), cell in runs.items()}
            table = table.assign(**{tables.LABEL_TEACHERS: table[key].map(counts)})
    return table


def _of_students(result: Callable[[StudyFolder], Result]) -> Callable[[StudyFolder], Result]:
    """Return a result that says how many networks label."""

    @wraps(result)
    def function(folder: StudyFolder) -> Result:
        found = result(folder)
        counts = {
            folder.study.scenarios[name].title: cell.settings.label_teacher_count
            for (name, _), cell in folder.scenarios.items()
        }
        text = ", ".join(f"{title} {count}" for title, count in counts.items())
        same = set(counts.values())
        column = _with_counts(folder, found.table).get(tables.LABEL_TEACHERS)
        return with_label_teachers(found, column, str(*same) if len(same) == 1 else text)

    return function


@_of_students
def answer(folder: StudyFolder) -> Result:
    """Accuracy by method and scenario, the best and its equals marked ●; and who leads."""
    records, titles = accuracy_records(folder), study_legend(folder).titles
    summary, pairs = summarize(records), compare_pairs(records)
    columns: dict[str, dict[str, str]] = {}
    sentences = []
    for name, scenario in _scenario_titles(folder).items():
        part = summary[summary["scenario"] == name].set_index("method")
        if not len(part):
            continue
        settings = folder.scenarios[name, 0].settings
        mine = records[records["scenario"] == name]
        accuracies = mine.pivot_table("top1", "replicate", "method", sort=False)
        best, equals = _leading(part["mean"], pairs[pairs["scenario"] == name])
        marked = {best, *equals} if findings.can_decide(accuracies, settings) else set()
        cells = {str(m): tables.mean_std(row["mean"], row["std"]) for m, row in part.iterrows()}
        columns[scenario] = {m: f"{c} ●" if m in marked else c for m, c in cells.items()}
        verdict = findings.verdict(accuracies, equals, settings, titles, "replicates")
        sentences.append(f"{scenario}: {verdict}")
    methods = list(dict.fromkeys(summary["method"]))
    table = pd.DataFrame(columns).reindex(methods).fillna("–").rename_axis("method")
    return Result(table, note="\n".join(sentences))


def _leading(means: pd.Series, pairs: pd.DataFrame) -> tuple[str, set[str]]:
    """Return the method of the best mean, and those that do not differ significantly from it."""
    best = str(means.idxmax())
    undecided = pairs[((pairs["a"] == best) | (pairs["b"] == best)) & (pairs["winner"] == "none")]
    return best, {*undecided["a"], *undecided["b"]} - {best}


def _with_chance(folder: StudyFolder, figure: go.Figure, axis: str = "y") -> go.Figure:
    levels = [findings.chance_level(cell.settings) for cell in folder.scenarios.values()]
    return with_chance(figure, *levels, axis=axis)


@_of_students
def accuracy(folder: StudyFolder) -> Result:
    """Mean accuracy with its 95 % interval, per scenario and method."""
    table = summarize(accuracy_records(folder))
    legend, scenarios = study_legend(folder), _scenario_titles(folder)
    figure = _with_chance(folder, figures.accuracy_facets(table, legend, scenarios), axis="x")
    return Result(table, figure)


@_of_students
def pairs(folder: StudyFolder) -> Result:
    """Differences between every two methods, and which are significant."""
    table = compare_pairs(accuracy_records(folder))
    if not len(table):
        return Result(note="One method has nothing to be compared with.")
    return Result(table, figures.pair_facets(table, study_legend(folder), _scenario_titles(folder)))


def fidelity(folder: StudyFolder) -> Result:
    """Diversity and fidelity of the images."""
    table = image_records(folder)
    note = "Noise is diverse too: a low cosine counts only where the images are recognised."
    figure = figures.fidelity_figure(table, study_legend(folder), _scenario_titles(folder))
    return Result(table, figure, note)


@_of_students
def cost(folder: StudyFolder) -> Result:
    """Accuracy against seconds of synthesis per image."""
    images, summary = image_records(folder), summarize(accuracy_records(folder))
    legend, scenarios = study_legend(folder), _scenario_titles(folder)
    columns = ["scenario", "replicate", "method", "seconds per image"]
    figure = _with_chance(folder, figures.cost_figure(images, summary, legend, scenarios))
    return Result(images[columns], figure)


@_of_students
def dcs(folder: StudyFolder) -> Result:
    """Rank correlation of a method's own loss and its students' test loss, over its sets."""
    sets = _of_runs(folder, diagnostics.set_losses).dropna()
    if not len(sets):
        return Result(note="No set has both a loss of its own and a recorded test loss.")
    table, titles = diagnostics.dcs_table(sets), _scenario_titles(folder)
    figure = figures.loss_facets(sets, table, study_legend(folder), titles)
    return Result(table, figure, diagnostics.DCS_NOTE)


@_of_students
def budget(folder: StudyFolder) -> Result:
    """Accuracy against images seen and label passes, mean over students and replicates."""
    curves = _of_runs(folder, diagnostics.budget_table)
    result = budget_result(curves, study_legend(folder), "scenario", _scenario_titles(folder))
    return replace(result, figure=_with_chance(folder, result.figure))


@_of_students
def variance(folder: StudyFolder) -> Result:
    """Standard deviation of accuracy by the stage whose seed is varied, in points."""

    def students(run: Run) -> pd.DataFrame:
        """Return a run's students, with a hash that scenarios of other teachers' seeds share."""
        plain = {**run.settings.plain(), "seed": 0, "replicate": 0}
        return student_table(run).assign(alike=short_hash(plain))

    rows, titles = [], _scenario_titles(folder)
    for (_, method), part in _of_runs(folder, students).groupby(["alike", "method"], sort=False):
        scenarios = " + ".join(titles[name] for name in part["scenario"].unique())
        key = {"scenarios": scenarios, "method": method}
        rows.append({**key, **diagnostics.variance_row(part)})
    return Result(pd.DataFrame(rows), note=diagnostics.VARIANCE_NOTE)


@_of_students
def ranking(folder: StudyFolder) -> Result:
    """Architectures by students of each method, and by networks of all real images."""
    records, keys = accuracy_records(folder), ["scenario", "method"]
    wide = records.pivot_table("top1", keys, "student", sort=False).reset_index()
    wide = _with_counts(folder, wide).set_index(keys)
    runs = [folder.run(cell) for cell in folder.finished.values()]
    real = pd.DataFrame(map(diagnostics.real_accuracies, runs)).mean()
    return Result(diagnostics.ranking_table(wide, real.to_dict()), note=diagnostics.RANKING_NOTE)


@_of_students
def search(folder: StudyFolder) -> Result:
    """Settings that were searched for, and which were chosen."""
    note = (
        "The same values for every method that optimises, and those of students for controls too; "
        "scored on a quarter of the training images that nothing learned from, never on the test "
        "images."
    )
    return Result(search_records(folder), note=note)


_SECTIONS: dict[str, Callable[[StudyFolder], Result]] = {
    "Accuracy": accuracy,
    "Pairwise comparisons": pairs,
    "Diversity and fidelity": fidelity,
    "Cost": cost,
    "Accuracy against images seen and label passes": budget,
    "Own loss and test loss": dcs,
    "Variance by stage": variance,
    "Rankings of architectures": ranking,
    "Search": search,
}
STUDY_RESULTS: dict[str, Callable[..., Result]] = {
    function.__name__: function for function in (answer, *_SECTIONS.values())
}


# -- the page --------------------------------------------------------------------------------


def _content(folder: StudyFolder) -> dict[str, Any]:
    study, shown = folder.study, _pictured(folder)
    labels, found = study_labels(folder), answer(folder)
    titles = study_legend(folder).titles
    return {
        "title": study.title,
        "question": study.question,
        "date": today(),
        "source": folder.source or folder.path.name,
        "answer": table_html(found.table, labels),
        "leaders": found.note.splitlines(),
        "protocols": _protocols(folder),
        "replicates": study.replicates,
        "classes": sheet_classes(folder.run(shown)),
        "pictures": {
            titles[method]: picture_html(
                image_sheet(folder.run(shown), method), f"Contact sheet: {titles[method]}"
            )
            for method in shown.settings.methods
        },
        "sections": [
            result_section(title, result, labels, function.__name__)
            for title, function in _SECTIONS.items()
            if len((result := function(folder)).table)
        ],
        "environment": environment(shown.settings),
        "runs": f"{len(folder.finished)} of {len(folder.scenarios)} finished, "
        f"and {len(folder.searches)} searched in",
        "spec": write_yaml(study.plain()),
    }


def _protocols(folder: StudyFolder) -> list[str]:
    """Return the protocol of each scenario; one sentence where all have the same."""
    found = {
        folder.study.scenarios[name].title: protocol_sentence(cell.settings.plain())
        for (name, _), cell in folder.scenarios.items()
    }
    same = set(found.values())
    return list(same) if len(same) == 1 else [f"{name}: {text}" for name, text in found.items()]


def _pictured(folder: StudyFolder) -> StudyRun:
    """Return the first finished run of the scenario with the most images per class."""
    return max(folder.finished.values(), key=lambda cell: cell.settings.ipc)
