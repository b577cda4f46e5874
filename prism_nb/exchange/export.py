"""Writing a method's images where others can use them, in three layouts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prism_nb import files
from prism_nb.data import ImageDataset, open_dataset
from prism_nb.data.base import ClassInfo
from prism_nb.errors import PrismError, UsageError, suggest
from prism_nb.exchange.card import Contents, card
from prism_nb.exchange.layouts import CLASSES_FILE
from prism_nb.exchange.pixels import decode, encode_jpeg
from prism_nb.exchange.writers import Piece, require_free, write_archive, write_folder
from prism_nb.plans import labels as label_plan
from prism_nb.plans.synthesis import image_path, method_units
from prism_nb.run import Run

LAYOUTS = ("published", "imagefolder", "archive")
_QUALITY = 95  # of JPEG where none is named
_METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Picture:
    """One image of a method.

    Attributes:
        info: Its class.
        slot: Its number within the class.
        path: Its file in the run.
        size: Its side, in pixels.
    """

    info: ClassInfo
    slot: int
    path: Path
    size: int

    def coded(self, quality: int | None) -> bytes:
        """Return the file as it is, or as JPEG of a quality."""
        content = self.path.read_bytes()
        if quality is None:
            return content
        pixels = decode(content, name=str(self.path), size=self.size, resize=False)
        return encode_jpeg(pixels, quality)


def export_set(
    run: Run,
    method: str,
    dest: Path,
    *,
    layout: str = "archive",
    kind: str | None = None,
    quality: int | None = None,
) -> Contents:
    """Write a method's images to a new folder or archive, whole or not at all.

    Equal images, settings and versions give equal bytes.

    Args:
        run: The run.
        method: A method whose images are all there.
        dest: A folder that is empty or not there yet; for `archive` a new `.zip` file.
        layout: `published`: new000/class000_id000.jpg, as SRe2L and its descendants. `imagefolder`:
            a folder per class as the dataset calls it, with Hugging Face's metadata.jsonl.
            `archive`: one zip of images, labels where the run has them, and class order. All
            come with a card.
        kind: `png`, or `jpeg`, which changes the images; only `published` has both, and `jpeg`
            where None.
        quality: Of JPEG, 1 to 100; 95 where None.

    Returns:
        What was written.

    Raises:
        UsageError: No such method or layout, a format that the layout does not have, or something
            at `dest` already.
        PrismError: The method's images are not complete and whole, or `dest` cannot be written.
    """
    quality, dest = _quality_of(layout, kind, quality), dest.resolve()
    require_free(dest, archive=layout == "archive")
    dataset = open_dataset(run.settings)
    pictures = _pictures(run, method, dataset)
    labels = _label_files(run, method, dataset) if layout == "archive" else []
    contents = Contents(
        layout=layout,
        images=len(pictures),
        content=_content(pictures),
        coding="PNG, as they are" if quality is None else f"JPEG of quality {quality}, with losses",
        label_files=len(labels),
    )
    pieces = _pieces(dataset, pictures, layout, quality)
    pieces += [
        Piece(f"labels/{path.removeprefix(f'labels/{method}/')}", run.file(path).read_bytes)
        for path in labels
    ]
    notes = _METADATA if layout == "imagefolder" else CLASSES_FILE
    text = card(run, method, contents, classes_file=notes)
    pieces.append(Piece("README.md" if layout == "imagefolder" else "card.md", text.encode))
    write = write_archive if layout == "archive" else write_folder
    write(dest, sorted(pieces, key=lambda piece: piece.name))
    return contents


def _quality_of(layout: str, kind: str | None, quality: int | None) -> int | None:
    """Return the quality of JPEG, or None for PNG."""
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}; {suggest(layout, LAYOUTS)}")
    kind = kind or ("jpeg" if layout == "published" else "png")
    if kind == "jpeg" and layout != "published":
        raise UsageError(f"layout {layout} keeps the images as they are; leave jpeg out")
    if kind == "png" and quality is not None:
        raise UsageError("quality is of JPEG, and PNG has none; leave one of the two out")
    return (quality or _QUALITY) if kind == "jpeg" else None


def _pictures(run: Run, method: str, dataset: ImageDataset) -> list[Picture]:
    """Return a method's images, class by class, after checking that they are all whole."""
    if method not in run.settings.methods:
        raise UsageError(
            f"run {run.name} has no method {method!r}; {suggest(method, run.settings.methods)}"
        )
    for unit in method_units(run, method, len(dataset.classes)):
        state = run.inspect(unit)
        if state.state != "done":
            raise PrismError(
                f"the images of {method} in run {run.name} are not complete: {unit.name} is "
                f"{state.state}; `prism-nb run` makes them"
            )
    return [
        Picture(info, slot, run.file(image_path(method, info.index, slot)), dataset.image_size)
        for info in dataset.classes
        for slot in range(run.settings.ipc)
    ]


def _label_files(run: Run, method: str, dataset: ImageDataset) -> list[str]:
    """Return a method's label files, relative to the run; none unless all are there and whole."""
    units = label_plan.units(run, len(dataset.classes))
    mine = [unit for unit in units if unit.key["method"] == method]
    if any(run.inspect(unit).state != "done" for unit in mine):
        return []
    paths = [path for unit in mine for path in run.files_of(unit)]
    return [path for path in paths if path.endswith(".safetensors")]


def _content(pictures: Sequence[Picture]) -> str:
    hashed = hashlib.sha256()
    for picture in pictures:
        line = f"{picture.info.index} {picture.slot} {files.sha256(picture.path)}\n"
        hashed.update(line.encode())
    return hashed.hexdigest()


def _pieces(
    dataset: ImageDataset, pictures: Sequence[Picture], layout: str, quality: int | None
) -> list[Piece]:
    names = [_name(picture, layout, "png" if quality is None else "jpg") for picture in pictures]
    pieces = [
        Piece(name, partial(picture.coded, quality))
        for name, picture in zip(names, pictures, strict=True)
    ]
    if layout == "imagefolder":
        text = "".join(_line(name, each.info) for name, each in zip(names, pictures, strict=True))
        return [*pieces, Piece(_METADATA, text.encode)]
    return [*pieces, Piece(CLASSES_FILE, partial(files.json_bytes, dataset.class_records()))]


def _name(picture: Picture, layout: str, ending: str) -> str:
    index, slot = picture.info.index, picture.slot
    if layout == "published":
        return f"new{index:03d}/class{index:03d}_id{slot:03d}.{ending}"
    if layout == "imagefolder":
        return f"{picture.info.folder}/{slot:04d}.{ending}"
    return f"images/{index:05d}/{index:05d}_{slot:04d}.{ending}"


def _line(name: str, info: ClassInfo) -> str:
    """Return an image's line of metadata.jsonl, as Hugging Face's imagefolder reads it."""
    entry = {"file_name": name, "label": info.index, "class_name": info.name}
    return json.dumps(entry, ensure_ascii=False) + "\n"
