"""Names of a dataset's classes, and the choice of classes by a text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.run import Run
from prism_nb.data.dataset import ClassInfo
from prism_nb.data.registry import open_dataset

ALL_CLASSES = "all classes"


def class_label(info: ClassInfo) -> str:
    """Return a class's index and the first of its names."""
    return f"{info.index} · {info.name.split(',')[0]}"


def class_names(run: Run) -> list[str]:
    """Return every class's name, with its folder where two classes share a name."""
    classes = open_dataset(run.settings).classes
    count = Counter(info.name for info in classes)
    return [
        info.name if count[info.name] == 1 else f"{info.name} ({info.folder})" for info in classes
    ]


def parse_class_selection(text: str, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
    """Return the classes that a text names, in its order, each once.

    Args:
        text: Indices, ranges of them (`3-7`), names, folders or labels, separated by commas;
            empty or `all classes` for all.
        classes: The dataset's classes.
    """
    text = text.strip().lower()
    if text in {"", ALL_CLASSES}:
        return tuple(range(len(classes)))
    known = _indices_by_name(classes)
    # ImageNet's names have commas: "tench, Tinca tinca".
    parts = [text] if text in known else [p.strip() for p in text.split(",") if p.strip()]
    chosen: list[int] = []
    for part in parts:
        span = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
        if span:
            first, last = int(span[1]), int(span[2] or span[1])
            if not first <= last < len(classes):
                raise UsageError(f"no class {part}; they are numbered from 0 to {len(classes) - 1}")
            chosen += range(first, last + 1)
            continue
        found = known.get(part, [])
        if not found:
            raise UsageError(f"no class {part!r}; {suggest(part, known)}")
        if len(found) > 1:
            raise UsageError(f"{part!r} is the name of several classes; give a number: {found}")
        chosen += found
    return tuple(dict.fromkeys(chosen))


def _indices_by_name(classes: Sequence[ClassInfo]) -> dict[str, list[int]]:
    """Return the classes that each name, folder or label stands for, in lower case."""
    known: dict[str, list[int]] = {}
    for info in classes:
        name = info.name.lower()
        for each in {name, *(part.strip() for part in name.split(","))}:
            known.setdefault(each, []).append(info.index)
    unique = {text.lower(): [i.index] for i in classes for text in (i.folder, class_label(i))}
    return known | unique
