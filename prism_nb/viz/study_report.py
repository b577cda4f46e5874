"""The page of a study: accuracy with intervals, diversity, cost, and who beats whom."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.manifest import environment
from prism_nb.core.presets import protocol_sentence
from prism_nb.core.settings import EvaluationSettings, LabelSettings, Settings
from prism_nb.core.yaml_io import write_yaml
from prism_nb.execution.pipeline import stage_units, student_table
from prism_nb.execution.study import StudyFolder, StudyRun, grid_points
from prism_nb.viz import tables
from prism_nb.viz.figures.gallery import gallery
from prism_nb.viz.figures.study import (
    StudyLabels,
    accuracy_facets,
    cost_figure,
    fidelity_figure,
    pair_facets,
)
from prism_nb.viz.report import Section, image_markup, render_page, section, table_markup

PAGE = "study.html"
# Label and student settings that say what is measured, not how students are taught.
_NO_WAY = {"students", "student_seeds", "eval_variants", "train_on_real", "evaluate_every"}


def study_tables(folder: StudyFolder) -> dict[str, pd.DataFrame]:
    """Return a study's results: students, images, pairs, summary and search.

    Raises:
        PrismError: No run of a scenario is finished.
    """
    records = accuracy_records(folder)
    if not len(records):
        raise PrismError(f"no scenario of {folder.path} is finished; run `prism-nb study` first")
    return {
        "students": records,
        "images": image_records(folder),
        "pairs": compare_pairs(records),
        "summary": summary(records),
        "search": search_records(folder),
    }


def study_labels(folder: StudyFolder) -> StudyLabels:
    """Return what the study's methods and scenarios are called."""
    scenarios = {name: scenario.title for name, scenario in folder.study.scenarios.items()}
    return StudyLabels(study_titles(folder), scenarios)


def write_study_page(folder: StudyFolder) -> str:
    """Write a study's page, and its tables as CSV files.

    Returns:
        The page's path, relative to the study's folder. It needs nothing beside it.

    Raises:
        PrismError: No run of a scenario is finished.
    """
    tables = study_tables(folder)
    for name, table in tables.items():
        fileio.write_text(folder.path / f"{name}.csv", table.to_csv(index=False))
    fileio.write_text(folder.path / PAGE, render_page("study.html", **_content(folder, tables)))
    return PAGE


def study_answer_table(
    folder: StudyFolder, means: pd.DataFrame, pairs: pd.DataFrame
) -> pd.DataFrame:
    """Return one row per method and one column per scenario; leaders and their equals bear ●."""
    titles, columns = study_titles(folder), {}
    for name, scenario in folder.study.scenarios.items():
        part = means[means["scenario"] == name].set_index("method")
        if len(part):
            leading = _leading(part, pairs[pairs["scenario"] == name])
            columns[scenario.title] = {
                method: _cell(row["mean"], row["std"], marked=method in leading)
                for method, row in part.iterrows()
            }
    methods = list(dict.fromkeys(means["method"]))
    table = pd.DataFrame(columns).reindex(methods).fillna("–")
    table.index = pd.Index([titles.get(m, m) for m in methods], name="method")
    return table


def verdicts(folder: StudyFolder, means: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Say of each scenario who leads and whom the replicates do not tell apart from it."""
    titles, sentences = study_titles(folder), []
    for name, scenario in folder.study.scenarios.items():
        part = means[means["scenario"] == name].set_index("method")
        if not len(part):
            continue
        leading = _leading(part, pairs[pairs["scenario"] == name])
        first, *equals = [titles.get(method, method) for method in leading]
        sentence = f"{scenario.title}: {first} leads with {part.loc[leading[0], 'mean']:.1f} %"
        if equals:
            sentence += f"; not told apart from it: {', '.join(equals)}"
        if folder.scenarios[name, 0].settings.recipe_of(leading[0]).image_source == "initial":
            sentence += ". A control that optimises nothing leads"
        sentences.append(sentence + ".")
    return sentences


def _leading(part: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Return the method of the best mean, then those that do not differ from it."""
    best = str(part["mean"].idxmax())
    mine = pairs[(pairs["a"] == best) | (pairs["b"] == best)]
    open_pairs = mine[mine["verdict"] == "open"]
    equals = {*open_pairs["a"], *open_pairs["b"]} - {best}
    ranked = part["mean"].sort_values(ascending=False).index
    return [best, *(str(method) for method in ranked if method in equals)]


def _cell(mean: float, std: float, *, marked: bool) -> str:
    text = f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"
    return f"{text} ●" if marked else text


def _content(folder: StudyFolder, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    study = folder.study
    means, pairs = tables["summary"], tables["pairs"]
    shown, cell = _pictured(folder)
    titles = study_titles(folder)
    return {
        "title": _title(folder),
        "question": study.question,
        "source": folder.source or folder.path.name,
        "answer": table_markup(study_answer_table(folder, means, pairs)),
        "replicates": study.replicates,
        "protocols": _protocols(folder),
        "verdicts": verdicts(folder, means, pairs),
        "pictured": study.scenarios[shown].title,
        "pictures": [
            image_markup(titles[method], gallery(folder.run(cell), method))
            for method in cell.settings.methods
        ],
        "sections": _sections(folder, tables),
        "environment": environment(cell.settings),
        "runs": f"{len(folder.finished)} of {len(folder.scenarios)} finished, "
        f"and {len(folder.searches)} searched in",
        "spec": write_yaml(study.plain()),
    }


def _protocols(folder: StudyFolder) -> list[str]:
    """Say by whose protocol each scenario teaches; once, where all do alike."""
    found = {
        folder.study.scenarios[name].title: protocol_sentence(cell.settings.plain())
        for (name, _), cell in folder.scenarios.items()
    }
    alike = set(found.values())
    return list(alike) if len(alike) == 1 else [f"{name}: {said}" for name, said in found.items()]


def _title(folder: StudyFolder) -> str:
    """Return the study's title; it says so where scenarios label or teach in different ways."""
    ways = [_way(cell.settings) for cell in folder.scenarios.values()]
    mixed = any(way != ways[0] for way in ways)
    return f"{folder.study.title} (protocols differ)" if mixed else folder.study.title


def _way(settings: Settings) -> dict[str, Any]:
    """Return what decides how images are labelled and students are taught."""
    values = settings.section(LabelSettings, EvaluationSettings)
    primary = settings.primary if settings.label_ensemble == "primary_half" else None
    ways = {name: value for name, value in values.items() if name not in _NO_WAY}
    return {**ways, "label_teachers": settings.label_teachers_used, "primary": primary}


def _pictured(folder: StudyFolder) -> tuple[str, StudyRun]:
    """Return the finished scenario with the most images per class, and its first finished run."""
    done: dict[str, StudyRun] = {}
    for (name, _), cell in folder.finished.items():
        done.setdefault(name, cell)
    shown = max(done, key=lambda name: done[name].settings.ipc)
    return shown, done[shown]


def _sections(folder: StudyFolder, tables: dict[str, pd.DataFrame]) -> list[Section]:
    names = study_labels(folder)
    means, images, pairs = tables["summary"], tables["images"], tables["pairs"]
    sections = [
        section("Accuracy", accuracy_facets(means, names), means, words=names.words),
        section("Who beats whom", pair_facets(pairs, names), pairs, words=names.words),
        section(
            "Diversity beside fidelity",
            fidelity_figure(images, names),
            images,
            "Images that are still noise look diverse: low is good only far to the right.",
            names.words,
        ),
        section("Cost", cost_figure(images, means, names), None),
    ]
    ceilings = study_ceilings(folder)
    if ceilings:
        ceiling = pd.DataFrame({"student": list(ceilings), "top-1 %": list(ceilings.values())})
        note = "The same networks trained on all real training images with hard labels (one seed)."
        sections.append(section("The ceiling", None, ceiling, note))
    if len(tables["search"]):
        note = (
            "The same values for every method that optimises, scored on a quarter of the training "
            "images that nothing learned from; never on the test images."
        )
        sections.append(section("The search", None, tables["search"], note, names.words))
    return sections


_LEVEL = 0.05
PAIR_COLUMNS = [
    *("scenario", "a", "b", "difference", "low", "high"),
    *("p", "p_holm", "replicates", "verdict"),
]


def summary(records: pd.DataFrame) -> pd.DataFrame:
    """Return mean accuracy with its 95 % interval, per scenario and method.

    A replicate counts once, as the mean over its students, because students of one replicate
    learn from the same images. The interval is Student's t over replicates.

    Args:
        records: The result of `results.accuracy_records`.

    Returns:
        Columns scenario, method, mean, low, high, std, replicates, and one mean per student; low
        and high are NaN where there is one replicate only.
    """
    rows = []
    for (scenario, method), group in records.groupby(["scenario", "method"], sort=False):
        values = group.groupby("replicate")["top1"].mean().to_numpy(float)
        low, high = _interval(values)
        rows.append(
            {
                "scenario": scenario,
                "method": method,
                "mean": values.mean(),
                "low": low,
                "high": high,
                "std": values.std(ddof=1) if len(values) > 1 else np.nan,
                "replicates": len(values),
                **group.groupby("student", sort=False)["top1"].mean().to_dict(),
            }
        )
    return pd.DataFrame(rows)


def compare_pairs(records: pd.DataFrame) -> pd.DataFrame:
    """Compare every two methods of a scenario by a paired t-test over replicates.

    Within a replicate both methods share teachers, label views and students' seeds, so their
    difference is taken there. P-values are corrected for the number of pairs in the scenario
    (Holm 1979).

    Args:
        records: The result of `results.accuracy_records`.

    Returns:
        `PAIR_COLUMNS`, one row per scenario and unordered pair: difference is a - b in points, low
        and high its 95 % interval, verdict the better of the two, or `open` where the difference
        does not exceed the spread. Without a spread, as with one replicate, p is NaN and the
        verdict open.
    """
    parts = [_compare(scenario, group) for scenario, group in records.groupby("scenario")]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=PAIR_COLUMNS)


def _compare(scenario: object, records: pd.DataFrame) -> pd.DataFrame:
    means = records.groupby(["replicate", "method"])["top1"].mean().unstack("method")
    methods = list(dict.fromkeys(records["method"]))
    rows = [_pair(means, a, b) for a, b in combinations(methods, 2)]
    if not rows:
        return pd.DataFrame(columns=PAIR_COLUMNS)
    frame = pd.DataFrame(rows)
    frame.insert(0, "scenario", scenario)
    frame["p_holm"] = _holm(frame["p"].to_numpy(float))
    leader = frame["a"].where(frame["difference"] > 0, frame["b"])
    frame["verdict"] = leader.where(frame["p_holm"] < _LEVEL, "open")
    return frame[PAIR_COLUMNS]


def _pair(means: pd.DataFrame, a: str, b: str) -> dict[str, object]:
    both = means[[a, b]].dropna()
    differences = (both[a] - both[b]).to_numpy(float)
    low, high = _interval(differences)
    return {
        "a": a,
        "b": b,
        "difference": differences.mean() if len(differences) else np.nan,
        "low": low,
        "high": high,
        "p": _p_value(differences),
        "replicates": len(differences),
    }


def _p_value(differences: np.ndarray) -> float:
    if len(differences) < 2:
        return float("nan")
    if not differences.std():  # no spread to compare with: accuracies move in steps, and tie
        return float("nan")
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95 % interval of the mean."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(1 - _LEVEL / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def _holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values step down: the smallest times n, the next times n - 1, never falling."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    stepped = np.maximum.accumulate(np.minimum(p[order] * factors, 1.0))
    corrected = np.empty_like(stepped)
    corrected[order] = stepped
    return corrected


COLUMNS = ("scenario", "replicate", "method", "student", "top1")


def accuracy_records(folder: StudyFolder) -> pd.DataFrame:
    """Return one row per trained student: `COLUMNS`, top1 in percent at the last epoch.

    Students of several seeds in one replicate are averaged, since they share their images.
    """
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for (scenario, replicate), cell in folder.finished.items():
        frame = student_table(folder.run(cell))
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
        units = [
            (unit.params["method"], run.record(unit)) for unit in stage_units(run, "synthesis")
        ]
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


def study_ceilings(folder: StudyFolder) -> dict[str, float]:
    """Return what each student reaches when squeezed on all real images, in percent.

    Known for the students that are also teachers or holdout networks of the study's runs.
    """
    found: dict[str, float] = {}
    for cell in folder.finished.values():
        accuracy = tables.teacher_table(folder.run(cell))["accuracy %"]
        found |= {s: float(accuracy[s]) for s in cell.settings.students if s in accuracy}
    return found


def study_titles(folder: StudyFolder) -> dict[str, str]:
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
        for name, values in grid_points(folder.study, search, method).items():
            chosen = values == choice[search, method]
            rows.append(
                {"search": search, "method": method, **values, "top1": 100 * scores[name]}
                | {"chosen": "✓" if chosen else ""}
            )
    return pd.DataFrame(rows)
