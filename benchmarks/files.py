"""Files of images and labels: the seconds to index, decode, encode, write and read them."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from benchmarks.common import seconds_of
from prism_nb.core import fileio
from prism_nb.data.augment import sample_epoch_params
from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.image_folder import ImageFolder, folder_layout
from prism_nb.data.image_io import read_images
from prism_nb.data.index import open_index
from prism_nb.evaluation.label_store import decode, encode

_SIZE, _CLASSES = 224, 1000
_FILES = {"train": 90, "val": 10}  # of each class, to index
_HELD_OUT, _BATCH = 1024, 256
_LABELLED, _TOP_K, _ROUNDS = 10_000, 10, 5


def image_rows() -> list[dict[str, Any]]:
    """Time the index of 100,000 files, and passes over held-out photographs."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PRISM_CACHE"] = f"{folder}/cache"
        return [*_index_rows(Path(folder) / "many"), *_decode_rows(Path(folder) / "photographs")]


def _index_rows(root: Path) -> list[dict[str, Any]]:
    for c in range(_CLASSES):
        for split, count in _FILES.items():
            folder = root / split / f"n{c:08d}"
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i:08d}.JPEG").write_bytes(b"x")
    source = DatasetConfig("folder", _SIZE, root)
    return [
        {"what": what, "seconds": seconds_of(lambda: open_index(source, folder_layout))}
        for what in ("index made", "index read from its cache")
    ]


def _decode_rows(root: Path) -> list[dict[str, Any]]:
    """Time passes over JPEG files of ImageNet's usual size, 500 x 375."""
    for split, count in (("train", 8), ("val", _HELD_OUT)):
        (root / split / "a").mkdir(parents=True)
        for i in range(count):
            _photograph(i).save(root / split / "a" / f"{i:05d}.jpg", quality=90)
    dataset = ImageFolder(DatasetConfig("folder", _SIZE, root))
    paths = sorted((root / "val" / "a").iterdir())
    decoding = _pass_seconds(lambda rows: read_images([paths[i] for i in rows], _SIZE))
    dataset.cache("val")
    cached = _pass_seconds(lambda rows: dataset.images("val", rows))
    return [
        {"what": what, "seconds": seconds, "per_second": _HELD_OUT / seconds}
        for what, seconds in (("photographs decoded", decoding), ("read from cache", cached))
    ]


def _photograph(seed: int) -> Image.Image:
    """Return a smooth random picture with some grain, which compresses about as photographs do."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.float32)
    grain = rng.normal(0, 6, smooth.shape)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def _pass_seconds(images: Callable[[range], object]) -> float:
    starts = range(0, _HELD_OUT, _BATCH)
    return seconds_of(lambda: [images(range(start, start + _BATCH)) for start in starts])


def label_rows() -> list[dict[str, Any]]:
    """Time one epoch of ImageNet-1K's labels: views drawn, logits written and read by format."""
    logits = torch.randn(_LABELLED, _CLASSES)
    rows: list[dict[str, Any]] = [{"what": "views drawn", "write_seconds": _median(_draw_views)}]
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("fp32", "fp16", "int8", "top_k"):
            path = Path(folder) / kind

            def write(kind: str = kind, path: Path = path) -> None:
                content = safetensors.torch.save(encode(logits, kind, top_k=_TOP_K))
                fileio.write_bytes(path, content)

            def read(path: Path = path) -> None:
                decode(safetensors.torch.load_file(path), _CLASSES)

            row = {"what": kind, "write_seconds": _median(write), "read_seconds": _median(read)}
            rows.append({**row, "bytes": path.stat().st_size})
    return rows


def _draw_views() -> None:
    generator = torch.Generator().manual_seed(0)
    options = {"crop_min": 0.25, "flip": True, "mix": "cutmix"}
    sample_epoch_params(_LABELLED, _SIZE, **options, generator=generator)


def _median(action: Callable[[], None]) -> float:
    return statistics.median(seconds_of(action) for _ in range(_ROUNDS))
