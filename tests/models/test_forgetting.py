"""Forgetting events against a literal replay of a training."""

from __future__ import annotations

import base64
import zlib
from itertools import pairwise

import torch
from torch import Tensor, nn

from prism_nb.core.settings import Squeeze
from prism_nb.models.forgetting import NEVER_LEARNED, ForgettingCounter
from prism_nb.models.train import train_loop


def events(counter: ForgettingCounter) -> list[int]:
    return list(zlib.decompress(base64.b64decode(counter.record())))


def test_events_are_those_of_a_replayed_training() -> None:
    """Each image is its own number, so that a hook knows what a network sees."""
    torch.manual_seed(0)
    images, labels = torch.arange(24.0).view(24, 1, 1, 1), torch.arange(24) % 3
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 3))
    seen: dict[int, list[bool]] = {row: [] for row in range(24)}

    def watch(_: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> None:
        for row, guess in zip(inputs[0].flatten().tolist(), logits.argmax(1), strict=True):
            seen[int(row)].append(bool(guess == labels[int(row)]))

    network.register_forward_hook(watch)
    counter = ForgettingCounter(24)
    config = Squeeze(epochs=12, batch=5, lr=0.5, max_shift=0)
    train_loop(network, images, labels, config, lambda _: None, forgetting=counter)
    expected = []
    for history in seen.values():
        forgotten = sum(a and not b for a, b in pairwise(history))
        expected.append(forgotten if any(history) else NEVER_LEARNED)
    assert events(counter) == expected
    assert len(set(expected)) > 3


def test_more_events_than_fit_are_not_taken_for_never_learned() -> None:
    counter = ForgettingCounter(3)
    for step in range(600):
        counter.update(torch.tensor([2, 0]), torch.tensor([step % 2 == 0, False]))
    assert events(counter) == [NEVER_LEARNED, NEVER_LEARNED, NEVER_LEARNED - 1]
