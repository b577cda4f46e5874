"""The catalogue: every network with batch norm that torchvision and timm have, as data."""

from prism_nb.catalogue.entries import SORTS, Entry, entry_of, filtered, read_catalogue
from prism_nb.catalogue.family import family_of

__all__ = ["SORTS", "Entry", "entry_of", "family_of", "filtered", "read_catalogue"]
