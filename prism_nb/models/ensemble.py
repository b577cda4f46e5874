"""Ensembles: how the logits of several networks become one soft label.

A block is what one network says of thousands of views of an epoch, of all classes alike. The
published recipes take a training batch as a block; blocks that no batch decides make a label
independent of the batch that it is used in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from prism_nb.core.device import half_precision, tf32_mode
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import SHARD_EPOCHS, network_unit
from prism_nb.data.augment import BatchAugParams, ImageSet, render
from prism_nb.models.pool import load_teacher
from prism_nb.models.teacher import Teacher


def combine_logits(
    kind: str, logits: Sequence[Tensor], *, primary: int, accuracies: Sequence[float]
) -> Tensor:
    """Return soft label logits [N, classes] of an ensemble.

    Args:
        kind: `norm_balanced`, `primary_half`, `mean` or `accuracy`.
        logits: One block [N, classes] per network.
        primary: Place of the primary; of `primary_half` alone.
        accuracies: Of the networks on held-out real images, in [0, 1]; of `accuracy` alone.
    """
    if kind == "mean":
        return _sum(logits) / len(logits)
    if kind == "accuracy":
        return _weighted(logits, _by_accuracy(accuracies))
    return _primary_half(logits, primary) if kind == "primary_half" else _norm_balanced(logits)


def _norm_balanced(blocks: Sequence[Tensor]) -> Tensor:
    """Average blocks after giving all of them the same norm.

    Each is divided by its Frobenius norm and multiplied by the mean of the norms (published PRISM
    and G-VBSM, their ResNet-18 recipe).
    """
    norms = torch.stack([torch.linalg.vector_norm(block) for block in blocks])
    mean, tiny = norms.mean(), _tiny(norms)
    balanced = (
        block / norm.clamp_min(tiny) * mean for block, norm in zip(blocks, norms, strict=True)
    )
    return _sum(balanced) / len(blocks)


def _primary_half(blocks: Sequence[Tensor], primary: int) -> Tensor:
    """Give half of the weight to the primary and share the rest, then make all rows equally long.

    Each row gets the mean length of the rows (published PRISM, its ResNet-50 and -101 recipe).
    """
    others = len(blocks) - 1
    if others == 0:
        return _equally_long(blocks[0])
    weights = [0.5 if place == primary else 0.5 / others for place in range(len(blocks))]
    return _equally_long(_weighted(blocks, weights))


def _equally_long(rows: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / lengths.clamp_min(_tiny(rows)) * lengths.mean()


def _by_accuracy(accuracies: Sequence[float]) -> list[float]:
    """Return softmax(accuracy in percent / 5) (CV-DD, arXiv 2501.07575)."""
    return (torch.tensor(accuracies, dtype=torch.float64) * 20).softmax(0).tolist()


def _weighted(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return _sum(block * weight for block, weight in zip(blocks, weights, strict=True))


def _sum(blocks: Iterable[Tensor]) -> Tensor:
    """Add up blocks one by one, since a stack would hold all of them once more."""
    one_by_one = iter(blocks)
    total = next(one_by_one).clone()
    for block in one_by_one:
        total += block
    return total


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny


class EnsembleLabeler:
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

    def __call__(self, images: ImageSet, views: BatchAugParams) -> Tensor:
        """Return soft label logits [N, classes], float32."""
        whole = torch.empty(0)
        for rows, said in self.labels(images, views):
            whole = whole if len(whole) else said.new_empty(len(images), said.shape[1])
            whole[rows] = said
        return whole

    def labels(self, images: ImageSet, views: BatchAugParams) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows of each block and their soft label logits [n, classes], float32."""
        for rows, logits in self.blocks(images, views):
            yield rows, self.combine(logits)

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """Return what the networks say together, [N, classes]."""
        settings = self._settings
        primary = settings.primary in settings.label_teachers_used
        return combine_logits(
            settings.label.ensemble,
            logits,
            primary=settings.label_teachers_used.index(settings.primary) if primary else 0,
            accuracies=self._accuracies,
        )

    def blocks(
        self, images: ImageSet, views: BatchAugParams
    ) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield what each network says of block after block, so that memory stays bounded.

        A block has views of all classes alike, as far as there are images enough.

        Yields:
            The block's rows, int64 [n], and the logits of each network [n, classes], in float32
            whatever its layers compute in.
        """
        order = self._order(views)
        count = -(-len(order) // SHARD_EPOCHS)
        for first in range(count):
            rows = order[first::count]
            yield rows, self._logits(images, views, rows)

    @torch.no_grad()
    def _logits(self, images: ImageSet, views: BatchAugParams, block: Tensor) -> list[Tensor]:
        device, precision = views.crop.device, self._settings.label.precision
        seen: list[list[Tensor]] = []
        with ExitStack() as stack:
            stack.enter_context(tf32_mode(precision, device))
            stack.enter_context(half_precision(precision, device))
            if self._settings.label.statistics == "batch":
                for teacher in self.teachers:
                    stack.enter_context(batch_statistics(teacher))
            for rows in block.tensor_split(-(-len(block) // self._settings.label.batch)):
                shown = render(images, views, rows)
                seen.append([teacher(shown).float() for teacher in self.teachers])
        return [torch.cat(said) for said in zip(*seen, strict=True)]

    def _order(self, views: BatchAugParams) -> Tensor:
        """Return the order in which images are labelled.

        Statistics of a batch want many classes in it, so the order is then that of the partners,
        which a permutation has been drawn for; else it is the images' own.
        """
        if self._settings.label.statistics == "batch":
            return views.mix_index.long()
        return torch.arange(len(views.crop), device=views.crop.device)


def load_labeler(run: Run) -> EnsembleLabeler:
    """Return the ensemble of a run's label teachers."""
    settings = run.settings
    units = [network_unit(settings, name) for name in settings.label_teachers_used]
    accuracies = [float(run.units.record(unit)["accuracy"]) for unit in units]
    teachers = [load_teacher(run, name) for name in settings.label_teachers_used]
    return EnsembleLabeler(settings, teachers, accuracies)


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
