"""What a pick of teachers means: networks per step, their cost, and who is drawn how often."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from prism_nb.catalogue import family_of
from prism_nb.settings import Settings
from prism_nb.teachers.chances import Chances, chances
from prism_nb.teachers.comparison import Comparison
from prism_nb.teachers.inspection import NetworkFacts, inspect_network
from prism_nb.teachers.networks import architecture_of
from prism_nb.teachers.shapes import shapes_of
from prism_nb.teachers.sources import find_source
from prism_nb.units import has_weights
from prism_nb.widgets.style import said


def facts_of(name: str, *, classes: int, image_size: int) -> NetworkFacts:
    """Return a network's numbers at the size at which a run shows it images; it is not computed.

    Args:
        name: With or without weights.
        classes: Of the dataset.
        image_size: Of the dataset's images; weights may ask for another.

    Raises:
        UsageError: No such network.
    """
    space = find_source(name).space if has_weights(name) else None
    return _counted(architecture_of(name), classes, space.size if space else image_size)


@lru_cache(maxsize=512)
def _counted(architecture: str, classes: int, image_size: int) -> NetworkFacts:
    network = shapes_of(architecture, classes=classes, image_size=image_size)
    return inspect_network(architecture, network, image_size=image_size)


def step_costs(found: Chances, facts: Mapping[str, NetworkFacts]) -> dict[str, float]:
    """Return the expected operations of each network in a step, per image and forward pass.

    A network without BN layers is not run for its statistics, only for logits.
    """
    flops = {name: facts[name].flops for name in found.runs}
    return {
        name: cost if facts[name].bn_layers else found.speaks.get(name, 0.0) * flops[name]
        for name, cost in found.flops(flops).items()
    }


def preview_html(settings: Settings, method: str, facts: Mapping[str, NetworkFacts]) -> str:
    """Describe the steps of a method: sentences, then a line per network."""
    recipe = settings.recipe_of(method).at_slot(0)
    found = chances(recipe, settings.primary, settings.teachers)
    costs = step_costs(found, facts)
    alone = facts[settings.primary].flops
    sizes = ", ".join(
        f"{size} in {100 * chance:.1f} %" for size, chance in sorted(found.sizes.items())
    )
    sentences = [
        f"A step of {method} aligns {found.teachers:.2f} networks on average ({sizes} of the "
        f"steps) and runs {found.networks:.2f}.",
        f"It costs {sum(costs.values()) / alone:.2f} times a step with the primary alone: forward "
        "and backward passes, counted in convolutions and matrix products.",
    ]
    rows = [_row(name, settings, found, costs, facts[name]) for name in settings.teachers]
    return "".join(said(text, "plain") for text in sentences) + _table(rows)


def _row(
    name: str,
    settings: Settings,
    found: Chances,
    costs: Mapping[str, float],
    facts: NetworkFacts,
) -> list[str]:
    share = costs.get(name, 0.0) / sum(costs.values())
    aligned = found.aligned.get(name, 0.0)
    return [
        html.escape(name),
        family_of(name),
        f"{facts.bn_layers} / {facts.bn_channels:,}",
        f"{facts.flops / 1e9:.3g}",
        f"{100 * found.speaks.get(name, 0.0):.0f} %",
        f"{_bar(aligned)} {100 * aligned:.1f} %",
        f"{_bar(share)} {100 * share:.1f} %",
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = (
        "network",
        "family",
        "BN layers / channels",
        "GFLOP",
        "logits in",
        "aligns BN in",
        "share of cost",
    )
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"


def _bar(share: float) -> str:
    return f'<span class="prism-bar" style="width:{round(40 * share)}px"></span>'


def comparison_html(found: Comparison) -> str:
    """Draw two heat maps with their numbers; what could not be compared is named with a reason."""
    parts = []
    if len(found.names) > 1:
        count = f"{found.images} real held-out images"
        parts += [
            _heat(found.names, found.cka, f"Linear CKA of features, {count} (1: the same space)"),
            _heat(found.names, found.agreement, f"Equal top-1 classes, share of {count}"),
        ]
    elif not found.missing:
        parts.append(said("Two networks are needed for a comparison; add one to the pool.", "note"))
    if found.missing:
        names = "; ".join(f"{name}: {reason}" for name, reason in found.missing.items())
        advice = "Train them with the cell below, then compare again."
        parts.append(said(f"Not compared: {names}. {advice}", "note"))
    return "".join(parts)


def _heat(names: Sequence[str], values: np.ndarray, title: str) -> str:
    numbers = "".join(f'<th scope="col">{place + 1}</th>' for place in range(len(names)))
    rows = "".join(
        f'<tr><th scope="row">{place + 1} {html.escape(name)}</th>'
        + "".join(map(_cell, values[place]))
        + "</tr>"
        for place, name in enumerate(names)
    )
    caption = f"<caption>{html.escape(title)}</caption>"
    return f'<table class="prism-heat">{caption}<tr><th></th>{numbers}</tr>{rows}</table>'


def _cell(value: float) -> str:
    if np.isnan(value):
        return "<td>–</td>"
    return f'<td style="background:rgba(68,119,170,{0.75 * value:.2f})">{value:.2f}</td>'
