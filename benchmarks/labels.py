"""One epoch of labels at ImageNet-1K's size: written and read in every form, views drawn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import safetensors.torch
import torch

from prism_nb.core import fileio
from prism_nb.data.augment import sample_epoch_params
from prism_nb.evaluation.label_store import decode, encode

_COUNT, _CLASSES, _SIZE, _TOP_K, _ROUNDS = 10_000, 1000, 224, 10, 5
_KINDS = ("fp32", "fp16", "int8", "top_k")


def label_rows() -> list[dict[str, Any]]:
    """Return seconds to draw an epoch's views, and to write and read its logits, by form."""
    logits = torch.randn(_COUNT, _CLASSES)
    drawn = _seconds(_draw)
    print(f"views of {_COUNT} images drawn in {drawn:.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return [
            {"views_seconds": drawn},
            *(_row(kind, logits, Path(folder) / f"{kind}.safetensors") for kind in _KINDS),
        ]


def _draw() -> None:
    generator = torch.Generator().manual_seed(0)
    sample_epoch_params(_COUNT, _SIZE, crop_min=0.25, flip=True, mix="cutmix", generator=generator)


def _row(kind: str, logits: torch.Tensor, path: Path) -> dict[str, Any]:
    def write() -> None:
        fileio.write_bytes(path, safetensors.torch.save(encode(logits, kind, top_k=_TOP_K)))

    def read() -> None:
        decode(safetensors.torch.load_file(path), _CLASSES)

    row = {"form": kind, "write_seconds": _seconds(write), "bytes": path.stat().st_size}
    row["read_seconds"] = _seconds(read)
    print(
        f"{kind:<6} {row['bytes'] / 1e6:6.1f} MB  written in {row['write_seconds']:.2f} s, "
        f"read in {row['read_seconds']:.3f} s",
        flush=True,
    )
    return row


def _seconds(action: Callable[[], None]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return median(taken)
