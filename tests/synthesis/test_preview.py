"""Previews: which steps are kept, and that no image depends on them."""

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path
from prism_nb.execution import pipeline
from prism_nb.synthesis.preview import preview_writer
from prism_nb.synthesis.teacher_sampling import TeacherSchedule
from prism_nb.viz.monitor import load_previews
from tests.helpers.small_run import image_hashes, squeezed_run


def made(folder: Path, name: str, **changes: Any) -> Run:
    run = squeezed_run(folder, name, **changes)
    pipeline.execute(run, "synthesis")
    return run


@pytest.fixture(scope="module")
def previewed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(tmp_path_factory.mktemp("runs"), "previewed", preview_every=4)


def test_images_are_the_same_with_and_without_pictures(previewed: Run) -> None:
    alone = made(previewed.path.parent, "alone", preview_every=0)
    assert not (alone.path / "previews").exists()
    assert len(image_hashes(previewed)) == 20
    assert image_hashes(alone) == image_hashes(previewed)


def test_of_each_optimised_method_the_latest_unit_is_kept(previewed: Run) -> None:
    (sequence,) = load_previews(previewed)
    assert sequence.unit == "prism_intra/images001-001_classes000-009"
    assert sequence.preview_steps == (0, 4, 8, 9)
    assert sequence.images == tuple((c, 1) for c in range(10))


def test_the_last_picture_shows_the_images_that_are_stored(previewed: Run) -> None:
    (sequence,) = load_previews(previewed)
    tiles = sequence.tiles(9)
    assert len(tiles) == 10
    for tile, (class_index, image_index) in zip(tiles, sequence.images, strict=True):
        path = previewed.file(image_path("prism_intra", class_index, image_index))
        assert pixels(tile) == pixels(path.read_bytes())


def pixels(png: bytes) -> bytes:
    with Image.open(BytesIO(png)) as image:
        return image.convert("RGB").tobytes()


def test_a_preview_has_the_teachers_that_led_to_it(previewed: Run) -> None:
    (sequence,) = load_previews(previewed)
    (unit,) = [u for u in pipeline.stage_units(previewed, "synthesis") if u.name == sequence.unit]
    draws = map(tuple, previewed.units.record(unit)["draws"]["bn_teachers"])
    assert [sequence.teachers_at(step) for step in (3, 6, 9)] == list(draws)


class Still:
    """Images that are not optimized."""

    def __init__(self, groups: list[torch.Tensor], steps: int = 12) -> None:
        self.images, self.step, self.total_steps = torch.cat(groups), 0, steps


def write_first(previewed: Run, still: Still) -> None:
    """Write the preview of the first step into a run of its own."""
    settings = load_settings("digits_quick", {"preview_every": 5})
    run, schedule = Run(previewed.path.parent / "other", settings), TeacherSchedule(1, (("a",),))
    (unit, *_) = pipeline.stage_units(previewed, "synthesis")
    with preview_writer(run, unit, schedule, still):  # type: ignore[arg-type]
        pass


def names_of(previewed: Run) -> list[str]:
    return sorted(p.stem for p in (previewed.path.parent / "other").rglob("*.png"))


def test_large_batches_and_images_are_shrunk(previewed: Run) -> None:
    write_first(previewed, Still([torch.full((15, 3, 192, 192), value) for value in (-9.0, 9.0)]))
    (path,) = (previewed.path.parent / "other").rglob("000000.png")
    with Image.open(path) as strip:
        shown = np.asarray(strip)
    assert shown.shape == (96, 20 * 96, 3)
    assert (shown[:, : 15 * 96] == 0).all()
    assert (shown[:, 15 * 96 :] == 255).all()


def test_a_full_disk_costs_the_preview_alone(
    previewed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise PrismError("cannot write")

    monkeypatch.setattr(fileio, "write_bytes", full)
    shutil.rmtree(previewed.path.parent / "other", ignore_errors=True)
    write_first(previewed, Still([torch.zeros(3, 3, 8, 8)]))
    assert names_of(previewed) == []
