"""What people call a class whose folder is a WordNet id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from prism_nb.data.base import ClassInfo

_WNID = re.compile(r"n\d{8}")


def class_infos(folders: Sequence[str]) -> tuple[ClassInfo, ...]:
    """Return the classes of some folders, in order.

    A folder that is a WordNet id gets ImageNet's name, as timm lists them, where there is one;
    any other is called what it is.
    """
    return tuple(ClassInfo(i, folder, _name(folder)) for i, folder in enumerate(folders))


def imagenet_wnids() -> list[str]:
    """Return ImageNet-1K's thousand WordNet ids in the order of every published head."""
    from timm.data.imagenet_info import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())


def _name(folder: str) -> str:
    return _wordnet_names().get(folder, folder) if _WNID.fullmatch(folder) else folder


@lru_cache(maxsize=1)
def _wordnet_names() -> dict[str, str]:
    # Only where wnids occur: timm takes seconds to import.
    from timm.data.imagenet_info import ImageNetInfo

    names: dict[str, str] = {}
    for subset in ("imagenet-22k", "imagenet-1k"):  # the latter's words win
        info = ImageNetInfo(subset)
        for index, wnid in enumerate(info.label_names()):
            names[wnid] = info.index_to_description(index)
    return names
