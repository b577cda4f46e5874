"""The kept pictures of batches as they grew."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from prism_nb import files
from prism_nb.data.decode import DAMAGE
from prism_nb.run import Run
from prism_nb.teachers.selection import Draws


@dataclass(frozen=True)
class Film:
    """The pictures of one unit.

    Attributes:
        folder: Where they lie.
        unit: The unit's name.
        steps: Steps of its schedule.
        images: Class index and slot of each image of a picture, from left to right.
        draws: Who steers the unit.
        taken: The steps of which there is a picture, ascending.
        size: Side of the run's images, in pixels; none of a picture is larger.
    """

    folder: Path
    unit: str
    steps: int
    images: tuple[tuple[int, int], ...]
    draws: Draws
    taken: tuple[int, ...]
    size: int

    def tiles(self, step: int) -> list[bytes]:
        """Return each image of a picture as PNG; none where the picture is gone or damaged."""
        try:
            with Image.open(self.folder / f"{step:06d}.png") as strip:
                side = strip.height
                if side > self.size or strip.width != side * len(self.images):
                    return []
                places = range(0, strip.width, side)
                return [_png(strip.crop((left, 0, left + side, side))) for left in places]
        except DAMAGE:
            return []

    def teachers_at(self, step: int) -> tuple[str, ...]:
        """Return the BN teachers of the step that led to a picture; of the first, before it."""
        return self.draws.at(max(0, step - 1))

    def speakers_at(self, step: int) -> tuple[str, ...]:
        """Return the networks whose logits counted in that step."""
        return self.draws.logits_at(max(0, step - 1))


def films(run: Run) -> list[Film]:
    """Return the films that a run holds, one per method at most, the latest first."""
    size = run.settings.image_size
    abouts = run.path.glob("snapshots/*/*/about.json")
    found = [film for about in abouts if (film := _film(about, size)) is not None]
    return sorted(found, key=_age)


def _age(film: Film) -> float:
    try:
        return -film.folder.stat().st_mtime
    except OSError:
        return 0.0


def _film(about: Path, size: int) -> Film | None:
    """Return a film that has a picture and says what it shows."""
    values: dict[str, Any] = files.read_record(about)
    taken = sorted(int(p.stem) for p in about.parent.glob("*.png") if p.stem.isdecimal())
    try:
        teams = tuple(tuple(map(str, team)) for team in values["teams"])
        images = tuple((int(c), int(slot)) for c, slot in values["images"])
        draws = Draws(int(values["every"]), teams, tuple(values["speakers"]))
        unit, steps = str(values["unit"]), int(values["steps"])
    except (KeyError, TypeError, ValueError):
        return None
    if not taken or not teams or draws.every < 1:
        return None
    return Film(about.parent, unit, steps, images, draws, tuple(taken), size)


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()
