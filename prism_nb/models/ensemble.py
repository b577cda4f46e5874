"""Soft labels: the logits of several networks, combined into one target per view.

The recipes normalise the logits of a block of views. In published code a block is a training
batch; here it is thousands of views of all classes, so that labels do not depend on the batches
in which they are used.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from prism_nb.core.device import half_precision, tf32_mode
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import LABEL_BLOCK, network_unit
from prism_nb.data.augment import BatchAugParams, ImageSet, join_last_one, render
from prism_nb.models.pool import load_teacher
from prism_nb.models.teacher import Teacher


class EnsembleLabeler:
    """Labels views with an ensemble by a run's settings, in relabelling and in students' training.

    `accuracies` are those of the teachers on held-out real images, in [0, 1].
    """

    def __init__(
        self, settings: Settings, teachers: Sequence[Teacher], accuracies: Sequence[float]
    ) -> None:
        self._settings, self.teachers, self._accuracies = settings, teachers, accuracies

    def __call__(self, images: ImageSet, params: BatchAugParams) -> Tensor:
        """Return soft label logits [N, classes], float32."""
        rows, labels = zip(*self.labels(images, params), strict=True)
        return torch.cat(labels)[torch.cat(rows).argsort()]

    def labels(self, images: ImageSet, params: BatchAugParams) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows of each block and their soft label logits [n, classes], float32."""
        for rows, logits in self.blocks(images, params):
            yield rows, self.combine(logits)

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the ensemble's logits of a block from those of each network, [n, classes]."""
        names, primary = self._settings.label_teachers_used, self._settings.primary
        return combine_logits(
            self._settings.label.ensemble,
            logits,
            primary=names.index(primary) if primary in names else 0,
            accuracies=self._accuracies,
        )

    def blocks(
        self, images: ImageSet, params: BatchAugParams
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield blocks: their rows, int64 [n], and the logits of each network [n, classes].

        Blocks bound the memory. Each has views of all classes alike, as far as there are enough.
        """
        order = torch.arange(len(params.crop), device=params.crop.device)
        if self._settings.label.statistics == "batch":
            # They need many classes in a batch: the random order of the views' mixing partners.
            order = params.mix_index.long()
        count = -(-len(order) // LABEL_BLOCK)
        for first in range(count):
            rows = order[first::count]
            yield rows, self._logits(images, params, rows)

    @torch.no_grad()
    def _logits(self, images: ImageSet, params: BatchAugParams, block: Tensor) -> list[Tensor]:
        device, precision = params.crop.device, self._settings.label.precision
        batches: list[list[Tensor]] = []
        with ExitStack() as stack:
            stack.enter_context(tf32_mode(precision, device))
            stack.enter_context(half_precision(precision, device))
            if self._settings.label.statistics == "batch":
                for teacher in self.teachers:
                    stack.enter_context(batch_statistics(teacher))
            parts = -(-len(block) // self._settings.label.batch)
            for rows in join_last_one(block.tensor_split(parts)):
                views = render(images, params, rows)
                batches.append([teacher(views).float() for teacher in self.teachers])
        return [torch.cat(logits) for logits in zip(*batches, strict=True)]


def load_labeler(run: Run) -> EnsembleLabeler:
    """Return the ensemble of a run's label teachers."""
    settings = run.settings
    units = [network_unit(settings, name) for name in settings.label_teachers_used]
    # Not measured without real images; such runs may not weight networks by accuracy.
    accuracies = [float(run.units.record(unit)["accuracy"] or 0) for unit in units]
    teachers = [load_teacher(run, name) for name in settings.label_teachers_used]
    return EnsembleLabeler(settings, teachers, accuracies)


def combine_logits(
    kind: str, logits: Sequence[Tensor], *, primary: int, accuracies: Sequence[float]
) -> Tensor:
    """Return soft label logits [N, classes] of an ensemble.

    Args:
        kind: `norm_balanced`, `primary_half`, `mean` or `accuracy`.
        logits: Those of each network [N, classes].
        primary: Index of the primary network, for `primary_half`.
        accuracies: Accuracies on held-out real images in [0, 1], for `accuracy`.
    """
    if kind == "mean":
        return _sum(logits) / len(logits)
    if kind == "accuracy":  # weights softmax(accuracy in percent / 5) (CV-DD, arXiv 2501.07575)
        weights = (torch.tensor(accuracies, dtype=torch.float64) * 20).softmax(0).tolist()
        return _weighted_sum(logits, weights)
    return _primary_half(logits, primary) if kind == "primary_half" else _norm_balanced(logits)


def _norm_balanced(blocks: Sequence[Tensor]) -> Tensor:
    """Average networks at the mean of their Frobenius norms (PRISM, G-VBSM: for ResNet-18)."""
    norms = torch.stack([torch.linalg.vector_norm(block) for block in blocks])
    mean, tiny = norms.mean(), torch.finfo(norms.dtype).tiny
    balanced = (
        block / norm.clamp_min(tiny) * mean for block, norm in zip(blocks, norms, strict=True)
    )
    return _sum(balanced) / len(blocks)


def _primary_half(blocks: Sequence[Tensor], primary: int) -> Tensor:
    """Give half of the weight to the primary, and all rows their mean norm (PRISM: ResNet-50)."""
    others = len(blocks) - 1
    rows = blocks[0]
    if others:
        weights = [0.5 if index == primary else 0.5 / others for index in range(len(blocks))]
        rows = _weighted_sum(blocks, weights)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norms.clamp_min(torch.finfo(rows.dtype).tiny) * norms.mean()


def _weighted_sum(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return _sum(block * weight for block, weight in zip(blocks, weights, strict=True))


def _sum(blocks: Iterable[Tensor]) -> Tensor:
    """Add up blocks one by one, since a stack would hold all of them once more."""
    return functools.reduce(torch.add, blocks)


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Have BN layers normalise by the statistics of their batch, as in training (CV-DD).

    The running statistics are neither used nor changed.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [(layer.running_mean, layer.running_var) for layer in layers]
    try:
        for layer in layers:
            layer.running_mean = layer.running_var = None
        yield
    finally:
        for layer, (mean, var) in zip(layers, before, strict=True):
            layer.running_mean, layer.running_var = mean, var
