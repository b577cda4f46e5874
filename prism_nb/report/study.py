"""The page of a study: accuracy with intervals, diversity, cost, and who beats whom."""

from __future__ import annotations

from typing import Any

import pandas as pd

from prism_nb import files
from prism_nb.errors import PrismError
from prism_nb.figures.gallery import gallery
from prism_nb.figures.pairs import pair_facets
from prism_nb.figures.study import Names, accuracy_facets, cost_figure, fidelity_figure
from prism_nb.protocols import protocol_sentence
from prism_nb.provenance import environment
from prism_nb.report.page import Section, picture, render, section, table_markup
from prism_nb.settings import EvaluationSettings, LabelSettings, Settings
from prism_nb.strict import write_yaml
from prism_nb.study import results
from prism_nb.study.cells import Cell
from prism_nb.study.comparison import compare_pairs, summary
from prism_nb.study.folder import StudyFolder

PAGE = "study.html"
# Label and student settings that say what is measured, not how students are taught.
_NO_WAY = {"students", "student_seeds", "treatments", "ceiling", "evaluate_every"}


def study_tables(folder: StudyFolder) -> dict[str, pd.DataFrame]:
    """Return a study's results: students, images, pairs, summary and search.

    Raises:
        PrismError: No run of a scenario is finished.
    """
    records = results.accuracy_records(folder)
    if not len(records):
        raise PrismError(f"no scenario of {folder.path} is finished; run `prism-nb study` first")
    return {
        "students": records,
        "images": results.image_records(folder),
        "pairs": compare_pairs(records),
        "summary": summary(records),
        "search": results.search_records(folder),
    }


def names_of(folder: StudyFolder) -> Names:
    """Return what the study's methods and scenarios are called."""
    scenarios = {name: scenario.title for name, scenario in folder.study.scenarios.items()}
    return Names(results.titles(folder), scenarios)


def write_study_page(folder: StudyFolder) -> str:
    """Write a study's page, and its tables as CSV files.

    Returns:
        The page's path, relative to the study's folder. It needs nothing beside it.

    Raises:
        PrismError: No run of a scenario is finished.
    """
    tables = study_tables(folder)
    for name, table in tables.items():
        files.write_text(folder.path / f"{name}.csv", table.to_csv(index=False))
    files.write_text(folder.path / PAGE, render("study.html", **_content(folder, tables)))
    return PAGE


def answer_table(folder: StudyFolder, means: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method and one column per scenario; leaders and their equals bear ●."""
    titles, columns = results.titles(folder), {}
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
    titles, sentences = results.titles(folder), []
    for name, scenario in folder.study.scenarios.items():
        part = means[means["scenario"] == name].set_index("method")
        if not len(part):
            continue
        leading = _leading(part, pairs[pairs["scenario"] == name])
        first, *equals = [titles.get(method, method) for method in leading]
        sentence = f"{scenario.title}: {first} leads with {part.loc[leading[0], 'mean']:.1f} %"
        if equals:
            sentence += f"; not told apart from it: {', '.join(equals)}"
        if folder.scenarios[name, 0].settings.recipe_of(leading[0]).images == "initial":
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
    titles = results.titles(folder)
    return {
        "title": _title(folder),
        "question": study.question,
        "source": folder.source or folder.path.name,
        "answer": table_markup(answer_table(folder, means, pairs)),
        "replicates": study.replicates,
        "protocols": _protocols(folder),
        "verdicts": verdicts(folder, means, pairs),
        "pictured": study.scenarios[shown].title,
        "pictures": [
            picture(titles[method], gallery(folder.run(cell), method))
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
    return {**ways, "label_teachers": settings.labellers, "primary": primary}


def _pictured(folder: StudyFolder) -> tuple[str, Cell]:
    """Return the finished scenario with the most images per class, and its first finished run."""
    done: dict[str, Cell] = {}
    for (name, _), cell in folder.finished.items():
        done.setdefault(name, cell)
    shown = max(done, key=lambda name: done[name].settings.ipc)
    return shown, done[shown]


def _sections(folder: StudyFolder, tables: dict[str, pd.DataFrame]) -> list[Section]:
    names = names_of(folder)
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
    ceilings = results.ceilings(folder)
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
