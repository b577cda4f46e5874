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
    """Passes of one network: eager, or compiled; eager too, after a warning, if that fails.

    Args:
        teacher: The network.
        precision: `fp32`, `tf32` or `bf16` of its layers; statistics and logits are float32.
        compiled_stats: All statistics that any call may request. Each compiled pass measures all
            of them, so that nothing is compiled again for a call with fewer. None: eager passes.
    """

    def __init__(
        self,
        teacher: Teacher,
        precision: str = "fp32",
        compiled_stats: tuple[LayerStat, ...] | None = None,
    ) -> None:
        self.teacher, self._precision = teacher, precision
        self._compiled_stats = compiled_stats

    def forward_with_stats(
        self, images: Tensor, stats: Sequence[LayerStat]
    ) -> tuple[Tensor, list[MeanVar]]:
        """Return head logits and layer statistics, as `Teacher.forward_with_stats`."""
        compiled = self._compiled(images, with_logits=True)
        if compiled:
            logits, measured = compiled(images)
            return logits, [measured[stat] for stat in stats]
        with half_precision(self._precision, images.device):
            logits, values = self.teacher.forward_with_stats(images, stats)
        return _at_least_fp32(logits), values

    def stats_only(self, images: Tensor, stats: Sequence[LayerStat]) -> list[MeanVar]:
        """Return layer statistics without the layers behind them, as `Teacher.stats_only`."""
        compiled = self._compiled(images, with_logits=False) if stats else None
        if compiled:
            _, measured = compiled(images)
            return [measured[stat] for stat in stats]
        with half_precision(self._precision, images.device):
            return self.teacher.stats_only(images, stats)

    def _compiled(self, images: Tensor, *, with_logits: bool) -> _CompiledForward | None:
        """Return the compiled network, if there is one for such images."""
        if self._compiled_stats is None:
            return None
        stats, precision = self._compiled_stats, self._precision
        compiled = _compiled_forward(self.teacher, stats, precision, with_logits)
        return compiled if compiled.compiles_for(images) else None


class _CompiledForward:
    """A compiled network, and for which kinds of images its compilation works."""

    def __init__(
        self, teacher: Teacher, stats: tuple[LayerStat, ...], precision: str, with_logits: bool
    ) -> None:
        hooked = _HookedTeacher(teacher, stats, precision, with_logits=with_logits)
        self._name, self._stats = teacher.name, stats
        self._forward: Callable[[Tensor], tuple[Tensor, list[MeanVar]]] = torch.compile(
            hooked, dynamic=False, **_COMPILE_OPTIONS
        )
        self._works: dict[tuple[object, ...], bool] = {}

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[LayerStat, MeanVar]]:
        """Return head logits, or a zero instead, and all statistics."""
        logits, values = self._forward(images)
        return logits, dict(zip(self._stats, values, strict=True))

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
        total = torch.stack(
            [logits.sum(), *(part.sum() for pair in measured.values() for part in pair)]
        )
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


_compiled_forward = lru_cache(maxsize=64)(_CompiledForward)  # shared by the units of a process


def _at_least_fp32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
