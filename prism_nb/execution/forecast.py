"""What is left of a stage takes: time by what is known of its units, and room on the disk."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE, Settings
from prism_nb.core.unit_plan import batch_of
from prism_nb.core.unit_store import UnitState
from prism_nb.core.units import Unit, is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.distilled import image_bytes, is_decoded, set_bytes
from prism_nb.data.registry import DatasetSizes, ShapeOnlyDataset, open_dataset
from prism_nb.evaluation.label_store import label_bytes
from prism_nb.models.layer_stats import conv_layer_stats
from prism_nb.models.pool import untrained_teacher
from prism_nb.models.pretrained import native_preprocess
from prism_nb.models.teacher import Teacher
from prism_nb.models.zoo import META, architecture_of, build_on_meta

_AT_SETS = {"diversity", "relabel", "evaluation"}  # stages that look at whole sets of images
_LOOKING = {"squeeze", *_AT_SETS}  # and those that look at real images


def seconds_left(
    run: Run, states: Sequence[UnitState], costs: Sequence[float], *, known: bool
) -> float | None:
    """Return the missing units' costs, in the seconds that the units which are done have taken.

    Args:
        run: The run.
        states: Every unit's state.
        costs: What each unit costs, in any measure.
        known: Whether that measure is seconds on this device.

    Returns:
        None if the measure is not seconds and nothing is done. If it is, each method is scaled by
        its own units alone, since what is not foreseen of one says nothing of another.
    """
    taken: dict[str, float] = {}
    foreseen: dict[str, float] = {}
    left: dict[str, float] = {}
    for state, cost in zip(states, costs, strict=True):
        method = state.unit.params.get("method", "") if known else ""
        if state.state == "done":
            seconds = run.units.record(state.unit).get("seconds", 0.0)
            taken[method] = taken.get(method, 0.0) + seconds
            foreseen[method] = foreseen.get(method, 0.0) + cost
        else:
            left[method] = left.get(method, 0.0) + cost
    if not known and not any(foreseen.values()):
        return None
    return sum(
        cost * taken[method] / foreseen[method] if foreseen.get(method) else cost
        for method, cost in left.items()
    )


def disk_bytes(settings: Settings, units: Sequence[Unit], classes: int) -> int:
    """Return the most bytes that units write: images, labels and weights; the rest is small."""
    known = _counted(classes, settings.image_size)
    return round(sum(unit_bytes(settings, known, unit) for unit in units))


def unit_bytes(settings: Settings, arithmetic: NetworkCosts, unit: Unit) -> float:
    """Return the most bytes that a unit's images, labels, weights or statistics take."""
    classes, key = len(arithmetic.dataset.classes), unit.params
    if unit.stage == "synthesis":
        return image_bytes(settings, len(batch_of(unit).members()))
    if unit.stage == "relabel":
        return label_bytes(settings, classes * settings.ipc, classes)
    if unit.stage == "squeeze" and "patch" in key:
        return arithmetic.statistics_bytes(key["network"], key["patch"])
    if unit.stage == "squeeze":
        return arithmetic.weight_bytes(key["network"])
    return arithmetic.weight_bytes(key["student"]) if unit.stage == "evaluation" else 0.0


@lru_cache(maxsize=8)
def _counted(classes: int, image_size: int) -> NetworkCosts:
    """Return what knows the size of networks; a plan asks for it again and again."""
    return NetworkCosts(ShapeOnlyDataset("", DatasetSizes(classes, classes, classes), image_size))


def cache_bytes_per_stage(run: Run, stages: Sequence[Sequence[Unit]]) -> list[int]:
    """Return what each of some stages adds to the cache that none before it has added.

    Args:
        run: The run.
        stages: Units to be done, stage by stage.
    """
    totals = [cache_bytes(run, chain(*stages[:count])) for count in range(len(stages) + 1)]
    return [after - before for before, after in pairwise(totals)]


def cache_bytes(run: Run, units: Iterable[Unit]) -> int:
    """Return the most bytes that units to be done will add to the cache of decoded images.

    Held-out images are judged on; training images are gone over by networks that are trained
    from scratch, and by students of all real images; large sets of images by all who look at
    them. What is there already adds nothing.
    """
    todo = list(units)
    if not any(unit.stage in _LOOKING for unit in todo):
        return 0
    dataset: ImageDataset = open_dataset(run.settings)
    judged = any(unit.stage in {"squeeze", "evaluation"} for unit in todo)
    each = set_bytes(run.settings, len(dataset.classes))
    sets = {unit.params["method"] for unit in todo if unit.stage in _AT_SETS and not _of_all(unit)}
    fresh = [name for name in sets if each and not is_decoded(run, name, dataset)]
    return (
        (dataset.uncached_bytes("val") if judged else 0)
        + (dataset.uncached_bytes("train") if any(map(trains_on_all_real, todo)) else 0)
        + len(fresh) * each
    )


def _of_all(unit: Unit) -> bool:
    """Return whether a unit is of students that see all real images."""
    return unit.stage == "evaluation" and bool(unit.params["method"] == REFERENCE)


def trains_on_all_real(unit: Unit) -> bool:
    """Return whether a unit is a training on all real training images."""
    if unit.stage == "squeeze":
        return "patch" not in unit.params and not is_pretrained_name(unit.params["network"])
    return _of_all(unit)


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
class NetworkCosts:
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
            seen = teacher.stats_only(self._images(), conv_layer_stats(teacher.network, patch))
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
        own = (
            native_preprocess(name, self.dataset).size
            if is_pretrained_name(name)
            else self.dataset.image_size
        )
        classes = len(self.dataset.classes)
        return build_on_meta(architecture_of(name), classes=classes, image_size=own)

    def _teacher(self, name: str) -> Teacher:
        return untrained_teacher(name, self.dataset, META)


def peak_bytes(work: Callable[[], object]) -> float:
    """Return the most bytes that tensors made by some work take at once."""
    with _Meter() as meter:
        work()
    return float(meter.peak)


class _Meter(TorchDispatchMode):
    """Adds up the storages that operations make, until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self._note((args, kwargs), made_here=False)
        outcome = func(*args, **(kwargs or {}))
        self._note(outcome, made_here=True)
        return outcome

    def _note(self, values: Any, *, made_here: bool) -> None:
        for value in tree_iter(values):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage(), made_here=made_here)

    def _see(self, storage: torch.UntypedStorage, *, made_here: bool) -> None:
        place = storage._cdata
        if place in self._known:
            return
        size = storage.nbytes() if made_here else 0  # what was there before is not of this work
        self._known.add(place)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._let_go, place, size)

    def _let_go(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size
