"""Which file of a set is which image: classes and slots from the names, never by a guess."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from prism_nb.data.base import ClassInfo
from prism_nb.errors import UsageError, first_difference, suggest
from prism_nb.exchange.sources import Source

CLASSES_FILE = "classes.json"
_IMAGES = (".png", ".jpg", ".jpeg", ".webp")
# Files beside the class folders that say something about the images and are none.
_COMPANIONS = {CLASSES_FILE, "metadata.jsonl", "README.md", "card.md", ".gitattributes"}
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Layout:
    """A way of naming class folders and images.

    Attributes:
        name: What messages call it.
        folder: A class folder; its group is the class's place in the order.
        file: An image; its groups are the class's place and the image's number in the class.
    """

    name: str
    folder: re.Pattern[str]
    file: re.Pattern[str]


PUBLISHED = Layout(
    "published (new000/class000_id000.jpg)",
    re.compile(r"new(\d{3,})"),
    re.compile(r"class(\d{3,})_id(\d{3,})"),
)
OWN = Layout(
    "the kit's own (00000/00000_0000.png)",
    re.compile(r"(\d{5,})"),
    re.compile(r"(\d{5,})_(\d{4,})"),
)


@dataclass(frozen=True)
class Listing:
    """The images of a set.

    Attributes:
        layout: What the layout is called.
        classes: The names of each class's images, in slot order; a class may have none.
    """

    layout: str
    classes: tuple[tuple[str, ...], ...]


def list_images(source: Source, classes: Sequence[ClassInfo]) -> Listing:
    """Find every class's images.

    Args:
        source: The set.
        classes: The dataset's, in order.

    Raises:
        UsageError: Something is no image, lies too deep, or fits no class; the first is named.
    """
    names = [name for name in source.names() if not _is_litter(name)]
    prefix, images = _images_of(source, names)
    for name in (CLASSES_FILE, prefix + CLASSES_FILE):
        if name in names:
            _require_order(source, name, classes)
    folders = sorted({name.split("/")[0] for name in images})
    layout = _layout_of(source, folders, classes)
    index_of = {folder: _class_of(source, layout, folder, classes) for folder in folders}
    found: list[dict[int | str, str]] = [{} for _ in classes]
    for name in images:
        folder = name.split("/")[0]
        group, key = found[index_of[folder]], _key_of(source, layout, name, index_of[folder])
        if key in group:
            raise UsageError(
                f"{source.path}: {group[key]} and {prefix}{name} are both image {key!r} of one "
                "class; take one of them away"
            )
        group[key] = prefix + name
    slots = tuple(tuple(group[key] for key in sorted(group, key=_order)) for group in found)
    return Listing(layout.name if layout else "folders named as the classes", slots)


def _order(key: int | str) -> tuple[int, str]:
    return (key, "") if isinstance(key, int) else (0, key)


def _is_litter(name: str) -> bool:
    """Return whether a file is one that desktops leave wherever they have been."""
    path = PurePosixPath(name)
    return path.name in _LITTER or path.name.startswith("._") or "__MACOSX" in path.parts


def _prefix_of(names: Sequence[str]) -> str:
    """Return the folder in which the class folders lie: `images/`, or one that holds all else."""
    if any(name.startswith("images/") for name in names):
        return "images/"
    top = {name.split("/")[0] for name in names}
    deep = all(name.count("/") > 1 or PurePosixPath(name).name in _COMPANIONS for name in names)
    return f"{top.pop()}/" if len(top) == 1 and deep else ""


def _images_of(source: Source, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return what all images' names begin with, and the rest of each: `folder/file`."""
    prefix = _prefix_of(names)
    inside = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
    inside = [name for name in inside if name not in _COMPANIONS]
    if not inside:
        raise UsageError(f"{source.path} holds no images; name the folder of the class folders")
    for name in inside:
        if PurePosixPath(name).suffix.lower() not in _IMAGES:
            raise UsageError(
                f"{source.path}: {prefix}{name} is no image; PNG, JPEG and WebP in class folders "
                "are read, so take it away"
            )
        if name.count("/") != 1:
            raise UsageError(
                f"{source.path}: {prefix}{name} does not lie in a class folder; name the folder "
                "that holds the class folders, and nothing else"
            )
    return prefix, inside


def _require_order(source: Source, name: str, classes: Sequence[ClassInfo]) -> None:
    """Compare the class order that a file of a set states with the dataset's."""
    try:
        stated = json.loads(source.read(name))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source.path}: {name} is damaged: {error}") from None
    if not isinstance(stated, list):
        raise UsageError(f"{source.path}: {name} is damaged: it must hold a list")
    mine: list[dict[str, Any]] = [vars(info) for info in classes]
    found = first_difference(mine, stated)
    if found is not None:
        index, ours, theirs = found
        raise UsageError(
            f"{source.path}: the classes differ at index {index}: {name} has {theirs}, "
            f"the dataset {ours}; import it into a run of the dataset that it was made from"
        )


def _layout_of(
    source: Source, folders: Sequence[str], classes: Sequence[ClassInfo]
) -> Layout | None:
    """Return the numbered layout of a set, or None where folders are named as the classes.

    Raises:
        UsageError: Names and numbers both fit, and mean different classes.
    """
    by_name = {info.folder: info.index for info in classes}
    numbered = next(
        (each for each in (PUBLISHED, OWN) if all(each.folder.fullmatch(f) for f in folders)), None
    )
    if numbered is None or not all(folder in by_name for folder in folders):
        mixed = next((each for each in (PUBLISHED, OWN) if each.folder.fullmatch(folders[0])), None)
        return numbered or (None if folders[0] in by_name else mixed)
    for folder in folders:
        if _number(numbered, folder) != by_name[folder]:
            raise UsageError(
                f"{source.path}: folder {folder!r} is class {by_name[folder]} by its name and "
                f"{_number(numbered, folder)} by its number; rename the folders as new000, new001, "
                "..., in class order"
            )
    return None


def _class_of(
    source: Source, layout: Layout | None, folder: str, classes: Sequence[ClassInfo]
) -> int:
    if layout is None:
        by_name = {info.folder: info.index for info in classes}
        if folder in by_name:
            return by_name[folder]
        raise UsageError(
            f"{source.path}: folder {folder!r} is no class of the dataset; "
            f"{suggest(folder, by_name)}"
        )
    index = _number(layout, folder)
    if 0 <= index < len(classes):
        return index
    raise UsageError(
        f"{source.path}: folder {folder!r} is none of the {len(classes)} classes in the layout "
        f"{layout.name}; folders are numbered from 0, in the dataset's class order"
    )


def _key_of(source: Source, layout: Layout | None, name: str, index: int) -> int | str:
    """Return what orders an image within its class: its number, or its file's name."""
    stem = PurePosixPath(name).stem
    if layout is None:
        return stem
    file = layout.file.fullmatch(stem)
    if file is not None and int(file[1]) == index:
        return int(file[2])
    raise UsageError(
        f"{source.path}: {name} is not named as an image of its class in the layout "
        f"{layout.name}; rename it"
    )


def _number(layout: Layout, folder: str) -> int:
    found = layout.folder.fullmatch(folder)
    return int(found[1]) if found else -1
