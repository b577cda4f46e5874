"""Pictures of a batch at work: what is taken and kept, and that no image depends on it."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.synthesis import preview as taking
from prism_nb.viz.monitor import load_previews

SMALL: dict[str, Any] = {
    "teachers": ["test_resnet", "test_byobnet"],
    "holdout_networks": [],
    "feature_networks": ["test_byobnet"],
    "squeeze_epochs": 1,
    "methods": ["prism_intra", "random_real"],
    "ipc": 2,
    "batch_size": 10,
    "recipe": {"iterations": 9, "resample_every": 3},
}


def made(folder: Path, name: str, **changes: Any) -> Run:
    """Make a run's images; its teachers are taken over from the runs beside it."""
    run = open_run_module.open_run(
        run_name=name, preset="digits_quick", runs_dir=folder, changes={**SMALL, **changes}
    )
    pipeline.execute(run, "squeeze")
    pipeline.execute(run, "synthesis")
    return run


@pytest.fixture(scope="module")
def stat_networks(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(tmp_path_factory.mktemp("runs"), "watched", preview_every=4)


def hashes(run: Run) -> dict[str, str]:
    found = sorted(run.path.glob("synthesis/*/images/*/*.png"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_images_are_the_same_with_and_without_pictures(stat_networks: Run) -> None:
    alone = made(stat_networks.path.parent, "alone", preview_every=0)
    assert not (alone.path / "snapshots").exists()
    assert len(hashes(stat_networks)) == 20
    assert hashes(alone) == hashes(stat_networks)


def test_of_each_optimised_method_the_latest_unit_is_kept(stat_networks: Run) -> None:
    (film,) = load_previews(stat_networks)
    assert film.unit == "prism_intra/images001-001_classes000-009"
    assert film.taken == (0, 4, 8, 9)
    assert film.images == tuple((c, 1) for c in range(10))


def test_the_last_picture_shows_the_images_that_are_stored(stat_networks: Run) -> None:
    (film,) = load_previews(stat_networks)
    tiles = film.tiles(9)
    assert len(tiles) == 10
    for tile, (class_index, image_index) in zip(tiles, film.images, strict=True):
        path = stat_networks.file(image_path("prism_intra", class_index, image_index))
        assert pixels(tile) == pixels(path.read_bytes())


def pixels(png: bytes) -> bytes:
    with Image.open(BytesIO(png)) as image:
        return image.convert("RGB").tobytes()


def test_a_picture_is_named_with_the_teachers_that_led_to_it(stat_networks: Run) -> None:
    (film,) = load_previews(stat_networks)
    (unit,) = [u for u in pipeline.stage_units(stat_networks, "synthesis") if u.name == film.unit]
    bn_teachers = [
        tuple(bn_teachers) for bn_teachers in stat_networks.record(unit)["draws"]["bn_teachers"]
    ]
    assert len(bn_teachers) == 3
    # steps 1-3 by the first draw, 4-6 by the second, 7-9 by the third
    assert [film.teachers_at(step) for step in (0, 3, 4, 6, 7, 9)] == [
        *(
            bn_teachers[0],
            bn_teachers[0],
            bn_teachers[1],
            bn_teachers[1],
            bn_teachers[2],
            bn_teachers[2],
        )
    ]


def test_damaged_pictures_are_left_out(stat_networks: Run) -> None:
    (film,) = load_previews(stat_networks)
    (film.folder / "000004.png").write_bytes(b"no picture")
    assert film.tiles(4) == []
    assert film.tiles(5) == []
    (film.folder / "notes.png").write_bytes(b"")
    assert load_previews(stat_networks)[0].taken == film.taken
    for about in (b"[]", b"{}", b'{"unit": "a", "steps": 1, "images": [1], "resample_every": 1}'):
        fileio.write_bytes(film.folder / "about.json", about)
        assert load_previews(stat_networks) == []


class Space:
    """A dataset whose canonical pixels are bytes already."""

    def to_uint8(self, images: torch.Tensor) -> torch.Tensor:
        return images.round().to(torch.uint8)


def looker(folder: Path, *, every: int = 5, steps: int = 12, count: int = 20) -> Any:
    class Now:
        def submit(self, call: Any, *arguments: Any) -> None:
            call(*arguments)

    return taking._Looker(folder, Now(), Space(), every, steps, count)  # type: ignore[arg-type]


def test_the_first_every_nth_and_the_last_step(tmp_path: Path) -> None:
    look = looker(tmp_path)
    for step in range(13):
        look(step, [torch.zeros(3, 3, 8, 8)])
    assert sorted(path.stem for path in tmp_path.iterdir()) == [
        "000000",
        "000005",
        "000010",
        "000012",
    ]


def test_large_batches_and_images_are_shown_small(tmp_path: Path) -> None:
    groups = [torch.full((15, 3, 192, 192), float(value)) for value in (10, 20)]
    looker(tmp_path)(0, groups)
    with Image.open(tmp_path / "000000.png") as strip:
        shown = np.asarray(strip)
    assert shown.shape == (96, 20 * 96, 3)
    assert (shown[:, : 15 * 96] == 10).all()
    assert (shown[:, 15 * 96 :] == 20).all()


def test_a_full_disk_costs_the_picture_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise PrismError("cannot write")

    monkeypatch.setattr(fileio, "write_bytes", full)
    looker(tmp_path)(0, [torch.zeros(3, 3, 8, 8)])
    assert list(tmp_path.iterdir()) == []
