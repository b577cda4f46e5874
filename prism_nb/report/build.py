"""Gathering a run's tables, figures and pictures into one HTML file."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prism_nb import files, pipeline, tables
from prism_nb.figures.diversity import diversity_figure
from prism_nb.figures.evaluation import accuracy_figure, learning_figure
from prism_nb.figures.gallery import gallery
from prism_nb.figures.html import figure_html, table_html
from prism_nb.figures.losses import loss_figure, share_figure
from prism_nb.figures.teachers import pool_figure
from prism_nb.plans.diversity import REFERENCE
from prism_nb.run import Run

REPORT = "figures/report.html"


def write_report(run: Run) -> str:
    """Write the report of a finished run.

    Returns:
        Its path, relative to the run. The file needs nothing beside it and no network.

    Raises:
        PrismError: A stage is not complete.
    """
    for stage in pipeline.STAGES:
        pipeline.check(run, stage)
    template = resources.files(__package__).joinpath("template.html").read_text(encoding="utf-8")
    # Autoescape: names of classes, runs and networks come from outside.
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    files.write_text(run.file(REPORT), page.from_string(template).render(**_content(run)))
    return REPORT


def verdict(run: Run) -> str:
    """Say in one or two sentences which method led, without leaving the controls out."""
    accuracies = tables.accuracy_table(run)
    ranked = accuracies.groupby("method", sort=False)["mean"].mean().sort_values(ascending=False)
    names = [f"{tables.method_title(run, str(m))} {value:.1f} %" for m, value in ranked.items()]
    spread = float(accuracies["std"].max())
    sentence = "Top-1 averaged over students: " + ", ".join(names) + "."
    if len(ranked) > 1 and ranked.iloc[0] - ranked.iloc[1] <= spread:
        sentence += (
            " The first two lie within the largest standard deviation over seeds "
            f"({spread:.1f}): this run does not tell them apart."
        )
    elif run.settings.recipe_of(str(ranked.index[0])).images == "initial":
        sentence += (
            " The control leads: real images with the same soft labels teach more here than any"
            " optimised ones."
        )
    return sentence


def _content(run: Run) -> dict[str, Any]:
    titles = {m: tables.method_title(run, m) for m in (REFERENCE, *run.settings.methods)}
    return {
        "run": run.name,
        "library": Markup(get_plotlyjs()),  # noqa: S704 (shipped with plotly)
        "verdict": verdict(run),
        "answer": _table(tables.answer_table(run)),
        "settings": _table(tables.settings_table(run)),
        "environment": run.manifest()["environment"],
        "seconds": _seconds(run),
        "pictures": [
            {
                "title": title,
                "source": "data:image/png;base64," + base64.b64encode(gallery(run, m)).decode(),
            }
            for m, title in titles.items()
        ],
        "sections": _sections(run, titles),
    }


def _sections(run: Run, titles: dict[str, str]) -> list[dict[str, Any]]:
    accuracies, losses = tables.accuracy_table(run), tables.loss_table(run)
    per_class, pool = tables.diversity_per_class(run), tables.teacher_table(run)
    curves = tables.learning_table(run)
    learned = curves.assign(percent=100 * curves["top1"]).pivot_table(
        "percent", ["method", "student"], "epoch", sort=False
    )
    sections: list[tuple[str, go.Figure | None, pd.DataFrame]] = [
        ("What students learned", accuracy_figure(accuracies, titles), accuracies),
        ("How they learned", learning_figure(curves, titles), learned),
    ]
    for network, group in per_class.groupby("features", sort=False):
        title = f"Diversity in the features of {network}"
        wide = group.pivot_table("cosine", "class", "method", sort=False)
        sections.append((title, diversity_figure(group, titles), wide))
    sections.append(("Diversity beside fidelity", None, tables.diversity_table(run)))
    if len(losses):
        shares, last = tables.share_table(run), losses.groupby(["method", "unit", "term"]).last()
        sections.append(("What steered each unit", None, tables.draw_table(run)))
        sections.append(("Who steers the statistics", share_figure(shares, titles), shares))
        sections.append(("The losses, and their last values", loss_figure(losses, titles), last))
    sections.append(("The teachers", pool_figure(pool), pool))
    return [
        {"title": title, "figure": _figure(figure), "table": _table(t)}
        for title, figure, t in sections
    ]


def _figure(figure: go.Figure | None) -> Markup:
    """Draw on the page's own paper, light or dark."""
    if figure is None:
        return Markup("")
    clear = "rgba(0,0,0,0)"
    figure.update_layout(paper_bgcolor=clear, plot_bgcolor=clear, font={"color": "#808890"})
    return Markup(figure_html(figure))  # noqa: S704


def _table(frame: pd.DataFrame) -> Markup:
    return Markup(table_html(frame))  # noqa: S704


def _seconds(run: Run) -> dict[str, float]:
    """Sum each stage's unit times; units taken over from another run cost nothing here."""
    total = {}
    for stage in pipeline.STAGES:
        records = [run.record(unit) for unit in pipeline.stage_units(run, stage)]
        total[stage] = sum(r["seconds"] for r in records if not r.get("reused_from"))
    return total
