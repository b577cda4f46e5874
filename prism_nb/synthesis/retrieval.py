"""Retrieval of the real patch that is mixed into each image where a phase begins (RETA)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.device import tf32_mode
from prism_nb.core.recipe import Recipe
from prism_nb.data.dataset import ImageDataset
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.phases import resize
from prism_nb.synthesis.ranking import Candidates, Crop, class_patches, mosaic

_FIT, _COMPLEXITY = 0.9, 0.1
_BATCH = 64  # images per forward pass


def retrieve(
    recipe: Recipe,
    dataset: ImageDataset,
    network: Teacher,
    classes: Sequence[int],
    seed: int,
    images: Tensor,
) -> Tensor:
    """Return a real patch for each image, canonical [N, 3, S, S].

    An image x gets, of all mosaics o of lowest-loss crops of its class,

        argmin_o  .9 ||phi(x) - phi(o)||^2 + .1 complexity(o)

    with penultimate features phi of length 1 (Li et al., Fixed Anchors Are Not Enough, CVPR 2026,
    arXiv 2602.24144, dynamic retrieval). The network, which also ranks the crops, gives the
    features; images [N, 3, s, s] may be of any size.
    """
    grid, chosen = recipe.grid(dataset.image_size), []
    own = _features(network, resize(images, dataset.image_size))
    for c, feature in zip(classes, own, strict=True):
        among = Candidates(dataset, network, c, recipe.max_scored_images, seed)
        patches = class_patches(recipe, among)
        features, costs = _candidates(dataset, network, patches, grid)
        fit = (features - feature).square().sum(1)
        best = int((_FIT * fit + _COMPLEXITY * costs).argmin())
        chosen.append(mosaic(dataset, patches[best], grid))
    return torch.stack(chosen).to(images)


@lru_cache(maxsize=4096)  # once per process and class, not once per unit
def _candidates(
    dataset: ImageDataset, network: Teacher, patches: tuple[tuple[Crop, ...], ...], grid: int
) -> tuple[Tensor, Tensor]:
    """Return features [K, d] and complexities [K] of patches, on the network's device."""
    images = torch.stack([mosaic(dataset, crops, grid) for crops in patches])
    features = _features(network, images)
    return features, complexity(dataset.to_uint8(images).to(features) / 255)


@torch.no_grad()
def _features(network: Teacher, images: Tensor) -> Tensor:
    """Return penultimate features of canonical images [N, 3, S, S], scaled to length 1 [N, d]."""
    like = next(network.parameters())
    with tf32_mode("fp32", like.device):
        parts = [network.features_and_logits(part.to(like))[0] for part in images.split(_BATCH)]
    return functional.normalize(torch.cat(parts), dim=1)


def complexity(pixels: Tensor) -> Tensor:
    """Return the variance over pixels of the smoothed gradient magnitude of images, [N].

    The gradient is that of the mean over colours, by differences to the next pixel to the right and
    below; the magnitude is smoothed by means over 3 x 3 pixels. Pixels are [N, 3, H, W] in [0, 1].
    """
    grey = pixels.mean(1)
    right = grey[:, :-1, 1:] - grey[:, :-1, :-1]
    below = grey[:, 1:, :-1] - grey[:, :-1, :-1]
    smooth = functional.avg_pool2d(torch.hypot(right, below)[:, None], 3, stride=1)
    return smooth.flatten(1).var(1, correction=0)
