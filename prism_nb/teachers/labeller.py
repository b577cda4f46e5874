"""What an ensemble of teachers says of views of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from prism_nb.artifacts.views import ImageSet, Views, render
from prism_nb.device import half_precision, matrix_precision
from prism_nb.plans.labels import BLOCK
from prism_nb.plans.squeeze import network_unit
from prism_nb.run import Run
from prism_nb.settings import Settings
from prism_nb.teachers.ensemble import combine
from prism_nb.teachers.pool import load_teacher
from prism_nb.teachers.teacher import Teacher


class Labeller:
    """Labels views with an ensemble, as a run's settings say.

    Labels made here while a student trains equal those that the labels stage stores in fp32.

    Args:
        settings: The run's.
        teachers: The labelling networks.
        accuracies: Theirs on held-out real images, in [0, 1].
    """

    def __init__(
        self, settings: Settings, teachers: Sequence[Teacher], accuracies: Sequence[float]
    ) -> None:
        self._settings, self.teachers, self._accuracies = settings, teachers, accuracies

    def __call__(self, images: ImageSet, views: Views) -> Tensor:
        """Return soft label logits [N, classes], float32."""
        whole = torch.empty(0)
        for rows, said in self.labels(images, views):
            whole = whole if len(whole) else said.new_empty(len(images), said.shape[1])
            whole[rows] = said
        return whole

    def labels(self, images: ImageSet, views: Views) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows of each block and their soft label logits [n, classes], float32."""
        for rows, logits in self.blocks(images, views):
            yield rows, self.combine(logits)

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """Return what the networks say together, [N, classes]."""
        settings = self._settings
        primary = settings.primary in settings.labellers
        return combine(
            settings.label_ensemble,
            logits,
            primary=settings.labellers.index(settings.primary) if primary else 0,
            accuracies=self._accuracies,
        )

    def blocks(self, images: ImageSet, views: Views) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield what each network says of block after block, so that memory stays bounded.

        A block has views of all classes alike, as far as there are images enough.

        Yields:
            The block's rows, int64 [n], and the logits of each network [n, classes], in float32
            whatever its layers compute in.
        """
        order = self._order(views)
        count = -(-len(order) // BLOCK)
        for first in range(count):
            rows = order[first::count]
            yield rows, self._logits(images, views, rows)

    @torch.no_grad()
    def _logits(self, images: ImageSet, views: Views, block: Tensor) -> list[Tensor]:
        device, precision = views.crop.device, self._settings.label_precision
        seen: list[list[Tensor]] = []
        with ExitStack() as stack:
            stack.enter_context(matrix_precision(precision, device))
            stack.enter_context(half_precision(precision, device))
            if self._settings.label_statistics == "batch":
                for teacher in self.teachers:
                    stack.enter_context(batch_statistics(teacher))
            for rows in block.tensor_split(-(-len(block) // self._settings.label_batch)):
                shown = render(images, views, rows)
                seen.append([teacher(shown).float() for teacher in self.teachers])
        return [torch.cat(said) for said in zip(*seen, strict=True)]

    def _order(self, views: Views) -> Tensor:
        """Return the order in which images are labelled.

        Statistics of a batch want many classes in it, so the order is then that of the partners,
        which a permutation has been drawn for; else it is the images' own.
        """
        if self._settings.label_statistics == "batch":
            return views.partner.long()
        return torch.arange(len(views.crop), device=views.crop.device)


def load_labeller(run: Run) -> Labeller:
    """Return the ensemble of a run's label teachers."""
    settings = run.settings
    units = [network_unit(settings, name) for name in settings.labellers]
    accuracies = [float(run.record(unit)["accuracy"]) for unit in units]
    teachers = [load_teacher(run, name) for name in settings.labellers]
    return Labeller(settings, teachers, accuracies)


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Have BN layers normalise by the statistics of their batch, as in training (CV-DD).

    Nothing of the network changes, its running statistics least of all.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    try:
        for layer in layers:
            layer.running_mean = layer.running_var = None
        yield
    finally:
        for layer, (mean, var) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, var
