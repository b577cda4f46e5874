"""The work of the squeeze: train and measure networks, or take them from an equal run."""

from __future__ import annotations

import glob
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import timm
import torch
from scipy.stats import binom

from prism_nb.core import fileio
from prism_nb.core.config import short_hash
from prism_nb.core.device import choose_device
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.units import OnEvent, Unit, is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.registry import open_dataset
from prism_nb.models.checkpoint import Checkpoint
from prism_nb.models.layer_stats import conv_layer_stats
from prism_nb.models.metrics import accuracy, accuracy_score, predict
from prism_nb.models.pool import dataset_preprocess, load_teacher, wrap_teacher
from prism_nb.models.pretrained import Pretrained, open_pretrained
from prism_nb.models.teacher import PreprocessConfig, Teacher
from prism_nb.models.train import collect_conv_stats, squeeze_config, train_network
from prism_nb.models.weights import (
    check_weights_present,
    download_weights,
    metadata_path,
    resolve_weights,
    sha256_of,
    to_safetensors,
)
from prism_nb.models.zoo import network_info


def run_unit(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Provide the weights of one network, or the statistics of its convolutions."""
    made_file = unit.params["statistics" if "patch" in unit.params else "weights"]
    if _is_given(unit):
        ensure_weights(unit.params["network"], may_fetch=run.settings.fetch_weights)
    donor = _find_donor(run, unit)
    if donor is not None:
        fileio.write_bytes(run.file(made_file), donor.file(made_file).read_bytes())
        record = {**donor.record(unit), "reused_from": donor.name}
    else:
        start = time.monotonic()
        content, facts = _make(run, unit, on_event)
        fileio.write_bytes(run.file(made_file), content)
        seconds = round(time.monotonic() - start, 3)
        record = {
            **facts,
            "seconds": seconds,
            **_circumstances(run.settings, unit),
            "reused_from": None,
        }
    run.finish(unit, paths=[made_file], record=record)
    _checkpoint(run, unit).clear()


def _is_given(unit: Unit) -> bool:
    """Return whether a unit takes weights from elsewhere instead of making something."""
    return "patch" not in unit.params and is_pretrained_name(unit.params["network"])


def _make(run: Run, unit: Unit, on_event: OnEvent) -> tuple[bytes, dict[str, Any]]:
    if "patch" in unit.params:
        return _measure(run, unit)
    if not _is_given(unit):
        return _train(run, unit, on_event)
    device = choose_device(run.settings.device)
    return import_pretrained(unit.params["network"], open_dataset(run.settings), device)


def _train(run: Run, unit: Unit, on_event: OnEvent) -> tuple[bytes, dict[str, Any]]:
    settings, name = run.settings, unit.params["network"]
    device, dataset = choose_device(settings.device), open_dataset(settings)
    network = train_network(
        name,
        dataset,
        squeeze_config(settings, name),
        device,
        lambda values: on_event({"event": "step", "unit": unit.name, **values}),
        _checkpoint(run, unit),
    )
    facts = network_info(name, network, image_size=dataset.image_size)
    accurate = accuracy(network, dataset, "val", device)
    content = to_safetensors(
        network.state_dict(), weights_metadata(dataset, dataset_preprocess(dataset))
    )
    return content, {**asdict(facts), "accuracy": accurate}


def _measure(run: Run, unit: Unit) -> tuple[bytes, dict[str, Any]]:
    settings, name = run.settings, unit.params["network"]
    teacher = load_teacher(run, name)
    statistics = collect_conv_stats(
        teacher,
        conv_layer_stats(teacher.network, unit.params["patch"]),
        open_dataset(settings),
        squeeze_config(settings, name),
        choose_device(settings.device),
    )
    tensors = {
        f"{name}/{part}": value
        for name, measured in statistics.items()
        for part, value in measured._asdict().items()
    }
    return to_safetensors(tensors), {"probes": len(statistics)}


def _checkpoint(run: Run, unit: Unit) -> Checkpoint:
    """Return where the training of a unit's network stands; equal circumstances go on from it."""
    source = short_hash([unit.fingerprint, _circumstances(run.settings, unit)])
    return Checkpoint(run.file(f"{unit.marker.removesuffix('.json')}.checkpoint"), source)


def _circumstances(settings: Settings, unit: Unit) -> dict[str, object]:
    """What may change weights beside the settings."""
    return {
        **(_given_files(unit.params["network"]) if _is_given(unit) else {}),
        "device": choose_device(settings.device).type,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
    }


def _given_files(network: str) -> dict[str, str | None]:
    """Return the hashes of a network's weights, and of what stands beside a file of one's own."""
    source = resolve_weights(network)
    found = {"weights_sha256": sha256_of(source.file)}
    if source.library != "file":
        return {**found}
    beside = metadata_path(source.file)
    return {**found, "sidecar_sha256": sha256_of(beside) if beside.is_file() else None}


def _find_donor(run: Run, unit: Unit) -> Run | None:
    """Return a sibling run that has made this very file in this very way."""
    made_here, made_from = _circumstances(run.settings, unit), run.content(unit.inputs)
    for marker in sorted(run.path.parent.glob(f"*/{glob.escape(unit.marker)}")):
        sibling = Run(marker.parents[2], run.settings)
        if sibling.path == run.path or sibling.inspect(unit).state != "done":
            continue
        record = sibling.record(unit)
        same_way = {key: record.get(key) for key in made_here} == made_here
        if same_way and sibling.content(unit.inputs) == made_from:
            return sibling
    return None


def ensure_weights(name: str, *, may_fetch: bool) -> None:
    """Make sure that a network's weights are here.

    Raises:
        UsageError: They are not, and may not or cannot be fetched.
    """
    source = resolve_weights(name)
    if may_fetch and not source.file.is_file():
        download_weights(source)
    check_weights_present([name])


def import_pretrained(
    name: str, dataset: ImageDataset, device: torch.device
) -> tuple[bytes, dict[str, Any]]:
    """Return a network's weights, cut to a dataset's classes, once real images confirm these.

    Args:
        name: A network with weights, which are here.
        dataset: What it is to classify.
        device: Where it is tried out.

    Returns:
        The content of a weights file, and what is worth recording.

    Raises:
        PrismError: The weights do not fit, or the head's classes are not the dataset's.
    """
    taken = open_pretrained(name, dataset)
    facts = network_info(name, taken.network, image_size=taken.space.size)
    content = to_safetensors(taken.network.state_dict(), weights_metadata(dataset, taken.space))
    teacher = wrap_teacher(name, taken.network, dataset, taken.space, device)
    least = _least_accuracy(taken.source.accuracy, dataset, taken.space)
    _try_order(teacher, dataset, least, device)
    labels, guessed = dataset.labels("val"), predict(teacher, dataset, "val", device)
    folders = [info.folder for info in dataset.classes]
    checked = check_class_order(name, guessed, labels, folders=folders, accuracy=least)
    accurate = accuracy_score(guessed, labels)
    for words in _doubts(taken, folders, accurate, checked=checked):
        warnings.warn(words, stacklevel=2)
    record = {**asdict(facts), **taken.facts(), "accuracy": accurate, "order_checked": checked}
    return content, record


def weights_metadata(dataset: ImageDataset, space: PreprocessConfig) -> dict[str, Any]:
    """Return what a weights file says of itself, for runs that take it as `NAME@file`."""
    return {"space": asdict(space), "classes": [info.folder for info in dataset.classes]}


def _least_accuracy(
    published: float | None, dataset: ImageDataset, space: PreprocessConfig
) -> float | None:
    """Return what accuracy is believed of a head in the right order, by the published one.

    Half of it where the images are as large as the network's, a quarter where they are at least
    half as large; of smaller ones nothing can be said.
    """
    if published is None or 2 * dataset.image_size < space.size:
        return None
    return published / 2 if dataset.image_size >= space.size else published / 4


def _try_order(
    teacher: Teacher, dataset: ImageDataset, accuracy: float | None, device: torch.device
) -> None:
    """Check a head's order on a few images, before all of them are gone through."""
    places = sample_check_images(dataset)
    images = dataset.normalize(dataset.images("val", places.tolist()).to(device))
    with torch.no_grad():
        guessed: np.ndarray = teacher(images).argmax(1).cpu().numpy()
    folders = [info.folder for info in dataset.classes]
    labels = dataset.labels("val")[places]
    check_class_order(teacher.name, guessed, labels, folders=folders, accuracy=accuracy)


def _doubts(taken: Pretrained, folders: list[str], accurate: float, *, checked: bool) -> list[str]:
    """Return in words what somebody should know of a network before a long run leans on it."""
    name, doubts = taken.source.name, []
    if taken.head > len(folders):
        doubts.append(
            f"network {name!r}: of the {taken.head} classes of its head, the {len(folders)} of "
            "the dataset are kept"
        )
    if not checked:
        doubts.append(
            f"network {name!r}: whether its head has the dataset's classes in their order could "
            f"not be told from the held-out images, of which it knows {100 * accurate:.1f} %; make "
            "sure of it before a long run"
        )
    return doubts


_CLASSES = 32
_EACH = 4  # the fewest images of a class whose most frequent guess says anything
_MANY = 20  # images of each class, by which even a few classes in each other's place can be told
_RISK = 1e-3  # how seldom a head in order is refused, and guessing passes


def sample_check_images(dataset: ImageDataset) -> np.ndarray:
    """Return places of four held-out images or more of up to 32 classes.

    The classes are drawn at random, always the same, since those at equal distances are just what
    reversed or otherwise regular orders may leave in place.
    """
    count = len(dataset.classes)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:_CLASSES])
    each = -(-_CLASSES * _EACH // len(chosen))
    return np.concatenate([dataset.class_indices("val", int(c))[:each] for c in chosen])


def min_correct(images: int, classes: int, accuracy: float | None) -> int | None:
    """Return how many of some images a head in the right order gets right at the very least.

    A network that is right as often as `accuracy` says falls short of that number less than once
    in a thousand times. Where guessing would reach it more often than that, the images cannot
    tell.

    With the 128 images of 32 of 1,000 classes of `few_images`, and half of 69.8 %, it is 29. A
    network as good as published has 89 right and falls short less than once in 10^20 times. One
    that is so good, but whose order agrees with the dataset's for a share of the classes alone,
    passes with these chances, over draws of classes and images: 10^-12 at 1.2 % (numbers sorted as
    text), 0.0006 at 10 %, 0.19 at 25 %, 0.54 at 33 %, 0.97 at 50 %. With 50,000 images, the least
    is 17,121, for which the order must agree for 49 % of the classes. `Placing` finds most others.

    Args:
        images: Their number.
        classes: The dataset's; guessing is right once in so many times.
        accuracy: The least that is believed of a head in order, in [0, 1]; None: nothing is.
    """
    if accuracy is None or not images:
        return None
    least = int(binom.ppf(_RISK, images, accuracy))
    return least if binom.sf(least - 1, images, 1 / classes) < _RISK else None


@dataclass(frozen=True)
class ClassMapping:
    """What a network mostly takes each class for, where that sets the class apart.

    A class is known if the network takes more than half of its images, of which there are four or
    more, for one and the same class, and no other class for that. A head in the wrong order knows
    classes, but under the wrong names. One that knows nothing takes many classes for one, and one
    that confuses two likely takes both for the same, which makes neither known.

    Attributes:
        classes: Number of classes with images.
        right: Known classes that are taken for themselves.
        wrong: Indices of known classes that are taken for another, and of those.
        many: Whether every class has images enough to trust each one.
    """

    classes: int
    right: int
    wrong: tuple[tuple[int, int], ...]
    many: bool

    @property
    def tells(self) -> bool:
        """Whether at least half of the classes are known."""
        return 2 * (self.right + len(self.wrong)) >= self.classes

    @property
    def is_wrong(self) -> bool:
        """Whether classes are known under wrong names.

        With twenty images of each class, more than 2 % of the classes (and more than one); with
        fewer, more than half of those known, because a single class may look so by chance.
        """
        known = self.right + len(self.wrong)
        borne = max(1, self.classes // 50) if self.many else max(1, known // 2)
        return self.tells and len(self.wrong) > borne


def map_classes(guesses: np.ndarray, labels: np.ndarray, classes: int) -> ClassMapping:
    """Return what a network mostly takes classes for.

    Args:
        guesses: Its top-1 class of each image, int64 [n].
        labels: The true ones, int64 [n].
        classes: Number of classes.
    """
    pairs, counts = np.unique(labels * classes + guesses, return_counts=True)
    images = np.bincount(labels, minlength=classes)
    true, taken = pairs // classes, pairs % classes
    mostly = (2 * counts > images[true]) & (images[true] >= _EACH)
    true, taken = true[mostly], taken[mostly]
    alone = np.bincount(taken, minlength=classes)[taken] == 1
    found = [(int(t), int(g)) for t, g in zip(true[alone], taken[alone], strict=True)]
    shown = images[images > 0]
    return ClassMapping(
        classes=len(shown),
        right=sum(t == g for t, g in found),
        wrong=tuple((t, g) for t, g in found if t != g),
        many=bool((shown >= _MANY).all()),
    )


def check_class_order(
    name: str,
    guesses: np.ndarray,
    labels: np.ndarray,
    *,
    folders: Sequence[str],
    accuracy: float | None,
) -> bool:
    """Check that a network takes classes for themselves.

    What is found: an order that is wrong for more than half of the classes, by the accuracy where
    one is published, and any that is wrong for more than 2 % of the classes (at least two), where
    the network knows most of them and there are twenty images of each. What is not: two classes
    of a thousand in each other's place, which look like two that the network confuses.

    Args:
        name: The network's.
        guesses: Its top-1 class of each image, int64 [n].
        labels: The true ones, int64 [n].
        folders: Folder names of all classes, in order.
        accuracy: The least that is believed of a head in order, in [0, 1]; None: nothing is.

    Returns:
        Whether these images could tell.

    Raises:
        PrismError: The order is wrong.
    """
    count, right = len(labels), int((guesses == labels).sum())
    placing = map_classes(guesses, labels, len(folders))
    if placing.is_wrong:
        true, taken = placing.wrong[0]
        raise _refusal(
            name,
            f"takes {len(placing.wrong)} of {placing.classes} classes for one other each, e.g. "
            f"most images of {folders[true]!r} for {folders[taken]!r}",
        )
    least = min_correct(count, len(folders), accuracy)
    if least is not None and accuracy is not None and right < least:
        raise _refusal(
            name,
            f"knows {right} of {count} held-out images, though by the accuracy published of it "
            f"{least} would be few",
        )
    return least is not None or (placing.tells and _beats_guessing(right, count, len(folders)))


def _beats_guessing(right: int, images: int, classes: int) -> bool:
    return bool(binom.sf(right - 1, images, 1 / classes) < _RISK)


def _refusal(name: str, what: str) -> PrismError:
    return PrismError(
        f"network {name!r} {what}: the dataset's class order is not that of its head, or its "
        "images are of something else; compare classes.json with the classes of the weights"
    )
