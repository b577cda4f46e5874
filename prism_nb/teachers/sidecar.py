"""What a file beside a local checkpoint says of it: how it wants its pixels, and its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prism_nb.strict import Strict, read_mapping
from prism_nb.teachers.teacher import PixelSpace

_Mean = Annotated[float, Field(ge=0, le=1)]
_Std = Annotated[float, Field(gt=0, le=1)]


class Sidecar(Strict):
    """Facts about the weights in a file of the same stem, in YAML."""

    mean: tuple[_Mean, _Mean, _Mean] = Field(description="taken from each channel of [0, 1] values")
    std: tuple[_Std, _Std, _Std] = Field(description="what each channel is divided by then")
    size: int = Field(ge=8, le=2048, description="side of the square input, in pixels")
    interpolation: Literal["bilinear", "bicubic"] = Field(
        description="how images of other sizes are brought to it"
    )
    classes: tuple[str, ...] | None = Field(
        None, description="folder names of its classes, in the order of the head"
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        names = self.classes
        if names is None:
            return self
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"classes: {', '.join(doubled)} is named twice")
        if len(names) < 2:
            raise ValueError("classes: name all of the head's, at least two; or leave it out")
        return self

    @property
    def space(self) -> PixelSpace:
        """How the network wants its pixels."""
        return PixelSpace(self.mean, self.std, self.size, self.interpolation)


def sidecar_path(weights: Path) -> Path:
    """Return where a weights file's description would stand."""
    return weights.with_suffix(".yaml")


def read_sidecar(weights: Path) -> Sidecar | None:
    """Return what stands beside a weights file, in a .yaml of the same stem; None if nothing does.

    Raises:
        UsageError: It is no such file; what is wrong in it is named.
    """
    path = sidecar_path(weights)
    if not path.is_file():
        return None
    where = f"{path} (beside {weights.name})"
    return Sidecar.parse(read_mapping(path, where=where), where=where)
