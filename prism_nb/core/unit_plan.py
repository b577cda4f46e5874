"""The units of each stage: what a run consists of, and what each unit depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prism_nb.core.config import short_hash
from prism_nb.core.recipe import Recipe, recipe_differences
from prism_nb.core.run import Run
from prism_nb.core.settings import (
    BATCHES,
    DATA,
    EVALUATION,
    REFERENCE,
    RELABEL,
    SQUEEZE,
    WEIGHTS,
    Settings,
    Squeeze,
)
from prism_nb.core.units import ImageBatch, Unit, image_batches, is_pretrained_name, slug

# -- squeeze ---------------------------------------------------------------------------------


def squeeze_units(run: Run, classes: int) -> list[Unit]:
    """Return one unit per network, then those of the real images' statistics, where needed."""
    settings = run.settings
    wanted = [unit for method in settings.methods for unit in _statistics_units(settings, method)]
    return network_units(settings) + list(dict.fromkeys(wanted))


def network_units(settings: Settings) -> list[Unit]:
    """Return the units of the networks: the pool, then the holdout networks."""
    return [network_unit(settings, name) for name in settings.networks]


def network_unit(settings: Settings, name: str) -> Unit:
    """Return the unit that trains a network, or takes its pretrained weights.

    It does not depend on the rest of the pool.
    """
    stem = slug(name)
    decided_by: dict[str, Any] = {"network": name, **settings.group_values(DATA)}
    if not is_pretrained_name(name):
        decided_by |= settings.group_values(SQUEEZE)
    else:
        decided_by |= settings.group_values(WEIGHTS)
        if name in settings.bn_only:
            decided_by["bn_only"] = True
    return Unit(
        stage="squeeze",
        name=name,
        marker=f"teachers/units/{stem}.json",
        fingerprint=short_hash(decided_by),
        params={"network": name, "weights": f"teachers/{stem}.safetensors"},
    )


def statistics_unit(settings: Settings, name: str, patch: int) -> Unit:
    """Return the unit that measures the inputs of a network's convolutions on the real images."""
    network = network_unit(settings, name)
    how: dict[str, object] = {"network": network.fingerprint, "patch": patch}
    if is_pretrained_name(name):  # its fingerprint holds no training settings
        fields = Squeeze.model_fields.items()
        names = {field for field, info in fields if BATCHES in info.metadata}
        how["squeeze"] = settings.squeeze.model_dump(mode="json", include=names)
    stem = f"{slug(name)}.conv{patch}"
    return Unit(
        stage="squeeze",
        name=f"{name}, convolution statistics",
        marker=f"teachers/units/{stem}.json",
        fingerprint=short_hash(how),
        params={"network": name, "patch": patch, "statistics": f"teachers/{stem}.safetensors"},
        inputs=(network.marker,),
    )


def groups_unit(settings: Settings, method: str) -> Unit:
    """Return the unit that measures groups of real images by a method's BN teachers.

    These are the dataset's classes, or difficulty groups (PSM), as many as images per class.
    Methods with the same BN teachers share it.
    """
    by_difficulty = settings.recipe_of(method).by_difficulty
    kind, count = ("difficulty groups", settings.ipc) if by_difficulty else ("classes", None)
    networks = stat_networks(settings, method)
    units = [network_unit(settings, name) for name in networks]
    key = short_hash([count, *(unit.fingerprint for unit in units)])
    return Unit(
        stage="squeeze",
        name=f"{kind} {key}",
        marker=f"teachers/units/groups-{key}.json",
        fingerprint=key,
        params={
            "networks": networks,
            "groups": count,
            "statistics": f"teachers/groups-{key}.safetensors",
        },
        inputs=tuple(unit.marker for unit in units),
    )


# -- synthesis -------------------------------------------------------------------------------


def synthesis_units(run: Run, classes: int) -> list[Unit]:
    """Return the units of every method of the run."""
    return [unit for method in run.settings.methods for unit in method_units(run, method, classes)]


def method_units(run: Run, method: str, classes: int) -> list[Unit]:
    """Return the units of one method."""
    settings = run.settings
    fingerprint = method_fingerprint(settings, method)
    inputs = tuple(unit.marker for unit in _teacher_units(settings, method))
    return [
        Unit(
            stage="synthesis",
            name=f"{method}/{batch.name}",
            marker=f"synthesis/{method}/units/{batch.name}.json",
            fingerprint=fingerprint,
            params={
                "method": method,
                "image_indices": batch.image_indices,
                "classes": batch.classes,
            },
            inputs=inputs,
        )
        for batch in method_batches(settings, method, classes)
    ]


def method_batches(settings: Settings, method: str, classes: int) -> list[ImageBatch]:
    """Return the batches of a method, one per unit."""
    recipe = settings.recipe_of(method)
    sizes = classes, settings.ipc, settings.batch_size
    return image_batches(recipe.batches, *sizes, share_indices=not recipe.by_image_index)


def batch_of(unit: Unit) -> ImageBatch:
    """Return the batch that a synthesis unit makes."""
    return ImageBatch(tuple(unit.params["image_indices"]), tuple(unit.params["classes"]))


def image_path(method: str, class_index: int, image_index: int) -> str:
    """Return the path of an image in a run; torchvision's ImageFolder finds classes in order."""
    return f"synthesis/{method}/images/{class_index:05d}/{class_index:05d}_{image_index:04d}.png"


def synthesis_networks(settings: Settings, method: str, *roles: str) -> tuple[str, ...]:
    """Return the networks that may have some roles in a method's synthesis; see `Recipe.roles`."""
    return settings.recipe_of(method).networks(settings.pool, *roles)


def stat_networks(settings: Settings, method: str) -> tuple[str, ...]:
    """Return the networks whose statistics a method may read, to match them or to scale others."""
    return synthesis_networks(settings, method, "drawn", "scales")


def _statistics_units(settings: Settings, method: str) -> list[Unit]:
    """Return the units of the real images' statistics that a method reads, if any."""
    recipe = settings.recipe_of(method)
    if recipe.has_groups:
        return [groups_unit(settings, method)]
    networks = stat_networks(settings, method) if recipe.statistics == "bn_conv" else ()
    return [statistics_unit(settings, name, recipe.conv_patch_size) for name in networks]


def _teacher_units(settings: Settings, method: str) -> list[Unit]:
    """Return the units whose files a method's synthesis reads."""
    networks = [network_unit(settings, name) for name in synthesis_networks(settings, method)]
    return networks + _statistics_units(settings, method)


def method_fingerprint(settings: Settings, method: str) -> str:
    """Return a hash of everything that a method's images depend on.

    Recipe fields at their defaults are left out, so that a new field leaves old images valid.
    """
    recipe = settings.recipe_of(method)
    defaults = Recipe.parse({"title": "", "paper": ""}, where="recipe")
    return short_hash(
        {
            "method": method,
            "recipe": recipe_differences(recipe, defaults),
            "data": settings.group_values(DATA),
            "layout": [settings.ipc, settings.batch_size, settings.replicate],
            "precision": settings.precision,
            "roles": recipe.roles(settings.pool),
            "networks": [unit.fingerprint for unit in _teacher_units(settings, method)],
        }
    )


# -- relabel ---------------------------------------------------------------------------------

LABEL_BLOCK = 10_000  # views that share the scale of an ensemble's logits


def relabel_units(run: Run, classes: int) -> list[Unit]:
    """Return one unit per method."""
    return [label_unit(run, method, classes) for method in run.settings.methods]


def label_unit(run: Run, method: str, classes: int) -> Unit:
    """Return the unit that labels one method's images."""
    settings = run.settings
    networks = [network_unit(settings, name) for name in settings.label_teachers_used]
    images = method_units(run, method, classes)
    return Unit(
        stage="relabel",
        name=method,
        marker=f"labels/{method}/unit.json",
        fingerprint=label_fingerprint(settings, method, classes * settings.ipc),
        params={"method": method},
        inputs=tuple(unit.marker for unit in [*networks, *images]),
    )


def label_shards(run: Run, unit: Unit, count: int) -> list[Unit]:
    """Split the labelling of one method's images into at most `count` units of some epochs each.

    There are none where there would be one, or where labels are not stored.
    """
    epochs = len(label_paths(run.settings, unit.params["method"]))
    size = -(-epochs // max(1, count))
    shards = []
    for begin in range(0, epochs, size) if size < epochs else ():
        end = min(begin + size, epochs)
        stem = f"epochs{begin:04d}-{end - 1:04d}"
        shards.append(
            replace(
                unit,
                name=f"{unit.name}/{stem}",
                marker=f"labels/{unit.name}/pieces/{stem}.json",
                fingerprint=short_hash([unit.fingerprint, begin, end]),
                params={**unit.params, "epochs": [begin, end]},
                parent=unit.name,
            )
        )
    return shards


def label_path(method: str, epoch: int) -> str:
    """Return the path of an epoch's labels in a run."""
    return f"labels/{method}/epoch_{epoch:04d}.safetensors"


def label_paths(settings: Settings, method: str) -> list[str]:
    """Return every label file of a method; none where labels are not stored."""
    epochs = settings.label.epochs if settings.labels == "stored" else 0
    return [label_path(method, epoch) for epoch in range(epochs)]


def label_fingerprint(settings: Settings, method: str, count: int) -> str:
    """Return a hash of everything that the labels of a method's `count` images depend on."""
    values = settings.group_values(RELABEL)
    del values["label_teachers"]
    if settings.label.format != "top_k":
        del values["label_top_k"]
    content: dict[str, Any] = {
        "images": method_fingerprint(settings, method),
        "settings": values,
        "primary": settings.primary if settings.label.ensemble == "primary_half" else None,
        "networks": [
            network_unit(settings, name).fingerprint for name in settings.label_teachers_used
        ],
    }
    return short_hash({**content, "block": LABEL_BLOCK} if count > LABEL_BLOCK else content)


# -- evaluation ------------------------------------------------------------------------------


def is_hard(settings: Settings, variant: str) -> bool:
    """Return whether students of a variant learn the true classes."""
    return settings.labels == "hard" or variant.startswith("hard")


def is_plain(variant: str) -> bool:
    """Return whether students of a variant learn from images without augmentation."""
    return variant.endswith("no_aug")


def student_units(run: Run, classes: int) -> list[Unit]:
    """Return the units of every method, variant, student and seed."""
    settings = run.settings
    pairs = [(method, way) for method in settings.methods for way in settings.eval_variants]
    pairs += [(REFERENCE, "hard_labels")] if settings.train_on_real else []
    return [
        student_unit(run, method, variant, student, seed, classes)
        for method, variant in pairs
        for student in settings.students
        for seed in range(settings.student.seeds)
    ]


def student_unit(
    run: Run, method: str, variant: str, student: str, seed: int, classes: int
) -> Unit:
    """Return the unit that trains one student; the method `REFERENCE` is all real images."""
    settings = run.settings
    way = "" if variant == "protocol" else f"-{variant}"
    name = f"{method}/{slug(student)}{way}-seed{seed}"
    key = {"method": method, "variant": variant, "student": student, "seed": seed}
    source: Any = [settings.group_values(DATA, RELABEL), settings.replicate]
    inputs: tuple[str, ...] = ()
    if method != REFERENCE:
        labels = label_unit(run, method, classes)
        source, inputs = labels.fingerprint, (labels.marker, *labels.inputs)
    how = settings.for_students_of(method).group_values(EVALUATION)
    return Unit(
        stage="evaluation",
        name=name,
        marker=f"evaluation/{name}/unit.json",
        fingerprint=short_hash({**key, "settings": how, "source": source}),
        params={**key, "folder": f"evaluation/{name}"},
        inputs=inputs,
    )


# -- diversity -------------------------------------------------------------------------------


def diversity_units(run: Run, classes: int) -> list[Unit]:
    """Return the unit of the real images, if there are any, then one per method."""
    return [diversity_unit(run, name, classes) for name in run.settings.image_sets]


def diversity_unit(run: Run, name: str, classes: int) -> Unit:
    """Return the unit that measures a method, or the real images under `REFERENCE`."""
    settings = run.settings
    spaces = [network_unit(settings, network) for network in settings.feature_networks_used]
    teachers = [network_unit(settings, network) for network in settings.pool.logits]
    source: Any = [settings.group_values(DATA), settings.ipc]
    images: list[Unit] = []
    if name != REFERENCE:
        source, images = method_fingerprint(settings, name), method_units(run, name, classes)
    return Unit(
        stage="diversity",
        name=name,
        marker=f"diversity/{name}.json",
        fingerprint=short_hash(
            {
                "images": source,
                "networks": [unit.fingerprint for unit in spaces],
                "teachers": [unit.fingerprint for unit in teachers],
                "real_per_class": settings.real_per_class,
            }
        ),
        params={"method": name},
        inputs=tuple(dict.fromkeys(unit.marker for unit in [*spaces, *teachers, *images])),
    )
