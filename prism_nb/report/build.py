"""Gathering a run's tables, figures and pictures into one HTML file."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pandas as pd

from prism_nb import diversity_tables, files, pipeline, scoreboard, tables
from prism_nb.figures.context import context_figure
from prism_nb.figures.diversity import diversity_figure
from prism_nb.figures.evaluation import (
    accuracy_figure,
    class_figure,
    gain_figure,
    guess_figure,
    learning_figure,
    matrix_figure,
    trade_figure,
)
from prism_nb.figures.gallery import gallery
from prism_nb.figures.losses import loss_figure, presence_figure, share_figure
from prism_nb.figures.teachers import pool_figure
from prism_nb.plans.diversity import REFERENCE
from prism_nb.protocols import protocol_sentence
from prism_nb.provenance import made_in
from prism_nb.report.context import context_caption, context_table
from prism_nb.report.page import Section, picture, render, section, table_markup
from prism_nb.run import Run

REPORT = "figures/report.html"
_HOW_TO_READ = (
    "Means over the classes; ↑ and ↓ say which way is better, the others are read beside the "
    "column of the real images, as many as there are of each method. Noise is diverse too: "
    "density, KID and recognised tell it from images. A nearest training image at 0 is a copy."
)
_SCORES = (
    "Accuracies as fractions. HLR: what is lost against all real images, hard labels both; IOR: "
    "what is won against as many random real ones; LRS and ARS join them. A dash: the run lacks "
    "what the score needs."
)
_AGREEMENT = (
    "Shares of the images on which all teachers, or two of them on average, name one class; and "
    "the Jensen-Shannon divergence of two teachers' probabilities, 0 to 0.69 nats."
)


def write_report(run: Run) -> str:
    """Write the report of a finished run.

    Returns:
        Its path, relative to the run. The file needs nothing beside it and no network.

    Raises:
        PrismError: A stage is not complete.
    """
    for stage in pipeline.STAGES:
        pipeline.check(run, stage)
    files.write_text(run.file(REPORT), render("run.html", **_content(run)))
    return REPORT


def verdict(run: Run) -> str:
    """Say in one or two sentences which method led, without leaving the controls out."""
    accuracies = tables.accuracy_table(run)
    ranked = accuracies.groupby("method", sort=False)["mean"].mean().sort_values(ascending=False)
    names = [f"{tables.method_title(run, str(m))} {value:.1f} %" for m, value in ranked.items()]
    spread = float(accuracies["std"].max())
    sentence = "Top-1 averaged over students: " + ", ".join(names) + "."
    if len(ranked) > 1 and math.isnan(spread):
        return f"{sentence} One seed each: nothing here tells them apart."
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
        "verdict": verdict(run),
        "protocol": protocol_sentence(run.settings.plain()),
        "answer": table_markup(tables.answer_table(run)),
        "settings": table_markup(tables.settings_table(run)),
        "environment": made_in(run.manifest(), run.settings),
        "seconds": _seconds(run),
        "pictures": [picture(title, gallery(run, m)) for m, title in titles.items()],
        "sections": _sections(run, titles),
    }


def _sections(run: Run, titles: dict[str, str]) -> list[Section]:
    return [
        *_learned(run, titles),
        *_by_themselves(run),
        *_context(run, titles),
        *_diversity(run, titles),
        *_steering(run, titles),
    ]


def _learned(run: Run, titles: dict[str, str]) -> list[Section]:
    accuracies, curves = tables.accuracy_table(run), tables.learning_table(run)
    classes = scoreboard.class_accuracy_table(run)
    learned = curves.assign(percent=100 * curves["top1"]).pivot_table(
        "percent", ["method", "student"], "epoch", sort=False
    )
    epochs = learned.rename(columns="epoch {}".format)
    trade, matrix = scoreboard.trade_table(run), tables.matrix_table(accuracies)
    named = partial(section, words={"method": titles})
    return [
        named("What students learned", accuracy_figure(accuracies, titles), accuracies),
        named("Accuracy against diversity", trade_figure(trade, titles), trade),
        named("How they learned", learning_figure(curves, titles), epochs),
        named("From student to student", matrix_figure(accuracies, titles), matrix),
        named("Class by class", class_figure(classes, titles), classes),
        *_gains(classes, titles),
        *_guesses(run, titles),
    ]


def _gains(classes: pd.DataFrame, titles: dict[str, str]) -> list[Section]:
    """Show what each method gains and loses, where there are several."""
    if len(classes.columns) == 1:
        return []
    base = scoreboard.usual_base([str(name) for name in classes.columns])
    gains = scoreboard.gain_table(classes, base)
    drawn = gain_figure(gains, titles, base)
    return [section("Gains and losses", drawn, gains, words={"method": titles})]


def _guesses(run: Run, titles: dict[str, str]) -> list[Section]:
    """Show what the first student takes each class for, taught by each method."""
    found, student = [], run.settings.students[0]
    for method in run.settings.methods:
        guesses = scoreboard.guess_table(run, method, student)
        title = f"What {student} takes for what, taught by {titles[method]}"
        drawn, mistakes = guess_figure(guesses, title=title), scoreboard.mistake_table(guesses)
        found.append(section(title, drawn, mistakes))
    return found


def _by_themselves(run: Run) -> list[Section]:
    """Show what images are worth without labels and augmentation, where that was asked."""
    if run.settings.treatments == ("protocol",) and not run.settings.ceiling:
        return []
    title = "Without soft labels, without augmentation"
    scores = scoreboard.score_table(run)
    return [
        section(title, None, scoreboard.treatment_table(run)),
        section("DD-Ranking's scores", None, scores, _SCORES),
    ]


def _context(run: Run, titles: dict[str, str]) -> list[Section]:
    """Set the run beside published numbers, where there are any of its kind."""
    table = context_table(run)
    if not len(table):
        return []
    caption = context_caption(run, table)
    words = {"method": titles}
    return [section("Beside published numbers", context_figure(table), table, caption, words)]


def _steering(run: Run, titles: dict[str, str]) -> list[Section]:
    pool, losses, found = tables.teacher_table(run), tables.loss_table(run), []
    if len(losses):
        shares, last = tables.share_table(run), losses.groupby(["method", "unit", "term"]).last()
        drawn = presence_figure(tables.presence_table(run))
        named = partial(section, words={"method": titles})
        found = [
            named("What steered each unit", drawn, tables.draw_table(run)),
            named("Who steers the statistics", share_figure(shares, titles), shares),
            named("The losses, and their last values", loss_figure(losses, titles), last),
        ]
    return [*found, section("The teachers", pool_figure(pool), pool)]


def _diversity(run: Run, titles: dict[str, str]) -> list[Section]:
    per_class, found = diversity_tables.diversity_per_class(run), []
    for network, group in per_class.groupby("features", sort=False):
        title = f"Diversity and fidelity in the features of {network}"
        table = diversity_tables.space_table(run, str(network)).T.rename_axis("measure")
        found.append(section(title, None, table, _HOW_TO_READ))
        classes = diversity_tables.class_table(group, "cosine", titles)
        found.append(section("Similarity class by class", diversity_figure(group, titles), classes))
    agreement = diversity_tables.agreement_table(run)
    found.append(section("Do the teachers agree?", None, agreement, _AGREEMENT))
    undefined = diversity_tables.undefined_table(run)
    if len(undefined):
        found.append(section("Why some of that is undefined", None, undefined))
    return found


def _seconds(run: Run) -> dict[str, float]:
    """Sum each stage's unit times; units taken over from another run cost nothing here."""
    total = {}
    for stage in pipeline.STAGES:
        records = [run.record(unit) for unit in pipeline.stage_units(run, stage)]
        total[stage] = sum(r["seconds"] for r in records if not r.get("reused_from"))
    return total
