"""How a step looks at images through a frozen network: eagerly or compiled, in some precision.

The eager way is the reference. A compiled network measures the same statistics with the same
formulas in other kernels, so that its results agree to rounding and not to the bit.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from prism_nb.core.device import half_precision, is_out_of_memory
from prism_nb.models.layer_stats import LayerStat, MeanVar
from prism_nb.models.teacher import Teacher

# All networks share the code of one forward, and PyTorch by default keeps no more than eight
# graphs of it; versions before this option stop compiling behind the eighth.
_OPTION = "isolate_recompiles"
_APART: dict[str, Any] = (
    {_OPTION: True} if _OPTION in inspect.signature(torch.compile).parameters else {}
)

LayerKey = tuple[nn.Module, int]  # a layer and a side of patches: what a probe measures


class TeacherRunner:
    """Runs a network eagerly, each layer as written.

    Args:
        teacher: The network.
        precision: `fp32`, `tf32` or `bf16` of its layers; statistics and logits are float32.
    """

    def __init__(self, teacher: Teacher, precision: str = "fp32") -> None:
        self.teacher, self._precision = teacher, precision

    def observe(self, images: Tensor, probes: Sequence[LayerStat]) -> tuple[Tensor, list[MeanVar]]:
        """Return logits and what probes see, as `Teacher.observe`."""
        with half_precision(self._precision, images.device):
            logits, seen = self.teacher.observe(images, probes)
        return _full(logits), seen

    def statistics(self, images: Tensor, probes: Sequence[LayerStat]) -> list[MeanVar]:
        """Return what probes see, as `Teacher.statistics`."""
        with half_precision(self._precision, images.device):
            return self.teacher.statistics(images, probes)


class CompiledTeacherRunner(TeacherRunner):
    """Runs a network compiled; eagerly, after one warning, if it cannot be compiled.

    Args:
        teacher: The network.
        probes: All probes that are ever asked for. Each pass measures all of them, so that
            nothing is compiled again when some are left out.
        precision: As of `Sight`.
    """

    def __init__(
        self, teacher: Teacher, probes: Sequence[LayerStat], precision: str = "fp32"
    ) -> None:
        super().__init__(teacher, precision)
        self._places = tuple(_place(probe) for probe in probes)

    def observe(self, images: Tensor, probes: Sequence[LayerStat]) -> tuple[Tensor, list[MeanVar]]:
        """Return logits and what probes see, as `Teacher.observe`."""
        look = self._look(to_the_end=True)
        if not look.works_on(images):
            return super().observe(images, probes)
        logits, seen = look(images)
        return logits, self._asked(probes, seen)

    def statistics(self, images: Tensor, probes: Sequence[LayerStat]) -> list[MeanVar]:
        """Return what probes see; the compiler leaves out what comes after the last of them."""
        look = self._look(to_the_end=False)
        if not probes or not look.works_on(images):
            return super().statistics(images, probes)
        return self._asked(probes, look(images)[1])

    def _look(self, *, to_the_end: bool) -> _Compiled:
        return _compiled(self.teacher, self._places, self._precision, to_the_end)

    def _asked(self, probes: Sequence[LayerStat], seen: list[MeanVar]) -> list[MeanVar]:
        by_place = dict(zip(self._places, seen, strict=True))
        return [by_place[_place(probe)] for probe in probes]


@lru_cache(maxsize=64)
def _compiled(
    teacher: Teacher, places: tuple[LayerKey, ...], precision: str, to_the_end: bool
) -> _Compiled:
    """Return a compiled network; one per process, since units share their networks."""
    return _Compiled(_Observer(teacher, places, precision, to_the_end=to_the_end))


class _Compiled:
    """A compiled holdout_network that has been tried out before it is relied upon."""

    def __init__(self, holdout_network: _Observer) -> None:
        self._name = holdout_network.twin.name
        self._look: Callable[[Tensor], tuple[Tensor, list[MeanVar]]] = torch.compile(
            holdout_network, dynamic=False, **_APART
        )
        self._works: dict[tuple[object, ...], bool] = {}

    def __call__(self, images: Tensor) -> tuple[Tensor, list[MeanVar]]:
        return self._look(images)

    def works_on(self, images: Tensor) -> bool:
        """Return whether the network can be compiled for such images; tried once for each kind."""
        kind = (images.shape, images.stride(), torch.is_grad_enabled() and images.requires_grad)
        if kind not in self._works:
            try:
                self._try(images)
                self._works[kind] = True
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(
                    f"network {self._name!r} cannot be compiled and runs eagerly "
                    f"({type(error).__name__}: {reason})",
                    stacklevel=2,
                )
                self._works[kind] = False
        return self._works[kind]

    def _try(self, images: Tensor) -> None:
        logits, seen = self._look(images.detach().clone().requires_grad_(images.requires_grad))
        total = torch.stack([logits.sum(), *(part.sum() for s in seen for part in s)]).sum()
        if total.requires_grad:
            total.backward()


class _Observer(nn.Module):
    """A network that returns what its probes see: a form without passing hooks, to be compiled.

    It is a twin of the teacher's modules around the same weights, so that its hooks concern nobody
    else.
    """

    def __init__(
        self, teacher: Teacher, places: Sequence[LayerKey], precision: str, *, to_the_end: bool
    ) -> None:
        super().__init__()
        tensors = [*teacher.parameters(), *teacher.buffers()]
        self.twin = copy.deepcopy(teacher, {id(tensor): tensor for tensor in tensors})
        self._precision, self._to_the_end = precision, to_the_end
        self._order = list(range(len(places)))
        self._seen: dict[int, MeanVar] = {}
        twins = dict(zip(teacher.modules(), self.twin.modules(), strict=True))
        for number, (layer, patch) in enumerate(places):
            probe = LayerStat("", twins[layer], patch)
            twins[layer].register_forward_pre_hook(self._hook(number, probe))

    def _hook(
        self, number: int, probe: LayerStat
    ) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def collect(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._seen[number] = probe.measure(inputs[0])

        return collect

    def forward(self, images: Tensor) -> tuple[Tensor, list[MeanVar]]:
        """Return logits, or nothing in their place, and statistics in the order of the places."""
        self._seen = {}
        with half_precision(self._precision, images.device):
            logits = self.twin(images)
        seen = [self._seen[number] for number in self._order]
        self._seen = {}
        return _full(logits) if self._to_the_end else images.new_zeros(()), seen


def _place(probe: LayerStat) -> LayerKey:
    return probe.layer, probe.patch


def _full(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
