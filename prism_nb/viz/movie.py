"""The growth of a class's images as a moving picture, from the previews that a run keeps."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.viz.classes import parse_class_selection
from prism_nb.viz.html import tile
from prism_nb.viz.monitor import PreviewSequence, load_previews
from prism_nb.viz.tables import method_titles

FORMATS = (".webp", ".gif")
_FRAME_MS, _LAST_MS = 400, 2500  # of a frame, and of the last
_SIDE = 64  # pixels of an image, about
_HEAD, _GAP, _MIN_WIDTH = 42, 16, 130  # pixels
_ACROSS = 5  # images in a row


def write_movie(run: Run, classes: str, path: Path | None = None) -> Path:
    """Write the growth of the images of some classes, a column per method, and return its path.

    Args:
        run: The run.
        classes: Names or numbers of classes, as in the gallery; empty: all that have previews.
        path: A `.webp` or `.gif` file; None: one in the run's `figures/`.

    Raises:
        PrismError: There are no previews of these classes, or the file's ending is another.
    """
    path = path or run.file(f"figures/growth{FORMATS[0]}")
    if path.suffix not in FORMATS:
        raise UsageError(f"{path}: a movie is {' or '.join(FORMATS)}; change the file's ending")
    frames = movie_frames(run, classes)
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
    options = {"quality": 70, "method": 6} if path.suffix == ".webp" else {"optimize": True}
    file = BytesIO()
    frames[0].save(
        file,
        path.suffix[1:],
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        **options,
    )
    fileio.write_bytes(path, file.getvalue())
    return path


def movie_frames(run: Run, classes: str) -> list[Image.Image]:
    """Return the pictures of a movie, one per previewed step; see `write_movie`."""
    chosen = set(parse_class_selection(classes, open_dataset(run.settings).classes))
    found: dict[str, tuple[PreviewSequence, list[int]]] = {}
    for sequence in load_previews(run):
        places = [i for i, (c, _) in enumerate(sequence.images) if c in chosen]
        if places:
            found[sequence.method] = (sequence, places)
    if not found:
        raise UsageError(
            f"{run.path} has no previews{f' of {classes}' if classes else ''}. A run keeps them of "
            "the latest optimized unit of each method, unless preview_every is 0"
        )
    columns = [
        (title, *found[method]) for method, title in method_titles(run).items() if method in found
    ]
    steps = sorted({step for _, sequence, _ in columns for step in sequence.preview_steps})
    return [_side_by_side([_column(*column, step) for column in columns]) for step in steps]


def _column(title: str, sequence: PreviewSequence, places: list[int], step: int) -> Image.Image:
    """Return a method's images at a step, or the last preview before it, below its title."""
    at = max((s for s in sequence.preview_steps if s <= step), default=sequence.preview_steps[0])
    tiles = sequence.tiles(at)
    if not tiles:
        raise PrismError(f"a preview of {sequence.unit} is gone or damaged: {sequence.folder}")
    images = [Image.open(BytesIO(tiles[place])) for place in places]
    side = max(1, _SIDE // images[0].width) * images[0].width
    enlarged = [image.resize((side, side), Image.Resampling.NEAREST) for image in images]
    grid = tile(enlarged, min(_ACROSS, len(images)))
    column = Image.new("RGB", (max(grid.width, _MIN_WIDTH), grid.height + _HEAD), "white")
    draw = ImageDraw.Draw(column)
    draw.text((2, 2), title, fill="black", font=ImageFont.load_default(16))
    subtitle = f"step {at} of {sequence.steps}"
    draw.text((2, 22), subtitle, fill="#68717b", font=ImageFont.load_default(12))
    column.paste(grid, (0, _HEAD))
    return column


def _side_by_side(columns: list[Image.Image]) -> Image.Image:
    width = sum(column.width for column in columns) + _GAP * (len(columns) - 1)
    picture = Image.new("RGB", (width, max(column.height for column in columns)), "white")
    left = 0
    for column in columns:
        picture.paste(column, (left, 0))
        left += column.width + _GAP
    return picture
