"""Large sets are decoded once into a file, and are the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path
from prism_nb.data import distilled
from prism_nb.data.distilled import is_decoded, load_images
from prism_nb.data.registry import open_dataset
from prism_nb.execution import pipeline
from tests.helpers.image_sets import begin_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    return begin_run(tmp_path)


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "sets").glob("*.npy"))


def test_small_sets_are_held_in_memory(run: Run, tmp_path: Path) -> None:
    load_images(run, "random_real", open_dataset(run.settings))
    assert cached(tmp_path) == []


@pytest.mark.parametrize("name", ["random_real", "real"])
def test_large_sets_are_the_same_images_in_the_same_order(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(run.settings)

    def load() -> tuple[torch.Tensor, torch.Tensor]:
        return load_images(run, name, dataset)

    held, classes = load()
    monkeypatch.setattr(distilled, "MAX_DECODED_BYTES", 0)
    for _ in range(2):
        mapped, same = load()
        assert torch.equal(mapped, held)
        assert torch.equal(same, classes)
    (file,) = cached(tmp_path)
    assert np.array_equal(np.load(file, mmap_mode="r"), held.numpy())


def test_images_are_decoded_once_and_anew_where_they_have_changed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(run.settings)
    monkeypatch.setattr(distilled, "MAX_DECODED_BYTES", 0)
    assert not is_decoded(run, "random_real", dataset)
    load_images(run, "random_real", dataset)
    assert is_decoded(run, "random_real", dataset)
    path = run.file(image_path("random_real", 3, 1))
    content = path.read_bytes()
    path.unlink()
    load_images(run, "random_real", dataset)  # from the file, without a look at the images

    path.write_bytes(content)
    (unit,) = pipeline.stage_units(run, "synthesis")
    other = run.file(image_path("random_real", 4, 0)).read_bytes()
    path.write_bytes(other)
    run.units.finish(unit, paths=run.units.files(unit), record={})
    assert not is_decoded(run, "random_real", dataset)
    changed, _ = load_images(run, "random_real", dataset)
    assert torch.equal(changed[7], changed[8])
    assert len(cached(tmp_path)) == 2
