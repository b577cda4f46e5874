"""The report of a run: one offline HTML page with its results, images and settings."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from prism_nb.core import fileio
from prism_nb.core.manifest import recorded_environment
from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.viz import tables
from prism_nb.viz.figures.gallery import comparison_sheet, image_sheet
from prism_nb.viz.html import LabelMap, Result, figure_html, render_page, save_picture, table_html
from prism_nb.viz.results import RUN_RESULTS, run_labels

REPORT = "figures/report.html"


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


def comparison_path(run: Run) -> Path | None:
    """Return the picture of the methods' images side by side; None before the report is written."""
    return next(iter((run.path / "figures").glob("comparison.*")), None)


def _content(run: Run) -> dict[str, Any]:
    labels, summary = run_labels(run), RUN_RESULTS["summary"](run)
    return {
        "run": run.name,
        "has_students": bool(run.settings.students),
        "answer": table_html(summary.table, labels),
        "leaders": " ".join([summary.note, *tables.order_warnings(run)]),
        "pictures": {
            title: image_sheet(run, method).data_uri
            for method, title in tables.method_titles(run).items()
        },
        "sections": [
            result_section(title, result, labels)
            for title, name, options in _sections(run)
            if len((result := RUN_RESULTS[name](run, **options)).table)
        ],
        "settings": table_html(tables.settings_table(run)),
        "environment": recorded_environment(run.manifest.read(), run.settings),
        "seconds": {stage: _seconds(run, stage) for stage in pipeline.STAGES},
    }


def _sections(run: Run) -> list[tuple[str, str, dict[str, Any]]]:
    """Return title, result and options of each section."""
    titles, students = tables.method_titles(run), run.settings.students
    has_variants = run.settings.eval_variants != ("protocol",) or run.settings.train_on_real
    sections: list[tuple[str, str, dict[str, Any]]] = [
        ("Accuracy", "accuracy", {}),
        ("Accuracy against diversity", "tradeoff", {}),
        ("Pull of each network", "bn_shares", {}),
        ("Learning curves", "learning", {}),
        ("Accuracy against images seen and label passes", "budget", {}),
        ("From student to student", "transfer", {}),
        ("Rankings of architectures", "ranking", {}),
        ("Accuracy class by class", "classes", {}),
        ("Gains class by class", "class_gains", {}),
    ]
    for student, method in product(students[:1], run.settings.methods):
        title = f"Confusions of {student}, trained on {titles[method]}"
        sections.append((title, "confusions", {"method": method, "student": student}))
    if has_variants:
        sections.append(("Evaluation variants", "eval_variants", {}))
        sections.append(("DD-Ranking's scores", "scores", {}))
    sections.append(("Published results", "published", {}))
    for network in run.settings.feature_networks_used:
        options = {"network": network}
        sections.append((f"Diversity, features of {network}", "metrics", options))
        sections.append((f"Diversity class by class, features of {network}", "curve", options))
    return [
        *sections,
        ("Agreement of the teachers", "agreement", {}),
        ("Undefined metrics", "undefined", {}),
        ("BN teachers of each unit", "bn_teachers", {}),
        ("Losses", "losses", {}),
        ("Teachers", "teachers", {}),
    ]


def _seconds(run: Run, stage: str) -> float:
    """Return the seconds that a stage's units took; reused ones took none."""
    records = [run.units.record(unit) for unit in pipeline.stage_units(run, stage)]
    return float(sum(r["seconds"] for r in records if not r.get("reused_from")))


def result_section(title: str, result: Result, labels: LabelMap) -> dict[str, str]:
    """Return a result as a section of a page, for `templates/base.html`."""
    return {
        "title": title,
        "figure": "" if result.figure is None else figure_html(result.figure),
        "table": table_html(result.table, labels) if len(result.table) else "",
        "note": result.note,
    }
