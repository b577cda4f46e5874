"""Finding the image files of a dataset, and refusing what should not lie among them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from prism_nb.errors import UsageError

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_JUNK = frozenset({"thumbs.db", "desktop.ini"})
_THREADS = 8  # listing waits for the disk or the network, not for the processor


@dataclass(frozen=True)
class Place:
    """A folder of images.

    Attributes:
        folder: Where it is, from the dataset's folder.
        label: The class of all its images, or of each by name; -1 for those not wanted.
    """

    folder: str
    label: int | Mapping[str, int]

    def label_of(self, name: str) -> int | None:
        """Return an image's class, or None where nothing says it."""
        return self.label if isinstance(self.label, int) else self.label.get(name)


@dataclass(frozen=True)
class Found:
    """What lies in a folder.

    Attributes:
        images: Names and sizes in bytes of image files, sorted by name.
        strangers: Names of all else, but for known junk.
    """

    images: list[tuple[str, int]]
    strangers: list[str]


def is_junk(name: str) -> bool:
    """Return whether a file may be overlooked: hidden files, thumbnails, notes."""
    return name.startswith(".") or name.lower() in _JUNK or name.lower().endswith(".txt")


def scan_folder(folder: Path) -> Found:
    """List a folder of images."""
    images, strangers = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_junk(entry.name):
                continue
            if _is_image(entry.name) and entry.is_file():
                images.append((entry.name, entry.stat().st_size))
            else:
                strangers.append(entry.name)
    return Found(sorted(images), sorted(strangers))


def scan_places(root: Path, places: Sequence[Place]) -> list[Found]:
    """List many folders, in their order.

    Raises:
        UsageError: Something there is no image, or has no class; all are counted, some named.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        listed = list(threads.map(lambda place: scan_folder(root / place.folder), places))
    strangers = [
        root / place.folder / name
        for place, found in zip(places, listed, strict=True)
        for name in found.strangers
    ]
    if strangers:
        shown = ", ".join(str(path) for path in strangers[:3])
        raise UsageError(
            f"{len(strangers)} entries under {root} are no .jpg, .jpeg, .png or .webp file: "
            f"{shown}{' ...' if strangers[3:] else ''}; move them away (only hidden files, "
            "Thumbs.db, desktop.ini and *.txt are overlooked)"
        )
    return listed


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; hidden ones are left out.

    Raises:
        UsageError: Images lie beside the folders, so that nothing says their class; one is named.
    """
    folders, loose = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif _is_image(entry.name):
                loose.append(entry.name)
    if folders and loose:
        raise UsageError(
            f"{len(loose)} images lie beside the class folders of {folder}, e.g. {min(loose)}; "
            "move each into the folder of its class, or away"
        )
    return sorted(folders)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS  # noqa: PTH122 (a Path each takes longer than the scan)
