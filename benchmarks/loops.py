"""Loops to compare the kit's with: a bare one, and one that works as the published program."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.data.augment import sample_augmentation
from prism_nb.models.teacher import Teacher

_FOREVER = 10_000
_BN_WEIGHT, _FIRST_LAYER, _LR = 0.01, 10.0, 0.05


def bare(teachers: list[Teacher], initial: Tensor, labels: Tensor) -> Iterator[None]:
    """Take PRISM's plain step, each network once, without any of the kit's switches."""
    seen, norms = _watch_inputs(teachers)

    def loss_of(view: Tensor) -> Tensor:
        alignment = torch.zeros(())
        logit_loss = torch.zeros(())
        for place, (teacher, layers) in enumerate(zip(teachers, norms, strict=True)):
            logits = teacher(view)
            if place == 0:
                logit_loss = functional.cross_entropy(logits, labels)
            for depth, layer in enumerate(layers):
                var, mean = torch.var_mean(seen[layer], dim=(0, 2, 3), correction=0)
                alignment = alignment + _distance(layer, mean, var, depth)
        return logit_loss + _BN_WEIGHT / len(teachers) * alignment

    return _optimise(initial, loss_of)


def published(teachers: list[Teacher], initial: Tensor, labels: Tensor) -> Iterator[None]:
    """Take a step the way the published program does.

    The primary runs for its logits and once more for its statistics, networks without BN layers
    run for nothing, and a variance takes a copy of the activations with the channels in front.
    """
    seen, norms = _watch_inputs(teachers)

    def loss_of(view: Tensor) -> Tensor:
        logit_loss = functional.cross_entropy(teachers[0](view), labels)
        alignment = torch.zeros(())
        for teacher, layers in zip(teachers, norms, strict=True):
            teacher(view)
            for depth, layer in enumerate(layers):
                values = seen[layer]
                mean = values.mean([0, 2, 3])
                rows = values.permute(1, 0, 2, 3).contiguous().view(values.shape[1], -1)
                alignment = alignment + _distance(layer, mean, rows.var(1, unbiased=False), depth)
        return logit_loss + _BN_WEIGHT / len(teachers) * alignment

    return _optimise(initial, loss_of)


def _watch_inputs(
    teachers: list[Teacher],
) -> tuple[dict[nn.Module, Tensor], list[list[nn.BatchNorm2d]]]:
    seen: dict[nn.Module, Tensor] = {}
    norms = [[m for m in t.modules() if isinstance(m, nn.BatchNorm2d)] for t in teachers]
    for layer in (layer for layers in norms for layer in layers):
        layer.register_forward_pre_hook(lambda m, inputs: seen.update({m: inputs[0]}))
    return seen, norms


def _distance(layer: nn.BatchNorm2d, mean: Tensor, var: Tensor, depth: int) -> Tensor:
    distance = torch.linalg.vector_norm(var - layer.running_var)
    distance = distance + torch.linalg.vector_norm(mean - layer.running_mean)
    return (_FIRST_LAYER if depth == 0 else 1.0) * distance


def _optimise(initial: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Iterator[None]:
    images = initial.requires_grad_()
    optimizer = torch.optim.Adam([images], lr=_LR, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=_FOREVER)
    generator = torch.Generator().manual_seed(0)
    while True:
        loss = loss_of(_view(images, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(-1.0, 1.0)
        yield


def _view(images: Tensor, generator: torch.Generator) -> Tensor:
    view = sample_augmentation(
        images.shape[-1], crop_min=0.08, flip=True, jitter=32, generator=generator
    )
    top, left, height, width = view.crop
    shown = functional.interpolate(
        images[:, :, top : top + height, left : left + width],
        size=images.shape[-2:],
        mode="bilinear",
    )
    shown = shown.flip(-1) if view.flip else shown
    return torch.roll(shown, view.shift, dims=(-2, -1))


Loop = Callable[[list[Teacher], Tensor, Tensor], Iterator[None]]
LOOPS: dict[str, Loop] = {"bare": bare, "published": published}
