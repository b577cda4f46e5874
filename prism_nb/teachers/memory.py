"""The memory that tensors take at once while something is computed, counted without taking it.

On PyTorch's meta device tensors have sizes and no values, but they live and die as elsewhere: what
autograd keeps for the pass back is kept, what is no longer needed is let go. So the bytes of all
that live at once can be added up, operation by operation. Not counted is what does not belong to a
tensor: the scratch of a convolution's algorithm, what an allocator holds in reserve, and the
device's own context.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def peak_bytes(work: Callable[[], object]) -> float:
    """Return the most bytes that tensors made by some work take at once."""
    with _Meter() as meter:
        work()
    return float(meter.peak)


class _Meter(TorchDispatchMode):
    """Adds up the storages that operations make, until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self._note((args, kwargs), made_here=False)
        outcome = func(*args, **(kwargs or {}))
        self._note(outcome, made_here=True)
        return outcome

    def _note(self, values: Any, *, made_here: bool) -> None:
        for value in tree_iter(values):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage(), made_here=made_here)

    def _see(self, storage: torch.UntypedStorage, *, made_here: bool) -> None:
        place = storage._cdata
        if place in self._known:
            return
        size = storage.nbytes() if made_here else 0  # what was there before is not of this work
        self._known.add(place)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._let_go, place, size)

    def _let_go(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size
