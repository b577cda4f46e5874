"""Small image trees for the tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

LONG_AGO = 1_600_000_000


def picture(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return a random image of a mode."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(noise.squeeze(2) if channels == 1 else noise, mode)


def photograph(seed: int, side: int, theme: int = 0) -> Image.Image:
    """Return a smooth random image; a theme gives it a colour and waves of a width."""
    rng = np.random.default_rng([seed, theme])
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=float)
    x, y = np.meshgrid(*[np.linspace(0, 2 * np.pi, side)] * 2)
    angle = rng.uniform(0, np.pi)
    waves = np.sin((theme + 1) * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    colour = np.random.default_rng(theme).uniform(-1, 1, 3)
    return Image.fromarray(np.clip(pixels + 90 * waves[..., None] * colour, 0, 255).astype("uint8"))


def make_tree(
    root: Path,
    classes: Sequence[str] = ("ape", "bee"),
    *,
    held_out: str = "val",
    train: int = 3,
    val: int = 2,
    side: int = 20,
) -> Path:
    """Write `train/<class>/*.png` and a held-out folder, a different image each."""
    for split, count in (("train", train), (held_out, val)):
        for c, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed = 1000 * c + i + (500 if split != "train" else 0)
                picture(seed, side + i, side).save(folder / f"{name}_{i}.png")
    age(root)
    return root


def age(root: Path) -> None:
    """Give every folder and file of a tree an old time, as if nothing had changed for long."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            os.utime(Path(folder) / name, (LONG_AGO, LONG_AGO))
        os.utime(folder, (LONG_AGO, LONG_AGO))
