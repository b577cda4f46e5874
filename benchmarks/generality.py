"""What the switches of the loop cost the plain `prism` recipe.

    python benchmarks/generality.py

Times single steps of the kit's loop (recipes, watches, any view, any schedule) beside a bare loop
that can do nothing but PRISM's plain step, alternating between the two so that the machine's moods
hit both, and prints medians and their ratio. Networks have random weights; a step costs the same.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.provenance import machine
from prism_nb.recipes import load_recipe
from prism_nb.synthesis.augment import draw_view
from prism_nb.synthesis.gradient import Gradient
from prism_nb.synthesis.objective import Objective
from prism_nb.synthesis.recover import recover
from prism_nb.synthesis.watch import watch
from prism_nb.teachers.networks import build_network
from prism_nb.teachers.selection import Draws
from prism_nb.teachers.teacher import PixelSpace, Teacher

RESULT = Path(__file__).parent / "results" / "generality.json"
CASES = {
    "digits, 50 images of 32 px": (
        ("test_resnet", "test_efficientnet", "test_byobnet"),
        {"size": 32, "count": 50, "steps": 60},
    ),
    "ImageNet size, 8 images of 224 px": (
        ("resnet18", "mobilenet_v2"),
        {"size": 224, "count": 8, "steps": 12},
    ),
}
WARM_UP = 3


def main() -> None:
    """Measure every case, print a table and write it as JSON."""
    rows = []
    for name, (networks, shape) in CASES.items():
        general, bare = measure(networks, **shape)
        rows.append({"case": name, "bare ms": bare, "kit ms": general, "ratio": general / bare})
        print(
            f"{name:<36} bare {bare:8.1f} ms   kit {general:8.1f} ms   ratio {general / bare:.3f}"
        )
    record = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "rows": rows}
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def measure(names: tuple[str, ...], *, size: int, count: int, steps: int) -> tuple[float, float]:
    """Return the median milliseconds of a step of the kit's loop and of the bare one.

    The bare step is taken inside the callback that ends each of the kit's.
    """
    space = PixelSpace((0.5,) * 3, (0.5,) * 3, size)
    teachers = [
        Teacher(name, build_network(name, classes=10, image_size=size), own=space, canonical=space)
        for name in names
    ]
    for teacher in teachers:
        teacher.to(memory_format=torch.channels_last)
    images = torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count) % 10
    bare = bare_loop(copy.deepcopy(teachers), images, labels, steps)
    general_ms: list[float] = []
    bare_ms: list[float] = []
    mark = time.perf_counter()

    def on_step(*_: object) -> None:
        nonlocal mark
        middle = time.perf_counter()
        next(bare)
        end = time.perf_counter()
        general_ms.append(1e3 * (middle - mark))
        bare_ms.append(1e3 * (end - middle))
        mark = time.perf_counter()

    recipe = load_recipe("prism", {"iterations": steps, "early_late_step": 0})
    recover(
        images,
        labels,
        gradient=Gradient(Objective(recipe, {t.name: watch(t, recipe) for t in teachers})),
        draws=Draws(steps, (names,), names[:1]),
        recipe=recipe,
        bounds=(torch.full((3, 1, 1), -1.0), torch.full((3, 1, 1), 1.0)),
        generator=torch.Generator().manual_seed(0),
        on_step=on_step,
    )
    return statistics.median(general_ms[WARM_UP:]), statistics.median(bare_ms[WARM_UP:])


def bare_loop(
    teachers: list[Teacher], initial: Tensor, labels: Tensor, steps: int
) -> Iterator[None]:
    """Take PRISM's plain step again and again: interpolated crop, primary first, all aligned."""
    seen: dict[nn.Module, Tensor] = {}
    norms = [[m for m in t.modules() if isinstance(m, nn.BatchNorm2d)] for t in teachers]
    for layer in (layer for layers in norms for layer in layers):
        layer.register_forward_pre_hook(lambda m, inputs: seen.update({m: inputs[0]}))
    images = initial.clone().requires_grad_()
    optimiser = torch.optim.Adam([images], lr=0.05, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        view = draw_view(images.shape[-1], crop_min=0.08, flip=True, roll=32, generator=generator)
        top, left, height, width = view.crop
        shown = functional.interpolate(
            images[:, :, top : top + height, left : left + width],
            size=images.shape[-2:],
            mode="bilinear",
        )
        shown = shown.flip(-1) if view.flip else shown
        shown = torch.roll(shown, view.shift, dims=(-2, -1))
        alignment = torch.zeros(())
        for place, (teacher, layers) in enumerate(zip(teachers, norms, strict=True)):
            logits = teacher(shown)
            if place == 0:
                loss = functional.cross_entropy(logits, labels)
            for depth, layer in enumerate(layers):
                var, mean = torch.var_mean(seen[layer], dim=(0, 2, 3), correction=0)
                distance = torch.linalg.vector_norm(var - layer.running_var)
                distance = distance + torch.linalg.vector_norm(mean - layer.running_mean)
                alignment = alignment + (10.0 if depth == 0 else 1.0) * distance
        loss = loss + 0.01 / len(teachers) * alignment
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(-1.0, 1.0)
        yield


if __name__ == "__main__":
    main()
