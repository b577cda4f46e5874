"""Classes as people name them: the words that a picker offers, and what was meant by some."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from prism_nb.data.base import ClassInfo
from prism_nb.errors import UsageError, suggest

EVERY = "all classes"


def class_label(info: ClassInfo) -> str:
    """Return a class's number and the first of its names, which no other class has."""
    return f"{info.index} · {info.name.split(',')[0]}"


def class_titles(classes: Sequence[ClassInfo]) -> list[str]:
    """Return every class's name, with its folder where another class is called the same.

    ImageNet-1K has two cranes, a bird and a machine: a table by name alone would mix them.
    """
    count = Counter(info.name for info in classes)
    return [
        info.name if count[info.name] == 1 else f"{info.name} ({info.folder})" for info in classes
    ]


def picked_classes(text: str, classes: Sequence[ClassInfo]) -> tuple[int, ...]:
    """Return the classes that a text names, in its order, each once.

    Args:
        text: Numbers, ranges of them (`3-7`), names, folders or labels, separated by commas; or
            nothing, or `all classes`.
        classes: The dataset's.

    Raises:
        UsageError: A part names no class, or several.
    """
    if text.strip().lower() in {"", "all", EVERY}:
        return tuple(range(len(classes)))
    parts = [text] if _named(text, classes) else [p for p in text.split(",") if p.strip()]
    return tuple(dict.fromkeys(c for part in parts for c in _part(part.strip(), classes)))


def _part(text: str, classes: Sequence[ClassInfo]) -> list[int]:
    span = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", text)
    if span:
        first, last = int(span[1]), int(span[2] or span[1])
        if first <= last < len(classes):
            return list(range(first, last + 1))
        raise UsageError(f"no class {text}; they are numbered from 0 to {len(classes) - 1}")
    found = _named(text, classes)
    if len(found) == 1:
        return found
    if found:
        numbers = ", ".join(str(c) for c in found[:5])
        raise UsageError(f"{text!r} is the name of several classes; give a number: {numbers}")
    names = {word for info in classes for word in (*_words(info), info.folder)}
    raise UsageError(f"no class {text!r}; {suggest(text.lower(), names)}")


def _named(text: str, classes: Sequence[ClassInfo]) -> list[int]:
    """Return the classes that are called so: by label or folder, else by any of their names."""
    word = text.strip().lower()
    exact = [i.index for i in classes if word in {class_label(i).lower(), i.folder.lower()}]
    if exact:
        return exact
    return [i.index for i in classes if word in {i.name.lower(), *_words(i)}]


def _words(info: ClassInfo) -> list[str]:
    return [word.strip().lower() for word in info.name.split(",")]
