"""What a unit reports of its losses: means over all steps, of every network that took a turn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prism_nb.core.errors import PrismError
from prism_nb.core.units import Unit
from prism_nb.synthesis.stage import _Progress, _shares

UNIT = Unit(stage="synthesis", name="m/u", marker="m", fingerprint="b")


def reported(steps: int) -> tuple[_Progress, list[dict[str, Any]]]:
    """Let four networks take turns; network k has loss k + 1 at every step."""
    events: list[dict[str, Any]] = []
    progress = _Progress(UNIT, steps, events.append)
    for step in range(steps):
        name = "abcd"[step % 4]
        progress(step + 1, {f"bn/{name}": torch.tensor(float(1 + step % 4), requires_grad=True)})
    return progress, events


def test_networks_that_take_turns_are_all_heard() -> None:
    progress, events = reported(800)  # every eighth step is read
    assert len(events) == 100
    assert events[0]["losses"] == {"bn/a": 1.0, "bn/b": 2.0, "bn/c": 3.0, "bn/d": 4.0}
    assert progress.sums == pytest.approx(
        {f"bn/{n}": 200.0 * (i + 1) for i, n in enumerate("abcd")}
    )


def test_shares_are_of_the_weighted_sum_over_all_steps() -> None:
    progress, _ = reported(400)
    shares = _shares(progress.sums, {"a": 4.0, "b": 1.0, "c": 1.0, "d": 0.0})
    assert shares == pytest.approx({"a": 4 / 9, "b": 2 / 9, "c": 3 / 9, "d": 0.0})


def test_the_last_step_is_always_reported() -> None:
    events: list[dict[str, Any]] = []
    progress = _Progress(UNIT, 250, events.append)
    for step in range(250):
        progress(step + 1, {"logit/a": torch.tensor(float(step))})
    assert events[-1]["step"] == 250
    assert progress.last == {"logit/a": 248.5}  # the mean of the two steps since the last report


def test_a_loss_that_is_not_finite_ends_the_unit_at_the_next_report() -> None:
    progress = _Progress(UNIT, 10, lambda _: None)
    with pytest.raises(PrismError, match=r"unit m/u diverged: bn/a is nan at step 1; lower lr"):
        progress(1, {"bn/a": torch.tensor(float("nan"))})
