"""Steps of the synthesis: their seconds, the device's least, and compiled against eager losses.

Networks have random weights: a step costs the same. Each loop runs in a process of its own
(`python -m benchmarks.synthesis LOOP`), in turn with the others.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import in_a_process
from benchmarks.loops import plain_loop
from prism_nb.core.device import (
    benchmark,
    choose_device,
    disable_malloc_trim,
    peak_memory_bytes,
    tf32_mode,
)
from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.models.teacher import PreprocessConfig, Teacher
from prism_nb.models.zoo import build_network
from prism_nb.synthesis.loop import ImageOptimizer, recover
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective, build_stat_matcher
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

_NETWORKS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "alexnet")
_SIZE, _COUNT, _STEPS, _ROUNDS = 224, 16, 7, 2
_SMALL = "kit small"  # the loop of small images and networks
_WARM_UP = 2  # steps that are not in the median
_OTHER_LOOPS = ("published", "bare")
# Whether networks are compiled, and their precision.
_KIT_LOOPS = {
    "kit eager": (False, "fp32"),
    "kit eager bf16": (False, "bf16"),
    "kit compiled": (True, "fp32"),
    "kit compiled bf16": (True, "bf16"),
}
_LAYOUTS = {
    "bare loop, contiguous": (torch.contiguous_format, "fp32", False),
    "bare loop, channels last": (torch.channels_last, "fp32", False),
    "kit": (torch.channels_last, "fp32", False),
    "kit, bf16": (torch.channels_last, "bf16", False),
    "kit, compiled": (torch.channels_last, "fp32", True),
}
# How threads wait: by default as GNU's OpenMP lets them, here set so that the kit leaves it alone.
_WAITING = {"default": {"GOMP_SPINCOUNT": "300000"}, "chosen by the kit": {}}


# -- seconds of a step -----------------------------------------------------------------------


def step_rows() -> list[dict[str, Any]]:
    """Run loops in turn, so that disturbances hit all alike.

    Returns:
        By loop, `seconds` per step (median over the steps of all rounds), `first` (seconds of the
        first round's first step), peak `memory` in bytes, and `speed` relative to the first loop.
    """
    loops = (*_OTHER_LOOPS, *_KIT_LOOPS)
    taken: dict[str, list[dict[str, Any]]] = {loop: [] for loop in loops}
    with tempfile.TemporaryDirectory() as cache:  # so that the first round compiles anew
        for _ in range(_ROUNDS):
            for loop in loops:
                found = in_a_process("benchmarks.synthesis", loop, TORCHINDUCTOR_CACHE_DIR=cache)
                taken[loop].append(found)
    rows: list[dict[str, Any]] = []
    for loop, found in taken.items():
        seconds = statistics.median(second for one in found for second in one["seconds"])
        memory = max(one["memory"] for one in found)
        row = {"loop": loop, "seconds": seconds, "first": found[0]["first"], "memory": memory}
        rows.append({**row, "speed": rows[0]["seconds"] / seconds if rows else 1.0})
    return rows


def take_steps(loop: str) -> dict[str, object]:
    """Take a loop's steps in this process; return their seconds, the first's, and peak memory."""
    device = choose_device("auto")
    names, size, count, step_count = _NETWORKS, _SIZE, _COUNT, _STEPS
    if loop == _SMALL:
        names, size, count, step_count = ("test_resnet", "test_byobnet"), 32, 100, 40
    layout = torch.contiguous_format if loop == "published" else torch.channels_last
    teachers = [t.to(device).to(memory_format=layout) for t in _teachers(names, size, 0.5)]
    images = torch.randn(count, 3, size, size).to(device, memory_format=layout)
    marks = [time.perf_counter()]

    def on_step() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    if loop in _OTHER_LOOPS:
        labels = torch.arange(count, device=device) % 10
        with tf32_mode("fp32", device):
            steps = plain_loop(teachers, images, labels, as_published=loop == "published")
            for _ in islice(steps, step_count):
                on_step()
    else:
        compiled, precision = _KIT_LOOPS.get(loop, (False, "fp32"))
        _take_kit_steps(teachers, images, step_count, on_step, precision, compiled=compiled)
    seconds = [after - before for before, after in pairwise(marks)]
    memory = peak_memory_bytes(device)
    return {"seconds": seconds[_WARM_UP:], "first": seconds[0], "memory": memory}


def _take_kit_steps(
    teachers: list[Teacher],
    images: Tensor,
    count: int,
    on_step: Callable[[], None],
    precision: str,
    *,
    compiled: bool,
) -> None:
    """Take steps of PRISM with all teachers, the first of which gives the logits."""
    disable_malloc_trim()
    recipe = load_recipe("prism", {"iterations": count, "no_bn_policy": "zero"})
    names = tuple(teacher.name for teacher in teachers)
    schedule = TeacherSchedule(count, (names,), names[:1])
    optimizer = _optimizer(
        teachers, images, recipe, schedule, bound=1.0, precision=precision, compiled=compiled
    )
    with tf32_mode(precision, images.device):
        recover(optimizer, [lambda *_: on_step()])


def network_rows() -> list[dict[str, Any]]:
    """Return the seconds of a step of 8 images at 160 px with one network alone, by its layout.

    Two of the networks have depthwise convolutions.
    """
    device, rows = choose_device("auto"), []
    labels, steps = torch.arange(8, device=device), 12
    for name in ("tf_efficientnet_lite0", "mobilenetv2_100", "resnet18"):
        marks: list[float] = []
        on_step = lambda: marks.append(time.perf_counter())  # noqa: B023, E731
        for case, (layout, precision, compiled) in _LAYOUTS.items():
            teachers = [t.to(device).to(memory_format=layout) for t in _teachers([name], 160, 0.5)]
            images = torch.randn(8, 3, 160, 160).to(device, memory_format=layout)
            marks.clear()
            if case.startswith("bare"):
                for _ in islice(plain_loop(teachers, images, labels, as_published=False), steps):
                    on_step()
            else:
                _take_kit_steps(teachers, images, steps, on_step, precision, compiled=compiled)
            seconds = [after - before for before, after in pairwise(marks)]
            rows.append({"network": name, "case": case, "seconds": statistics.median(seconds)})
    return rows


def shared_rows() -> list[dict[str, Any]]:
    """Return the seconds of a step of small images, alone and beside a process that keeps a core.

    Threads wait as OpenMP lets them by default, or as the kit chooses when a process begins.
    """
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(3):
        for others in ("alone", "beside a busy process"):
            with ExitStack() as ended:
                if others != "alone":
                    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                    ended.callback(busy.kill)
                for waiting, variables in _WAITING.items():
                    found = in_a_process("benchmarks.synthesis", _SMALL, **variables)
                    taken.setdefault((others, waiting), []).extend(found["seconds"])
    alone = statistics.median(taken["alone", "default"])
    median = {case: statistics.median(seconds) for case, seconds in taken.items()}
    return [
        {"machine": others, "threads": waiting, "seconds": value, "times alone": value / alone}
        for (others, waiting), value in median.items()
    ]


def _teachers(names: Sequence[str], size: int, std: float) -> list[Teacher]:
    """Build frozen networks with random weights."""
    space = PreprocessConfig((0.5,) * 3, (std,) * 3, size)
    networks = {name: build_network(name, classes=10, image_size=size) for name in names}
    return [Teacher(name, each, native=space, dataset=space) for name, each in networks.items()]


def _optimizer(
    teachers: list[Teacher],
    images: Tensor,
    recipe: Recipe,
    schedule: TeacherSchedule,
    *,
    bound: float,
    precision: str = "fp32",
    compiled: bool = False,
) -> ImageOptimizer:
    """Return the kit's optimizer of images whose pixels are kept between -bound and bound."""
    matchers = {
        teacher.name: build_stat_matcher(teacher, recipe, precision=precision, compiled=compiled)
        for teacher in teachers
    }
    limit = torch.full((3, 1, 1), bound, device=images.device)
    return ImageOptimizer(
        images,
        torch.arange(len(images), device=images.device) % 10,
        backward=MicroBatchedBackward(Objective(recipe, matchers)),
        schedule=schedule,
        recipe=recipe,
        pixel_bounds=(-limit, limit),
        generators=[torch.Generator().manual_seed(0)],
    )


# -- the device's least ----------------------------------------------------------------------

_MATRIX_SIDE = 2048  # of the product that gives the rate of arithmetic


def roofline_rows() -> list[dict[str, Any]]:
    """Return the least seconds that a step could take, and its parts.

    They are the networks' floating-point operations, forward and for the gradient by the input,
    over the rate of a large matrix product.
    """
    device = choose_device("auto")
    teachers = [teacher.to(device) for teacher in _teachers(_NETWORKS, _SIZE, 0.5)]
    view = torch.randn(_COUNT, 3, _SIZE, _SIZE, device=device).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        for teacher in teachers:
            if teacher.bn_layer_stats:  # the kit skips others
                teacher(view).sum().backward()
    flops = float(counter.get_total_flops())
    left, right = torch.randn(2, _MATRIX_SIDE, _MATRIX_SIDE, device=device)
    rate = 2 * _MATRIX_SIDE**3 / benchmark(device, lambda: left @ right, times=5)
    return [{"flops": flops, "flops_per_second": rate, "seconds": flops / rate}]


# -- compiled against eager ------------------------------------------------------------------

_COMPARED = ("resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "efficientnet_b0")
_COMPARED_STEPS, _COMPARED_COUNT, _COMPARED_SIZE = 50, 4, 32


def agreement_rows() -> list[dict[str, Any]]:
    """Return the largest relative difference of any loss from the eager run's.

    The scale is an eager run begun from images that differ in their last bit: an optimizer that
    divides by the size of its gradients makes such differences grow, step by step.
    """
    torch.manual_seed(0)
    teachers = _teachers(_COMPARED, _COMPARED_SIZE, 0.25)
    images = torch.randn(_COMPARED_COUNT, 3, _COMPARED_SIZE, _COMPARED_SIZE)
    last_bit = torch.finfo(images.dtype).eps * torch.sign(torch.randn(images.shape))
    eager = _losses(teachers, images)
    others = {
        "compiled": _losses(teachers, images, compiled=True),
        "eager, images changed in the last bit": _losses(teachers, images * (1 + last_bit)),
    }
    rows = []
    for name, losses in others.items():
        apart = torch.where(eager == 0, 0, (losses - eager).abs() / eager.abs())
        rows.append({"compared with eager": name, "most": float(apart.max())})
    return rows


def _losses(teachers: list[Teacher], images: Tensor, *, compiled: bool = False) -> Tensor:
    """Return every term of every step, [steps, terms]; the drawn teachers change at every step."""
    recipe = load_recipe("prism", {"iterations": _COMPARED_STEPS, "r_bn": 0.1, "jitter": 4})
    first, *others = _COMPARED
    groups = (*((first, name) for name in others), (first,), (first, *others))
    schedule = TeacherSchedule(1, groups, (first,))
    optimizer = _optimizer(teachers, images.clone(), recipe, schedule, bound=2.0, compiled=compiled)
    terms = [f"{kind}/{name}" for kind in ("logit", "bn") for name in _COMPARED]
    rows: list[list[float]] = []
    recover(optimizer, [lambda _, losses: rows.append([float(losses.get(t, 0)) for t in terms])])
    return torch.tensor(rows)


if __name__ == "__main__":
    print(json.dumps(take_steps(sys.argv[1])))
