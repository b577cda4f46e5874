"""Export of a method's images as an archive or table, and import of other programs' images."""

from __future__ import annotations

import hashlib
import stat
import tempfile
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from prism_nb.core import fileio
from prism_nb.core.config import merge, short_hash
from prism_nb.core.errors import PrismError, UsageError, suggest
from prism_nb.core.paths import absolute_path, runs_folder
from prism_nb.core.run import Run, check_name, has_results
from prism_nb.core.unit_plan import (
    image_path,
    label_unit,
    method_fingerprint,
    method_units,
    synthesis_networks,
)
from prism_nb.core.units import OnEvent
from prism_nb.core.yaml_io import write_yaml
from prism_nb.execution import pipeline
from prism_nb.execution.open_run import load_run, open_run

# -- export ----------------------------------------------------------------------------------


def export_set(run: Run, method: str, dest: Path) -> str:
    """Write a method's images, labels, class order and a card to a new archive or folder, at once.

    The archive's folder `images/` can be read by torchvision's ImageFolder. A folder has them in a
    parquet file, and `datasets` reads it. Labels are left out unless all are there. Equal images,
    settings and versions give equal bytes. `dest` is a new `.zip` file, or a new folder, without an
    ending.

    Returns:
        SHA-256 of the images' hashes and names: of what `sha256sum images/*/*` prints.

    Raises:
        PrismError: The method's images are missing or damaged, or `dest` cannot be written.
    """
    if method not in run.settings.methods:
        raise UsageError(
            f"run {run.name} has no method {method!r}; {suggest(method, run.settings.methods)}"
        )
    if dest.suffix not in {".zip", ""} or dest.exists():
        raise UsageError(f"cannot export to {dest}; name a new .zip file, or a new folder")
    from prism_nb.data.imported import CLASSES_FILE

    images, labels = _image_files(run, method), _label_files(run, method)
    listed = "".join(f"{fileio.sha256(path)}  {name}\n" for name, path in images.items())
    content = hashlib.sha256(listed.encode()).hexdigest()
    card, classes = partial(_card, run, method, content, bool(labels)), run.read_classes() or []
    texts = {CLASSES_FILE: fileio.json_bytes(classes)}
    if dest.suffix:
        texts["card.md"] = card().encode()
        fileio.atomic_write(dest, lambda file: _write_archive(file, images | labels, texts))
    else:
        from prism_nb.data.parquet import card_entries

        names = [info["folder"] for info in classes]
        texts["README.md"] = card(**card_entries(names)).encode()
        _write_folder(dest, images, names, labels, texts)
    return content


def _image_files(run: Run, method: str) -> dict[str, Path]:
    """Return a method's images by their name in the archive, after checking their hashes."""
    classes = pipeline.class_count(run)
    for unit in method_units(run, method, classes):
        state = run.units.state(unit).state
        if state != "done":
            raise PrismError(f"images {unit.name} are {state}; `prism-nb run` makes them")
    paths = [image_path(method, c, k) for c in range(classes) for k in range(run.settings.ipc)]
    return {path.removeprefix(f"synthesis/{method}/"): run.file(path) for path in paths}


def _label_files(run: Run, method: str) -> dict[str, Path]:
    """Return a method's label files by their name in the archive; none unless complete."""
    unit = label_unit(run, method, pipeline.class_count(run))
    paths = run.units.files(unit) if run.units.is_done(unit) else []
    return {f"labels/{Path(path).name}": run.file(path) for path in paths}


def _write_archive(file: BinaryIO, files: dict[str, Path], texts: dict[str, bytes]) -> None:
    """Write a zip archive with fixed times and permissions.

    Images and labels hardly compress and every zlib compresses differently, so nothing is
    compressed.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted([*files, *texts]):
            info = zipfile.ZipInfo(name)  # of 1980, zip's first date
            info.create_system = 3  # Unix
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, texts[name] if name in texts else files[name].read_bytes())


def _write_folder(
    dest: Path,
    images: dict[str, Path],
    classes: Sequence[str],
    labels: dict[str, Path],
    texts: dict[str, bytes],
) -> None:
    """Write a folder as on Hugging Face, under another name until it is complete."""
    from prism_nb.data.parquet import write_parquet

    rows = [(path, int(path.parent.name)) for path in images.values()]
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as part:
        folder = Path(part) / dest.name
        table = folder / "data" / "train-00000-of-00001.parquet"
        fileio.atomic_write(table, lambda file: write_parquet(file, rows, classes))
        for name, content in texts.items():
            fileio.write_bytes(folder / name, content)
        for name, path in labels.items():
            fileio.write_bytes(folder / name, path.read_bytes())
        folder.replace(dest)


_CARD = """\
---
{front_matter}---

# {title}: a small set for {classes} classes of {dataset}

{ipc} PNG images of {size} x {size} pixels for each of {classes} classes.

{origin}

{labels}

The classes, in the order of the label numbers, are in `classes.json`. The front matter of this
file holds the recipe, its networks, the library versions, and a hash of the settings and of the
images.

## Licence

{licence} The kit claims no rights in the images.
"""


_LICENCE = (
    "The images derive from the training images of {dataset}, and from networks that were trained "
    "on them; where they began as real images or were imported, they may still show them. The "
    "terms of the source dataset therefore apply."
)
_DATA_FREE_LICENCE = (
    "The images were grown from noise, without real images, by networks that were trained on "
    "{dataset}: {networks}."
)


def _card(run: Run, method: str, content: str, labelled: bool, **entries: Any) -> str:
    """Return the dataset card of a method's images, as Markdown with YAML front matter.

    `entries` are added to the front matter.
    """
    settings, recipe = run.settings, run.settings.recipe_of(method)
    versions = run.manifest.environment()["versions"]
    kit = f"the PRISM kit {versions['prism-nb']}"
    origin = f"Made with {kit} by the recipe `{method}` ({recipe.paper})."
    if recipe.image_source == "imported":
        resized = " and resized" if recipe.resize else ""
        origin = f"Made by others ({recipe.paper}); imported{resized} by {kit} as `{method}`."
    grown = settings.data_free and recipe.image_source == "optimized"
    licence = _DATA_FREE_LICENCE if grown else _LICENCE
    teachers = settings.label_teachers_used if labelled else ()
    labels = f"`labels/` holds soft labels of {', '.join(teachers)}, as the kit stores them."
    return _CARD.format(
        front_matter=write_yaml(_front_matter(run, method, content, versions, teachers) | entries),
        title=recipe.title,
        dataset=settings.dataset,
        ipc=settings.ipc,
        size=settings.image_size,
        classes=pipeline.class_count(run),
        origin=origin,
        labels=labels if labelled else "No soft labels come with them.",
        licence=licence.format(
            dataset=settings.dataset, networks=", ".join(synthesis_networks(settings, method))
        ),
    )


def _front_matter(
    run: Run, method: str, content: str, versions: dict[str, str], label_teachers: tuple[str, ...]
) -> dict[str, Any]:
    settings = run.settings
    recipe = settings.recipe_of(method).plain()
    del recipe["source"]  # a local path
    return {
        "pretty_name": f"{recipe['title']} of {settings.dataset}",
        "license": "other",
        "license_name": "unknown" if settings.data_free else f"that-of-{settings.dataset}",
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "prism-nb"],
        "prism_nb": {
            "dataset": settings.dataset,
            "images_per_class": settings.ipc,
            "image_size": settings.image_size,
            "method": method,
            "recipe": recipe,
            "teachers": list(synthesis_networks(settings, method)),
            "labelled_by": list(label_teachers),
            "settings_hash": short_hash(settings.plain()),
            "images_hash": method_fingerprint(settings, method),
            "content": content,
            "versions": versions,
        },
    }


# -- import ----------------------------------------------------------------------------------


def import_images(
    path: str | Path,
    *,
    run_name: str,
    preset: str | None = None,
    method: str = "imported",
    runs_dir: str | Path | None = None,
    changes: dict[str, Any] | None = None,
    resize: bool = False,
    indices: bool = False,
    on_event: OnEvent | None = None,
) -> tuple[Run, pipeline.Outcome]:
    """Make a set of images a method of a run, and import the images at once.

    Args:
        path: Folder, zip archive, parquet or tensor file, see `data.imported`; or a list of
            training images, see `data.index_list`.
        run_name: A run. An existing one keeps its settings; a new one begins with the preset's,
            and with the images per class of the set unless `changes` sets it.
        preset: Settings of a new run.
        method: Name of the method.
        runs_dir: Folder of the runs; `default_runs_dir` where None.
        changes: Settings to change, by flat name.
        resize: Whether images of another size are resized.
        indices: Whether `path` is such a list.
        on_event: Called with each event, besides the run's event log.

    Returns:
        The run, and how many units existed and were made.

    Raises:
        UsageError: Anything that cannot work, before the run is touched.
        PrismError: A unit failed; finished ones are kept, and the same call continues.
    """
    check_name(run_name)
    folder = runs_folder(runs_dir) / run_name
    is_new = not (folder / "config.yaml").is_file()
    where: dict[str, Any] = {"run_name": run_name, "runs_dir": runs_dir}
    where["preset"] = preset if is_new else None
    source = absolute_path(path)
    recipe = _imported_recipe(source, resize=resize, indices=indices)
    wanted = _with_method(load_run(**where), changes or {}, method, recipe)
    if is_new and "ipc" not in wanted:
        settings = load_run(**where, changes=wanted).settings
        from prism_nb.data.imported import infer_ipc
        from prism_nb.data.registry import open_dataset

        wanted["ipc"] = infer_ipc(source, open_dataset(settings), indices=indices)
    run = open_run(**where, changes=wanted)
    units = method_units(run, method, pipeline.class_count(run))
    return run, pipeline.execute_units(run, "synthesis", units, on_event)


def _imported_recipe(source: Path, *, resize: bool, indices: bool) -> dict[str, Any]:
    """Return the recipe of a set of images, or of a list of training images."""
    recipe: dict[str, Any] = {"base": "imported", "source": str(source)}
    if resize:
        recipe["resize"] = True
    if indices:
        if resize:
            raise UsageError("resize and indices exclude each other; leave one of the two out")
        from prism_nb.data.index_list import hash_indices, read_indices

        recipe["indices"] = hash_indices(read_indices(source))
    return recipe


def import_layout(run: Run, method: str) -> str:
    """Return how an imported set was read, and which of its class folders were left out."""
    first = method_units(run, method, pipeline.class_count(run))[0]
    return str(run.units.record(first)["layout"])


def _with_method(
    run: Run, changes: dict[str, Any], method: str, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Return changes to settings that add a method; refuse a name with other images.

    A set of which no unit could be imported may be replaced.
    """
    present = run.settings.recipes.get(method, {})
    if method in run.settings.methods:
        names = ("base", "resize", "indices" if "indices" in recipe else "source")
        is_other = any((present.get(n) or None) != recipe.get(n) for n in names)
        is_imported = present.get("base") == recipe["base"]
        if is_other and not (is_imported and not has_results(run.path, "synthesis", method)):
            raise UsageError(
                f"there is a method {method!r} already, with other images; choose another (--as)"
            )
        # An equal list may lie in another file. What is replaced keeps none of its own values.
        recipe = {"resize": False, "indices": None, **recipe} if is_other else present
    methods = changes.get("methods", list(run.settings.methods))
    if isinstance(methods, list):  # anything else is refused with the settings
        methods = list(dict.fromkeys([*methods, method]))
    return merge({**changes, "methods": methods}, {"recipes": {method: recipe}})
