"""A run's accuracies in context: what others have published, and how their protocols differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from prism_nb import tables
from prism_nb.config import project_root
from prism_nb.errors import PrismError
from prism_nb.protocols import protocol_names, protocol_values, protocol_words
from prism_nb.run import Run

COLUMNS = ("method", "title", "student", "ipc", "mean", "std", "source")
HERE = "this run"
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
    methods = list(dict.fromkeys(table.loc[table["source"] != HERE, "method"]))
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
    if settings.score_on != "test":
        return published.iloc[:0]
    fits = (published["dataset"] == settings.dataset) & (published["ipc"] == settings.ipc)
    return published[fits]


def _architecture(student: str) -> str:
    """Return a student's name as published tables have it: torchvision's."""
    return student.removeprefix("torchvision/")


def _own_rows(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    titles = [tables.method_title(run, str(method)) for method in rows["method"]]
    found = rows.assign(title=titles, ipc=run.settings.ipc, source=HERE)
    return found[list(COLUMNS)]


def _published_rows(rows: pd.DataFrame, student: str) -> pd.DataFrame:
    ranked = rows.sort_values("top1", ascending=False, kind="stable")
    titles = [f"{method} (published)" for method in ranked["method"]]
    found = ranked.assign(title=titles, student=student, mean=ranked["top1"])
    return found[list(COLUMNS)]


def _published_protocols() -> dict[str, dict[str, Any]]:
    """Return how the students of published methods are trained, by the method's name there."""
    return {
        protocol_words(name)["title"]: _protocol(protocol_values(name)) for name in protocol_names()
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
    return f"MSE + {values['hard_weight']:g} CE" if values["hard_weight"] else "MSE"


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
    if settings.score_on != "test":
        return (
            "This run scores on part of the training images, to choose settings by; no published "
            "number is of those, so nothing stands beside it."
        )
    students = " or ".join(settings.students)
    return (
        f"No published result on record (data/published_results.csv) is of {settings.dataset} with "
        f"{students} at {settings.ipc} images per class, so nothing stands beside this run."
    )
