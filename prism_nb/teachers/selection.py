"""Teacher selection: which networks of the pool give their BN statistics, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prism_nb.plans.batches import Batch
from prism_nb.recipes import Recipe
from prism_nb.settings import Settings
from prism_nb.units import unit_seed

Team = tuple[str, ...]


@dataclass(frozen=True)
class Draws:
    """Who steers a unit over its steps.

    Attributes:
        every: Steps for which a team stays.
        teams: The teams of BN teachers in order; after the last comes the first again.
        speakers: The networks that give the logits, one per step in turn; none: the team's own.
    """

    every: int
    teams: tuple[Team, ...]
    speakers: Team = ()

    def at(self, step: int) -> Team:
        """Return the BN teachers of a step, counted from 0."""
        return self.teams[(step // self.every) % len(self.teams)]

    def logits_at(self, step: int) -> Team:
        """Return the networks that give the logits at a step, counted from 0."""
        if not self.speakers:
            return self.at(step)
        return (self.speakers[step % len(self.speakers)],)

    @property
    def bn_networks(self) -> Team:
        """Every network that is in some team, in the order of first use."""
        return tuple(dict.fromkeys(name for team in self.teams for name in team))

    @property
    def networks(self) -> Team:
        """Every network that takes part, those of the logits first."""
        return tuple(dict.fromkeys([*self.speakers, *self.bn_networks]))


def unit_draws(settings: Settings, method: str, batch: Batch) -> Draws:
    """Return who steers a unit; known before any work, since it has a generator of its own."""
    recipe = settings.recipe_of(method).at_slot(batch.slots[0])
    key = [*batch.slots] if recipe.drawn_per == "slot" else [*batch.slots, *batch.classes]
    seed = unit_seed(settings.replicate_seed, "draws", method, *key)
    generator = torch.Generator().manual_seed(seed)
    return plan_draws(recipe, settings.primary, settings.teachers, generator)


def plan_draws(
    recipe: Recipe, primary: str, pool: Sequence[str], generator: torch.Generator
) -> Draws:
    """Decide which networks give a unit's logits and BN statistics at each of its steps.

    pre: one draw for the whole unit. intra: a new draw every `redraw_every` steps. all: every
    candidate. round_robin: one candidate per step, in the pool's order. fixed: as named. Where
    `primary_in_bn` is `always`, the primary is in every team. (PRISM, arXiv 2511.09905,
    pre- and intra-distillation selection; round robin: G-VBSM, CVPR 2024.)

    Args:
        recipe: The method, checked against the pool by `recipes.require_pool`.
        primary: The network that gives the logits, unless the recipe says otherwise.
        pool: All networks, the primary among them.
        generator: The unit's generator, on the CPU.
    """
    every, teams = _plan_teams(recipe, primary, recipe.candidates(primary, pool), generator)
    speakers = {"primary": (primary,), "in_turn": tuple(pool), "bn_teachers": ()}
    return Draws(every, teams, speakers[recipe.logits])


def _plan_teams(
    recipe: Recipe, primary: str, candidates: Team, generator: torch.Generator
) -> tuple[int, tuple[Team, ...]]:
    always = (primary,) if recipe.primary_in_bn == "always" else ()
    whole = recipe.iterations
    if recipe.selection in {"all", "fixed"}:
        return whole, (tuple(dict.fromkeys([*always, *candidates])),)
    if recipe.selection == "round_robin":
        return 1, tuple((*always, name) for name in candidates) or (always,)
    every = whole if recipe.selection == "pre" else recipe.redraw_every
    count = -(-whole // every)
    return every, tuple(_team(recipe, always, candidates, generator) for _ in range(count))


def _team(recipe: Recipe, always: Team, candidates: Team, generator: torch.Generator) -> Team:
    """Draw once; a draw that leaves no network at all is repeated."""
    while True:
        if recipe.bn_subset is not None:
            drawn = _subset(candidates, recipe.bn_subset, generator)
        else:
            drawn = _slots(candidates, recipe.bn_slots, recipe.bn_probability, generator)
        if always or drawn:
            return (*always, *drawn)


def _subset(candidates: Team, size: int, generator: torch.Generator) -> Team:
    """Draw a subset of exactly one size, all subsets equally likely."""
    order = torch.randperm(len(candidates), generator=generator)[:size]
    return tuple(candidates[place] for place in order.tolist())


def _slots(candidates: Team, slots: int, probability: float, generator: torch.Generator) -> Team:
    """Fill each slot with a probability, by a candidate not chosen yet, all equally likely."""
    chosen: Team = ()
    for _ in range(slots):
        filled = torch.rand((), generator=generator).item() < probability
        left = [name for name in candidates if name not in chosen]
        if filled and left:
            chosen = (*chosen, left[int(torch.randint(len(left), (), generator=generator))])
    return chosen
