"""The measures by name: what they are called, which way is better, and what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from prism_nb.diversity.manifold import NEIGHBOURS

_WORDS = {
    "images": "images per class",
    "real": "real training images per class beside the reference",
    "set": "images in all",
    "real_set": "real training images in all beside the reference",
    "teachers": "teachers in the pool",
}


@dataclass(frozen=True)
class Measure:
    """One measure of a set of images.

    Attributes:
        name: Its name in records.
        title: Its name in tables.
        better: ↓ where lower is better, ↑ where higher; empty where it is read beside the real
            images' value.
        percent: Whether it is a share, shown in percent.
        needs: How many there must be of what, for it to be defined.
    """

    name: str
    title: str
    better: Literal["↓", "↑", ""] = ""
    percent: bool = False
    needs: Mapping[str, int] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """Title, unit and arrow, for the head of a table's column."""
        return " ".join(filter(None, [self.title, "%" if self.percent else "", self.better]))

    def lacks(self, there: Mapping[str, int]) -> str:
        """Say in words why the measure is undefined.

        Args:
            there: How many there are of what.
        """
        for what, least in self.needs.items():
            if there[what] < least:
                return f"needs {least} {_WORDS[what]}, and the number here is {there[what]}"
        return "a network's outputs are not finite, or features are all zero"


_PAIR = {"images": 2}
_MANIFOLD = {"real": NEIGHBOURS + 1}
_TEACHERS = {"teachers": 2}

_SPREAD = (
    Measure("cosine", "intra-class cosine", "↓", needs=_PAIR),
    Measure("centroid_cosine", "cosine to centroid", "↓", needs=_PAIR),
    Measure("vendi", "Vendi score", "↑", needs=_PAIR),
    Measure("vendi_per_image", "Vendi / n", "↑", needs=_PAIR),
    Measure("radius", "radius", needs=_PAIR),
    Measure("nearest_within", "nearest in class", "↑", needs=_PAIR),
    Measure("density", "density", needs=_MANIFOLD),
    Measure("coverage", "coverage", "↑", needs=_MANIFOLD),
    Measure("nearest_real", "nearest training image", needs={"real": 1}),
)
_FIDELITY = (
    Measure("recognised", "recognised", "↑", percent=True),
    Measure("confidence", "confidence", "↑", percent=True),
)
OF_TEACHERS = (
    Measure("all_agree", "all teachers agree", percent=True, needs=_TEACHERS),
    Measure("pairs_agree", "pairs agree", percent=True, needs=_TEACHERS),
    Measure("divergence", "divergence (nats)", needs=_TEACHERS),
)
KID = Measure("kid", "KID", "↓", needs={"set": 2, "real_set": 2})
OF_CLASSES = (*_SPREAD, *_FIDELITY)
IN_SPACE = (*_SPREAD, KID, *_FIDELITY)
MEASURES = {measure.name: measure for measure in (*IN_SPACE, *OF_TEACHERS)}
