"""The movie of a run's growing images: its columns, steps and classes, and what it refuses."""

from pathlib import Path

import pytest
from PIL import Image

from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.viz.movie import write_movie
from tests.helpers.synthesis_run import write_previews

UNIT = "images000-000_classes000-009"
TITLE = 42  # pixels above the images


@pytest.fixture
def previewed(run: Run) -> Run:
    """A run with previews of classes 3 and 4, whose grey level is the step."""
    write_previews(run, f"prism/{UNIT}", 0, 10, 20)
    write_previews(run, f"sre2l/{UNIT}", 0, 20)
    return run


def levels(path: Path) -> list[list[int]]:
    """Return the grey levels of the first image of each method, for each frame."""
    with Image.open(path) as movie:
        found = []
        for number in range(movie.n_frames):
            movie.seek(number)
            frame = movie.convert("L")
            second = next(
                x for x in range(frame.width // 2, 0, -1) if frame.getpixel((x, 60)) > 250
            )
            found.append([frame.getpixel((x, TITLE + 20)) for x in (20, second + 20)])
    return found


@pytest.mark.parametrize("ending", ["webp", "gif"])
def test_a_column_per_method_shows_its_latest_preview(
    previewed: Run, tmp_path: Path, ending: str
) -> None:
    path = write_movie(previewed, "", tmp_path / f"movie.{ending}")
    expected = [[0, 0], [10, 0], [20, 20]]
    for found, wanted in zip(levels(path), expected, strict=True):
        assert found == pytest.approx(wanted, abs=2)


def test_classes_are_chosen_and_the_file_is_in_figures(previewed: Run) -> None:
    beside = []  # the place of a second image
    for classes in ("", "four"):
        path = write_movie(previewed, classes)
        assert path == previewed.file("figures/growth.webp")
        with Image.open(path) as movie:
            beside.append(movie.convert("L").getpixel((90, TITLE + 20)))
    assert beside == pytest.approx([0, 255], abs=2)


@pytest.mark.parametrize(
    ("classes", "name", "message"),
    [
        ("five", None, "has no previews of five. A run keeps them"),
        ("tvelve", None, "no class 'tvelve'"),
        ("", Path("movie.mp4"), "a movie is .webp or .gif"),
    ],
)
def test_what_cannot_be_shown_is_said(
    previewed: Run, classes: str, name: Path | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write_movie(previewed, classes, name)


def test_a_run_without_previews_and_one_with_a_damaged_one_are_named(run: Run) -> None:
    with pytest.raises(UsageError, match="r has no previews. A run keeps them"):
        write_movie(run, "")
    write_previews(run, f"prism/{UNIT}", 0)
    run.file(f"previews/prism/{UNIT}/000000.png").write_bytes(b"no picture")
    with pytest.raises(PrismError, match="gone or damaged"):
        write_movie(run, "")
