"""Which files results are bound to, and which of them may be restored without a new run."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np

from prism_nb import files
from prism_nb.config import default_runs_dir, digest
from prism_nb.data.base import Split
from prism_nb.data.index import SPLITS, Index
from prism_nb.errors import PrismError

_RESTORED = "bytes of the restored file"  # in a note; none as long as it has not been restored
_Sizes = dict[Split, np.ndarray]


class Binding:
    """What results of an image tree are bound to: its classes, file names and sizes.

    The sizes are kept beside the runs, in `.datasets`, because a file that stopped a run has
    another size once it is restored. Such a file took part in no result, since decoding it is an
    error, so it may change: a tree that differs from a kept one in nothing but the sizes of files
    that were noted as damaged counts as that one, and its runs go on. The first other size of
    such a file is noted too, and stands from then on.

    Args:
        index: The tree as it is.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._folder = default_runs_dir() / ".datasets" / index.names
        self.content = self._found()

    def fits(self, content: str) -> bool:
        """Return whether the tree is the one of a content, but for files since restored."""
        return content == self.content or self._is_restored(content)

    def note_damaged(self, split: Split, place: int, path: Path) -> None:
        """Note that an image cannot be decoded, so that its file may be restored.

        A file that has changed since it was indexed was whole then, for all that is known; it must
        become again what it was.
        """
        size = self._index.splits[split].sizes[place]
        with suppress(OSError, PrismError):  # the damage itself is what is to be told
            if path.stat().st_size == size:
                for content in self._kept():
                    kept = _load(self._file(content))
                    same = kept is not None and list(kept[split][place : place + 1]) == [size]
                    if content == self.content or same:
                        files.write_json(self._note(content, split, place), {_RESTORED: None})

    def _found(self) -> str:
        """Return the content of the tree: its own, unless it is a kept one with files restored."""
        own, kept = self._index.content, self._kept()
        if own in kept:
            return own
        restored = next((content for content in kept if self._is_restored(content)), None)
        if restored is None:
            self._keep()
        return restored or own

    def _kept(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.npz"))

    def _keep(self) -> None:
        content, splits = io.BytesIO(), self._index.splits
        np.savez_compressed(content, train=splits["train"].sizes, val=splits["val"].sizes)
        with suppress(PrismError):  # without it, no file may change its size
            files.write_bytes(self._file(self._index.content), content.getvalue())

    def _is_restored(self, content: str) -> bool:
        kept = _load(self._file(content))
        if kept is None or any(
            kept[split].shape != part.sizes.shape for split, part in self._index.splits.items()
        ):
            return False
        changed = {
            self._note(content, split, int(place)): int(part.sizes[place])
            for split, part in self._index.splits.items()
            for place in np.flatnonzero(kept[split] != part.sizes)
        }
        if not all(_allows(note, size) for note, size in changed.items()):
            return False
        with suppress(PrismError):
            for note, size in changed.items():
                files.write_json(note, {_RESTORED: size})
        return True

    def _file(self, content: str) -> Path:
        return self._folder / f"{content}.npz"

    def _note(self, content: str, split: Split, place: int) -> Path:
        return self._folder / content / f"{digest([split, place])}.json"


def _allows(note: Path, size: int) -> bool:
    """Return whether a file may have another size than a run began with."""
    known = files.read_record(note)
    return _RESTORED in known and known[_RESTORED] in {None, size}


def _load(path: Path) -> _Sizes | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {split: arrays[split] for split in SPLITS}
    except Exception:  # a damaged archive fails in as many ways as it has parts
        return None
