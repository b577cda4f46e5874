"""Real images from files: indexing many, and held-out ones decoded or read from their cache."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.image_folder import ImageFolder, folder_layout
from prism_nb.data.image_io import read_images
from prism_nb.data.index import open_index

_CLASSES, _FILES = 1000, 100
_HELD_OUT, _BATCH, _SIZE = 1024, 256, 224


def image_rows() -> list[dict[str, Any]]:
    """Time the index of 100,000 files and a pass over held-out photographs; print rows."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PRISM_CACHE"] = f"{folder}/cache"
        rows = [_index(Path(folder) / "many"), _held_out(Path(folder) / "photographs")]
    for row in rows:
        values = (f"{name} {value:.2f}" for name, value in row.items() if name != "case")
        print(f"{row['case']:<44}" + ", ".join(values))
    return rows


def _index(root: Path) -> dict[str, Any]:
    for c in range(_CLASSES):
        for split, count in (("train", _FILES - 10), ("val", 10)):
            place = root / split / f"n{c:08d}"
            place.mkdir(parents=True)
            for i in range(count):
                (place / f"{i:08d}.JPEG").write_bytes(b"x")
    _wait()
    source = DatasetConfig("folder", _SIZE, root)
    first, kept = (_seconds(lambda: open_index(source, folder_layout)) for _ in range(2))
    return {"case": f"index of {_CLASSES * _FILES} files", "scan_s": first, "kept_s": kept}


def _held_out(root: Path) -> dict[str, Any]:
    """Time passes over JPEG files of ImageNet's usual size, 500 x 375."""
    for split, count in (("train", 8), ("val", _HELD_OUT)):
        (root / split / "a").mkdir(parents=True)
        for i in range(count):
            _photograph(i).save(root / split / "a" / f"{i:05d}.jpg", quality=90)
    dataset = ImageFolder(DatasetConfig("folder", _SIZE, root))
    paths = sorted((root / "val" / "a").iterdir())
    decoding = _seconds(lambda: _pass(lambda rows: read_images([paths[i] for i in rows], _SIZE)))
    dataset.cache("val")
    kept = _seconds(lambda: _pass(lambda rows: dataset.images("val", rows)))
    rates = {"decoded_per_s": _HELD_OUT / decoding, "cached_per_s": _HELD_OUT / kept}
    return {"case": f"{_HELD_OUT} photographs", **rates, "speed": decoding / kept}


def _photograph(seed: int) -> Image.Image:
    """Return a smooth random picture with some grain, which packs about as photographs do."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.float32)
    grain = rng.normal(0, 6, smooth.shape)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def _pass(images: Callable[[range], object]) -> None:
    for start in range(0, _HELD_OUT, _BATCH):
        images(range(start, start + _BATCH))


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _wait() -> None:
    """Wait until the tree is old enough for its index to be cached."""
    time.sleep(3)
