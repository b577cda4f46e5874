"""The report of a run: one offline HTML page with its results, images and settings."""

from __future__ import annotations

from datetime import date
from typing import Any, NamedTuple

from prism_nb.core import fileio
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.text import format_duration, format_ipc
from prism_nb.core.unit_plan import method_units
from prism_nb.core.units import slug
from prism_nb.execution import pipeline
from prism_nb.execution.pipeline import class_count
from prism_nb.viz import findings, tables
from prism_nb.viz.figures.gallery import comparison_sheet, image_sheet, sheet_classes
from prism_nb.viz.html import LabelMap, Result, figure_html, render_page, save_picture, table_html
from prism_nb.viz.inspector import PAGE_BYTES, inspector_script, sheet_html
from prism_nb.viz.results import RUN_RESULTS, run_labels

REPORT = "figures/report.html"
_NAMED = 3  # methods in a title


def write_report(run: Run) -> str:
    """Write the report of a run and return its path in it; it works offline and by itself.

    The methods' images side by side, with which it begins, are a file of their own too.

    Raises:
        PrismError: A stage is not complete.
    """
    for stage in pipeline.STAGES:
        pipeline.check(run, stage)
    comparison = comparison_sheet(run)
    save_picture(run.path, "comparison", comparison)
    page = render_page("run.html", **_content(run), comparison=comparison.data_uri)
    fileio.write_text(run.file(REPORT), page)
    return REPORT


def comparison_path(run: Run) -> str:
    """Return the path of the picture of the methods' images, or what to do where it is gone."""
    found = next((run.path / "figures").glob("comparison.*"), None)
    return str(found or "deleted: run notebook 06_report to have them side by side again")


def _content(run: Run) -> dict[str, Any]:
    labels, summary = run_labels(run), RUN_RESULTS["summary"](run)
    titles = tables.method_titles(run)
    return {
        "run": run.name,
        "title": run_title(run),
        "date": today(),
        "tiles": tiles(run),
        "findings": findings.stand_out(run),
        "has_students": bool(run.settings.students),
        "answer": table_html(summary.table, labels),
        "warnings": tables.order_warnings(run),
        "classes": sheet_classes(run),
        "pictures": {
            title: sheet_html(
                run,
                method,
                image_sheet(run, method),
                f"Contact sheet: {title}",
                room=PAGE_BYTES // len(titles),
            )
            for method, title in titles.items()
        },
        "inspector": inspector_script(),
        "sections": [
            result_section(title, result, labels, "-".join([name, *map(slug, options.values())]))
            for title, name, options in _sections(run)
            if _has_numbers(result := RUN_RESULTS[name](run, **options))
        ],
        "settings": table_html(tables.settings_table(run)),
        "environment": run.manifest.environment(),
        "seconds": {stage: _seconds(run, stage) for stage in pipeline.STAGES},
    }


def run_title(run: Run) -> str:
    """Return a run's methods, dataset and number of images in words."""
    settings, titles = run.settings, tables.method_titles(run)
    methods = [titles[method] for method in settings.methods]
    if len(methods) > _NAMED:
        methods[_NAMED - 1 :] = [f"{len(methods) - _NAMED + 1} more"]
    names = " and ".join(filter(None, [", ".join(methods[:-1]), methods[-1]]))
    return f"{names} on {settings.dataset}, {format_ipc(settings.ipc)}"


class Tile(NamedTuple):
    """A key number: its value, what it is, and what it is to be compared with."""

    value: str
    name: str
    detail: str


def tiles(run: Run) -> list[Tile]:
    """Return the key numbers of the best optimised method: four, or as many as the run has."""
    settings, titles = run.settings, tables.method_titles(run)
    control = tables.random_method(settings)
    methods = findings.optimised(run) or dict.fromkeys(settings.methods)
    best, found = next(iter(methods)), list[Tile]()
    if settings.students:
        means = tables.accuracy_table(run).groupby("method", sort=False)["mean"].mean()
        best = str(means[[*methods]].idxmax())
        chance = f"mean over students; chance is {findings.chance_level(settings):.3g} %"
        found.append(Tile(f"{means[best]:.1f} %", f"top-1 of {titles[best]}", chance))
        if control and control != best:
            gap = f"{means[best] - means[control]:+.1f} points"
            found.append(Tile(gap, "against random real images", f"{means[control]:.1f} %"))
    means = tables.diversity_table(run)["recognised %"]
    real = f"of as many real images: {means[REFERENCE]:.0f} %" if REFERENCE in means else ""
    found.append(Tile(f"{means[best]:.0f} %", f"of {titles[best]}'s images recognised", real))
    units = [run.units.record(unit) for unit in method_units(run, best, class_count(run))]
    seconds, images = (sum(record[name] for record in units) for name in ("seconds", "images"))
    all_of_it = f"{format_duration(seconds)} for {images:,} images"
    found.append(Tile(f"{seconds / images:.2g} s", f"per image of {titles[best]}", all_of_it))
    return found


def _sections(run: Run) -> list[tuple[str, str, dict[str, str]]]:
    """Return title, result and options of each section."""
    settings, networks = run.settings, run.settings.feature_networks_used
    sections: list[tuple[str, str, dict[str, str]]] = [
        ("Accuracy", "accuracy", {}),
        ("Learning curves", "learning", {}),
        ("Accuracy against images seen and label passes", "budget", {}),
        ("From student to student", "transfer", {}),
        ("Rankings of architectures", "ranking", {}),
        ("Accuracy class by class", "classes", {}),
        ("Gains class by class", "class_gains", {}),
        ("Confusions", "confusions", {}),
    ]
    if settings.eval_variants != ("protocol",) or settings.train_on_real:
        sections.append(("Evaluation variants", "eval_variants", {}))
        sections.append(("DD-Ranking's scores", "scores", {}))
    sections += [
        ("Published results", "published", {}),
        ("Diversity against recognition", "fidelity", {}),
        ("Accuracy against diversity", "tradeoff", {}),
    ]
    for network in networks:
        of = f", features of {network}" if len(networks) > 1 else ""
        sections.append((f"Measures of diversity{of}", "metrics", {"network": network}))
        sections.append((f"Diversity class by class{of}", "curve", {"network": network}))
    return [
        *sections,
        ("Agreement of the teachers", "agreement", {}),
        ("Undefined metrics", "undefined", {}),
        ("Pull of each network", "bn_shares", {}),
        ("BN teachers of each unit", "bn_teachers", {}),
        ("Losses", "losses", {}),
        ("Teachers", "teachers", {}),
    ]


def _seconds(run: Run, stage: str) -> float:
    """Return the seconds that a stage's units took; reused ones took none."""
    records = [run.units.record(unit) for unit in pipeline.stage_units(run, stage)]
    return float(sum(r["seconds"] for r in records if not r.get("reused_from")))


def _has_numbers(result: Result) -> bool:
    numbers = result.table.drop(columns=tables.LABEL_TEACHERS, errors="ignore")
    return bool(numbers.notna().any(axis=None))


def result_section(title: str, result: Result, labels: LabelMap, anchor: str) -> dict[str, str]:
    """Return a result as a section of a page, for `templates/base.html`."""
    return {
        "title": title,
        "id": anchor,
        "figure": "" if result.figure is None else figure_html(result.figure),
        "table": table_html(result.table, labels) if len(result.table) else "",
        "note": result.note,
    }


def today() -> str:
    """Return the date on which a page is written, in words."""
    day = date.today()
    return f"{day.day} {day:%B %Y}"
