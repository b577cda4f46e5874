"""Teacher selection: which networks of the pool give a unit its BN statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def draw_bn_teachers(
    primary: str,
    candidates: Sequence[str],
    *,
    primary_in_bn: bool,
    slots: int,
    probability: float,
    generator: torch.Generator,
) -> tuple[str, ...]:
    """Draw the BN teachers of one unit (PRISM, pre-distillation selection).

    Each of `slots` slots is filled with `probability` by a candidate that is not chosen yet, all
    equally likely. The draw is repeated until at least one network is in it.

    Args:
        primary: The network that gives the logits.
        candidates: The other networks of the pool.
        primary_in_bn: Whether the primary always aligns its statistics too.
        slots: Slots for further networks.
        probability: Chance of each slot to be filled, in [0, 1].
        generator: The unit's generator, on the CPU.

    Returns:
        Names without repetition, the primary first where it takes part.

    Raises:
        ValueError: Nothing can be drawn at all.
    """
    always = (primary,) if primary_in_bn else ()
    if not always and not (candidates and slots and probability):
        raise ValueError("no network could ever be drawn")
    while True:
        chosen: list[str] = []
        for _ in range(slots):
            filled = torch.rand((), generator=generator).item() < probability
            left = [name for name in candidates if name not in chosen]
            if filled and left:
                place = int(torch.randint(len(left), (), generator=generator))
                chosen.append(left[place])
        if always or chosen:
            return (*always, *chosen)
