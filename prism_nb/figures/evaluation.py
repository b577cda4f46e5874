"""Figures of the evaluation."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from prism_nb.figures.style import by_class, colour_of, dash_of, styled


def accuracy_figure(accuracies: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw what each student learned from each method, with the spread over seeds.

    Args:
        accuracies: The result of `tables.accuracy_table`.
        titles: How each method is called.
    """
    figure = go.Figure()
    for method, group in accuracies.groupby("method", sort=False):
        figure.add_bar(
            x=group["student"],
            y=group["mean"],
            name=titles.get(str(method), str(method)),
            marker={"color": colour_of(str(method))},
            error_y={"type": "data", "array": group["std"].fillna(0), "thickness": 1.5},
            text=[f"{value:.1f}" for value in group["mean"]],
            textposition="inside",
            insidetextanchor="start",
            hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    styled(
        figure,
        title="Students trained on the distilled images alone (mean and std over seeds)",
        x="student",
        y="top-1 on held-out real images (%)",
    )
    return figure.update_layout(barmode="group")


def learning_figure(curves: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw held-out accuracy over epochs, mean over seeds, a dash per student.

    Args:
        curves: The result of `tables.learning_table`.
        titles: How each method is called.
    """
    figure = go.Figure()
    students = list(curves["student"].unique())
    mean = curves.groupby(["method", "student", "epoch"], sort=False)["top1"].mean().reset_index()
    for (method, student), group in mean.groupby(["method", "student"], sort=False):
        name = f"{titles.get(str(method), method)}, {student}"
        figure.add_scatter(
            x=group["epoch"],
            y=100 * group["top1"],
            mode="lines+markers",
            name=name,
            line={
                "color": colour_of(str(method)),
                "dash": dash_of(students.index(student)),
            },
            hovertemplate=f"{name}<br>epoch %{{x}}: %{{y:.1f}} %<extra></extra>",
        )
    return styled(
        figure,
        title="Learning curves, mean over seeds",
        x="epoch",
        y="top-1 on held-out real images (%)",
    )


def matrix_figure(accuracies: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw how far each method's images carry over to each student: a square per pair.

    Args:
        accuracies: The result of `tables.accuracy_table`.
        titles: How each method is called.
    """
    wide = accuracies.pivot_table("mean", "method", "student", sort=False)
    figure = go.Figure(
        go.Heatmap(
            z=wide.to_numpy(),
            x=list(wide.columns),
            y=[titles.get(str(method), str(method)) for method in wide.index],
            text=wide.map(lambda value: f"{value:.1f}").to_numpy(),
            texttemplate="%{text}",
            colorscale="Viridis",
            colorbar={"title": "top-1 %"},
            hovertemplate="%{y}, %{x}: %{z:.1f} %<extra></extra>",
        )
    )
    styled(figure, title="Methods by students", x="student", y="images of")
    return figure.update_yaxes(autorange="reversed")


def class_figure(classes: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Draw each class's accuracy, a line of markers per method.

    Args:
        classes: The result of `scoreboard.class_accuracy_table`.
        titles: How each method is called.
    """
    figure = go.Figure()
    for place, (method, values) in enumerate(classes.items()):
        figure.add_scatter(
            x=[str(name) for name in classes.index],
            y=values,
            mode="lines+markers",
            name=titles.get(str(method), str(method)),
            line={"color": colour_of(str(method)), "dash": dash_of(place)},
            hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )
    styled(
        figure,
        title="What students know of each class (mean over students and seeds)",
        x="class",
        y="top-1 on held-out real images (%)",
    )
    return by_class(figure, len(classes))
