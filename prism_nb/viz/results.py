"""Named results of a run: what notebooks show and the report prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from prism_nb.core.errors import UsageError
from prism_nb.core.presets import protocol_sentence
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.features import logits_of
from prism_nb.diversity.metrics import METRICS
from prism_nb.execution.pipeline import class_count
from prism_nb.models.pool import load_teacher
from prism_nb.synthesis.walkthrough import VARIANTS, walk
from prism_nb.viz import diagnostics, findings, tables
from prism_nb.viz.classes import class_label
from prism_nb.viz.figures import diversity, walkthrough
from prism_nb.viz.figures import run as figures
from prism_nb.viz.figures.gallery import image_sheet, near_duplicate_sheet, view_sheet
from prism_nb.viz.html import Deck, EncodedImage, LabelMap, Result
from prism_nb.viz.inspector import image_deck
from prism_nb.viz.published import protocol_table, published_bands, published_table
from prism_nb.viz.style import Legend, short_names, with_chance


def method_legend(run: Run) -> Legend:
    """Return titles and styles of a run's methods and of the real images."""
    return Legend(tables.method_titles(run))


def run_labels(run: Run) -> LabelMap:
    """Return the titles of names in a run's tables."""
    return {"method": tables.method_titles(run)}


# -- teachers and synthesis ------------------------------------------------------------------


def teachers(run: Run) -> Result:
    """Accuracy, size and role of every network."""
    table = tables.teacher_table(run)
    is_measured = "accuracy %" in table  # not without real images
    figure = _with_chance(run, figures.teacher_figure(table)) if is_measured else None
    return Result(table, figure)


def bn_teachers(run: Run) -> Result:
    """BN teachers of every synthesis unit."""
    usage = tables.bn_teacher_usage_table(run)
    figure = figures.teacher_usage_figure(usage) if len(usage) else None
    return Result(tables.unit_table(run), figure)


def bn_shares(run: Run) -> Result:
    """Share of each network in the gradient on the images and in the BN loss, by method."""
    table = tables.share_table(run)
    if not len(table):
        return Result(table)
    figure = figures.share_figure(table, method_legend(run), run.settings.teachers)
    columns = ["of", "term", "network"]
    wide = table.pivot_table("share %", columns, "method", sort=False).rename_axis(columns="method")
    return Result(wide[list(table["method"].unique())], figure, findings.dominant_networks(run))


def losses(run: Run) -> Result:
    """Loss curves by term; the table has the last values."""
    curves = tables.loss_table(run)
    last = curves.groupby(["method", "unit", "term"]).last()
    figure = figures.loss_figure(curves, method_legend(run)) if len(curves) else None
    return Result(last, figure)


def gradients(run: Run, class_index: int = 0) -> Result:
    """What each term of PRISM's loss asks of an image at several of its steps."""
    frames = walk(run, "pool")
    names = short_names(run.settings.teachers)
    terms = {term: _term_title(term, names) for term in frames[0].gradients}
    norms = pd.DataFrame(
        {
            f"step {frame.step}": [
                frame.gradients[term][class_index].norm().item() for term in terms
            ]
            for frame in frames
        },
        index=pd.Index(terms.values(), name="share of the gradient, %"),
    )
    figure = walkthrough.gradient_figure(frames, class_index, terms, _class_title(run, class_index))
    return Result(100 * norms / norms.sum(), figure)


def growth(run: Run, class_index: int = 0) -> Result:
    """The growth of an image by its logit term alone, and with BN terms."""
    walks, dataset = {name: walk(run, name) for name in VARIANTS}, open_dataset(run.settings)
    observer = (*run.settings.holdout_networks, run.settings.primary)[0]
    names, rows = short_names(run.settings.teachers), {}
    for name, frames in walks.items():
        logits = logits_of(load_teacher(run, observer), frames[-1].images, dataset)
        certainty = logits.softmax(1).diag()
        recognised = certainty == logits.softmax(1).amax(1)
        rows[VARIANTS[name]] = {
            **{_term_title(term, names): value for term, value in frames[-1].losses.items()},
            f"probability of the class by {observer}, %": 100 * certainty[class_index].item(),
            f"recognised by {observer}, of {len(logits)}": int(recognised.sum()),
        }
    table = pd.DataFrame(rows).rename_axis("at the end")
    return Result(
        table, walkthrough.growth_figure(walks, class_index, _class_title(run, class_index))
    )


_KINDS = {"bn": "BN", "logit": "logits"}


def _class_title(run: Run, index: int) -> str:
    return f"Class {class_label(open_dataset(run.settings).classes[index])}"


def _term_title(term: str, names: Mapping[str, str]) -> str:
    kind, _, network = term.partition("/")
    return f"{_KINDS.get(kind, kind)}, {names.get(network, network)}"


# -- diversity -------------------------------------------------------------------------------


def fidelity(run: Run) -> Result:
    """Diversity against recognition: of all images, and of the recognised ones alone."""
    table = tables.fidelity_table(run)
    note = (
        "Vendi score: the effective number of different images of a class. Noise has a high one "
        "over all images and 0 over the recognised ones, so compare methods by the open circles."
    )
    if table[METRICS["vendi"].title].isna().all():
        return Result(table, note="Not drawn: one image per class has no other to differ from.")
    return Result(table, diversity.fidelity_figure(table, method_legend(run)), note)


def metrics(run: Run, network: str) -> Result:
    """Every metric in the features of a network."""
    note = "Means over the classes. ↑ and ↓: higher or lower is better. Noise is diverse too: "
    if run.settings.data_free:
        note += "recognised tells it from images. Without real images the rest is undefined."
    else:
        note += (
            "density, KID and recognised distinguish it from images. Metrics without an arrow are "
            "compared with the column of the real images, as many as of each method. A distance "
            "of 0 to the nearest training image is a copy."
        )
    titles, unrecognised = tables.method_titles(run), tables.unrecognised_methods(run, network)
    if unrecognised:
        note += (
            f" Fewer than half of the images are recognised of {_joined(titles, unrecognised)}: "
            "metrics that noise leads in have no arrow."
        )
    return Result(tables.metric_table(run, network), note=note)


def curve(
    run: Run,
    network: str,
    methods: Sequence[str] | None = None,
    measure: str = "cosine",
) -> Result:
    """A metric of every class, sorted for each method by itself; the table is class by class."""
    methods = methods or _all_methods(run)
    measured = tables.only_measured(run)
    table = tables.class_metric_table(measured, network, measure)
    table = table[[method for method in table if method in methods]]
    if not table.notna().any(axis=None):
        return Result(note=_why_undefined(measured, METRICS[measure].title))
    metric, unrecognised = METRICS[measure], tables.unrecognised_methods(measured, network)
    directed = not (metric.favours_noise and unrecognised)
    figure = diversity.curve_figure(table, method_legend(run), metric, directed=directed)
    note = _left_out(run, methods, measured.settings.image_sets)
    return Result(table, figure, note)


def nearest(run: Run, network: str, methods: Sequence[str] | None = None) -> Result:
    """Distances to the nearest training image; the table has the nearest three of each method."""
    methods = methods or _all_methods(run)
    measured = tables.only_measured(run)
    table = tables.nearest_table(measured, network)
    mine = table[table["method"].isin(methods)]
    if not len(mine):
        return Result(note=_why_undefined(measured, METRICS["nearest_real"].title))
    in_order = mine.sort_values("method", key=lambda m: m.map(list(methods).index), kind="stable")
    figure = diversity.nearest_figure(in_order, method_legend(run))
    nearest_three = in_order.groupby("method", sort=False).head(3).set_index("method")
    note = _left_out(run, methods, measured.settings.image_sets)
    return Result(nearest_three, figure, note)


def similarity(
    run: Run,
    network: str,
    methods: Sequence[str] | None = None,
    classes: Sequence[int] = (0,),
) -> Result:
    """Cosines of all pairs of images of one class."""
    if len(classes) != 1:
        return Result(note="A similarity matrix is of one class; choose one")
    methods = methods or _all_methods(run)
    most = diversity.MAX_IN_MATRIX * len(methods)
    points = diversity.load_points(run, network, methods, classes, most=most, min_real=0)
    label = class_label(open_dataset(run.settings).classes[classes[0]])
    title = f"Cosine of all pairs, class {label}, {points.count}, features of {network}"
    figure = diversity.similarity_figure(points, method_legend(run), title)
    return Result(
        diversity.similarity_table(points),
        figure,
        _left_out(run, methods, points.table["method"]),
        _deck(run, points),
    )


def image_map(
    run: Run,
    network: str,
    methods: Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    kind: str = "pca",
    color: str = "class",
) -> Result:
    """Images as points of a PCA or UMAP of their features; `color` is of `diversity.COLORS`."""
    methods = methods or _all_methods(run)
    points = diversity.load_points(run, network, methods, classes or range(class_count(run)))
    try:
        coordinates = diversity.project(points.features, kind)
    except UsageError as error:
        return Result(note=str(error))
    titles = [class_label(info) for info in open_dataset(run.settings).classes]
    figure = diversity.map_figure(points, coordinates, kind, method_legend(run), titles, color)
    note = _left_out(run, methods, points.table["method"])
    counts = points.table.groupby("method", sort=False).size().to_frame("images")
    return Result(counts, figure, note, _deck(run, points))


def _all_methods(run: Run) -> tuple[str, ...]:
    return run.settings.image_sets


def _left_out(run: Run, methods: Sequence[str], shown: Iterable[str]) -> str:
    """Return which of the chosen methods are not shown."""
    titles, shown = tables.method_titles(run), set(shown)
    names = _joined(titles, [name for name in methods if name not in shown])
    return f"Left out: {names} (missing or damaged)" if names else ""


def _joined(titles: Mapping[str, str], methods: Sequence[str]) -> str:
    return ", ".join(titles[method] for method in methods)


def _deck(run: Run, points: diversity.FeaturePoints) -> Callable[[], Deck]:
    keys = list(points.table.itertuples(index=False, name=None))
    return lambda: image_deck(run, keys, points.pixels, network=points.network)


def _why_undefined(run: Run, title: str) -> str:
    table = tables.undefined_table(run)
    reasons = table[table["measures"].str.contains(title, regex=False)]["undefined because"]
    return f"{title}: {reasons.iloc[0] if len(reasons) else 'no value is defined'}"


# -- labels and students ---------------------------------------------------------------------


def accuracy(run: Run) -> Result:
    """Accuracy of each student by method."""
    table = tables.accuracy_table(run)
    figure = _with_chance(run, figures.accuracy_figure(table, method_legend(run)))
    return Result(
        table, figure, f"{protocol_sentence(run.settings.plain())} {findings.verdict_of(run)}"
    )


def _with_chance(run: Run, figure: go.Figure, axis: str = "y") -> go.Figure:
    return with_chance(figure, findings.chance_level(run.settings), axis=axis)


def learning(run: Run, student: str | None = None) -> Result:
    """Learning curves, of one student or all; the table has top-1 in percent by epoch."""
    curves = tables.learning_table(run)
    if student is not None:
        curves = curves[curves["student"] == student]
    wide = curves.pivot_table("top1", ["method", "student"], "epoch", sort=False).mul(100)
    table = wide.rename(columns="epoch {}".format)
    return Result(table, _with_chance(run, figures.learning_figure(curves, method_legend(run))))


def budget(run: Run) -> Result:
    """Accuracy against images seen and label passes, mean over seeds."""
    result = budget_result(diagnostics.budget_table(run), method_legend(run), "student")
    return replace(result, figure=_with_chance(run, result.figure))


def budget_result(
    curves: pd.DataFrame, legend: Legend, by: str, titles: Mapping[str, str] | None = None
) -> Result:
    """Return what a `budget_table` spends in all, and its means by method, `by` and epoch.

    `titles` are those of `by`, for the figure.
    """
    keys = ["method", by]
    means = curves.groupby([*keys, "epoch", *diagnostics.BUDGETS], sort=False)["top1"].mean()
    long = means.mul(100).rename("top-1 %").reset_index()
    figure = figures.budget_figure(long.replace({by: dict(titles or {})}), legend, dash=by)
    by_epoch = long.pivot_table("top-1 %", keys, "epoch", sort=False)
    spent = long.groupby(keys, sort=False)[diagnostics.BUDGETS].max()
    table = spent.join(by_epoch.rename(columns="epoch {}".format)).reset_index()
    return Result(table, figure, diagnostics.BUDGET_NOTE)


def ranking(run: Run) -> Result:
    """Architectures by students of each method, and by networks of all real images."""
    wide = tables.accuracy_table(run).pivot_table("mean", "method", "student", sort=False)
    wide[tables.LABEL_TEACHERS] = run.settings.label_teacher_count
    table = diagnostics.ranking_table(wide, diagnostics.real_accuracies(run))
    return Result(table, note=diagnostics.RANKING_NOTE)


def transfer(run: Run) -> Result:
    """Accuracy of each method's images by student."""
    accuracies = tables.accuracy_table(run)
    figure = figures.transfer_figure(accuracies, method_legend(run))
    return Result(tables.transfer_table(accuracies), figure)


def classes(run: Run) -> Result:
    """Accuracy of every class."""
    table = tables.class_accuracy_table(run)
    return Result(
        table, _with_chance(run, figures.class_accuracy_figure(table, method_legend(run)))
    )


def class_gains(run: Run, baseline: str | None = None) -> Result:
    """Gain of each method over a baseline, class by class."""
    baseline = baseline or tables.default_baseline(run.settings.methods)
    if len(run.settings.methods) == 1:
        return Result(note="One method has nothing to be compared with.")
    table = tables.class_gain_table(tables.class_accuracy_table(run), baseline)
    return Result(table, figures.class_gain_figure(table, method_legend(run), baseline))


def confusions(run: Run, method: str | None = None, student: str | None = None) -> Result:
    """Confusion matrices of a student, of one method's images or all; the table has mistakes."""
    student, titles = student or run.settings.students[0], tables.method_titles(run)
    methods = run.settings.methods if method is None else (method,)
    shares = {titles[m]: tables.confusion_matrix(run, m, student) for m in methods}
    mistakes = {title: tables.top_confusions(matrix) for title, matrix in shares.items()}
    table = pd.concat(mistakes, names=["method"]).reset_index()
    of = f", trained on {titles[method]}" if method else ""
    return Result(table, figures.confusion_figure(shares, title=f"Confusions of {student}{of}"))


def scores(run: Run) -> Result:
    """DD-Ranking's scores."""
    note = (
        "Accuracies as fractions. HLR: loss against all real images, both with hard labels; IOR: "
        "gain over as many random real images; LRS and ARS combine them. All four need "
        "random_real in methods, protocol, no_aug and hard_labels in eval_variants, and "
        "train_on_real."
    )
    return Result(tables.score_table(run), note=note)


# -- the whole run ---------------------------------------------------------------------------


def summary(run: Run) -> Result:
    """Accuracy, diversity and fidelity by method, and whether one method leads, or a control."""
    if not run.settings.students:
        return Result(tables.summary_table(run), note=_NO_STUDENTS)
    accuracies, titles = tables.accuracy_table(run), tables.method_titles(run)
    ranked = accuracies.groupby("method", sort=False)["mean"].mean().sort_values(ascending=False)
    means = ", ".join(f"{titles[str(m)]} {value:.1f} %" for m, value in ranked.items())
    note = f"Top-1 averaged over students: {means}. {findings.verdict_of(run)}"
    return Result(tables.summary_table(run), note=note)


def tradeoff(run: Run) -> Result:
    """Accuracy against diversity."""
    table = tables.tradeoff_table(run)
    if table["intra-class cosine"].isna().all():
        return Result(table, note="Not drawn: with one image per class there is no cosine.")
    return Result(table, _with_chance(run, figures.tradeoff_figure(table, method_legend(run))))


def published(run: Run) -> Result:
    """Accuracies of the run and published ones of the same dataset, student and IPC."""
    table, config = published_table(run), run.settings
    if not len(table):
        return Result(
            note=f"No published result on record (data/published_results.csv) is of the test "
            f"images of {config.dataset} with {' or '.join(config.students)} at IPC {config.ipc}."
        )
    note = (
        "Grey bars are numbers as their authors, or later repositories, print them. Nothing of "
        "them was measured here, and each has a protocol of its own: only the coloured bars are "
        "compared under one protocol. The published numbers of label teachers, where known, are in "
        "the table and on hover."
    )
    note = " ".join([note, *published_bands(run)])
    figure = _with_chance(run, figures.published_figure(table, method_legend(run)), axis="x")
    return Result(table, figure, note)


_AGREEMENT = (
    "Shares of the images on which all teachers, or two of them on average, predict one class; "
    "and the Jensen-Shannon divergence of two teachers' probabilities, 0 to 0.69 nats."
)


_NO_STUDENTS = "No students are trained in this run (students is empty): no accuracies."


def _of_students(result: Callable[..., Result]) -> Callable[..., Result]:
    """Return a result that says how many networks label, or that the run has no students."""

    def function(run: Run, *args: Any, **options: Any) -> Result:
        if not run.settings.students:
            return Result(note=_NO_STUDENTS)
        found, count = result(run, *args, **options), run.settings.label_teacher_count
        by_method = "method" in [*found.table.columns, *found.table.index.names]
        return with_label_teachers(found, count if by_method else None, str(count))

    return function


def with_label_teachers(result: Result, column: object, text: str) -> Result:
    """Return a result of students with the number of label teachers.

    Args:
        result: The result.
        column: The number, or one for each row, for the table; None: the note has it instead.
        text: The number as text, for the note and for the subtitle of the figure.
    """
    table, note, text = result.table, result.note, f"Label teachers: {text}"
    if column is None:
        note = f"{note} {text}.".lstrip()
    elif tables.LABEL_TEACHERS not in table:
        table = table.assign(**{tables.LABEL_TEACHERS: column})
    if result.figure is not None:
        subtitle = {"text": text, "font": {"size": 12}}
        room = result.figure.layout.margin.t + 25
        result.figure.update_layout(title_subtitle=subtitle, margin_t=room)
    return replace(result, table=table, note=note)


def _plain(table: Callable[[Run], pd.DataFrame], note: str = "") -> Callable[[Run], Result]:
    return lambda run: Result(table(run), note=note)


RUN_RESULTS: dict[str, Callable[..., Result]] = {
    "agreement": _plain(tables.agreement_table, _AGREEMENT),
    "undefined": _plain(tables.undefined_table, "Metrics without a row are defined."),
    "labels": lambda run: Result(
        tables.label_table(run), note=" ".join(tables.order_warnings(run))
    ),
    "eval_variants": _of_students(_plain(tables.eval_variant_table)),
    "protocols": _plain(protocol_table),
    **{
        function.__name__: function
        for function in (
            *(teachers, bn_teachers, bn_shares, losses, gradients, growth),
            *(fidelity, metrics, curve, nearest, similarity, image_map, summary),
        )
    },
    **{
        function.__name__: _of_students(function)
        for function in (
            *(accuracy, learning, budget, transfer, ranking, classes, class_gains, confusions),
            *(scores, tradeoff, published),
        )
    },
}
RUN_PICTURES: dict[str, Callable[..., EncodedImage | None]] = {
    "images": image_sheet,
    "views": view_sheet,
    "near_duplicates": near_duplicate_sheet,
}
