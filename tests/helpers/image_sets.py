"""Sets of images that the tests of import and export read and write."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prism_nb.core.run import Run
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline

SIZE = 16
SETTINGS: dict[str, Any] = {
    "methods": ["random_real"],
    "teachers": ["test_resnet"],
    "image_size": SIZE,
    "device": "cpu",
}


def picture(number: int, *, size: int = SIZE, kind: str = "PNG") -> bytes:
    """Return the file of a random image that its number decides."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def pixels_of(content: bytes) -> torch.Tensor:
    """Return the pixels of an image file, uint8 [3, H, W], read without the kit."""
    with Image.open(BytesIO(content)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def write_set(folder: Path, name: str, *, ipc: int = 2, classes: int = 10) -> Path:
    """Write a set of random images; `name` is formatted with the class and the image index."""
    for index in range(classes):
        for image_index in range(ipc):
            path = folder / name.format(c=index, s=image_index)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(100 * index + image_index))
    return folder


def begin_run(runs_dir: Path, name: str = "a", **changes: Any) -> Run:
    """Begin a run of random real images, which needs no network, and make them."""
    values = {**SETTINGS, "ipc": 2, **changes}
    run = open_run_module.open_run(
        run_name=name, preset="digits_quick", runs_dir=runs_dir, changes=values
    )
    pipeline.execute_units(run, "synthesis", pipeline.stage_units(run, "synthesis"))
    return run


def pixel_hashes(run: Run, method: str) -> dict[str, str]:
    """Return the hash of every image's pixels by its path, read without the kit."""
    folder = run.path / "synthesis" / method / "images"
    return {
        path.relative_to(folder).as_posix(): hash_of(path.read_bytes())
        for path in sorted(folder.rglob("*.png"))
    }


def hash_of(content: bytes) -> str:
    """Return the hash of the pixels of an image file."""
    with Image.open(BytesIO(content)) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
