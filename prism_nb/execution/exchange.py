"""Writing a method's images where others can use them, in three layouts."""

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

from prism_nb.core import fileio, unit_plan
from prism_nb.core import unit_plan as label_plan
from prism_nb.core.config import default_runs_dir, load_settings, merge, short_hash
from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.recipe import Recipe, recipe_differences
from prism_nb.core.run import Run, check_name
from prism_nb.core.unit_plan import image_path, method_fingerprint, method_units, synthesis_networks
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
_QUALITY = 95  # of JPEG where none is named
_METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class ExportImage:
    """One image of a method.

    Attributes:
        info: Its class.
        slot: Its number within the class.
        path: Its file in the run.
        size: Its side, in pixels.
    """

    info: ClassInfo
    image_index: int
    path: Path
    size: int

    def coded(self, quality: int | None) -> bytes:
        """Return the file as it is, or as JPEG of a quality."""
        content = self.path.read_bytes()
        if quality is None:
            return content
        pixels = decode_image(content, name=str(self.path), size=self.size, resize=False)
        return encode_image(pixels, "JPEG", quality=quality)


def export_set(
    run: Run,
    method: str,
    dest: Path,
    *,
    layout: str = "archive",
    kind: str | None = None,
    quality: int | None = None,
) -> ExportSummary:
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
    check_target_free(dest, archive=layout == "archive")
    dataset = open_dataset(run.settings)
    pictures = _pictures(run, method, dataset)
    labels = _label_files(run, method, dataset) if layout == "archive" else []
    contents = ExportSummary(
        layout=layout,
        images=len(pictures),
        content=_content(pictures),
        coding="PNG, as they are" if quality is None else f"JPEG of quality {quality}, with losses",
        label_files=len(labels),
    )
    pieces = _pieces(dataset, pictures, layout, quality)
    pieces += [
        ArchiveEntry(f"labels/{path.removeprefix(f'labels/{method}/')}", run.file(path).read_bytes)
        for path in labels
    ]
    notes = _METADATA if layout == "imagefolder" else CLASSES_FILE
    text = dataset_card(run, method, contents, classes_file=notes)
    pieces.append(ArchiveEntry("README.md" if layout == "imagefolder" else "card.md", text.encode))
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


def _pictures(run: Run, method: str, dataset: ImageDataset) -> list[ExportImage]:
    """Return a method's images, class by class, after checking that they are all whole."""
    if method not in run.settings.methods:
        raise UsageError(
            f"run {run.name} has no method {method!r}; {suggest(method, run.settings.methods)}"
        )
    for unit in method_units(run, method, len(dataset.classes)):
        state = run.units.state(unit)
        if state.state != "done":
            raise PrismError(
                f"the images of {method} in run {run.name} are not complete: {unit.name} is "
                f"{state.state}; `prism-nb run` makes them"
            )
    return [
        ExportImage(
            info,
            image_index,
            run.file(image_path(method, info.index, image_index)),
            dataset.image_size,
        )
        for info in dataset.classes
        for image_index in range(run.settings.ipc)
    ]


def _label_files(run: Run, method: str, dataset: ImageDataset) -> list[str]:
    """Return a method's label files, relative to the run; none unless all are there and whole."""
    units = label_plan.relabel_units(run, len(dataset.classes))
    mine = [unit for unit in units if unit.params["method"] == method]
    if any(not run.units.is_done(unit) for unit in mine):
        return []
    paths = [path for unit in mine for path in run.units.files(unit)]
    return [path for path in paths if path.endswith(".safetensors")]


def _content(pictures: Sequence[ExportImage]) -> str:
    hashed = hashlib.sha256()
    for picture in pictures:
        line = f"{picture.info.index} {picture.image_index} {fileio.sha256(picture.path)}\n"
        hashed.update(line.encode())
    return hashed.hexdigest()


def _pieces(
    dataset: ImageDataset, pictures: Sequence[ExportImage], layout: str, quality: int | None
) -> list[ArchiveEntry]:
    names = [_name(picture, layout, "png" if quality is None else "jpg") for picture in pictures]
    pieces = [
        ArchiveEntry(name, partial(picture.coded, quality))
        for name, picture in zip(names, pictures, strict=True)
    ]
    if layout == "imagefolder":
        text = "".join(_line(name, each.info) for name, each in zip(names, pictures, strict=True))
        return [*pieces, ArchiveEntry(_METADATA, text.encode)]
    return [
        *pieces,
        ArchiveEntry(CLASSES_FILE, partial(fileio.json_bytes, dataset.class_records())),
    ]


def _name(picture: ExportImage, layout: str, ending: str) -> str:
    index, image_index = picture.info.index, picture.image_index
    if layout == "published":
        return f"new{index:03d}/class{index:03d}_id{image_index:03d}.{ending}"
    if layout == "imagefolder":
        return f"{picture.info.folder}/{image_index:04d}.{ending}"
    return f"images/{index:05d}/{index:05d}_{image_index:04d}.{ending}"


def _line(name: str, info: ClassInfo) -> str:
    """Return an image's line of metadata.jsonl, as Hugging Face's imagefolder reads it."""
    entry = {"file_name": name, "label": info.index, "class_name": info.name}
    return json.dumps(entry, ensure_ascii=False) + "\n"


_WHEN = (1980, 1, 1, 0, 0, 0)  # the first date that zip knows; the true one would change the bytes
_UNIX = 3


@dataclass(frozen=True)
class ArchiveEntry:
    """A file of an export: its name there, and its content when that is asked for."""

    name: str
    content: Callable[[], bytes]


def check_target_free(dest: Path, *, archive: bool) -> None:
    """Check that an export would overwrite nothing.

    Raises:
        UsageError: Something lies there, or an archive is not called `.zip`.
    """
    if archive:
        if dest.suffix != ".zip":
            raise UsageError(f"an archive is one file: call it {dest.name}.zip, or name a --layout")
        if dest.exists():
            raise UsageError(f"{dest} is there already; choose another name, or delete it")
    elif dest.exists() and not dest.is_dir():
        raise UsageError(f"{dest} is a file; name a folder that is empty or not there yet")
    elif dest.exists() and any(dest.iterdir()):
        raise UsageError(f"{dest} is not empty; name a folder that is, or is not there yet")


def write_folder(dest: Path, pieces: Sequence[ArchiveEntry]) -> None:
    """Write an export as a folder; after an interruption there is none.

    Raises:
        PrismError: It cannot be written.
    """
    part = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}.part")
    try:
        for piece in pieces:
            fileio.write_bytes(part / piece.name, piece.content())
        part.replace(dest)
    except OSError as error:
        raise PrismError(f"cannot write {dest}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_archive(dest: Path, pieces: Sequence[ArchiveEntry]) -> None:
    """Write an export as a zip archive, whole or not at all.

    Nothing is packed, since images and labels hardly get smaller and every zlib packs in its own
    way; times and rights are fixed.

    Raises:
        PrismError: It cannot be written.
    """

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for piece in pieces:
                info = zipfile.ZipInfo(piece.name, _WHEN)
                info.create_system = _UNIX
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, piece.content())

    fileio.atomic_write(dest, write)


@dataclass(frozen=True)
class ExportSummary:
    """What an export holds.

    Attributes:
        layout: Its layout.
        images: Number of images.
        content: SHA-256 of the run's image files, names and contents, in order.
        coding: How they are stored here, in words.
        label_files: Number of label files beside them.
    """

    layout: str
    images: int
    content: str
    coding: str
    label_files: int


_TEXT = """\
# {title}: a small set in place of {dataset}

{images} images of {size} x {size} pixels, {ipc} for each of {classes} classes.

{origin}

Stored as {coding}.

{labels}

Classes, in the order of the label numbers, stand in `{classes_file}`. The front matter of this file
holds the recipe, the networks that took part, the library versions, and a hash of the settings and
of the images.

## Licence

The images derive from the training images of {dataset}, and from networks that were trained on
them; where they began as real images or were imported, they may still show them. The terms of the
source dataset therefore apply. The kit claims no rights in the images.
"""


def dataset_card(run: Run, method: str, contents: ExportSummary, *, classes_file: str) -> str:
    """Return the card of a method's images, as Markdown with YAML front matter.

    Args:
        run: The run.
        method: The method.
        contents: What is exported.
        classes_file: The file of the export that holds the class order.
    """
    settings, recipe = run.settings, run.settings.recipe_of(method)
    classes = run.read_classes() or []
    text = _TEXT.format(
        title=recipe.title,
        dataset=settings.dataset,
        size=settings.image_size,
        ipc=settings.ipc,
        classes=len(classes),
        origin=_origin(run, method),
        images=contents.images,
        coding=contents.coding,
        labels=_labels(run, contents),
        classes_file=classes_file,
    )
    return f"---\n{write_yaml(_front_matter(run, method, contents))}---\n\n{text}"


def _front_matter(run: Run, method: str, contents: ExportSummary) -> dict[str, Any]:
    settings = run.settings
    return {
        "pretty_name": f"{settings.recipe_of(method).title} of {settings.dataset}",
        "license": "other",
        "license_name": f"that-of-{settings.dataset}",
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "prism-nb"],
        "prism_nb": {
            "dataset": settings.dataset,
            "images_per_class": settings.ipc,
            "image_size": settings.image_size,
            "method": method,
            "recipe": _recipe_values(settings.recipe_of(method)),
            "teachers": list(synthesis_networks(settings, method)),
            "labelled_by": list(settings.label_teachers_used) if contents.label_files else [],
            "settings_hash": short_hash(settings.plain()),
            "images_hash": method_fingerprint(settings, method),
            "versions": _versions(run),
            **asdict(contents),
        },
    }


def _recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says; where nothing is optimised, without what only that would read."""
    if recipe.image_source == "optimized":
        return recipe.plain()
    words = {"title": recipe.title, "paper": recipe.paper}
    values = words | recipe_differences(recipe, Recipe.parse(words, where="card"))
    return {name: value for name, value in values.items() if name != "source"}  # a local path


def _origin(run: Run, method: str) -> str:
    recipe = run.settings.recipe_of(method)
    kit = f"the PRISM kit {_versions(run).get('prism-nb', 'of unknown version')}"
    if recipe.image_source == "imported":
        fitted = " and fitted to their size" if recipe.resize else ""
        return (
            f"Others made them ({recipe.paper}); {kit} took them over{fitted} under the name "
            f"`{method}`."
        )
    return f"Made with {kit} by the recipe `{method}` ({recipe.paper})."


def _labels(run: Run, contents: ExportSummary) -> str:
    if not contents.label_files:
        return "No soft labels come with them."
    names = ", ".join(run.settings.label_teachers_used)
    return (
        f"{contents.label_files} files in `labels/` hold soft labels of {names}, as the kit stores "
        "them (safetensors)."
    )


def _versions(run: Run) -> dict[str, str]:
    """Return the library versions that the run records; empty where it records none."""
    environment = run.manifest.read().get("environment")
    versions = environment.get("versions") if isinstance(environment, dict) else None
    return versions if isinstance(versions, dict) else {}


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
    """Make a set of images a method of a run, and take the images over at once.

    Args:
        path: Folder or zip archive; see `exchange.layouts` for what is read.
        run_name: A run. One that exists keeps its settings; a new one begins with the preset's,
            and with the images per class of the set unless `changes` say otherwise.
        preset: Settings of a new run.
        method: What the method is called.
        runs_dir: Folder of the runs; `config.default_runs_dir` where None.
        changes: Settings to change, by flat name.
        resize: Whether images of another size are fitted.
        on_event: Told of progress, beside the run's event log.

    Returns:
        The run and what was done: units found there and made now.

    Raises:
        UsageError: Anything that cannot work, found before the run is touched.
        PrismError: A unit failed; finished ones stay, and the same call continues.
    """
    source = Path(path).absolute()
    own = {"base": "imported", "source": str(source), **({"resize": True} if resize else {})}
    begun = _begun(run_name, runs_dir)
    place: dict[str, Any] = {"run_name": run_name, "runs_dir": runs_dir}
    place["preset"] = None if begun else preset
    asked = _with_method(method, own, _methods_before(place), changes or {})
    found = open_run_module.load_run(**place, changes=asked)
    if not begun and "ipc" not in asked:
        asked["ipc"] = infer_ipc(source, open_dataset(found.settings))
    run = open_run_module.open_run(**place, changes=asked)
    return run, _take_over(run, method, on_event)


def _begun(run_name: str, runs_dir: str | Path | None) -> bool:
    check_name(run_name)
    folder = Path(runs_dir) if runs_dir else default_runs_dir()
    return (folder / run_name / "config.yaml").is_file()


def _methods_before(place: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the methods that a run has, or its preset names, with the changes to their recipes."""
    if place["preset"] is None:
        values = open_run_module.load_run(**place).settings.plain()
    else:
        values = load_settings(place["preset"]).plain()
    return {method: values["recipes"].get(method, {}) for method in values["methods"]}


def _with_method(
    method: str, own: dict[str, Any], before: dict[str, dict[str, Any]], changes: dict[str, Any]
) -> dict[str, Any]:
    """Lay a method over changes to settings.

    Raises:
        UsageError: Another method is called so already.
    """
    if method in before and _images_of(before[method]) != _images_of(own):
        raise UsageError(
            f"there is a method {method!r} already, with other images; give these another name "
            "(--as), or a run of their own (--run)"
        )
    methods, recipes = changes.get("methods", list(before)), changes.get("recipes", {})
    if not isinstance(methods, list):
        raise UsageError(f"methods: a list is needed, got {methods!r}; e.g. [prism, sre2l]")
    if not isinstance(recipes, dict):
        raise UsageError(f"recipes: a mapping of names is needed, got {recipes!r}")
    named = {**changes, "methods": list(dict.fromkeys([*methods, method]))}
    return merge(named, {"recipes": {method: own}})


def _images_of(recipe: dict[str, Any]) -> tuple[Any, ...]:
    """Return what decides the images of an import, but for its words."""
    return recipe.get("base"), recipe.get("source"), recipe.get("resize", False)


def _take_over(run: Run, method: str, on_event: OnEvent | None) -> Outcome:
    units = unit_plan.method_units(run, method, pipeline.class_count(run))
    return pipeline.execute_units(run, "synthesis", units, on_event)
