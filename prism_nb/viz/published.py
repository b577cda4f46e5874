"""Published results beside those of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from prism_nb.core.paths import project_root
from prism_nb.core.presets import PROTOCOLS, protocol_metadata, protocol_values
from prism_nb.core.run import Run
from prism_nb.viz.tables import LABEL_TEACHERS, accuracy_table, method_titles

THIS_RUN = "this run"


def published_results() -> pd.DataFrame:
    """Return `data/published_results.csv`: top-1 in percent as printed by others.

    `LABEL_TEACHERS` is NaN where their number is not known.
    """
    table = pd.read_csv(project_root() / "data" / "published_results.csv")
    return table.rename(columns={"label_teachers": LABEL_TEACHERS})


def published_sets() -> pd.DataFrame:
    """Return `data/published_sets.csv`: distilled sets that others host."""
    return pd.read_csv(project_root() / "data" / "published_sets.csv")


def published_table(run: Run) -> pd.DataFrame:
    """Return a run's accuracies and the published ones of the same dataset, student and IPC.

    For each student the run's methods come first, then the published ones, best first. Empty
    where nothing is published, or where the run scores on part of the training images.
    """
    own, known, settings = accuracy_table(run), published_results(), run.settings
    own["title"], own["source"] = own["method"].map(method_titles(run)), THIS_RUN
    own[LABEL_TEACHERS] = settings.label_teacher_count
    known = known[(known["dataset"] == settings.dataset) & (known["ipc"] == settings.ipc)]
    known = known.sort_values("top1", ascending=False, kind="stable")
    known = known.assign(mean=known["top1"], title=known["method"] + " (published)")
    parts = []
    for student in settings.students if settings.eval_split == "test" else ():
        theirs = known[known["student"] == student.removeprefix("torchvision/")]
        if len(theirs):
            parts += [own[own["student"] == student], theirs.assign(student=student)]
    columns = ["method", "title", "student", "ipc", "mean", "std", LABEL_TEACHERS, "source"]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return table.assign(ipc=settings.ipc)[columns]


_PROTOCOL_COLUMNS = {
    "student_epochs": "epochs",
    "student_batch": "batch",
    "student_loss": "loss",
    "student_temperature": "temperature",
    "ce_weight": "CE weight",
    "label_crop_min": "least crop",
    "label_mix": "mixing",
    LABEL_TEACHERS: LABEL_TEACHERS,
}


def protocol_table(run: Run) -> pd.DataFrame:
    """Return how students are trained in a run and in the papers of published results."""
    known, rows = published_results(), {THIS_RUN: run.settings.plain()}
    teachers = known.groupby("method")[LABEL_TEACHERS].first()
    for name in PROTOCOLS.names():
        if (title := protocol_metadata(name)["title"]) in teachers:
            rows[title] = protocol_values(name)
    for values in rows.values():
        values["student_epochs"] = values.get("student_epochs") or values["label_epochs"]
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("protocol")
    own = run.settings.label_teacher_count
    table[LABEL_TEACHERS] = pd.Series({THIS_RUN: own, **teachers})
    return table[list(_PROTOCOL_COLUMNS)].rename(columns=_PROTOCOL_COLUMNS)


_UNKNOWN_STD = 1.0  # points, of published numbers without one


def published_bands(run: Run) -> list[str]:
    """Return where methods stand to their own published numbers, and what differs in the protocol.

    A band is from the least to the greatest number of the method, dataset, student and IPC, each
    minus or plus its standard deviation. A sentence for each method and student that has one; none
    where the run scores on part of the training images.
    """
    settings, known, sentences = run.settings, published_results(), list[str]()
    if not settings.students or settings.eval_split != "test":
        return []
    known["method"] = known["method"].str.replace(r" \(re-run .*\)", "", regex=True)
    known["std"] = known["std"].fillna(_UNKNOWN_STD)
    groups = known.groupby(["method", "dataset", "student", "ipc"])
    titles, protocols = method_titles(run), protocol_table(run)
    for own in accuracy_table(run).itertuples(index=False):
        name = published_name(run, own.method)
        key = (name, settings.dataset, own.student.removeprefix("torchvision/"), settings.ipc)
        if name is None or key not in groups.groups:
            continue
        theirs = groups.get_group(key)
        low, high = (theirs["top1"] - theirs["std"]).min(), (theirs["top1"] + theirs["std"]).max()
        place = "below" if own.mean < low else "above" if own.mean > high else "inside"
        sentences.append(
            f"{titles[own.method]}, {own.student}: {own.mean:.1f} % is {place} the published band "
            f"of {name}, {low:.1f} to {high:.1f} %; {_departures(protocols, name)}."
        )
    return sentences


def published_name(run: Run, method: str) -> str | None:
    """Return the method of the published results that a run's method is; None if it is none.

    A recipe is one by its name; an imported set by its folder, if `data/published_sets.csv` lists
    it, else by the first words of its name: `sre2l_published`.
    """
    names = {_plain_name(name): name for name in published_results()["method"]}
    recipe, words = run.settings.recipe_of(method), method.split("_")
    if recipe.image_source != "imported":
        return names.get(_plain_name(method))
    sets = published_sets().set_index("name")["method"].to_dict()
    found = [sets[part] for part in Path(recipe.source or "").parts if part in sets]
    starts = [_plain_name("".join(words[:count])) for count in range(len(words), 0, -1)]
    return [*found, *(names[start] for start in starts if start in names), None][0]


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


def _departures(protocols: pd.DataFrame, name: str) -> str:
    """Return how a method's published protocol differs from the run's, of a `protocol_table`."""
    if name not in protocols.index:
        return "how its students were trained is not on record"
    pairs = zip(protocols.columns, protocols.loc[name], protocols.loc[THIS_RUN], strict=True)
    differing = [
        f"{what} {_plain(theirs)} (here {_plain(mine)})"
        for what, theirs, mine in pairs
        if pd.notna(theirs) and theirs != mine
    ]
    return f"its protocol has {', '.join(differing)}" if differing else "by the same protocol"


def _plain(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value
