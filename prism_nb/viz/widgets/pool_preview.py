"""Preview of a pool of teachers: its networks, a step's draws and cost, and what it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from prism_nb.core.recipe import Recipe, TeacherPool
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.text import DASH, format_value
from prism_nb.core.unit_plan import network_unit
from prism_nb.core.units import is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.execution import pipeline
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
    """Describe a step of a method: a sentence, then shares by network of the pool.

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
    styler = styler.format_index(escape="html")
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


POOL_COLUMNS = ("", "network", "family", "BN layers / channels", "GFLOP", "top-1", "weights")


def pool_rows(run: Run, infos: Mapping[str, NetworkInfo]) -> dict[str, tuple[str, ...]]:
    """Return the texts of `POOL_COLUMNS` by network of a run's pool.

    GFLOP are those of a forward pass at the size of the run's images; top-1 is in %, on the
    held-out real images, of networks that the run has.
    """
    rows = dict[str, tuple[str, ...]]()
    for name, info in infos.items():
        marker = run.units.marker(network_unit(run.settings, name))
        accuracy = marker["record"].get("accuracy") if marker else None
        missing = "to fetch" if is_pretrained_name(name) else "to train"
        rows[name] = (
            "★" if name == run.settings.primary else "",
            *(name, family_of(name), f"{info.bn_layers} / {info.bn_channels:,}"),
            f"{info.flops / 1e9:.4f}",
            DASH if accuracy is None else f"{100 * accuracy:.1f}",
            "here" if marker else missing,
        )
    return rows


def changes_text(old: Settings, new: Settings) -> str:
    """Return which settings and fields of recipes differ, old → new; empty if none do."""
    before, after = old.plain(), new.plain()
    for method in new.methods:
        for values, settings in ((before, old), (after, new)):
            recipe = settings.recipe_of(method).model_dump(mode="json")
            values |= {f"{method}: {field}": value for field, value in recipe.items()}
    names = [n for n in after if n != "recipes" and before.get(n) != after[n]]
    return "; ".join(f"{n} {_change(before.get(n), after[n])}" for n in names)


def _change(old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list):
        entries = [f"+ {entry}" for entry in new if entry not in old]
        entries += [f"− {entry}" for entry in old if entry not in new]
        return ", ".join(entries) or "in another order"
    return f"{format_value(old)} → {format_value(new)}"


def work_texts(run: Run) -> list[str]:
    """Return what a run has of the teachers and of later stages, and what has to be made."""
    plan = pipeline.plan(run, "squeeze", verify_hashes=False)
    taken = [unit.name for unit in plan.reusable]
    made = [unit.name for unit in plan.to_make]
    kept = f"{plan.counts['done']} kept"
    of_units = {"to train": made, "taken over from another run": taken}
    parts = [
        f"{len(names)} {what} ({', '.join(names)})" for what, names in of_units.items() if names
    ]
    later = []
    for stage in [*pipeline.STAGES][1:]:
        found = pipeline.state(run, stage, verify_hashes=False)
        anew = found.missing - found.counts["missing"]
        text = f"{stage} {found.counts['done']} kept, {found.counts['missing']} to make"
        later.append(text + (f", {anew} to make anew" if anew else ""))
    return [f"Networks: {', '.join([kept, *parts])}.", f"Later stages: {'; '.join(later)}."]


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
        advice = "Train them, then compare again."
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
