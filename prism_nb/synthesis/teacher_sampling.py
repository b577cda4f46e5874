"""The draw of teachers: which networks of the pool give BN statistics and logits, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prism_nb.core.recipe import Recipe, TeacherPool
from prism_nb.core.settings import Settings
from prism_nb.core.units import ImageBatch, unit_seed

TeacherNames = tuple[str, ...]


@dataclass(frozen=True)
class TeacherSchedule:
    """The teachers of every step of a unit."""

    resample_every: int  # steps for which a group of BN teachers is used
    # Groups of BN teachers in order of use; after the last the first again
    bn_teachers: tuple[TeacherNames, ...]
    # Networks used for cross-entropy, or for features, cycled one per step; empty: the step's BN
    # teachers
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
    """Return the teachers of a unit.

    They depend on the settings and the unit's key alone, so they are known before any network is
    loaded.
    """
    # With early-late a unit holds one image index; otherwise all indices have the same steps.
    recipe = settings.recipe_of(method).for_image_index(batch.image_indices[0])
    key = [*batch.image_indices]  # all units of these indices share it, unless classes are added
    if recipe.sample_per != "image_index":
        key += batch.classes
    seed = unit_seed(settings.replicate_seed, "draws", method, *key)
    generator = torch.Generator().manual_seed(seed)
    return sample_schedule(recipe, settings.pool, generator)


def sample_schedule(
    recipe: Recipe, pool: TeacherPool, generator: torch.Generator
) -> TeacherSchedule:
    """Sample the teachers of a unit's steps.

    The published PRISM has the primary in every group, and up to three other networks: each of
    three slots is filled with probability 1/2.

    `selection` is `pre`: one draw for all steps; `intra`: a new draw every `resample_every` steps
    (both PRISM, arXiv 2511.09905); `all`: every candidate; `round_robin`: one candidate per step,
    in the pool's order (G-VBSM, CVPR 2024); `fixed`: as named. Where `primary_in_bn` is `always`,
    the primary is in every group, unless it gives logits alone. The recipe was checked against the
    pool by `recipe_checks.check_recipe`; the generator is on the CPU.
    """
    always, candidates = recipe.always_in_bn(pool), recipe.candidates(pool)
    every, groups = recipe.iterations, tuple[TeacherNames, ...]()  # steps per group; the groups
    if recipe.match == "features":
        groups = ((),)
    elif recipe.selection in {"all", "fixed"}:
        groups = (tuple(dict.fromkeys([*always, *candidates])),)
    elif recipe.selection == "round_robin":
        every = 1
        groups = tuple((*always, name) for name in candidates)
        groups = groups or (always,)  # the primary may be the only network
    else:
        every = recipe.iterations if recipe.selection == "pre" else recipe.resample_every
        count = -(-recipe.iterations // every)
        groups = tuple(_sample_group(recipe, always, candidates, generator) for _ in range(count))
    return TeacherSchedule(every, groups, recipe.logit_teachers(pool))


def _sample_group(
    recipe: Recipe, always: TeacherNames, candidates: TeacherNames, generator: torch.Generator
) -> TeacherNames:
    """Draw a group, by slots or as a subset of one size; a draw of no network is repeated."""
    while True:
        if recipe.bn_subset_size is not None:
            order = torch.randperm(len(candidates), generator=generator)[: recipe.bn_subset_size]
            drawn = tuple(candidates[index] for index in order.tolist())
        else:
            drawn = _fill_slots(candidates, recipe.num_bn_slots, recipe.bn_slot_prob, generator)
        if always or drawn:
            return (*always, *drawn)


def _fill_slots(
    candidates: TeacherNames, slots: int, probability: float, generator: torch.Generator
) -> TeacherNames:
    """Fill each slot with a given probability, by a candidate not drawn yet, all equally likely."""
    drawn: TeacherNames = ()
    for _ in range(slots):
        filled = torch.rand((), generator=generator).item() < probability
        left = [name for name in candidates if name not in drawn]
        if filled and left:
            drawn = (*drawn, left[int(torch.randint(len(left), (), generator=generator))])
    return drawn
