"""What networks have made of images, kept in memory: the same pixels are looked at once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from prism_nb.data import ImageDataset
from prism_nb.diversity.perception import features_of, logits_of
from prism_nb.teachers.teacher import Teacher

_MOST_BYTES = 256 * 2**20
_KINDS: dict[str, Callable[[Teacher, Tensor, ImageDataset], Tensor]] = {
    "features": features_of,
    "logits": logits_of,
}


class Memory:
    """A store of tensors that forgets what was asked for longest ago.

    Args:
        most: Bytes that are kept at most; what is larger than that is not kept.
    """

    def __init__(self, most: int = _MOST_BYTES) -> None:
        self._most, self._held = most, 0
        self._kept: OrderedDict[tuple[Teacher, str, str], Tensor] = OrderedDict()

    def seen(
        self, network: Teacher, pixels: Tensor, dataset: ImageDataset, *, kind: str = "features"
    ) -> Tensor:
        """Return what a network makes of images, from memory where they were seen before.

        Args:
            network: The network.
            pixels: uint8 [N, 3, S, S]; their bytes decide whether they were seen before.
            dataset: Whose pixel space is meant.
            kind: `features` or `logits`.

        Returns:
            float32 [N, d] on the CPU; to be left unchanged.
        """
        key = (network, kind, _digest(pixels))
        if key not in self._kept:
            self._keep(key, _KINDS[kind](network, pixels, dataset))
        self._kept.move_to_end(key)
        found = self._kept[key]
        self._forget()
        return found

    def _keep(self, key: tuple[Teacher, str, str], found: Tensor) -> None:
        self._kept[key] = found
        self._held += found.nbytes

    def _forget(self) -> None:
        while self._held > self._most:
            self._held -= self._kept.popitem(last=False)[1].nbytes


MEMORY = Memory()


def _digest(pixels: Tensor) -> str:
    plain = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return hashlib.sha256(plain.tobytes() + repr(plain.shape).encode()).hexdigest()
