"""The draw of teachers: which networks of the pool give BN statistics and logits, step by step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import torch

from prism_nb.core.recipe import Recipe
from prism_nb.core.settings import Settings
from prism_nb.core.units import ImageBatch, unit_seed

TeacherNames = tuple[str, ...]


@dataclass(frozen=True)
class TeacherSchedule:
    """The teachers of every step of a unit.

    Attributes:
        resample_every: Steps for which a group of BN teachers is kept.
        bn_teachers: Groups of BN teachers in order of use; after the last the first again.
        logit_teachers: Networks used for cross-entropy, cycled one per step; empty: the step's BN
            teachers.
    """

    resample_every: int
    bn_teachers: tuple[TeacherNames, ...]
    logit_teachers: TeacherNames = ()

    def bn_teachers_at(self, step: int) -> TeacherNames:
        """Return the BN teachers of a step, counted from 0."""
        return self.bn_teachers[(step // self.resample_every) % len(self.bn_teachers)]

    def logit_teachers_at(self, step: int) -> TeacherNames:
        """Return the logit teachers of a step, counted from 0."""
        if not self.logit_teachers:
            return self.bn_teachers_at(step)
        return (self.logit_teachers[step % len(self.logit_teachers)],)

    @property
    def bn_networks(self) -> TeacherNames:
        """Every BN teacher of the unit, in the order of first use."""
        return tuple(dict.fromkeys(name for group in self.bn_teachers for name in group))

    @property
    def networks(self) -> TeacherNames:
        """Every teacher of the unit, logit teachers first."""
        return tuple(dict.fromkeys([*self.logit_teachers, *self.bn_networks]))


def teacher_schedule(settings: Settings, method: str, batch: ImageBatch) -> TeacherSchedule:
    """Return the teachers of a unit, drawn from a generator of their own: known before any work."""
    recipe = settings.recipe_of(method).for_image_index(batch.image_indices[0])
    key = [*batch.image_indices]
    if recipe.sample_per != "image_index":
        key += batch.classes
    seed = unit_seed(settings.replicate_seed, "draws", method, *key)
    generator = torch.Generator().manual_seed(seed)
    return sample_schedule(recipe, settings.primary, settings.teachers, generator)


def sample_schedule(
    recipe: Recipe, primary: str, pool: Sequence[str], generator: torch.Generator
) -> TeacherSchedule:
    """Sample the teachers of a unit's steps.

    `selection` is `pre`: one draw for all steps; `intra`: a new draw every `resample_every` steps
    (both PRISM, arXiv 2511.09905); `all`: every candidate; `round_robin`: one candidate per step,
    in the pool's order (G-VBSM, CVPR 2024); `fixed`: as named. Where `primary_in_bn` is `always`,
    the primary is in every group.

    Args:
        recipe: The method, checked against the pool by `recipe.check_pool`.
        primary: The network that gives the logits where `logits` is `primary`.
        pool: All networks, the primary among them.
        generator: CPU generator of the draws.
    """
    candidates = recipe.candidates(primary, pool)
    resample_every, groups = _sample_groups(recipe, primary, candidates, generator)
    logit_teachers = {"primary": (primary,), "round_robin": tuple(pool), "bn_teachers": ()}
    return TeacherSchedule(resample_every, groups, logit_teachers[recipe.logits])


def _sample_groups(
    recipe: Recipe, primary: str, candidates: TeacherNames, generator: torch.Generator
) -> tuple[int, tuple[TeacherNames, ...]]:
    """Return the steps per group, and the groups of BN teachers."""
    always = (primary,) if recipe.primary_in_bn == "always" else ()
    if recipe.selection in {"all", "fixed"}:
        return recipe.iterations, (tuple(dict.fromkeys([*always, *candidates])),)
    if recipe.selection == "round_robin":
        return 1, tuple((*always, name) for name in candidates) or (always,)
    every = recipe.iterations if recipe.selection == "pre" else recipe.resample_every
    count = -(-recipe.iterations // every)
    return every, tuple(_sample_group(recipe, always, candidates, generator) for _ in range(count))


def _sample_group(
    recipe: Recipe, always: TeacherNames, candidates: TeacherNames, generator: torch.Generator
) -> TeacherNames:
    """Draw a group; a draw that leaves no network at all is repeated."""
    while True:
        if recipe.bn_subset_size is not None:
            drawn = _sample_subset(candidates, recipe.bn_subset_size, generator)
        else:
            drawn = _fill_slots(candidates, recipe.num_bn_slots, recipe.bn_slot_prob, generator)
        if always or drawn:
            return (*always, *drawn)


def _sample_subset(candidates: TeacherNames, size: int, generator: torch.Generator) -> TeacherNames:
    """Draw a subset of exactly one size, all subsets equally likely."""
    order = torch.randperm(len(candidates), generator=generator)[:size]
    return tuple(candidates[index] for index in order.tolist())


def _fill_slots(
    candidates: TeacherNames, slots: int, probability: float, generator: torch.Generator
) -> TeacherNames:
    """Fill each slot with a probability, by a candidate not drawn yet, all equally likely."""
    drawn: TeacherNames = ()
    for _ in range(slots):
        filled = torch.rand((), generator=generator).item() < probability
        left = [name for name in candidates if name not in drawn]
        if filled and left:
            drawn = (*drawn, left[int(torch.randint(len(left), (), generator=generator))])
    return drawn


@dataclass(frozen=True)
class SelectionProbs:
    """The distribution of a step's networks.

    Attributes:
        sizes: Chance of each number of BN teachers, the primary counted where it is one.
        aligned: Chance of each network to be a BN teacher.
        gives_logits: Chance of each network to give logits.
        runs: Chance of each network to take part, in one way or both.
    """

    sizes: dict[int, float]
    aligned: dict[str, float]
    gives_logits: dict[str, float]
    runs: dict[str, float]

    @property
    def teachers(self) -> float:
        """The expected number of BN teachers in a step, E|T|."""
        return sum(size * chance for size, chance in self.sizes.items())

    @property
    def networks(self) -> float:
        """The expected number of networks that a step runs."""
        return sum(self.runs.values())

    def flops(self, flops: Mapping[str, float]) -> dict[str, float]:
        """Return the expected operations of each network in a step, one image's forward pass.

        Args:
            flops: Operations of one forward pass of each network.
        """
        return {name: chance * flops[name] for name, chance in self.runs.items()}


def selection_probs(recipe: Recipe, primary: str, pool: Sequence[str]) -> SelectionProbs:
    """Return the distribution of the networks of a step, chosen at random from a unit's steps.

    It is exact: what is drawn (pre, intra) is uniform among candidates once its size is known;
    everything else is the same in every unit, and is counted step by step.

    Args:
        recipe: The method, checked against the pool by `recipes.require_pool`.
        primary: The network that gives the logits, unless the recipe says otherwise.
        pool: All networks, the primary among them.
    """
    if recipe.selection not in {"pre", "intra"}:
        return _counted(recipe, sample_schedule(recipe, primary, pool, torch.Generator()))
    candidates = recipe.candidates(primary, pool)
    always = (primary,) if recipe.primary_in_bn == "always" else ()
    drawn = drawn_sizes(recipe, len(candidates), may_be_empty=bool(always))
    share = sum(size * p for size, p in drawn.items()) / max(1, len(candidates))
    aligned = dict.fromkeys(always, 1.0) | dict.fromkeys(candidates, share)
    gives_logits = _speakers(recipe, primary, pool)
    if recipe.logits == "bn_teachers":
        return SelectionProbs(_larger(drawn, len(always)), aligned, aligned, aligned)
    # Logit teachers depend on the step alone, BN teachers on the draw alone: independent.
    runs = {
        name: 1 - (1 - gives_logits.get(name, 0.0)) * (1 - aligned.get(name, 0.0))
        for name in dict.fromkeys([*gives_logits, *aligned])
    }
    return SelectionProbs(_larger(drawn, len(always)), aligned, gives_logits, runs)


def drawn_sizes(recipe: Recipe, candidates: int, *, may_be_empty: bool) -> dict[int, float]:
    """Return the chance of each number of drawn networks.

    Filled slots are binomial; those beyond the number of candidates stay empty. A draw that
    leaves no network is repeated, so that its chance is shared by the others in proportion.

    Args:
        recipe: Its selection is pre or intra.
        candidates: How many networks can be drawn.
        may_be_empty: Whether a team is left where nothing is drawn: the primary.
    """
    if recipe.bn_subset_size is not None:
        return {min(recipe.bn_subset_size, candidates): 1.0}
    image_indices, p = recipe.num_bn_slots, recipe.bn_slot_prob
    found: defaultdict[int, float] = defaultdict(float)
    for filled in range(image_indices + 1):
        chance = comb(image_indices, filled) * p**filled * (1 - p) ** (image_indices - filled)
        found[min(filled, candidates)] += chance
    if not may_be_empty:
        found.pop(0, None)
    whole = sum(found.values())
    return {size: chance / whole for size, chance in found.items() if chance}


def _larger(sizes: dict[int, float], more: int) -> dict[int, float]:
    return {size + more: chance for size, chance in sizes.items()}


def _speakers(recipe: Recipe, primary: str, pool: Sequence[str]) -> dict[str, float]:
    if recipe.logits == "primary":
        return {primary: 1.0}
    turns = Counter(pool[step % len(pool)] for step in range(recipe.iterations))
    return {name: turns[name] / recipe.iterations for name in pool if turns[name]}


def _counted(recipe: Recipe, draws: TeacherSchedule) -> SelectionProbs:
    """Count the networks of every step, of draws that chance has no part in."""
    sizes: Counter[int] = Counter()
    aligned: Counter[str] = Counter()
    gives_logits: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    for step in range(recipe.iterations):
        bn_teachers, logit_teachers = draws.bn_teachers_at(step), draws.logit_teachers_at(step)
        sizes[len(bn_teachers)] += 1
        aligned.update(bn_teachers)
        gives_logits.update(logit_teachers)
        runs.update(dict.fromkeys([*bn_teachers, *logit_teachers], 1))
    parts = (_shares(counter, recipe.iterations) for counter in (aligned, gives_logits, runs))
    return SelectionProbs({size: n / recipe.iterations for size, n in sizes.items()}, *parts)


def _shares(counts: Counter[str], steps: int) -> dict[str, float]:
    return {name: count / steps for name, count in counts.items()}
