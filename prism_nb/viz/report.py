"""Gathering a run's tables, figures and pictures into one HTML file."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prism_nb.core import fileio
from prism_nb.core.config import project_root
from prism_nb.core.errors import PrismError
from prism_nb.core.manifest import recorded_environment
from prism_nb.core.presets import (
    protocol_metadata,
    protocol_names,
    protocol_sentence,
    protocol_values,
)
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.execution import pipeline
from prism_nb.viz import tables
from prism_nb.viz.figures.gallery import gallery
from prism_nb.viz.figures.run import (
    accuracy_figure,
    class_figure,
    confusion_figure,
    context_figure,
    diversity_figure,
    gain_figure,
    learning_figure,
    loss_figure,
    matrix_figure,
    pool_figure,
    share_figure,
    teacher_usage_figure,
    tradeoff_figure,
)
from prism_nb.viz.html import EncodedImage, LabelMap, figure_html, rename_labels, table_html
from prism_nb.viz.style import PAGE_CSS, PLOTLY_CSS

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
    fileio.write_text(run.file(REPORT), render_page("run.html", **_content(run)))
    return REPORT


def summary_sentence(run: Run) -> str:
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
    elif run.settings.recipe_of(str(ranked.index[0])).image_source == "initial":
        sentence += (
            " The control leads: real images with the same soft labels teach more here than any"
            " optimised ones."
        )
    return sentence


def _content(run: Run) -> dict[str, Any]:
    titles = {m: tables.method_title(run, m) for m in (REFERENCE, *run.settings.methods)}
    return {
        "run": run.name,
        "verdict": summary_sentence(run),
        "protocol": protocol_sentence(run.settings.plain()),
        "answer": table_markup(tables.summary_table(run)),
        "settings": table_markup(tables.settings_table(run)),
        "environment": recorded_environment(run.manifest(), run.settings),
        "seconds": _seconds(run),
        "pictures": [image_markup(title, gallery(run, m)) for m, title in titles.items()],
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
    classes = tables.class_accuracy_table(run)
    learned = curves.assign(percent=100 * curves["top1"]).pivot_table(
        "percent", ["method", "student"], "epoch", sort=False
    )
    epochs = learned.rename(columns="epoch {}".format)
    trade, matrix = tables.tradeoff_table(run), tables.transfer_table(accuracies)
    named = partial(section, words={"method": titles})
    return [
        named("What students learned", accuracy_figure(accuracies, titles), accuracies),
        named("Accuracy against diversity", tradeoff_figure(trade, titles), trade),
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
    base = tables.default_baseline([str(name) for name in classes.columns])
    gains = tables.per_class_gain_table(classes, base)
    drawn = gain_figure(gains, titles, base)
    return [section("Gains and losses", drawn, gains, words={"method": titles})]


def _guesses(run: Run, titles: dict[str, str]) -> list[Section]:
    """Show what the first student takes each class for, taught by each method."""
    found, student = [], run.settings.students[0]
    for method in run.settings.methods:
        guesses = tables.confusion_matrix(run, method, student)
        title = f"What {student} takes for what, taught by {titles[method]}"
        drawn, mistakes = confusion_figure(guesses, title=title), tables.top_confusions(guesses)
        found.append(section(title, drawn, mistakes))
    return found


def _by_themselves(run: Run) -> list[Section]:
    """Show what images are worth without labels and augmentation, where that was asked."""
    if run.settings.eval_variants == ("protocol",) and not run.settings.train_on_real:
        return []
    title = "Without soft labels, without augmentation"
    scores = tables.score_table(run)
    return [
        section(title, None, tables.eval_variant_table(run)),
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
        shares, last = (
            tables.bn_loss_share_table(run),
            losses.groupby(["method", "unit", "term"]).last(),
        )
        drawn = teacher_usage_figure(tables.bn_teacher_usage_table(run))
        named = partial(section, words={"method": titles})
        found = [
            named("What steered each unit", drawn, tables.unit_table(run)),
            named("Who steers the statistics", share_figure(shares, titles), shares),
            named("The losses, and their last values", loss_figure(losses, titles), last),
        ]
    return [*found, section("The teachers", pool_figure(pool), pool)]


def _diversity(run: Run, titles: dict[str, str]) -> list[Section]:
    per_class, found = tables.diversity_per_class(run), []
    for network, group in per_class.groupby("features", sort=False):
        title = f"Diversity and fidelity in the features of {network}"
        table = tables.diversity_space_table(run, str(network)).T.rename_axis("measure")
        found.append(section(title, None, table, _HOW_TO_READ))
        classes = tables.class_table(group, "cosine", titles)
        found.append(section("Similarity class by class", diversity_figure(group, titles), classes))
    agreement = tables.agreement_table(run)
    found.append(section("Do the teachers agree?", None, agreement, _AGREEMENT))
    undefined = tables.undefined_table(run)
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


@dataclass(frozen=True)
class Section:
    """A heading with a figure, the same numbers as a table, and a line on how to read them."""

    title: str
    figure: Markup
    table: Markup
    note: str = ""


def section(
    title: str,
    figure: go.Figure | None,
    table: pd.DataFrame | None,
    note: str = "",
    words: LabelMap | None = None,
) -> Section:
    """Build a section from a figure, a table, or both.

    Args:
        title: Its heading.
        figure: The figure.
        table: The table.
        note: A line on how to read them.
        words: What names in the table are called, see `html.in_words`.
    """
    shown = Markup("") if table is None else table_markup(rename_labels(table, words or {}))
    drawn = Markup("" if figure is None else figure_html(figure))  # noqa: S704 (plotly escapes)
    return Section(title, drawn, shown, note)


def table_markup(frame: pd.DataFrame) -> Markup:
    """Return a table as HTML that is safe to put on a page."""
    return Markup(table_html(frame))  # noqa: S704 (escapes what it shows)


def image_markup(title: str, shown: EncodedImage) -> dict[str, str]:
    """Return a picture as a page holds it, in its own text."""
    content = base64.b64encode(shown.content).decode()
    return {"title": title, "source": f"data:image/{shown.kind};base64,{content}"}


def render_page(template: str, **content: Any) -> str:
    """Fill a template of this folder; names of classes, runs and networks are escaped."""
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("prism_nb.viz", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    library = Markup(get_plotlyjs())  # noqa: S704 (shipped with plotly)
    theme = Markup(PAGE_CSS + PLOTLY_CSS)  # noqa: S704 (the kit's own)
    return pages.get_template(template).render(library=library, theme=theme, **content)


COLUMNS = ("method", "title", "student", "ipc", "mean", "std", "source")
THIS_RUN = "this run"
_RESULTS = ("method", "dataset", "student", "ipc", "top1", "std", "source")
_SIZES = {"imagenet1k": 224}  # pixels of the images that published results of a dataset are for


def published_results() -> pd.DataFrame:
    """Return `data/published_results.csv`: top-1 in percent as others print it.

    Raises:
        PrismError: The file is gone, or holds other columns.
    """
    return _read("published_results.csv", _RESULTS)


def context_table(run: Run) -> pd.DataFrame:
    """Return a run's accuracies and the published ones of the same dataset, student and IPC.

    Args:
        run: A run that is evaluated.

    Returns:
        method, title, student, ipc, mean and std (top-1 in percent; the run's over seeds, of the
        last epoch), source (`HERE` for the run's own). For each student the run's methods come
        first, then the published ones from best to worst. Students of which nothing is published
        are left out, so that the table may be empty.

    Raises:
        PrismError: The evaluation is not complete.
    """
    own = tables.accuracy_table(run)
    published = _comparable(run, published_results())
    parts = []
    for student in run.settings.students:
        theirs = published[published["student"] == _architecture(student)]
        if len(theirs):
            mine = own[own["student"] == student]
            parts += [_own_rows(run, mine), _published_rows(theirs, student)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def context_caption(run: Run, table: pd.DataFrame) -> str:
    """Say how the published numbers of a table came about, and why none of them is a yardstick.

    Args:
        run: The run.
        table: The result of `context_table`.
    """
    if not len(table):
        return _nothing(run)
    ours, known = _protocol(run.settings.plain()), _published_protocols()
    methods = list(dict.fromkeys(table.loc[table["source"] != THIS_RUN, "method"]))
    differing = [f"{name}: {_differences(known[name], ours)}." for name in methods if name in known]
    unknown = [name for name in methods if name not in known]
    return " ".join(
        [
            "Grey bars are numbers as their authors, or later repositories, print them; nothing "
            "of them was measured here, and each has a protocol of its own.",
            f"This run: {_in_words(ours)}.",
            *differing,
            *([f"Not on record: the protocols of {', '.join(unknown)}."] if unknown else []),
            *_size_note(run),
            "Where protocols differ, so do accuracies, whatever the images are: only the coloured "
            "bars are compared under one protocol.",
        ]
    )


def _read(name: str, columns: Sequence[str]) -> pd.DataFrame:
    path = project_root() / "data" / name
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise PrismError(f"{path} cannot be read: {error}; restore it with git") from None
    if list(frame.columns) != list(columns):
        raise PrismError(f"{path} must have the columns {', '.join(columns)}; restore it with git")
    return frame


def _comparable(run: Run, published: pd.DataFrame) -> pd.DataFrame:
    """Keep what is published of a run's dataset and IPC; a search scores on other images."""
    settings = run.settings
    if settings.eval_split != "test":
        return published.iloc[:0]
    fits = (published["dataset"] == settings.dataset) & (published["ipc"] == settings.ipc)
    return published[fits]


def _architecture(student: str) -> str:
    """Return a student's name as published tables have it: torchvision's."""
    return student.removeprefix("torchvision/")


def _own_rows(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    titles = [tables.method_title(run, str(method)) for method in rows["method"]]
    found = rows.assign(title=titles, ipc=run.settings.ipc, source=THIS_RUN)
    return found[list(COLUMNS)]


def _published_rows(rows: pd.DataFrame, student: str) -> pd.DataFrame:
    ranked = rows.sort_values("top1", ascending=False, kind="stable")
    titles = [f"{method} (published)" for method in ranked["method"]]
    found = ranked.assign(title=titles, student=student, mean=ranked["top1"])
    return found[list(COLUMNS)]


def _published_protocols() -> dict[str, dict[str, Any]]:
    """Return how the students of published methods are trained, by the method's name there."""
    return {
        protocol_metadata(name)["title"]: _protocol(protocol_values(name))
        for name in protocol_names()
    }


def _protocol(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a protocol, from settings or from what a protocol stands for."""
    return {
        "epochs": values.get("student_epochs") or values["label_epochs"],
        "batch": values["student_batch"],
        "loss": _loss(values),
        "crop_min": values["label_crop_min"],
        "mix": values["label_mix"],
    }


def _loss(values: Mapping[str, Any]) -> str:
    if values["student_loss"] == "kl":
        return f"KL at T={values['student_temperature']:g}"
    if values["student_loss"] == "ce":
        return "CE with true classes"
    return f"MSE + {values['ce_weight']:g} CE" if values["ce_weight"] else "MSE"


def _phrase(name: str, value: Any) -> str:
    """Return one setting of a protocol in words."""
    if name == "mix":
        return {"cutmix": "CutMix", "mixup": "MixUp", "none": "no mixing"}.get(value, value)
    patterns = {
        "epochs": "{} epochs",
        "batch": "batch {}",
        "loss": "loss {}",
        "crop_min": "crops from {:g} of the area",
    }
    return patterns[name].format(value)


def _in_words(protocol: dict[str, Any]) -> str:
    return ", ".join(_phrase(name, value) for name, value in protocol.items())


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    differing = [_phrase(name, theirs[name]) for name in ours if theirs[name] != ours[name]]
    return ", ".join(differing) + ", the rest as here" if differing else "all of that as here"


def _size_note(run: Run) -> list[str]:
    size, ours = _SIZES.get(run.settings.dataset), run.settings.image_size
    if size is None or size == ours:
        return []
    return [f"Published images have {size} pixels a side, those of this run {ours}."]


def _nothing(run: Run) -> str:
    settings = run.settings
    if settings.eval_split != "test":
        return (
            "This run scores on part of the training images, to choose settings by; no published "
            "number is of those, so nothing stands beside it."
        )
    students = " or ".join(settings.students)
    return (
        f"No published result on record (data/published_results.csv) is of {settings.dataset} with "
        f"{students} at {settings.ipc} images per class, so nothing stands beside this run."
    )
