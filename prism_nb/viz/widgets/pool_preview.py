"""Preview of a pool of teachers: draws and cost of a step, warnings, similarity of networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from prism_nb.core.recipe import Recipe, TeacherPool
from prism_nb.core.settings import Settings
from prism_nb.data.dataset import ImageDataset
from prism_nb.models.architectures import architecture_of
from prism_nb.models.catalog import family_of
from prism_nb.models.pretrained import build_options, native_preprocess
from prism_nb.models.similarity import Comparison
from prism_nb.models.zoo import BuildOptions, NetworkInfo, build_on_meta, network_info
from prism_nb.synthesis.teacher_sampling import sample_schedule
from prism_nb.viz.widgets.base import note_html


def pool_network_info(name: str, dataset: ImageDataset) -> NetworkInfo:
    """Return a network's numbers at the size of its images, which may differ from the dataset's."""
    size, classes = native_preprocess(name, dataset).size, len(dataset.classes)
    return _network_info(architecture_of(name), classes, size, build_options(name))


@lru_cache(maxsize=512)
def _network_info(architecture: str, classes: int, size: int, options: BuildOptions) -> NetworkInfo:
    network = build_on_meta(architecture, classes=classes, image_size=size, options=options)
    return network_info(architecture, network, image_size=size)


def sample_steps(
    recipe: Recipe, pool: TeacherPool
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return BN teachers and logit teachers of about 1,000 steps, each with its own draw."""
    size = len(pool.teachers)
    turns = max(1, size * (size - 1))  # so that networks in turn come equally often
    changes: dict[str, Any] = {"iterations": turns * -(-1000 // turns), "resample_every": 1}
    if recipe.selection == "pre":
        changes["selection"] = "intra"
    generator = torch.Generator().manual_seed(0)
    schedule = sample_schedule(recipe.model_copy(update=changes), pool, generator)
    steps = range(changes["iterations"])
    return [(schedule.bn_teachers_at(step), schedule.logit_teachers_at(step)) for step in steps]


def preview_html(settings: Settings, method: str | None, infos: Mapping[str, NetworkInfo]) -> str:
    """Describe a step of a method: a sentence, then a row per network of the pool.

    Args:
        settings: A usable pick.
        method: The method; None if none draws from the pool.
        infos: The pool's networks.
    """
    if method is None:
        return note_html(
            f"The methods of this run ({', '.join(settings.methods)}) use the pool as they were "
            f"published, the primary {settings.primary} first; `prism-nb methods` lists how.",
            "plain",
        )
    recipe = settings.recipe_of(method).for_image_index(0)
    steps = sample_steps(recipe, settings.pool)
    rows = []
    for name, info in infos.items():
        has_bn = info.bn_layers > 0  # a network without BN layers runs only for its logits
        runs = np.mean([name in logits or (has_bn and name in bn) for bn, logits in steps])
        rows.append(
            {
                "family": family_of(name),
                "BN layers / channels": f"{info.bn_layers} / {info.bn_channels:,}",
                "GFLOP": info.flops / 1e9,
                "logits in": np.mean([name in logits for _, logits in steps]),
                "BN statistics in": np.mean([name in bn for bn, _ in steps]),
                "share of cost": info.flops * runs,
            }
        )
    table = pd.DataFrame(rows, index=[*infos]).rename_axis(columns="network")
    total, sizes = table["share of cost"].sum(), Counter(len(bn) for bn, _ in steps)
    table["share of cost"] /= total
    mean = sum(sizes.elements()) / len(steps)
    chances = ", ".join(f"{n} in {count / len(steps):.0%}" for n, count in sorted(sizes.items()))
    sentence = (
        f"A step of {method} draws about {mean:.1f} BN teachers ({chances} of {len(steps):,} "
        f"sampled steps) and costs about {total / infos[settings.primary].flops:.1f} times a step "
        "with the primary alone: forward and backward, in convolutions and matrix products."
    )
    bars = ["BN statistics in", "share of cost"]
    styler = table.style.format("{:.0%}", subset=["logits in", *bars])
    styler = styler.format("{:.3g}", subset="GFLOP").format_index(escape="html")
    styler = styler.bar(
        subset=bars, vmin=0, vmax=1, height=70, width=88, color="rgba(68, 119, 170, 0.5)"
    )
    return note_html(sentence, "plain") + str(styler.to_html())


def pool_warnings(settings: Settings, bn_layers: Mapping[str, int]) -> list[str]:
    """Return what is possible but may be unwanted, a sentence each.

    Args:
        settings: A usable pick.
        bn_layers: Number of BN layers of each network of the pool.
    """
    pool, primary, family = settings.teachers, settings.primary, family_of(settings.primary)
    found = [
        f"{name} has no BN layers: it can label, but as a BN teacher it gives no statistics."
        for name in settings.pool.bn
        if bn_layers[name] == 0
    ]
    related = [name for name in pool if name != primary and family_of(name) == family]
    if len(pool) == 1:
        found.append("The primary is alone: no other architecture brings statistics of its own.")
    elif related:
        found.append(
            f"Networks of the primary's family ({family}) share its architectural prior: "
            f"{', '.join(related)}."
        )
    for name in settings.feature_networks_used:
        same = [member for member in pool if architecture_of(member) == architecture_of(name)]
        if same:
            found.append(
                f"{name} measures diversity and {same[0]} of the pool has its architecture: images "
                "look better to a network that they were fitted to."
            )
    return found


def comparison_html(found: Comparison) -> str:
    """Return a comparison of networks as two heat maps with numbers, and what is missing in it."""
    parts = []
    if len(found.names) > 1:
        images = f"{found.images} real held-out images"
        parts += [
            _heat_map(found.names, found.cka, f"Linear CKA of features, {images} (1: equal)"),
            _heat_map(found.names, found.agreement, f"Equal top-1 classes, share of {images}"),
        ]
    elif not found.missing:
        parts.append(note_html("A comparison needs two networks; add one to the pool.", "note"))
    if found.missing:
        names = "; ".join(f"{name}: {reason}" for name, reason in found.missing.items())
        advice = "Train them with the cell below, then compare again."
        parts.append(note_html(f"Not compared: {names}. {advice}", "note"))
    return "".join(parts)


def _heat_map(names: Sequence[str], values: np.ndarray, title: str) -> str:
    """Return a square table of values in [0, 1]; the rows have numbers, the columns only those."""
    numbers = range(1, len(names) + 1)
    rows = [f"{n} {name}" for n, name in zip(numbers, names, strict=True)]
    styler = pd.DataFrame(values, index=rows, columns=numbers).style
    styler = styler.format("{:.2f}", na_rep="–").format_index(escape="html").set_caption(title)
    styler = styler.map(lambda value: f"background: rgba(68, 119, 170, {0.75 * value:.2f})")
    return str(styler.set_table_attributes('class="prism-heat"').to_html())
