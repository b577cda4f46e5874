"""Loops to compare the kit's with: a bare one, and one that works as the published program."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.data.augment import sample_augmentation
from prism_nb.models.teacher import Teacher

_FOREVER = 10_000
_BN_WEIGHT, _FIRST_LAYER, _LR = 0.01, 10.0, 0.05


def plain_loop(
    teachers: list[Teacher], images: Tensor, labels: Tensor, *, as_published: bool
) -> Iterator[None]:
    """Take PRISM's plain step, without any of the kit's switches, whenever it is advanced.

    Args:
        teachers: All networks of the step, the first being the primary.
        images: The images [N, 3, S, S], changed in place.
        labels: Their classes, int64 [N].
        as_published: Whether to work as the published program does: the primary runs for its
            logits and once more for its statistics, networks without BN layers run for nothing,
            and a variance takes a copy of the activations with the channels in front.
    """
    inputs: dict[nn.Module, Tensor] = {}
    norms = [[m for m in t.modules() if isinstance(m, nn.BatchNorm2d)] for t in teachers]
    for layer in (layer for layers in norms for layer in layers):
        layer.register_forward_pre_hook(lambda module, values: inputs.update({module: values[0]}))
    moments = _published_moments if as_published else _bare_moments
    optimizer = torch.optim.Adam([images.requires_grad_()], lr=_LR, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=_FOREVER)
    generator = torch.Generator().manual_seed(0)
    while True:
        view = _view(images, generator)
        logits = teachers[0](view)
        alignment = torch.zeros(())
        for place, (teacher, layers) in enumerate(zip(teachers, norms, strict=True)):
            if as_published or place > 0:
                teacher(view)
            for depth, layer in enumerate(layers):
                mean, var = moments(inputs[layer])
                distance = torch.linalg.vector_norm(var - layer.running_var)
                distance = distance + torch.linalg.vector_norm(mean - layer.running_mean)
                alignment = alignment + (_FIRST_LAYER if depth == 0 else 1.0) * distance
        loss = functional.cross_entropy(logits, labels) + _BN_WEIGHT / len(teachers) * alignment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(-1.0, 1.0)
        yield


def _bare_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
    return mean, var


def _published_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    rows = values.permute(1, 0, 2, 3).contiguous().view(values.shape[1], -1)
    return values.mean([0, 2, 3]), rows.var(1, unbiased=False)


def _view(images: Tensor, generator: torch.Generator) -> Tensor:
    view = sample_augmentation(
        images.shape[-1], crop_min=0.08, flip=True, jitter=32, generator=generator
    )
    top, left, height, width = view.crop
    crop = images[:, :, top : top + height, left : left + width]
    crop = functional.interpolate(crop, size=images.shape[-2:], mode="bilinear")
    crop = crop.flip(-1) if view.flip else crop
    return torch.roll(crop, view.shift, dims=(-2, -1))
