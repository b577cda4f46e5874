"""The floating-point operations that networks take, counted without doing them.

Networks run on PyTorch's meta device, where tensors have shapes and no values. What is counted are
convolutions and matrix products; a multiply-add is two operations. Everything else of a network
is bound by memory, not by arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from prism_nb.data import ImageDataset
from prism_nb.teachers.memory import peak_bytes
from prism_nb.teachers.networks import architecture_of
from prism_nb.teachers.pool import fresh_teacher
from prism_nb.teachers.pretrained import own_space
from prism_nb.teachers.shapes import META, shapes_of
from prism_nb.teachers.statistics import conv_probes
from prism_nb.teachers.teacher import Teacher
from prism_nb.units import has_weights

_PAIR = 2  # images that are counted together: batch norm cannot be trained on a single one


def count_flop(work: Callable[[], object]) -> float:
    """Return the operations of some work, forward and backward."""
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return float(counter.get_total_flops())


def _convolution_backward(
    grad_shape: Sequence[int],
    image_shape: Sequence[int],
    kernel_shape: Sequence[int],
    *rest: object,
    out_shape: object,
) -> int:
    """Count a convolution's gradients: each of the two that is wanted takes what it took forward.

    PyTorch's own formula counts the kernel's gradient as if every channel met every other, which
    is too many times too much where a convolution has groups.
    """
    transposed, wanted = bool(rest[4]), rest[7]
    forward = conv_flop_count(
        list(image_shape), list(kernel_shape), list(grad_shape), transposed=transposed
    )
    assert isinstance(wanted, list)  # noqa: S101 (the mask: by the image, the kernel, the bias)
    return int(forward) * sum(map(bool, wanted[:2]))


@dataclass
class Arithmetic:
    """Counts what the networks of a run take for one image, each way once.

    Args:
        dataset: Gives the class count and the image size; its images are not looked at.

    Attributes:
        steps: Operations of the synthesis's kinds of steps, kept here by whoever counts them.
        peaks: The most memory of those steps, likewise.
    """

    dataset: ImageDataset
    steps: dict[tuple[object, ...], float] = field(default_factory=dict)
    peaks: dict[tuple[object, ...], float] = field(default_factory=dict)
    _known: dict[tuple[str, str], float] = field(default_factory=dict)

    def forward(self, name: str) -> float:
        """Return the operations of logits, as a frozen network of the run gives them."""
        return self._once("forward", name, lambda: self._seen(name))

    def learning(self, name: str) -> float:
        """Return the operations of a training step: logits, and the gradient by all weights."""
        return self._once("learning", name, lambda: self._learned(name))

    def weight_bytes(self, name: str) -> float:
        """Return the bytes of a network's weights, its running statistics included."""
        return self._once("bytes", name, lambda: self._held(name))

    def learning_bytes(self, name: str, batch: int) -> float:
        """Return the most bytes that a training step makes beside the weights.

        They are of the gradients and of what is kept for them, eager and in float32.
        """
        return self._once(f"peak {batch}", name, lambda: self._grown(name, batch))

    def statistics_bytes(self, name: str, patch: int) -> float:
        """Return the bytes of the statistics of a network's convolutions."""
        return self._once(f"bytes {patch}", name, lambda: self._measured(name, patch))

    def _once(self, what: str, name: str, count: Callable[[], float]) -> float:
        if (what, name) not in self._known:
            self._known[what, name] = count()
        return self._known[what, name]

    def _seen(self, name: str) -> float:
        teacher = self._teacher(name)
        with torch.no_grad():
            return count_flop(lambda: teacher(self._images())) / _PAIR

    def _measured(self, name: str, patch: int) -> float:
        teacher = self._teacher(name)
        with torch.no_grad():
            seen = teacher.statistics(self._images(), conv_probes(teacher.network, patch))
        return float(sum(value.nbytes for each in seen for value in each))

    def _learned(self, name: str) -> float:
        network = self._network(name).train()
        return count_flop(lambda: network(self._images()).sum().backward()) / _PAIR

    def _grown(self, name: str, batch: int) -> float:
        network = self._network(name).train()
        return peak_bytes(lambda: network(self._images(batch)).sum().backward())

    def _held(self, name: str) -> float:
        return float(sum(value.nbytes for value in self._network(name).state_dict().values()))

    def _images(self, count: int = _PAIR) -> torch.Tensor:
        side = self.dataset.image_size
        return torch.empty(count, 3, side, side, device=META)

    def _network(self, name: str) -> nn.Module:
        """Return a network without values, for images of the size that it wants."""
        own = own_space(name, self.dataset).size if has_weights(name) else self.dataset.image_size
        classes = len(self.dataset.classes)
        return shapes_of(architecture_of(name), classes=classes, image_size=own)

    def _teacher(self, name: str) -> Teacher:
        return fresh_teacher(name, self.dataset, META)
