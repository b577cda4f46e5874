"""One case in this process: `python -m benchmarks.worker CASE` prints what was measured."""

from __future__ import annotations

import json
import sys
import time
from itertools import islice, pairwise

import torch
from torch import Tensor

from benchmarks.common import Case
from benchmarks.loops import LOOPS
from prism_nb.core.device import choose_device, disable_malloc_trim, peak_memory_bytes, tf32_mode
from prism_nb.core.recipe import load_recipe
from prism_nb.models.teacher import PreprocessConfig, Teacher
from prism_nb.models.zoo import build_network
from prism_nb.synthesis.loop import ImageOptimizer, recover
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective, build_stat_matcher
from prism_nb.synthesis.teacher_sampling import TeacherSchedule

_WARM_UP = 2  # steps that are not counted


def take(case: Case) -> dict[str, object]:
    """Take a case's steps and return their seconds, those of the first, and the peak memory."""
    device = choose_device("auto")
    teachers = build_teachers(case, device)
    images = torch.randn(case.count, 3, case.size, case.size)
    images = images.to(device, memory_format=_layout(case))
    labels = torch.arange(case.count, device=device) % 10
    marks = [time.perf_counter()]

    def on_step() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    if case.loop in LOOPS:
        with tf32_mode("fp32", device):
            for _ in islice(LOOPS[case.loop](teachers, images, labels), case.steps):
                on_step()
    else:
        disable_malloc_trim()
        optimizer = kit_optimizer(
            teachers,
            images,
            labels,
            steps=case.steps,
            micro_batch_size=case.micro_batch_size,
            precision=case.precision,
            compiled=case.compiled,
        )
        with tf32_mode(case.precision, device):
            recover(optimizer, [lambda *_: on_step()])
    seconds = [after - before for before, after in pairwise(marks)]
    memory = peak_memory_bytes(device)
    return {"seconds": seconds[_WARM_UP:], "first": seconds[0], "memory": memory}


def build_teachers(case: Case, device: torch.device) -> list[Teacher]:
    """Build frozen networks with random weights, which cost what trained ones cost."""
    space = PreprocessConfig((0.5,) * 3, (0.5,) * 3, case.size)
    teachers = []
    for name in case.networks:
        network = build_network(name, classes=10, image_size=case.size)
        teacher = Teacher(name, network, native=space, dataset=space)
        teachers.append(teacher.to(device).to(memory_format=_layout(case)))
    return teachers


def _layout(case: Case) -> torch.memory_format:
    """Return the memory format of maps: PyTorch's default in the published program."""
    plain = case.loop == "published"
    return torch.contiguous_format if plain else torch.channels_last


def kit_optimizer(
    teachers: list[Teacher],
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    micro_batch_size: int = 0,
    precision: str = "fp32",
    compiled: bool = False,
) -> ImageOptimizer:
    """Return the kit's optimizer of images by all teachers, the first giving the logits."""
    recipe = load_recipe("prism", {"iterations": steps, "no_bn_policy": "zero"})
    matchers = {
        teacher.name: build_stat_matcher(teacher, recipe, precision=precision, compiled=compiled)
        for teacher in teachers
    }
    names = tuple(matchers)
    return ImageOptimizer(
        images,
        labels,
        backward=MicroBatchedBackward(Objective(recipe, matchers), micro_batch_size),
        schedule=TeacherSchedule(steps, (names,), names[:1]),
        recipe=recipe,
        pixel_bounds=(
            torch.full((3, 1, 1), -1.0, device=images.device),
            torch.full((3, 1, 1), 1.0, device=images.device),
        ),
        generator=torch.Generator().manual_seed(0),
    )


if __name__ == "__main__":
    values = json.loads(sys.argv[1])
    print(json.dumps(take(Case(**{**values, "networks": tuple(values["networks"])}))))
