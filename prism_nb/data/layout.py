"""How image trees are laid out: a folder per class in `train/` and in a held-out folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prism_nb.data.base import Split
from prism_nb.data.scan import Place, class_folders
from prism_nb.errors import UsageError, suggest

TRAIN = "train"
_HELD_OUT = ("val", "validation", "test")


@dataclass(frozen=True)
class Layout:
    """Where the images of each class lie.

    Attributes:
        classes: Folder names of the classes, in order.
        places: Folders of images of each split.
        read_from: Folders and files that decided all this, from the dataset's folder.
    """

    classes: tuple[str, ...]
    places: dict[Split, tuple[Place, ...]]
    read_from: tuple[str, ...]


def folder_layout(root: Path, class_list: Sequence[str]) -> Layout:
    """Read `train/<class>/*` and `val/<class>/*`, where val may be called validation or test.

    Raises:
        UsageError: A folder is missing, a class is in one split only, or a wanted one in none.
    """
    require_train(root)
    held_out = held_out_folder(root)
    here, there = class_folders(root / TRAIN), class_folders(root / held_out)
    classes = choose_classes(here, class_list, where=root / TRAIN)
    require_folders(classes, there, root / held_out)
    if not class_list:
        require_folders(there, here, root / TRAIN)
    return Layout(
        classes=classes,
        places={"train": class_places(TRAIN, classes), "val": class_places(held_out, classes)},
        read_from=(".", TRAIN, held_out),
    )


def class_places(folder: str, classes: Sequence[str], inner: str = "") -> tuple[Place, ...]:
    """Return a place per class; `inner` is a folder within each that holds the images."""
    end = f"/{inner}" if inner else ""
    return tuple(Place(f"{folder}/{name}{end}", label) for label, name in enumerate(classes))


def require_train(root: Path) -> None:
    """Refuse a folder without `train/`."""
    if not (root / TRAIN).is_dir():
        raise UsageError(
            f"{root} has no folder {TRAIN!r}; data_dir must hold {TRAIN}/<class>/<image> and "
            "val/<class>/<image>"
        )


def held_out_folder(root: Path) -> str:
    """Return the name of the folder of held-out images.

    Raises:
        UsageError: There is none, or more than one.
    """
    found = [name for name in _HELD_OUT if (root / name).is_dir()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"{root} has no folder of held-out images; name it val, validation or test"
        )
    raise UsageError(
        f"{root} has {' and '.join(found)}; which one is held out? Move the others out of data_dir"
    )


def choose_classes(
    available: Sequence[str], class_list: Sequence[str], *, where: Path
) -> tuple[str, ...]:
    """Return the wanted classes in the wanted order; all that are available where none is named.

    Raises:
        UsageError: A wanted class is not there, or there is none at all.
    """
    if not available:
        raise UsageError(f"{where} holds no folder; each class needs one, with its images")
    known = set(available)
    unknown = [name for name in class_list if name not in known]
    if unknown:
        raise UsageError(
            f"class_list: {len(unknown)} of {len(class_list)} names are no folder of {where}, "
            f"e.g. {unknown[0]!r}; {suggest(unknown[0], available)}"
        )
    return tuple(class_list or available)


def require_folders(wanted: Sequence[str], available: Sequence[str], where: Path) -> None:
    """Refuse classes without a folder."""
    lacking = sorted(set(wanted) - set(available))
    if lacking:
        raise UsageError(
            f"{len(lacking)} classes have no folder in {where}, e.g. {lacking[0]!r}; a class must "
            "be in both splits: add the folder, or choose classes by class_list"
        )
