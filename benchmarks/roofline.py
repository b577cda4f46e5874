"""What the device could do at best: its rates, and the work of a step, both counted here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Case
from benchmarks.worker import build_teachers
from prism_nb.core.device import benchmark, choose_device, disable_malloc_trim
from prism_nb.models.teacher import Teacher

_SIDE = 2048  # of the square matrices whose product gives the rate
_COPIED = 1 << 26  # bytes, far more than any cache


def roofline(case: Case) -> dict[str, float]:
    """Return the least seconds that a step of a case could take, and what they are made of.

    The work is that of the networks: floating-point operations forward and for the gradient by
    the input, over the rate of a large matrix product; and every layer's output, written and read
    once forward and once back, over the rate of a large copy. The floor is the larger of the two.
    """
    device = choose_device("auto")
    disable_malloc_trim()
    teachers = [t for t in build_teachers(case, device) if t.bn_layer_stats]
    images = torch.randn(case.count, 3, case.size, case.size, device=device)
    flops, touched = 0.0, 0.0
    for teacher in teachers:
        flops += _flops(teacher, images)
        touched += 4 * _output_bytes(teacher, images)
    rate, bandwidth = _matrix_rate(device), _copy_rate(device)
    return {
        "flops": flops,
        "bytes": touched,
        "flops_per_second": rate,
        "bytes_per_second": bandwidth,
        "seconds": max(flops / rate, touched / bandwidth),
    }


def _flops(teacher: Teacher, images: Tensor) -> float:
    view = images.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        teacher(view).sum().backward()
    return float(counter.get_total_flops())


@torch.no_grad()
def _output_bytes(teacher: Teacher, images: Tensor) -> float:
    sizes: list[int] = []
    leaves: Sequence[nn.Module] = [m for m in teacher.modules() if not list(m.children())]
    handles = [
        leaf.register_forward_hook(lambda _, __, out: sizes.append(out.numel() * out.itemsize))
        for leaf in leaves
    ]
    teacher(images)
    for handle in handles:
        handle.remove()
    return float(sum(sizes))


def _matrix_rate(device: torch.device) -> float:
    left, right = torch.randn(2, _SIDE, _SIDE, device=device)
    return 2 * _SIDE**3 / benchmark(device, lambda: left @ right, times=5)


def _copy_rate(device: torch.device) -> float:
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED / benchmark(device, lambda: target.copy_(source), times=5)
