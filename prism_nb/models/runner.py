"""Forward passes of teachers that return layer statistics: eager or compiled, in a precision.

The eager pass is the reference. A compiled one computes the same formulas with other kernels, so
its results are equal to rounding and not bit for bit.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from prism_nb.core.device import half_precision, is_out_of_memory
from prism_nb.models.layer_stats import LayerStat, MeanVar
from prism_nb.models.teacher import Teacher

# All compiled networks share the code of one `forward`, and PyTorch by default caches at most eight
# graphs per code object; older versions lack this option and run the others eagerly.
_ISOLATE = "isolate_recompiles"
_COMPILE_OPTIONS: dict[str, Any] = (
    {_ISOLATE: True} if _ISOLATE in inspect.signature(torch.compile).parameters else {}
)


class TeacherRunner:
    """Eager passes of one network.

    Args:
        teacher: The network.
        precision: `fp32`, `tf32` or `bf16` of its layers; statistics and logits are float32.
    """

    def __init__(self, teacher: Teacher, precision: str = "fp32") -> None:
        self.teacher, self._precision = teacher, precision

    def forward_with_stats(
        self, images: Tensor, stats: Sequence[LayerStat]
    ) -> tuple[Tensor, list[MeanVar]]:
        """Return head logits and layer statistics, as `Teacher.forward_with_stats`."""
        with half_precision(self._precision, images.device):
            logits, measured = self.teacher.forward_with_stats(images, stats)
        return _at_least_fp32(logits), measured

    def stats_only(self, images: Tensor, stats: Sequence[LayerStat]) -> list[MeanVar]:
        """Return layer statistics, as `Teacher.stats_only`."""
        with half_precision(self._precision, images.device):
            return self.teacher.stats_only(images, stats)


class CompiledTeacherRunner(TeacherRunner):
    """Compiled passes of one network; eager ones, after one warning, if it cannot be compiled.

    Args:
        teacher: The network.
        stats: All statistics that any call may request. Each pass measures all of them, so that
            nothing is compiled again for a call with fewer.
        precision: As of `TeacherRunner`.
    """

    def __init__(
        self, teacher: Teacher, stats: Sequence[LayerStat], precision: str = "fp32"
    ) -> None:
        super().__init__(teacher, precision)
        self._stats = tuple(stats)

    def forward_with_stats(
        self, images: Tensor, stats: Sequence[LayerStat]
    ) -> tuple[Tensor, list[MeanVar]]:
        """Return head logits and layer statistics, as `Teacher.forward_with_stats`."""
        compiled = self._compiled(with_logits=True)
        if not compiled.compiles_for(images):
            return super().forward_with_stats(images, stats)
        logits, measured = compiled(images)
        return logits, self._select(stats, measured)

    def stats_only(self, images: Tensor, stats: Sequence[LayerStat]) -> list[MeanVar]:
        """Return layer statistics; the compiler drops the layers behind the last of them."""
        compiled = self._compiled(with_logits=False)
        if not stats or not compiled.compiles_for(images):
            return super().stats_only(images, stats)
        return self._select(stats, compiled(images)[1])

    def _compiled(self, *, with_logits: bool) -> _CompiledForward:
        return _compiled_forward(self.teacher, self._stats, self._precision, with_logits)

    def _select(self, stats: Sequence[LayerStat], measured: list[MeanVar]) -> list[MeanVar]:
        by_stat = dict(zip(self._stats, measured, strict=True))
        return [by_stat[stat] for stat in stats]


@lru_cache(maxsize=64)
def _compiled_forward(
    teacher: Teacher, stats: tuple[LayerStat, ...], precision: str, with_logits: bool
) -> _CompiledForward:
    """Return a compiled network, one per process, since units share their networks."""
    return _CompiledForward(_HookedTeacher(teacher, stats, precision, with_logits=with_logits))


class _CompiledForward:
    """A compiled network, and for which kinds of images its compilation works."""

    def __init__(self, hooked: _HookedTeacher) -> None:
        self._name = hooked.twin.name
        self._forward: Callable[[Tensor], tuple[Tensor, list[MeanVar]]] = torch.compile(
            hooked, dynamic=False, **_COMPILE_OPTIONS
        )
        self._works: dict[tuple[object, ...], bool] = {}

    def __call__(self, images: Tensor) -> tuple[Tensor, list[MeanVar]]:
        return self._forward(images)

    def compiles_for(self, images: Tensor) -> bool:
        """Return whether the network compiles for such images; tried once for each kind."""
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
        logits, measured = self(images.detach().clone().requires_grad_(images.requires_grad))
        total = torch.stack([logits.sum(), *(part.sum() for pair in measured for part in pair)])
        if total.requires_grad:
            total.sum().backward()


class _HookedTeacher(nn.Module):
    """A copy of a teacher's modules around the same weights, with permanent hooks.

    The compiler cannot follow hooks that come and go; on a copy they affect no other user.
    """

    def __init__(
        self, teacher: Teacher, stats: Sequence[LayerStat], precision: str, *, with_logits: bool
    ) -> None:
        super().__init__()
        shared = {id(tensor): tensor for tensor in [*teacher.parameters(), *teacher.buffers()]}
        self.twin = copy.deepcopy(teacher, shared)
        self._precision, self._with_logits = precision, with_logits
        self._count = len(stats)
        self._measured: dict[int, MeanVar] = {}
        twins = dict(zip(teacher.modules(), self.twin.modules(), strict=True))
        for index, stat in enumerate(stats):
            twin = replace(stat, layer=twins[stat.layer])
            twin.layer.register_forward_pre_hook(partial(self._measure, index, twin))

    def _measure(
        self, index: int, stat: LayerStat, _: nn.Module, inputs: tuple[Tensor, ...]
    ) -> None:
        self._measured[index] = stat.measure(inputs[0])

    def forward(self, images: Tensor) -> tuple[Tensor, list[MeanVar]]:
        """Return head logits, or a zero instead, and the statistics in the order of `stats`."""
        self._measured = {}
        with half_precision(self._precision, images.device):
            logits = self.twin.head_logits(images)
        measured = [self._measured[index] for index in range(self._count)]
        self._measured = {}
        return _at_least_fp32(logits) if self._with_logits else images.new_zeros(()), measured


def _at_least_fp32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
