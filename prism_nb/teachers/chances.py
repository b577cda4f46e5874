"""What a recipe's draws come to on average: exactly, and without drawing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import torch

from prism_nb.recipes import Recipe
from prism_nb.teachers.selection import Draws, plan_draws


@dataclass(frozen=True)
class Chances:
    """The distribution of a step's networks.

    Attributes:
        sizes: Chance of each number of BN teachers, the primary counted where it is one.
        aligned: Chance of each network to be a BN teacher.
        speaks: Chance of each network to give logits.
        runs: Chance of each network to take part, in one way or both.
    """

    sizes: dict[int, float]
    aligned: dict[str, float]
    speaks: dict[str, float]
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


def chances(recipe: Recipe, primary: str, pool: Sequence[str]) -> Chances:
    """Return the distribution of the networks of a step, chosen at random from a unit's steps.

    It is exact: what is drawn (pre, intra) is uniform among candidates once its size is known;
    everything else is the same in every unit, and is counted step by step.

    Args:
        recipe: The method, checked against the pool by `recipes.require_pool`.
        primary: The network that gives the logits, unless the recipe says otherwise.
        pool: All networks, the primary among them.
    """
    if recipe.selection not in {"pre", "intra"}:
        return _counted(recipe, plan_draws(recipe, primary, pool, torch.Generator()))
    candidates = recipe.candidates(primary, pool)
    always = (primary,) if recipe.primary_in_bn == "always" else ()
    drawn = drawn_sizes(recipe, len(candidates), may_be_empty=bool(always))
    share = sum(size * p for size, p in drawn.items()) / max(1, len(candidates))
    aligned = dict.fromkeys(always, 1.0) | dict.fromkeys(candidates, share)
    speaks = _speakers(recipe, primary, pool)
    if recipe.logits == "bn_teachers":
        return Chances(_larger(drawn, len(always)), aligned, aligned, aligned)
    # Who speaks depends on the step alone, who aligns on the draw alone: they are independent.
    runs = {
        name: 1 - (1 - speaks.get(name, 0.0)) * (1 - aligned.get(name, 0.0))
        for name in dict.fromkeys([*speaks, *aligned])
    }
    return Chances(_larger(drawn, len(always)), aligned, speaks, runs)


def drawn_sizes(recipe: Recipe, candidates: int, *, may_be_empty: bool) -> dict[int, float]:
    """Return the chance of each number of drawn networks.

    Filled slots are binomial; those beyond the number of candidates stay empty. A draw that
    leaves no network is repeated, so that its chance is shared by the others in proportion.

    Args:
        recipe: Its selection is pre or intra.
        candidates: How many networks can be drawn.
        may_be_empty: Whether a team is left where nothing is drawn: the primary.
    """
    if recipe.bn_subset is not None:
        return {min(recipe.bn_subset, candidates): 1.0}
    slots, p = recipe.bn_slots, recipe.bn_probability
    found: defaultdict[int, float] = defaultdict(float)
    for filled in range(slots + 1):
        chance = comb(slots, filled) * p**filled * (1 - p) ** (slots - filled)
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


def _counted(recipe: Recipe, draws: Draws) -> Chances:
    """Count the networks of every step, of draws that chance has no part in."""
    sizes: Counter[int] = Counter()
    aligned: Counter[str] = Counter()
    speaks: Counter[str] = Counter()
    runs: Counter[str] = Counter()
    for step in range(recipe.iterations):
        team, speakers = draws.at(step), draws.logits_at(step)
        sizes[len(team)] += 1
        aligned.update(team)
        speaks.update(speakers)
        runs.update(dict.fromkeys([*team, *speakers], 1))
    parts = (_shares(counter, recipe.iterations) for counter in (aligned, speaks, runs))
    return Chances({size: n / recipe.iterations for size, n in sizes.items()}, *parts)


def _shares(counts: Counter[str], steps: int) -> dict[str, float]:
    return {name: count / steps for name, count in counts.items()}
