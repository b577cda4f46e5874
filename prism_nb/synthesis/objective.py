"""PRISM's objective: logits from one network, batch-norm statistics from several.

    L(x) = CE(f(x), y) + (r_bn / |T|) * sum over k in T of A_k(x)
    A_k(x) = sum over BN layers l of w_l * (||var_l - running_var_l|| + ||mean_l - running_mean_l||)

(PRISM, arXiv 2511.09905, section 3, with the norms and weights of the published code.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.teachers.teacher import Statistics, Teacher


def bn_alignment(
    observed: Sequence[Statistics], running: Sequence[Statistics], *, first_layer_factor: float
) -> Tensor:
    """Measure how far a batch's statistics are from those of the real data, for one network.

    Args:
        observed: Mean and biased variance of each BN layer's input over this batch.
        running: The stored ones, in the same order.
        first_layer_factor: Weight of the first layer; all others weigh 1.

    Returns:
        A_k, a scalar: weighted sum of unsquared L2 norms, 0 where all statistics agree.
    """
    terms = [
        torch.linalg.vector_norm(seen.var - stored.var)
        + torch.linalg.vector_norm(seen.mean - stored.mean)
        for seen, stored in zip(observed, running, strict=True)
    ]
    return first_layer_factor * terms[0] + torch.stack(terms).sum() - terms[0]


def prism_losses(
    view: Tensor,
    labels: Tensor,
    *,
    primary: Teacher,
    bn_teachers: Sequence[Teacher],
    first_layer_factor: float,
) -> dict[str, Tensor]:
    """Compute the named, unweighted terms of the objective; each network runs once.

    Args:
        view: Augmented canonical images [N, 3, H, W].
        labels: Class indices [N].
        primary: The network that gives the logits.
        bn_teachers: The drawn networks, T; the primary may be among them.
        first_layer_factor: See `bn_alignment`.

    Returns:
        `logit/<primary>` and one `bn/<teacher>` per network of T, scalars; 0 for a network
        without BN layers, which is not run.
    """
    losses: dict[str, Tensor] = {}
    if primary not in bn_teachers or not primary.bn_layers:
        losses[f"logit/{primary.name}"] = functional.cross_entropy(primary(view), labels)
    for teacher in bn_teachers:
        if not teacher.bn_layers:
            losses[f"bn/{teacher.name}"] = view.new_zeros(())
            continue
        logits, observed = teacher.observe(view)
        if teacher is primary:
            losses[f"logit/{primary.name}"] = functional.cross_entropy(logits, labels)
        losses[f"bn/{teacher.name}"] = bn_alignment(
            observed, teacher.running(), first_layer_factor=first_layer_factor
        )
    return losses


def image_priors(images: Tensor) -> dict[str, Tensor]:
    """Compute the priors on the images themselves, unweighted (DeepInversion, CVPR 2020).

    Args:
        images: Canonical images [N, 3, H, W], not augmented.

    Returns:
        `tv/images`: mean absolute difference of neighbouring pixels, down plus right.
        `l2/images`: mean L2 norm of an image.
    """
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()
    norm = torch.linalg.vector_norm(images.flatten(1), dim=1).mean()
    return {"tv/images": down + right, "l2/images": norm}


def weigh(
    losses: Mapping[str, Tensor],
    *,
    bn_weight: float,
    scales: Mapping[str, float] | None = None,
    tv_weight: float = 0.0,
    l2_weight: float = 0.0,
) -> Tensor:
    """Add named terms up.

    Args:
        losses: Terms of `prism_losses`, and of `image_priors` where those have a weight.
        bn_weight: r_bn, weight of the mean over the BN terms.
        scales: Factor of a network's BN term; 1 for a network that is not named.
        tv_weight: Weight of `tv/images`.
        l2_weight: Weight of `l2/images`.
    """
    factors = scales or {}
    logit = [value for name, value in losses.items() if name.startswith("logit/")]
    bn = [
        factors.get(name.removeprefix("bn/"), 1.0) * value
        for name, value in losses.items()
        if name.startswith("bn/")
    ]
    total = torch.stack(logit).sum() + bn_weight * torch.stack(bn).mean()
    if tv_weight:
        total = total + tv_weight * losses["tv/images"]
    if l2_weight:
        total = total + l2_weight * losses["l2/images"]
    return total
