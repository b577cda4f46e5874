"""The image inspector: what is known of an image, and pages whose images open it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from markupsafe import Markup
from PIL import Image
from torch import Tensor

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit
from prism_nb.data.distilled import load_subset
from prism_nb.data.image_io import DECODE_ERRORS
from prism_nb.data.registry import open_dataset
from prism_nb.diversity.predictions import Predictions, read_predictions
from prism_nb.execution.pipeline import class_count
from prism_nb.synthesis.init import initial_images_uint8
from prism_nb.viz.classes import class_label
from prism_nb.viz.html import (
    GAP,
    Deck,
    EncodedImage,
    encode_image,
    image_kind,
    picture_html,
    thumbnails,
    tile,
)
from prism_nb.viz.monitor import PreviewSequence, load_previews
from prism_nb.viz.style import short_names
from prism_nb.viz.tables import image_table, method_titles

PAGE_BYTES = 8_000_000  # of all images of a page's decks, about
_SHEETS = 3  # of a deck: images, initial images, nearest real images
_EXACT_SIDE = 32  # pixels up to which growth is kept as PNG

# Method, class and index of an image.
ImageKey = tuple[str, int, int]


@dataclass(frozen=True)
class ImageFacts:
    """What is on record of an image."""

    teachers: str  # BN teachers of its unit, separated by commas; empty where there are none
    # Loss by name: last logit and BN loss of its unit, and its own cross-entropy with its class for
    # every network, in nats
    losses: dict[str, float]
    # By network, its three likeliest classes and their probabilities, the likeliest first; class -1
    # is none of the dataset's
    top: dict[str, list[tuple[int, float]]]
    nearest: int | None  # index of the nearest training image of its class; None where unknown
    distance: float | None  # distance to that one, 0 to 2


_UNKNOWN = ImageFacts("", {}, {}, None, None)


def image_facts(
    run: Run, method: str, keys: Iterable[tuple[int, int]], network: str
) -> list[ImageFacts]:
    """Return what is on record of images of a method, or of `REFERENCE`.

    Args:
        run: The run.
        method: The method.
        keys: Class and index of each image; nothing is known of an index of IPC or above.
        network: Feature network of the nearest training images.
    """
    keys = list(keys)
    table = image_table(run, method, sorted({c for c, _ in keys})).set_index(
        ["class", "image_index"]
    )
    rows, predictions = table.to_dict("index"), read_predictions(run, method)
    marker = run.units.marker(diversity_unit(run, method, class_count(run)))
    spaces = marker["record"]["spaces"] if marker else {}
    nearest = spaces.get(network, {}).get("nearest_real", {})
    found = []
    for c, index in keys:
        if index >= run.settings.ipc:
            found.append(_UNKNOWN)
            continue
        place, row = c * run.settings.ipc + index, rows[c, index]
        names = {"logit loss": "logits, its unit", "BN loss": "BN statistics, its unit"}
        losses = {title: float(row[name]) for name, title in names.items()}
        losses |= {name: float(p.loss[place]) for name, p in predictions.items()}
        found.append(
            ImageFacts(
                teachers=row["teachers"] if isinstance(row["teachers"], str) else "",
                losses={name: value for name, value in losses.items() if math.isfinite(value)},
                top={name: _top(p, place) for name, p in predictions.items()},
                nearest=nearest["index"][place] if nearest else None,
                distance=nearest["distance"][place] if nearest else None,
            )
        )
    return found


def _top(predictions: Predictions, place: int) -> list[tuple[int, float]]:
    both = predictions.classes[place].tolist(), predictions.probabilities[place].tolist()
    return list(zip(*both, strict=True))


# -- decks -----------------------------------------------------------------------------------


def image_deck(
    run: Run,
    keys: Sequence[ImageKey],
    images: Tensor,
    *,
    network: str = "",
    before: Tensor | None = None,
    room: int = PAGE_BYTES,
) -> Deck:
    """Return images and what is known of them, as JSON for `inspector.js`.

    Args:
        run: The run.
        keys: The images, at least one.
        images: uint8 [n, 3, S, S].
        network: Feature network of the nearest training images; the first where empty.
        before: Their initial images; None: the first preview, where there is one.
        room: Bytes of the pictures, about; images are averaged down to fit.
    """
    networks = run.settings.feature_networks_used
    network = network or next(iter(networks), "")
    by_method: dict[str, list[int]] = {}
    for place, (method, _, _) in enumerate(keys):
        by_method.setdefault(method, []).append(place)
    facts: dict[int, ImageFacts] = {}
    for method, places in by_method.items():
        found = image_facts(run, method, [keys[place][1:] for place in places], network)
        facts |= dict(zip(places, found, strict=True))
    nearest = {n: row for row, n in enumerate(dict.fromkeys(_nearest(facts.values())))}
    sheets = {"images": images, "initial": before, "nearest": _real_images(run, nearest)}
    previews = {each.method: each for each in load_previews(run)}
    growth = {m: _growth(previews[m]) for m in by_method if m in previews}
    return {
        **{name: _sheet(each, room // _SHEETS) for name, each in sheets.items()},
        "growth": {method: frames for method, frames in growth.items() if frames},
        "items": [
            _item(run, key, facts[place], nearest, previews) for place, key in enumerate(keys)
        ],
    }


def _nearest(facts: Iterable[ImageFacts]) -> list[int]:
    return [each.nearest for each in facts if each.nearest is not None]


def _real_images(run: Run, indices: Mapping[int, int]) -> Tensor | None:
    """Return training images; None where there are none, or they cannot be read."""
    try:
        return open_dataset(run.settings).images("train", list(indices)) if indices else None
    except PrismError:
        return None


def _item(
    run: Run,
    key: ImageKey,
    facts: ImageFacts,
    nearest: Mapping[int, int],
    previews: Mapping[str, PreviewSequence],
) -> dict[str, Any]:
    """Return what the inspector shows of an image, as JSON."""
    method, c, index = key
    settings, classes = run.settings, open_dataset(run.settings).classes
    short, members = short_names([*facts.top]), list[tuple[int, int]]()
    if method in previews:
        members = list(previews[method].images)
    roles = dict.fromkeys(settings.teachers, "teacher") | {settings.primary: "primary"}
    top = [
        {
            "network": short[name],
            "role": roles.get(name, "holdout network"),
            "loss": round(facts.losses[name], 3),
            "classes": [
                [class_label(classes[k]) if k >= 0 else "another class", round(p, 4), k == c]
                for k, p in found
            ],
        }
        for name, found in facts.top.items()
    ]
    losses = [[name, f"{v:.4g}"] for name, v in facts.losses.items() if name not in facts.top]
    return {
        "title": f"{method_titles(run)[method]}, {class_label(classes[c])}, image {index}",
        "teachers": facts.teachers,
        "losses": losses,
        "top": sorted(top, key=lambda each: each["role"] == "holdout network"),
        "nearest": nearest.get(-1 if facts.nearest is None else facts.nearest),
        "distance": None if facts.distance is None else round(facts.distance, 4),
        "growth": [method, members.index((c, index))] if (c, index) in members else None,
    }


def _sheet(images: Tensor | None, room: int) -> dict[str, Any] | None:
    """Return images as one picture, with the place of its tiles; averaged down to fit in bytes."""
    if images is None or not len(images):
        return None
    size, count = images.shape[-1], len(images)
    is_small = 3 * count * size**2 <= room  # as PNG
    side = size if is_small else min(size - 1, max(8, math.isqrt(room // count)))
    columns = math.isqrt(count - 1) + 1
    picture = encode_image(tile(thumbnails(images, side), columns), image_kind(images, side))
    return {"src": picture.data_uri, "side": side, "pitch": side + GAP, "columns": columns}


def _growth(sequence: PreviewSequence) -> list[dict[str, Any]]:
    """Return a picture per previewed step; those that are gone are left out."""
    frames = []
    for step in sequence.preview_steps:
        try:
            with Image.open(sequence.folder / f"{step:06d}.png") as file:
                strip = file.convert("RGB")
        except DECODE_ERRORS:
            continue
        picture = encode_image(strip, "png" if strip.height <= _EXACT_SIDE else "jpeg")
        place = {"side": strip.height, "pitch": strip.height, "columns": len(sequence.images)}
        frames.append({"step": step, "src": picture.data_uri, **place})
    return frames


# -- pages -----------------------------------------------------------------------------------


def inspector_script() -> Markup:
    """Return the JavaScript that makes a page's images open the inspector."""
    file = resources.files("prism_nb.viz") / "templates" / "inspector.js"
    return Markup(file.read_text("utf-8"))  # noqa: S704 (the kit's own)


def deck_json(deck: Deck) -> Markup:
    """Return a deck as JSON for a script element."""
    return Markup(json.dumps(deck, ensure_ascii=False).replace("<", "\\u003c"))  # noqa: S704


def sheet_html(
    run: Run,
    method: str,
    sheet: EncodedImage,
    alt: str,
    *,
    network: str = "",
    room: int = PAGE_BYTES,
) -> Markup:
    """Return a contact sheet whose images open the inspector, on a page with its script.

    Arguments are those of `image_deck`; initial images are computed where they can be.
    """
    if not sheet.keys:
        return picture_html(sheet, alt)
    images = load_subset(run, method, open_dataset(run.settings), sheet.keys)
    keys = [(method, *key) for key in sheet.keys]
    before = initial_images(run, method, sheet.keys)
    deck = image_deck(run, keys, images, network=network, before=before, room=room)
    return Markup(
        '<div class="prism-deck"><script type="application/json">{}</script>'
        '<img src="{}" alt="{}" data-columns="{}" tabindex="0" role="button"></div>'
    ).format(deck_json(deck), sheet.data_uri, f"{alt}: click an image to open it", sheet.columns)


def initial_images(run: Run, method: str, keys: Sequence[tuple[int, int]]) -> Tensor | None:
    """Return initial images of a method, uint8 [n, 3, S, S].

    None for real and imported images and coresets, and where they cannot be computed.
    """
    if method == REFERENCE or run.settings.recipe_of(method).image_source != "optimized":
        return None
    try:
        return initial_images_uint8(run, method, keys)
    except PrismError:
        return None
