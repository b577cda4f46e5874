"""The loss of a synthesis step: logits of some teachers, layer statistics of others.

    L(x) = mean over k in F of CE(f_k(z), y) + r_bn / |T| * sum over k in T of D_k(z) + priors
    D_k(z) = sum over layers l of w_l * (||var_l(z) - var_l|| + ||mean_l(z) - mean_l||)

Here z is the randomly augmented batch x. In PRISM (arXiv 2511.09905, section 3, with the norms and
layer weights of the published code) the logit teachers F are the primary alone, the BN teachers T
are drawn from the pool, layers are BN layers, and their targets var_l, mean_l are running
statistics, or those of real images for one image index (PSM). Methods that couple the two (SRe2L,
G-VBSM, CV-DD) have F = T. `relative` distances replace the norms of D_k by ones without a layer's
scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.core.recipe import Recipe
from prism_nb.models.layer_stats import LayerStat, MeanVar, conv_layer_stats
from prism_nb.models.runner import TeacherRunner
from prism_nb.models.teacher import Teacher

_DENSITY_SIDE = 32  # pixels
_EPS = 1e-5  # batch norm's default
_DENSITY_TEMPERATURE = 4.0


class Objective:
    """The loss of a unit's images over all its steps.

    `matchers` are every network of the unit, `bn_scales` the factors of networks' BN losses, 1
    where not named.
    """

    def __init__(
        self,
        recipe: Recipe,
        matchers: Mapping[str, StatMatcher],
        bn_scales: Mapping[str, float] | None = None,
    ) -> None:
        self._recipe, self._by_name, self._bn_scales = recipe, matchers, bn_scales or {}

    @property
    def matchers(self) -> list[StatMatcher]:
        """Every network of the unit."""
        return list(self._by_name.values())

    def matchers_of(
        self, logit_teachers: Sequence[str], bn_teachers: Sequence[str]
    ) -> list[StatMatcher]:
        """Return the networks of a step with the given F and T, each of which runs once."""
        return [self._by_name[name] for name in dict.fromkeys([*logit_teachers, *bn_teachers])]

    def priors(self, images: Tensor, augmented: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the unweighted terms without a network, as far as the recipe has them.

        Total variation and L2 norm are those of the images, densification that of their augmented
        copies, which the networks are given too (each [N, 3, H, W]; class indices [N]).
        """
        losses: dict[str, Tensor] = {}
        if self._recipe.tv_l1 or self._recipe.l2_scale:
            losses |= image_priors(images)
        if self._recipe.densification_weight:
            losses["density/images"] = data_densification_loss(augmented, labels)
        return losses

    def weights(
        self, logit_teachers: Sequence[str], bn_teachers: Sequence[str]
    ) -> dict[str, float]:
        """Return the weight of every term of a step with the given F and T, by its name."""
        recipe, scales = self._recipe, self._bn_scales
        logit = {f"logit/{name}": 1 / len(logit_teachers) for name in logit_teachers}
        bn = {
            f"bn/{name}": scales.get(name, 1.0) * recipe.r_bn / len(bn_teachers)
            for name in bn_teachers
        }
        priors = {
            "tv/images": recipe.tv_l1,
            "l2/images": recipe.l2_scale,
            "density/images": recipe.densification_weight,
        }
        return logit | bn | priors


@dataclass(frozen=True, eq=False)
class StatMatcher:
    """One teacher's part in the loss: its logits, its layer statistics and their targets."""

    runner: TeacherRunner  # forward passes of the teacher
    # Targets of every matched statistic, in the order of the network's layers
    real_stats: Mapping[LayerStat, MeanVar]
    weights: Mapping[LayerStat, float]  # w_l of every matched statistic
    conv_drop_prob: float = 0.0  # probability that a convolution is left out of a step (EDC)
    # Momentum of the running mean of the batch statistics (G-VBSM); 0 disables it
    stats_ema: float = 0.0
    relative: bool = False  # whether distances are relative to the running deviation
    # Whether its cross-entropy is among all classes of its head, or the dataset's
    whole_head: bool = True
    generator: torch.Generator | None = None  # CPU generator of the dropped convolutions
    _means: dict[LayerStat, MeanVar] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The teacher's name."""
        return self.runner.teacher.name

    def losses(
        self, images: Tensor, labels: Tensor, *, gives_logits: bool, matches_stats: bool
    ) -> dict[str, Tensor]:
        """Run the network once on augmented images [N, 3, H, W] with class indices [N].

        It `gives_logits` if it is in F, and `matches_stats` if in T.

        Returns:
            Its unweighted loss terms. The BN loss of a network without statistics is 0, and the
            network is not run for that.
        """
        losses, stats = dict[str, Tensor](), self.sample_layers() if matches_stats else ()
        if gives_logits:
            logits, values = self.runner.forward_with_stats(images, stats)
            losses[f"logit/{self.name}"] = self.cross_entropy(logits, labels)
        else:
            values = self.runner.stats_only(images, stats)
        if matches_stats:
            batch_stats = dict(zip(stats, values, strict=True))
            zero = images.new_zeros(())
            losses[f"bn/{self.name}"] = self.loss(batch_stats) if stats else zero
        return losses

    def cross_entropy(self, head_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of head logits [N, head] with class indices [N]."""
        teacher = self.runner.teacher
        if self.whole_head:
            return functional.cross_entropy(head_logits, teacher.head_labels(labels))
        return functional.cross_entropy(teacher.class_logits(head_logits), labels)

    def sample_layers(self) -> tuple[LayerStat, ...]:
        """Return the statistics of one step: all but those of dropped convolutions."""
        if not self.conv_drop_prob:
            return tuple(self.real_stats)
        layers = dict.fromkeys(stat.layer for stat in self.real_stats)
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        draws = torch.rand(len(convolutions), generator=self.generator).tolist()
        dropped = {
            layer
            for layer, draw in zip(convolutions, draws, strict=True)
            if draw < self.conv_drop_prob
        }
        return tuple(stat for stat in self.real_stats if stat.layer not in dropped)

    def distance(self, batch_stats: Mapping[LayerStat, MeanVar]) -> Tensor:
        """Return D_k of at least one statistic, a sum of unsquared L2 norms; 0 where all agree."""
        terms, apart = [], _relative_distance if self.relative else _distance
        for stat, batch in batch_stats.items():
            term, weight = apart(batch, self.real_stats[stat]), self.weights[stat]
            terms.append(term if weight == 1 else weight * term)
        return torch.stack(terms).sum()

    def loss(self, batch_stats: Mapping[LayerStat, MeanVar]) -> Tensor:
        """Return D_k, that of the running means of the statistics if the method has them."""
        if self.stats_ema:
            batch_stats = {stat: self._smooth(stat, new) for stat, new in batch_stats.items()}
        return self.distance(batch_stats)

    def _smooth(self, stat: LayerStat, new: MeanVar) -> MeanVar:
        """Return the running mean of a statistic, with the gradient of the present batch.

        m <- a m + (1 - a) x; the loss compares m + x - stopgrad(x) with the target (G-VBSM, CVPR
        2024, score distillation form). The mean starts with the first x.
        """
        a, old = self.stats_ema, self._means.get(stat, new)
        means = [(a * m + (1 - a) * x).detach() for m, x in zip(old, new, strict=True)]
        self._means[stat] = MeanVar(*means)
        return MeanVar(*(m + x - x.detach() for m, x in zip(means, new, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """Return the running means by the index of their statistic, and the generator's state."""
        means = {
            index: (self._means[stat].mean, self._means[stat].var)
            for index, stat in enumerate(self.real_stats)
            if stat in self._means
        }
        return {"means": means, "rng": self.generator and self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore such a state."""
        stats = list(self.real_stats.items())
        self._means.clear()
        for index, (mean, var) in state["means"].items():
            stat, real = stats[index]
            device = real.mean.device
            self._means[stat] = MeanVar(mean.to(device), var.to(device))
        if self.generator is not None:
            self.generator.set_state(state["rng"])


def build_stat_matcher(
    teacher: Teacher,
    recipe: Recipe,
    *,
    bn_stats: Sequence[MeanVar] | None = None,
    conv_stats: Mapping[str, MeanVar] | None = None,
    generator: torch.Generator | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> StatMatcher:
    """Return the statistics of a teacher that a recipe matches, with their targets and weights.

    Args:
        teacher: The network.
        recipe: The method.
        bn_stats: Targets of the BN layers, in their order; None: the running statistics.
        conv_stats: Statistics of the real images by the names of `conv_layer_stats`; None where
            the recipe matches BN layers alone.
        generator: The unit's CPU generator, for dropped convolutions.
        precision: `fp32`, `tf32` or `bf16` of the network's layers.
        compiled: Whether the network runs compiled.
    """
    targets = teacher.running_stats() if bn_stats is None else bn_stats
    real_stats = dict(zip(teacher.bn_layer_stats, targets, strict=True))
    if conv_stats is not None:
        convolutions = conv_layer_stats(teacher.network, recipe.conv_patch_size)
        real_stats |= {stat: conv_stats[stat.name] for stat in convolutions}
        depth = {layer: index for index, layer in enumerate(teacher.network.modules())}
        real_stats = dict(sorted(real_stats.items(), key=lambda item: depth[item[0].layer]))
    first = next((stat.layer for stat in real_stats), None)
    return StatMatcher(
        TeacherRunner(teacher, precision, tuple(real_stats) if compiled else None),
        real_stats,
        {s: recipe.first_bn_multiplier if s.layer is first else 1.0 for s in real_stats},
        conv_drop_prob=recipe.conv_drop_prob if conv_stats is not None else 0.0,
        stats_ema=recipe.stats_ema,
        relative=recipe.bn_distance == "relative",
        whole_head=recipe.whole_head,
        generator=generator,
    )


def _distance(batch: MeanVar, real: MeanVar) -> Tensor:
    var = torch.linalg.vector_norm(batch.var - real.var)
    return var + torch.linalg.vector_norm(batch.mean - real.mean)


def _relative_distance(batch: MeanVar, real: MeanVar) -> Tensor:
    """Return a distance without the layer's scale, a sum of root mean squares over channels.

    rms((mean - mean_l) / sqrt(var_l + eps)) + rms(log((var + eps) / (var_l + eps))), with batch
    norm's default eps, since some channels of most networks have a variance of nearly 0. (The
    kit's own; PSM, 2026, has such a log-ratio in its score of images.)
    """
    var = real.var + _EPS
    mean_apart = torch.linalg.vector_norm((batch.mean - real.mean) * var.rsqrt())
    var_apart = torch.linalg.vector_norm(((batch.var + _EPS) / var).log())
    return (mean_apart + var_apart) / math.sqrt(len(var))


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the scalar sum of at least one term by its weight."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def image_priors(images: Tensor) -> dict[str, Tensor]:
    """Return unweighted priors on canonical images [N, 3, H, W] (DeepInversion, CVPR 2020).

    Returns:
        `tv/images`: mean absolute difference of neighbouring pixels, vertical plus horizontal.
        `l2/images`: mean L2 norm of an image.
    """
    vertical = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    horizontal = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()
    norm = torch.linalg.vector_norm(images.flatten(1), dim=1).mean()
    return {"tv/images": vertical + horizontal, "l2/images": norm}


def data_densification_loss(images: Tensor, labels: Tensor) -> Tensor:
    """Return how unevenly the images of each class are spread (G-VBSM, CVPR 2024, section 3.2).

    Per class, with e the eigenvalues of the Gram matrix of its images pooled to 32 x 32 pixels:
    KL(softmax(e / 4) || softmax(e)), with gradients through the second alone; 0 for one image.
    Images are augmented [N, 3, H, W], labels class indices [N]; the result is the sum over classes.
    """
    rows = functional.adaptive_avg_pool2d(images, _DENSITY_SIDE).flatten(1)
    return torch.stack([_eigenvalue_kl(rows[labels == c]) for c in labels.unique()]).sum()


def _eigenvalue_kl(rows: Tensor) -> Tensor:
    eigenvalues = torch.linalg.eigvalsh(rows @ rows.T)
    target = (eigenvalues / _DENSITY_TEMPERATURE).softmax(0).detach()
    return functional.kl_div(eigenvalues.log_softmax(0), target, reduction="sum")


def bn_loss_scales(
    recipe: Recipe,
    reference: StatMatcher | None,
    matchers: Sequence[StatMatcher],
    real_images: Callable[[], Tensor],
) -> dict[str, float]:
    """Return the factor of every BN teacher's loss: its weight times its normalization.

    Networks differ in depth by an order of magnitude, and their losses with them. Normalization
    brings each to the reference's scale, so that r_bn keeps its meaning: by the number of
    statistics (one per BN layer, two per convolution), by that of their channels, or by the loss
    that real images have.

    Args:
        recipe: The method.
        reference: The network of that scale, usually the primary; None where the recipe does not
            normalize.
        matchers: All BN teachers of the unit.
        real_images: Returns as many real images of the unit's classes, canonical [N, 3, S, S];
            called only where the recipe normalizes by them.
    """
    weights = {m.name: recipe.bn_weights.get(m.name, 1.0) for m in matchers}
    if recipe.bn_normalize == "none" or reference is None:
        return weights
    images = real_images() if recipe.bn_normalize == "real" else torch.empty(0)
    size_of: Callable[[StatMatcher], float] = {
        "layers": lambda m: len(m.real_stats),
        "channels": lambda m: sum(real.mean.numel() for real in m.real_stats.values()),
        "real": lambda m: _real_image_loss(m, images),
    }[recipe.bn_normalize]
    sizes = {m.name: size_of(m) for m in [reference, *matchers] if m.real_stats}
    return {
        m.name: weights[m.name] * sizes[reference.name] / sizes[m.name]
        for m in matchers
        if m.real_stats
    }


@torch.no_grad()
def _real_image_loss(matcher: StatMatcher, images: Tensor) -> float:
    stats = tuple(matcher.real_stats)
    _, values = matcher.runner.forward_with_stats(images, stats)
    return float(matcher.distance(dict(zip(stats, values, strict=True))))
