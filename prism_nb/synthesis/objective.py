"""The objective of a step: logits from some networks, statistics from others.

    L(x) = mean over k in F of CE(f_k(x), y) + (r_bn / |T|) * sum over k in T of A_k(x) + priors
    A_k(x) = sum over layers l of w_l * (||var_l - target_var_l|| + ||mean_l - target_mean_l||)

PRISM (arXiv 2511.09905, section 3, with the norms and weights of the published code): F is the
primary alone, T a drawn team, layers are BN layers and targets their running statistics. Methods
that couple the two (SRe2L, G-VBSM, CV-DD) have F = T.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.recipes import Recipe
from prism_nb.synthesis.densification import densification
from prism_nb.synthesis.watch import Watch
from prism_nb.teachers.statistics import Probe, Statistics


def alignment(
    seen: Sequence[Statistics], targets: Sequence[Statistics], weights: Sequence[float]
) -> Tensor:
    """Measure how far a batch's statistics are from those of the real data, for one network.

    Args:
        seen: Mean and biased variance of each layer's input over this batch.
        targets: Those of the real data, in the same order.
        weights: w_l, one per layer.

    Returns:
        A_k, a scalar: weighted sum of unsquared L2 norms, 0 where all statistics agree.
    """
    terms = [
        torch.linalg.vector_norm(here.var - there.var)
        + torch.linalg.vector_norm(here.mean - there.mean)
        for here, there in zip(seen, targets, strict=True)
    ]
    weighted = [term if w == 1 else w * term for term, w in zip(terms, weights, strict=True)]
    return torch.stack(weighted).sum()


@dataclass(frozen=True)
class Role:
    """What one network does in a step.

    Attributes:
        watch: The network.
        speaks: Whether it gives logits, as one of F.
        aligns: Whether it gives statistics, as one of T.
    """

    watch: Watch
    speaks: bool
    aligns: bool

    def losses(self, view: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute what the network says of a batch, in one pass.

        Args:
            view: Augmented canonical images [N, 3, H, W].
            labels: Class indices [N].

        Returns:
            Unweighted scalars, `logit/<network>` if it speaks and `bn/<network>` if it aligns; the
            latter is 0 for a network without anything to align, which is not run for it.
        """
        watch, losses = self.watch, dict[str, Tensor]()
        probes = watch.draw_probes() if self.aligns else ()
        if self.speaks:
            logits, seen = watch.sight.observe(view, probes)
            losses[f"logit/{watch.name}"] = functional.cross_entropy(logits, labels)
        else:
            seen = watch.sight.statistics(view, probes)
        if self.aligns:
            statistics = dict(zip(probes, seen, strict=True))
            losses[f"bn/{watch.name}"] = aligned(watch, statistics, like=view)
        return losses


def aligned(watch: Watch, seen: Mapping[Probe, Statistics], *, like: Tensor) -> Tensor:
    """Return a network's BN loss from a batch's statistics; 0 where there are none.

    Args:
        watch: The network, its targets and weights, and its running means if it keeps any.
        seen: What its probes saw.
        like: A tensor of the type and device of a zero.
    """
    if not seen:
        return like.new_zeros(())
    probes = list(seen)
    return alignment(
        watch.smooth(probes, list(seen.values())),
        [watch.targets[probe] for probe in probes],
        [watch.weights[probe] for probe in probes],
    )


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


def weights_of(
    names: Iterable[str], recipe: Recipe, scales: Mapping[str, float]
) -> dict[str, float]:
    """Return how much each term of a step counts.

    Args:
        names: Names of all terms of the step.
        recipe: Gives r_bn, the weight of the mean over the BN terms, and those of the priors.
        scales: Factor of a network's BN term; 1 for a network that is not named.
    """
    names = list(names)
    kinds = Counter(name.partition("/")[0] for name in names)
    whole = {
        "logit": 1.0,
        "bn": recipe.bn_weight,
        "tv": recipe.tv_weight,
        "l2": recipe.l2_weight,
        "density": recipe.density_weight,
    }
    weights = {}
    for name in names:
        kind, _, network = name.partition("/")
        scale = scales.get(network, 1.0) if kind == "bn" else 1.0
        weights[name] = scale * whole[kind] / kinds[kind]
    return weights


def weigh(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Add terms up by their weights; at least one term."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


class Objective:
    """What a unit's images are optimised for, over all its steps.

    Args:
        recipe: The weights.
        watches: Every network that takes part, by name.
        scales: Factor of each network's BN loss; 1 where none is named.
    """

    def __init__(
        self,
        recipe: Recipe,
        watches: Mapping[str, Watch],
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self._recipe, self._watches, self._scales = recipe, watches, scales or {}

    @property
    def watches(self) -> list[Watch]:
        """Every network that takes part."""
        return list(self._watches.values())

    def roles(self, speakers: Sequence[str], team: Sequence[str]) -> list[Role]:
        """Return what each network of a step does: F by the first names, T by the second."""
        return [
            Role(self._watches[name], speaks=name in speakers, aligns=name in team)
            for name in dict.fromkeys([*speakers, *team])
        ]

    def terms(
        self,
        images: Tensor,
        view: Tensor,
        labels: Tensor,
        *,
        speakers: Sequence[str],
        team: Sequence[str],
    ) -> dict[str, Tensor]:
        """Compute a step's named, unweighted terms.

        Args:
            images: The images themselves, canonical [N, 3, H, W].
            view: The augmented images, likewise.
            labels: Class indices [N].
            speakers: The networks F of this step.
            team: The networks T of this step.
        """
        losses: dict[str, Tensor] = {}
        for role in self.roles(speakers, team):
            losses |= role.losses(view, labels)
        return losses | self.priors(images, view, labels)

    def priors(self, images: Tensor, view: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the terms that no network takes part in, where the recipe weighs them."""
        recipe = self._recipe
        losses: dict[str, Tensor] = {}
        if recipe.tv_weight or recipe.l2_weight:
            losses |= image_priors(images)
        if recipe.density_weight:
            losses["density/images"] = densification(view, labels)
        return losses

    def weights(self, speakers: Sequence[str], team: Sequence[str]) -> dict[str, float]:
        """Return how much each term of a step counts, by its name."""
        names = [f"logit/{name}" for name in speakers] + [f"bn/{name}" for name in team]
        priors = ["tv/images", "l2/images", "density/images"]
        return weights_of([*names, *priors], self._recipe, self._scales)

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of all of a step's terms, the scalar that is minimised."""
        return weigh(losses, weights_of(losses, self._recipe, self._scales))
