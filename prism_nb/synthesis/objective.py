"""What of a network is aligned with what, over the steps of a unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from prism_nb.core.recipe import Recipe
from prism_nb.models.layer_stats import LayerStat, MeanVar, conv_layer_stats
from prism_nb.models.runner import CompiledTeacherRunner, TeacherRunner
from prism_nb.models.teacher import Teacher


@dataclass(frozen=True, eq=False)
class StatMatcher:
    """One network of a unit, its targets, and what it remembers from step to step.

    Attributes:
        sight: Looks through the network.
        targets: The real data's statistics of every probe, in the network's order.
        weights: Weight of each probe's term.
        drop: Chance that a convolution is left out of a step.
        momentum: Of the running mean that statistics are smoothed by; 0: not at all.
        generator: Draws what is left out; on the CPU.
    """

    sight: TeacherRunner
    targets: Mapping[LayerStat, MeanVar]
    weights: Mapping[LayerStat, float]
    drop: float = 0.0
    momentum: float = 0.0
    generator: torch.Generator | None = None
    _means: dict[LayerStat, MeanVar] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The network's name."""
        return self.sight.teacher.name

    def sample_layers(self) -> tuple[LayerStat, ...]:
        """Return the probes of a step: all of them but those of dropped convolutions."""
        if not self.drop:
            return tuple(self.targets)
        convolutions = dict.fromkeys(p.layer for p in self.targets if not _is_bn(p))
        draws = torch.rand(len(convolutions), generator=self.generator).tolist()
        dropped = {c for c, draw in zip(convolutions, draws, strict=True) if draw < self.drop}
        return tuple(probe for probe in self.targets if probe.layer not in dropped)

    def smooth(self, probes: Sequence[LayerStat], seen: Sequence[MeanVar]) -> Sequence[MeanVar]:
        """Replace statistics by their running mean, with the gradient of the present ones.

        m <- a m + (1 - a) x, and m + x - stopgrad(x) is compared with the target (G-VBSM, CVPR
        2024, score distillation form). The mean starts with the first x.
        """
        if not self.momentum:
            return seen
        for probe, now in zip(probes, seen, strict=True):
            before = self._means.get(probe, now)
            self._means[probe] = MeanVar(
                *(self._step(old, new) for old, new in zip(before, now, strict=True))
            )
        return [
            MeanVar(*(m + x - x.detach() for m, x in zip(self._means[p], now, strict=True)))
            for p, now in zip(probes, seen, strict=True)
        ]

    def remember(self) -> Callable[[], None]:
        """Return a call that forgets what happens from now on, for a step that is tried again."""
        means = dict(self._means)
        state = None if self.generator is None else self.generator.get_state()

        def forget() -> None:
            self._means.clear()
            self._means.update(means)
            if self.generator is not None and state is not None:
                self.generator.set_state(state)

        return forget

    def tensors(self) -> dict[str, Tensor]:
        """Return the running means by the place of their probe."""
        kept = [(place, self._means.get(probe)) for place, probe in enumerate(self.targets)]
        return {
            f"{place}/{field}": value
            for place, means in kept
            if means is not None
            for field, value in means._asdict().items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over running means."""
        self._means.clear()
        for place, probe in enumerate(self.targets):
            if f"{place}/mean" in tensors:
                like = self.targets[probe]
                self._means[probe] = MeanVar(
                    tensors[f"{place}/mean"].to(like.mean.device),
                    tensors[f"{place}/var"].to(like.var.device),
                )

    def _step(self, old: Tensor, new: Tensor) -> Tensor:
        return (self.momentum * old + (1 - self.momentum) * new).detach()


def build_stat_matcher(
    teacher: Teacher,
    recipe: Recipe,
    *,
    conv_targets: Mapping[str, MeanVar] | None = None,
    generator: torch.Generator | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> StatMatcher:
    """Choose the layer statistics of a network that a recipe matches.

    Args:
        teacher: The network.
        recipe: Says which statistics, and the weight of the first layer.
        conv_targets: Where the recipe matches convolutions: the real data's statistics by the
            name of `conv_probes`.
        generator: The unit's, for what a recipe drops at random.
        precision: Of the network's layers.
        compiled: Whether the network is compiled.
    """
    targets = dict(zip(teacher.bn_probes, teacher.running(), strict=True))
    if conv_targets is not None:
        convolutions = conv_layer_stats(teacher.network, recipe.conv_patch_size)
        targets |= {probe: conv_targets[probe.name] for probe in convolutions}
        targets = _in_order(teacher, targets)
    first = next((probe.layer for probe in targets), None)
    factor = recipe.first_bn_multiplier
    sight = (
        CompiledTeacherRunner(teacher, tuple(targets), precision)
        if compiled
        else TeacherRunner(teacher, precision)
    )
    return StatMatcher(
        sight,
        targets,
        weights={probe: factor if probe.layer is first else 1.0 for probe in targets},
        drop=recipe.conv_drop_prob if conv_targets is not None else 0.0,
        momentum=recipe.stats_ema,
        generator=generator,
    )


def _is_bn(probe: LayerStat) -> bool:
    return isinstance(probe.layer, torch.nn.BatchNorm2d)


def _in_order(teacher: Teacher, targets: Mapping[LayerStat, MeanVar]) -> dict[LayerStat, MeanVar]:
    place = {layer: index for index, layer in enumerate(teacher.network.modules())}
    return {probe: targets[probe] for probe in sorted(targets, key=lambda p: place[p.layer])}


def bn_stats_loss(
    seen: Sequence[MeanVar], targets: Sequence[MeanVar], weights: Sequence[float]
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
class TeacherTerm:
    """What one network does in a step.

    Attributes:
        watch: The network.
        gives_logits: Whether it gives logits, as one of F.
        matches_stats: Whether its statistics are matched, as one of T.
    """

    watch: StatMatcher
    gives_logits: bool
    matches_stats: bool

    def losses(self, view: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute what the network says of a batch, in one pass.

        Args:
            view: Augmented canonical images [N, 3, H, W].
            labels: Class indices [N].

        Returns:
            Unweighted scalars, `logit/<network>` and `bn/<network>` for what it contributes; the
            latter is 0 for a network without anything to align, which is not run for it.
        """
        watch, losses = self.watch, dict[str, Tensor]()
        probes = watch.sample_layers() if self.matches_stats else ()
        if self.gives_logits:
            logits, seen = watch.sight.observe(view, probes)
            losses[f"logit/{watch.name}"] = functional.cross_entropy(logits, labels)
        else:
            seen = watch.sight.statistics(view, probes)
        if self.matches_stats:
            statistics = dict(zip(probes, seen, strict=True))
            losses[f"bn/{watch.name}"] = bn_loss_of(watch, statistics, like=view)
        return losses


def bn_loss_of(watch: StatMatcher, seen: Mapping[LayerStat, MeanVar], *, like: Tensor) -> Tensor:
    """Return a network's BN loss from a batch's statistics; 0 where there are none.

    Args:
        watch: The network, its targets and weights, and its running means if it keeps any.
        seen: What its probes saw.
        like: A tensor of the type and device of a zero.
    """
    if not seen:
        return like.new_zeros(())
    probes = list(seen)
    return bn_stats_loss(
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


def term_weights(
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
        "bn": recipe.r_bn,
        "tv": recipe.tv_l1,
        "l2": recipe.l2_scale,
        "density": recipe.densification_weight,
    }
    weights = {}
    for name in names:
        kind, _, network = name.partition("/")
        scale = scales.get(network, 1.0) if kind == "bn" else 1.0
        weights[name] = scale * whole[kind] / kinds[kind]
    return weights


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Add terms up by their weights; at least one term."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


class Objective:
    """What a unit's images are optimised for, over all its steps.

    Args:
        recipe: The weights.
        matchers: Every network that takes part, by name.
        scales: Factor of each network's BN loss; 1 where none is named.
    """

    def __init__(
        self,
        recipe: Recipe,
        matchers: Mapping[str, StatMatcher],
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self._recipe, self._watches, self._scales = recipe, matchers, scales or {}

    @property
    def matchers(self) -> list[StatMatcher]:
        """Every network that takes part."""
        return list(self._watches.values())

    def roles(self, logit_teachers: Sequence[str], bn_teachers: Sequence[str]) -> list[TeacherTerm]:
        """Return what each network of a step does: F by the first names, T by the second."""
        return [
            TeacherTerm(
                self._watches[name],
                gives_logits=name in logit_teachers,
                matches_stats=name in bn_teachers,
            )
            for name in dict.fromkeys([*logit_teachers, *bn_teachers])
        ]

    def terms(
        self,
        images: Tensor,
        view: Tensor,
        labels: Tensor,
        *,
        logit_teachers: Sequence[str],
        bn_teachers: Sequence[str],
    ) -> dict[str, Tensor]:
        """Compute a step's named, unweighted terms.

        Args:
            images: The images themselves, canonical [N, 3, H, W].
            view: The augmented images, likewise.
            labels: Class indices [N].
            logit_teachers: The networks F of this step.
            bn_teachers: The networks T of this step.
        """
        losses: dict[str, Tensor] = {}
        for role in self.roles(logit_teachers, bn_teachers):
            losses |= role.losses(view, labels)
        return losses | self.priors(images, view, labels)

    def priors(self, images: Tensor, view: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the terms that no network takes part in, where the recipe weighs them."""
        recipe = self._recipe
        losses: dict[str, Tensor] = {}
        if recipe.tv_l1 or recipe.l2_scale:
            losses |= image_priors(images)
        if recipe.densification_weight:
            losses["density/images"] = data_densification_loss(view, labels)
        return losses

    def weights(
        self, logit_teachers: Sequence[str], bn_teachers: Sequence[str]
    ) -> dict[str, float]:
        """Return how much each term of a step counts, by its name."""
        names = [f"logit/{name}" for name in logit_teachers] + [
            f"bn/{name}" for name in bn_teachers
        ]
        priors = ["tv/images", "l2/images", "density/images"]
        return term_weights([*names, *priors], self._recipe, self._scales)

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of all of a step's terms, the scalar that is minimised."""
        return weighted_sum(losses, term_weights(losses, self._recipe, self._scales))


_SIDE = 32  # pixels
_TEMPERATURE = 4.0


def data_densification_loss(images: Tensor, labels: Tensor) -> Tensor:
    """Measure how unevenly the images of each class spread (G-VBSM, CVPR 2024, section 3.2).

    Per class, with e the eigenvalues of the Gram matrix of its images pooled to 32 x 32 pixels:
    KL(softmax(e / 4) || softmax(e)), gradients through the second only; 0 for a single image.

    Args:
        images: Canonical images [N, 3, H, W].
        labels: Class indices [N].

    Returns:
        The sum over the classes, a scalar.
    """
    rows = functional.adaptive_avg_pool2d(images, _SIDE).flatten(1)
    return torch.stack([_divergence(rows[labels == c]) for c in labels.unique()]).sum()


def _divergence(rows: Tensor) -> Tensor:
    spread = torch.linalg.eigvalsh(rows @ rows.T)
    flatter = (spread / _TEMPERATURE).softmax(0).detach()
    return functional.kl_div(spread.log_softmax(0), flatter, reduction="sum")


@torch.no_grad()
def bn_loss_scales(
    recipe: Recipe,
    primary: StatMatcher | None,
    matchers: Sequence[StatMatcher],
    real_images: Callable[[], Tensor],
) -> dict[str, float]:
    """Return the factor of every BN teacher's loss: its weight times its normalisation.

    Networks differ in depth by an order of magnitude, and their losses with them. Normalisation
    brings each to the primary's scale, so that r_bn keeps its meaning: by the number of
    statistics (one per BN layer, two per convolution), by that of their channels, or by the loss
    that real images have.

    Args:
        recipe: The method.
        primary: The network whose scale is kept; needed where the recipe normalises.
        matchers: All networks that are drawn in the unit.
        real_images: Gives as many real images of the unit's classes, canonical [N, 3, S, S];
            called only where the recipe asks for them.
    """
    weights = {w.name: recipe.bn_weights.get(w.name, 1.0) for w in matchers}
    if recipe.bn_normalize == "none" or primary is None:
        return weights
    size = _MEASURES.get(recipe.bn_normalize) or _loss_on(real_images())
    unit = size(primary)
    return {w.name: weights[w.name] * unit / size(w) for w in matchers if w.targets}


_MEASURES: dict[str, Callable[[StatMatcher], float]] = {
    "layers": lambda watch: len(watch.targets),
    "channels": lambda watch: sum(target.mean.numel() for target in watch.targets.values()),
}


def _loss_on(images: Tensor) -> Callable[[StatMatcher], float]:
    def loss(watch: StatMatcher) -> float:
        _, seen = watch.sight.observe(images, tuple(watch.targets))
        weights = list(watch.weights.values())
        return float(bn_stats_loss(seen, list(watch.targets.values()), weights))

    return loss
