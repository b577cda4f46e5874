"""Making an index once, and knowing whether the kept one still holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from prism_nb.config import default_cache_dir, digest
from prism_nb.data.base import Split
from prism_nb.data.decode import DamagedImageError, read_image
from prism_nb.data.index import (
    SPLITS,
    Index,
    SplitIndex,
    index_places,
    load_index,
    make_index,
    save_index,
)
from prism_nb.data.layout import Layout
from prism_nb.data.scan import scan_places
from prism_nb.data.source import Source

_FORMAT = 1  # of the kept index; another number makes all of them anew
_SETTLED = 2.0  # seconds: a folder changed more lately may change again within one tick of its time
_AT_ONCE = 10_000  # images whose decoding is waited for; a million waiting ones take gigabytes
LayoutOf = Callable[[Path, Sequence[str]], Layout]


def open_index(source: Source, layout_of: LayoutOf) -> Index:
    """Return the index of a dataset's folder: the kept one where it still holds, else a new one.

    It is kept in `<cache>/index`, outside of the dataset. It holds as long as no folder that it
    was made from has another modification time, which any file added, removed or renamed gives
    its folder. A file that is overwritten in place goes unnoticed, and so does whatever sets
    the times back; delete the cache after that.

    Args:
        source: What is asked for.
        layout_of: Reads the dataset's layout from its folder, given a class list.

    Raises:
        UsageError: The tree is not as it must be.
    """
    root, path = source.folder(), _kept_at(source)
    kept = load_index(path)
    if kept is not None and _times(root, kept[1]) == kept[1]:
        return kept[0]
    begin = time.time()
    layout = layout_of(root, source.class_list)
    places = [place.folder for part in layout.places.values() for place in part]
    times = _times(root, (*layout.read_from, *places))
    index = _scan(root, layout, check=source.skip_damaged)
    if max(times.values()) < (begin - _SETTLED) * 1e9:
        save_index(path, index, times)
    return index


def _kept_at(source: Source) -> Path:
    asked = replace(source, image_size=0, download=False, progress=False)
    key = digest([_FORMAT, *(str(value) for value in vars(asked).values())])
    return default_cache_dir() / "index" / f"{key}.npz"


def _times(root: Path, names: Sequence[str] | dict[str, int]) -> dict[str, int]:
    """Return when folders and files were changed last, in ns; 0 for those that are gone."""
    return {name: _time(root / name) for name in names}


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _scan(root: Path, layout: Layout, *, check: bool) -> Index:
    splits: dict[Split, SplitIndex] = {}
    damaged: list[str] = []
    for split in SPLITS:
        places = layout.places[split]
        part = index_places(root, places, scan_places(root, places))
        bad = _damaged(root, part) if check else []
        damaged += [str(path.relative_to(root)) for path in part.paths(root, bad)]
        splits[split] = part.without(bad)
    return make_index(layout.classes, splits, damaged)


def _damaged(root: Path, part: SplitIndex) -> list[int]:
    """Return the places of images that cannot be decoded, by decoding all."""

    def fails(place: int) -> bool:
        try:
            read_image(part.paths(root, [place])[0], 8)
        except DamagedImageError:
            return True
        return False

    count = len(part.names)
    title = f"decoding {count} images once to find damaged ones"
    bad: list[int] = []
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as threads,
        tqdm(desc=title, total=count, mininterval=2, leave=False) as bar,
    ):
        for start in range(0, count, _AT_ONCE):
            places = range(start, min(start + _AT_ONCE, count))
            bad += [
                p for p, failed in zip(places, threads.map(fails, places), strict=True) if failed
            ]
            bar.update(len(places))
    return bad
