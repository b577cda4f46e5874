"""The card of an exported set: what the images are, where they come from, what they may be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prism_nb.config import digest
from prism_nb.plans.synthesis import method_binding, steering_networks
from prism_nb.recipes import Recipe, differences
from prism_nb.run import Run
from prism_nb.strict import write_yaml


@dataclass(frozen=True)
class Contents:
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


def card(run: Run, method: str, contents: Contents, *, classes_file: str) -> str:
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


def _front_matter(run: Run, method: str, contents: Contents) -> dict[str, Any]:
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
            "teachers": list(steering_networks(settings, method)),
            "labelled_by": list(settings.labellers) if contents.label_files else [],
            "settings_hash": digest(settings.plain()),
            "images_hash": method_binding(settings, method),
            "versions": _versions(run),
            **asdict(contents),
        },
    }


def _recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says; where nothing is optimised, without what only that would read."""
    if recipe.images == "recovered":
        return recipe.plain()
    words = {"title": recipe.title, "paper": recipe.paper}
    values = words | differences(recipe, Recipe.parse(words, where="card"))
    return {name: value for name, value in values.items() if name != "source"}  # a local path


def _origin(run: Run, method: str) -> str:
    recipe = run.settings.recipe_of(method)
    kit = f"the PRISM kit {_versions(run).get('prism-nb', 'of unknown version')}"
    if recipe.images == "imported":
        fitted = " and fitted to their size" if recipe.resize else ""
        return (
            f"Others made them ({recipe.paper}); {kit} took them over{fitted} under the name "
            f"`{method}`."
        )
    return f"Made with {kit} by the recipe `{method}` ({recipe.paper})."


def _labels(run: Run, contents: Contents) -> str:
    if not contents.label_files:
        return "No soft labels come with them."
    names = ", ".join(run.settings.labellers)
    return (
        f"{contents.label_files} files in `labels/` hold soft labels of {names}, as the kit stores "
        "them (safetensors)."
    )


def _versions(run: Run) -> dict[str, str]:
    """Return the library versions that the run records; empty where it records none."""
    environment = run.manifest().get("environment")
    versions = environment.get("versions") if isinstance(environment, dict) else None
    return versions if isinstance(versions, dict) else {}
