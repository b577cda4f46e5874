"""Export of a method's images for other programs, and import of other programs' images."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import stat
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from prism_nb.core import fileio
from prism_nb.core.config import default_runs_dir, load_settings, merge, short_hash
from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.recipe import Recipe, recipe_differences
from prism_nb.core.run import Run, check_name
from prism_nb.core.unit_plan import (
    image_path,
    label_unit,
    method_fingerprint,
    method_units,
    synthesis_networks,
)
from prism_nb.core.units import OnEvent
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.dataset import ClassInfo, ImageDataset
from prism_nb.data.image_io import encode_image
from prism_nb.data.imported import CLASSES_FILE, decode_image, infer_ipc
from prism_nb.data.registry import open_dataset
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.execution.worker import Outcome

LAYOUTS = ("published", "imagefolder", "archive")
_JPEG_QUALITY = 95
_METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class ExportSummary:
    """What an export holds.

    Attributes:
        layout: Its layout.
        images: Number of images.
        content: SHA-256 of the run's image files, names and contents, in order.
        coding: Image format and quality, for readers.
        label_files: Number of label files.
    """

    layout: str
    images: int
    content: str
    coding: str
    label_files: int


@dataclass(frozen=True)
class ArchiveEntry:
    """A file of an export: its name, and a function that returns its content."""

    name: str
    content: Callable[[], bytes]


@dataclass(frozen=True)
class _Image:
    info: ClassInfo
    index: int
    path: Path


def export_set(
    run: Run,
    method: str,
    dest: Path,
    *,
    layout: str = "archive",
    kind: str | None = None,
    quality: int | None = None,
) -> ExportSummary:
    """Write a method's images to a new folder or archive, atomically.

    Equal images, settings and versions give equal bytes.

    Args:
        run: The run.
        method: A method whose images are complete.
        dest: A folder that is empty or does not exist; for `archive` a new `.zip` file.
        layout: `published`: new000/class000_id000.jpg, as SRe2L and its descendants. `imagefolder`:
            a folder per class as the dataset calls it, with Hugging Face's metadata.jsonl.
            `archive`: one zip of images, labels where the run has them, and class order. All
            come with a dataset card.
        kind: `png`, or `jpeg`, which changes the images; only `published` has both, and `jpeg`
            where None.
        quality: JPEG quality, 1 to 100; 95 where None.

    Raises:
        UsageError: No such method or layout, a format that the layout does not have, or something
            at `dest` already.
        PrismError: The method's images are missing or damaged, or `dest` cannot be written.
    """
    quality, dest = _jpeg_quality(layout, kind, quality), dest.resolve()
    _check_target_free(dest, archive=layout == "archive")
    dataset = open_dataset(run.settings)
    images = _images(run, method, dataset)
    labels = _label_files(run, method, dataset) if layout == "archive" else []
    summary = ExportSummary(
        layout=layout,
        images=len(images),
        content=_content_hash(images),
        coding="PNG, as they are" if quality is None else f"JPEG of quality {quality}, with losses",
        label_files=len(labels),
    )
    entries = _image_entries(dataset, images, layout, quality)
    entries += [
        ArchiveEntry(f"labels/{path.removeprefix(f'labels/{method}/')}", run.file(path).read_bytes)
        for path in labels
    ]
    folder = layout == "imagefolder"
    card = dataset_card(run, method, summary, _METADATA if folder else CLASSES_FILE)
    entries.append(ArchiveEntry("README.md" if folder else "card.md", card.encode))
    write = _write_archive if layout == "archive" else _write_folder
    write(dest, sorted(entries, key=lambda entry: entry.name))
    return summary


def _jpeg_quality(layout: str, kind: str | None, quality: int | None) -> int | None:
    """Return the quality of JPEG, or None for PNG."""
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}; {suggest(layout, LAYOUTS)}")
    kind = kind or ("jpeg" if layout == "published" else "png")
    if kind == "jpeg" and layout != "published":
        raise UsageError(f"layout {layout} copies the images unchanged; leave jpeg out")
    if kind == "png" and quality is not None:
        raise UsageError("quality is of JPEG, and PNG has none; leave one of the two out")
    return (quality or _JPEG_QUALITY) if kind == "jpeg" else None


def _check_target_free(dest: Path, *, archive: bool) -> None:
    """Check that an export would overwrite nothing."""
    if archive and dest.suffix != ".zip":
        raise UsageError(f"an archive is one file: call it {dest.name}.zip, or name a --layout")
    if archive and dest.exists():
        raise UsageError(f"{dest} exists already; choose another name, or delete it")
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        what = "is not empty" if dest.is_dir() else "is a file"
        raise UsageError(f"{dest} {what}; name a folder that is empty or does not exist")


def _images(run: Run, method: str, dataset: ImageDataset) -> list[_Image]:
    """Return a method's images, class by class, after checking their hashes."""
    if method not in run.settings.methods:
        raise UsageError(
            f"run {run.name} has no method {method!r}; {suggest(method, run.settings.methods)}"
        )
    for unit in method_units(run, method, len(dataset.classes)):
        state = run.units.state(unit).state
        if state != "done":
            raise PrismError(
                f"the images of {method} in run {run.name} are not complete: {unit.name} is "
                f"{state}; `prism-nb run` makes them"
            )
    return [
        _Image(info, index, run.file(image_path(method, info.index, index)))
        for info in dataset.classes
        for index in range(run.settings.ipc)
    ]


def _label_files(run: Run, method: str, dataset: ImageDataset) -> list[str]:
    """Return a method's label files, relative to the run; none unless they are complete."""
    unit = label_unit(run, method, len(dataset.classes))
    if not run.units.is_done(unit):
        return []
    return [path for path in run.units.files(unit) if path.endswith(".safetensors")]


def _content_hash(images: Sequence[_Image]) -> str:
    hashed = hashlib.sha256()
    for image in images:
        line = f"{image.info.index} {image.index} {fileio.sha256(image.path)}\n"
        hashed.update(line.encode())
    return hashed.hexdigest()


def _image_entries(
    dataset: ImageDataset, images: Sequence[_Image], layout: str, quality: int | None
) -> list[ArchiveEntry]:
    """Return the images of an export and the file that gives their classes."""
    encode = partial(_encode, size=dataset.image_size, quality=quality)
    entries, metadata = [], ""
    for image in images:
        info, name = image.info, _file_name(image, layout, "png" if quality is None else "jpg")
        entries.append(ArchiveEntry(name, partial(encode, image.path)))
        line = {"file_name": name, "label": info.index, "class_name": info.name}
        metadata += json.dumps(line, ensure_ascii=False) + "\n"
    if layout == "imagefolder":
        return [*entries, ArchiveEntry(_METADATA, metadata.encode)]
    classes = fileio.json_bytes(dataset.class_records())
    return [*entries, ArchiveEntry(CLASSES_FILE, lambda: classes)]


def _encode(path: Path, *, size: int, quality: int | None) -> bytes:
    """Return an image file as it is, or as JPEG of a quality."""
    content = path.read_bytes()
    if quality is None:
        return content
    pixels = decode_image(content, name=str(path), size=size, resize=False)
    return encode_image(pixels, "JPEG", quality=quality)


def _file_name(image: _Image, layout: str, ending: str) -> str:
    class_index, index = image.info.index, image.index
    return {
        "published": f"new{class_index:03d}/class{class_index:03d}_id{index:03d}.{ending}",
        "imagefolder": f"{image.info.folder}/{index:04d}.{ending}",
        "archive": f"images/{class_index:05d}/{class_index:05d}_{index:04d}.{ending}",
    }[layout]


def _write_folder(dest: Path, entries: Sequence[ArchiveEntry]) -> None:
    """Write an export as a folder; an interruption leaves none."""
    part = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}.part")
    try:
        for entry in entries:
            fileio.write_bytes(part / entry.name, entry.content())
        part.replace(dest)
    except OSError as error:
        raise PrismError(f"cannot write {dest}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_archive(dest: Path, entries: Sequence[ArchiveEntry]) -> None:
    """Write an export as a zip archive, atomically.

    Images and labels hardly compress and every zlib compresses differently, so nothing is
    compressed; times and permissions are fixed.
    """

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for entry in entries:
                info = zipfile.ZipInfo(entry.name)  # of 1980, zip's first date
                info.create_system = 3  # Unix
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, entry.content())

    fileio.atomic_write(dest, write)


_CARD = """\
# {title}: a small set in place of {dataset}

{images} images of {size} x {size} pixels, {ipc} for each of {classes} classes.

{origin}

Stored as {coding}.

{labels}

The classes, in the order of the label numbers, are in `{classes_file}`. The front matter of this
file holds the recipe, its networks, the library versions, and a hash of the settings and of the
images.

## Licence

The images derive from the training images of {dataset}, and from networks that were trained on
them; where they began as real images or were imported, they may still show them. The terms of the
source dataset therefore apply. The kit claims no rights in the images.
"""


def dataset_card(run: Run, method: str, summary: ExportSummary, classes_file: str) -> str:
    """Return the card of a method's images, as Markdown with YAML front matter."""
    settings, recipe = run.settings, run.settings.recipe_of(method)
    environment = run.manifest.read().get("environment")
    versions = environment.get("versions") if isinstance(environment, dict) else None
    versions = versions if isinstance(versions, dict) else {}
    label_teachers = list(settings.label_teachers_used) if summary.label_files else []
    details = {
        "dataset": settings.dataset,
        "images_per_class": settings.ipc,
        "image_size": settings.image_size,
        "method": method,
        "recipe": _recipe_values(recipe),
        "teachers": list(synthesis_networks(settings, method)),
        "labelled_by": label_teachers,
        "settings_hash": short_hash(settings.plain()),
        "images_hash": method_fingerprint(settings, method),
        "versions": versions,
        **asdict(summary),
    }
    front_matter = {
        "pretty_name": f"{recipe.title} of {settings.dataset}",
        "license": "other",
        "license_name": f"that-of-{settings.dataset}",
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "prism-nb"],
        "prism_nb": details,
    }
    kit = f"the PRISM kit {versions.get('prism-nb', 'of unknown version')}"
    origin = f"Made with {kit} by the recipe `{method}` ({recipe.paper})."
    if recipe.image_source == "imported":
        resized = " and resized" if recipe.resize else ""
        origin = f"Made by others ({recipe.paper}); imported{resized} by {kit} as `{method}`."
    labels = "No soft labels come with them."
    if summary.label_files:
        labels = (
            f"{summary.label_files} files in `labels/` hold soft labels of "
            f"{', '.join(label_teachers)}, as the kit stores them (safetensors)."
        )
    text = _CARD.format(
        title=recipe.title,
        dataset=settings.dataset,
        size=settings.image_size,
        ipc=settings.ipc,
        classes=len(run.read_classes() or []),
        origin=origin,
        images=summary.images,
        coding=summary.coding,
        labels=labels,
        classes_file=classes_file,
    )
    return f"---\n{write_yaml(front_matter)}---\n\n{text}"


def _recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's values; only the relevant ones of a recipe that optimizes nothing."""
    if recipe.image_source == "optimized":
        return recipe.plain()
    about = {"title": recipe.title, "paper": recipe.paper}
    values = about | recipe_differences(recipe, Recipe.parse(about, where="card"))
    return {name: value for name, value in values.items() if name != "source"}  # a local path


def import_images(
    path: str | Path,
    *,
    run_name: str,
    preset: str | None = None,
    method: str = "imported",
    runs_dir: str | Path | None = None,
    changes: dict[str, Any] | None = None,
    resize: bool = False,
    on_event: OnEvent | None = None,
) -> tuple[Run, Outcome]:
    """Make a set of images a method of a run, and import the images at once.

    Args:
        path: Folder or zip archive; see `data.imported` for the layouts.
        run_name: A run. An existing one keeps its settings; a new one begins with the preset's,
            and with the images per class of the set unless `changes` sets it.
        preset: Settings of a new run.
        method: Name of the method.
        runs_dir: Folder of the runs; `default_runs_dir` where None.
        changes: Settings to change, by flat name.
        resize: Whether images of another size are resized.
        on_event: Called with each event, besides the run's event log.

    Returns:
        The run, and how many units existed and were made.

    Raises:
        UsageError: Anything that cannot work, before the run is touched.
        PrismError: A unit failed; finished ones are kept, and the same call continues.
    """
    check_name(run_name)
    folder = (Path(runs_dir) if runs_dir else default_runs_dir()) / run_name
    exists = (folder / "config.yaml").is_file()
    arguments: dict[str, Any] = {"run_name": run_name, "runs_dir": runs_dir}
    arguments["preset"] = None if exists else preset
    source = Path(path).absolute()
    recipe = {"base": "imported", "source": str(source), **({"resize": True} if resize else {})}
    if arguments["preset"] is None:
        before = open_run_module.load_run(**arguments).settings.plain()
    else:
        before = load_settings(arguments["preset"]).plain()
    wanted = _with_method(method, recipe, before, changes or {})
    found = open_run_module.load_run(**arguments, changes=wanted)
    if not exists and "ipc" not in wanted:
        wanted["ipc"] = infer_ipc(source, open_dataset(found.settings))
    run = open_run_module.open_run(**arguments, changes=wanted)
    units = method_units(run, method, pipeline.class_count(run))
    return run, pipeline.execute_units(run, "synthesis", units, on_event)


def _with_method(
    method: str, recipe: dict[str, Any], before: dict[str, Any], changes: dict[str, Any]
) -> dict[str, Any]:
    """Return changes to settings that add a method; refuse a name with other images."""
    present = before["recipes"].get(method, {})
    same_images = all(
        (recipe.get(name) or False) == (present.get(name) or False)
        for name in ("base", "source", "resize")
    )
    if method in before["methods"] and not same_images:
        raise UsageError(
            f"there is a method {method!r} already, with other images; give these another name "
            "(--as), or a run of their own (--run)"
        )
    methods, recipes = changes.get("methods", before["methods"]), changes.get("recipes", {})
    if not isinstance(methods, list):
        raise UsageError(f"methods: a list is needed, got {methods!r}; e.g. [prism, sre2l]")
    if not isinstance(recipes, dict):
        raise UsageError(f"recipes: a mapping of names is needed, got {recipes!r}")
    named = {**changes, "methods": list(dict.fromkeys([*methods, method]))}
    return merge(named, {"recipes": {method: recipe}})
