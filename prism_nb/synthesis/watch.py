"""What of a network is aligned with what, over the steps of a unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prism_nb.recipes import Recipe
from prism_nb.teachers.sight import CompiledSight, Sight
from prism_nb.teachers.statistics import Probe, Statistics, conv_probes
from prism_nb.teachers.teacher import Teacher


@dataclass(frozen=True, eq=False)
class Watch:
    """One network of a unit, its targets, and what it remembers from step to step.

    Attributes:
        sight: Looks through the network.
        targets: The real data's statistics of every probe, in the network's order.
        weights: Weight of each probe's term.
        drop: Chance that a convolution is left out of a step.
        momentum: Of the running mean that statistics are smoothed by; 0: not at all.
        generator: Draws what is left out; on the CPU.
    """

    sight: Sight
    targets: Mapping[Probe, Statistics]
    weights: Mapping[Probe, float]
    drop: float = 0.0
    momentum: float = 0.0
    generator: torch.Generator | None = None
    _means: dict[Probe, Statistics] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The network's name."""
        return self.sight.teacher.name

    def draw_probes(self) -> tuple[Probe, ...]:
        """Return the probes of a step: all of them but those of dropped convolutions."""
        if not self.drop:
            return tuple(self.targets)
        convolutions = dict.fromkeys(p.layer for p in self.targets if not _is_bn(p))
        draws = torch.rand(len(convolutions), generator=self.generator).tolist()
        dropped = {c for c, draw in zip(convolutions, draws, strict=True) if draw < self.drop}
        return tuple(probe for probe in self.targets if probe.layer not in dropped)

    def smooth(self, probes: Sequence[Probe], seen: Sequence[Statistics]) -> Sequence[Statistics]:
        """Replace statistics by their running mean, with the gradient of the present ones.

        m <- a m + (1 - a) x, and m + x - stopgrad(x) is compared with the target (G-VBSM, CVPR
        2024, score distillation form). The mean starts with the first x.
        """
        if not self.momentum:
            return seen
        for probe, now in zip(probes, seen, strict=True):
            before = self._means.get(probe, now)
            self._means[probe] = Statistics(
                *(self._step(old, new) for old, new in zip(before, now, strict=True))
            )
        return [
            Statistics(*(m + x - x.detach() for m, x in zip(self._means[p], now, strict=True)))
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
                self._means[probe] = Statistics(
                    tensors[f"{place}/mean"].to(like.mean.device),
                    tensors[f"{place}/var"].to(like.var.device),
                )

    def _step(self, old: Tensor, new: Tensor) -> Tensor:
        return (self.momentum * old + (1 - self.momentum) * new).detach()


def watch(
    teacher: Teacher,
    recipe: Recipe,
    *,
    conv_targets: Mapping[str, Statistics] | None = None,
    generator: torch.Generator | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> Watch:
    """Decide what of a network a recipe aligns.

    Args:
        teacher: The network.
        recipe: Says which statistics, and the weight of the first layer.
        conv_targets: Where the recipe aligns convolutions: the real data's statistics by the
            name of `conv_probes`.
        generator: The unit's, for what a recipe drops at random.
        precision: Of the network's layers.
        compiled: Whether the network is compiled.
    """
    targets = dict(zip(teacher.bn_probes, teacher.running(), strict=True))
    if conv_targets is not None:
        convolutions = conv_probes(teacher.network, recipe.conv_patch)
        targets |= {probe: conv_targets[probe.name] for probe in convolutions}
        targets = _in_order(teacher, targets)
    first = next((probe.layer for probe in targets), None)
    factor = recipe.first_layer_factor
    sight = (
        CompiledSight(teacher, tuple(targets), precision) if compiled else Sight(teacher, precision)
    )
    return Watch(
        sight,
        targets,
        weights={probe: factor if probe.layer is first else 1.0 for probe in targets},
        drop=recipe.conv_drop if conv_targets is not None else 0.0,
        momentum=recipe.momentum,
        generator=generator,
    )


def _is_bn(probe: Probe) -> bool:
    return isinstance(probe.layer, torch.nn.BatchNorm2d)


def _in_order(teacher: Teacher, targets: Mapping[Probe, Statistics]) -> dict[Probe, Statistics]:
    place = {layer: index for index, layer in enumerate(teacher.network.modules())}
    return {probe: targets[probe] for probe in sorted(targets, key=lambda p: place[p.layer])}
