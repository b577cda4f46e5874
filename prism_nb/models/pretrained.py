"""Networks with published or local weights, and the outputs of their heads for a dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from textwrap import shorten

import torch
from torch import Tensor, nn

from prism_nb.core.device import seeded
from prism_nb.core.errors import UsageError
from prism_nb.core.units import is_pretrained_name
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.architectures import resolve_architecture
from prism_nb.models.teacher import PreprocessConfig, dataset_preprocess
from prism_nb.models.weights import WeightsSpec, resolve_weights
from prism_nb.models.weights_file import choose_weights, metadata_path, read_weights
from prism_nb.models.zoo import (
    SMALL_IMAGE,
    BuildOptions,
    build_network,
    build_on_meta,
    head_tensors,
    load_weights,
    stem_layers,
    stem_of,
)

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")  # older key names


@dataclass(frozen=True)
class Pretrained:
    """A network with published or local weights."""

    network: nn.Module  # the network on the CPU, in evaluation mode
    preprocess: PreprocessConfig  # the preprocessing that it needs
    spec: WeightsSpec  # its weights
    tensors: Mapping[str, Tensor]  # the weights by name; without a head where it gives no logits
    # Folder names of the classes of its head, in order; none where it gives no logits
    classes: tuple[str, ...]
    # Output of the head for each class of the dataset; None: its outputs in order
    head_rows: tuple[int, ...] | None


def native_preprocess(
    name: str, dataset: ImageDataset, *, resample: bool = True
) -> PreprocessConfig:
    """Return a network's preprocessing without reading weights: the dataset's if none is known.

    With `resample`, images are brought to the size that the weights were trained at.
    """
    known = resolve_weights(name).preprocess if is_pretrained_name(name) else None
    if known is None:
        return dataset_preprocess(dataset)
    return known if resample else replace(known, size=dataset.image_size)


def build_options(name: str) -> BuildOptions:
    """Return the arguments that a named network is built with; none without weights."""
    return resolve_weights(name).build if is_pretrained_name(name) else ()


def open_pretrained(
    name: str, dataset: ImageDataset, *, resample: bool = True, gives_logits: bool = True
) -> Pretrained:
    """Read a named network's weights, and find a dataset's classes in its head.

    A head that gives no logits may be missing, or have other classes.
    """
    spec = resolve_weights(name)
    preprocess = native_preprocess(name, dataset, resample=resample)
    size = preprocess.size
    tensors = read_weights(spec.file, hash_prefix=spec.hash_prefix, architecture=spec.architecture)
    tensors = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in tensors.items()}
    with seeded(0, torch.device("cpu")):
        head = head_tensors(spec.architecture, image_size=size, options=spec.build)
        whole = build_on_meta(spec.architecture, classes=10, image_size=size, options=spec.build)
        body = {key for key in whole.state_dict() if key not in head and not _is_counter(key)}
        weights, part = choose_weights(spec, tensors, body)
        if not body <= weights.keys() or spec.library == "timm":
            outputs = spec.head or _head_size(spec, weights, head) or len(dataset.classes)
            weights = _as_timm_loads(spec, weights, outputs)
        classes = tuple[str, ...]()
        if not gives_logits:
            weights = {key: value for key, value in weights.items() if key not in head}
        elif outputs := _head_size(spec, weights, head):
            classes = head_classes(spec, outputs, dataset)
        spec = replace(spec, part=part, build=_with_stem(spec, weights, size, dataset))
        network = build_network(
            spec.architecture,
            classes=len(classes) or len(dataset.classes),
            image_size=size,
            options=spec.build,
        )
    weights = _load(network, weights, spec, optional=() if classes else head)
    if gives_logits and not classes:
        raise UsageError(
            f"weights of {name!r} have no head, so the network gives neither logits nor labels; "
            f"name it in bn_only, or take {spec.architecture!r} alone, which is trained here"
        )
    row_of = {folder: row for row, folder in enumerate(classes)}
    rows = tuple(row_of[info.folder] for info in dataset.classes) if classes else ()
    is_identity = rows == tuple(range(len(classes)))
    return Pretrained(
        network.eval(), preprocess, spec, weights, classes, None if is_identity else rows
    )


def _load(
    network: nn.Module, weights: Mapping[str, Tensor], spec: WeightsSpec, optional: tuple[str, ...]
) -> dict[str, Tensor]:
    """Load weights that may lack batch norm's counters, and return them with these."""
    counters = {key: value for key, value in network.state_dict().items() if _is_counter(key)}
    whole = counters | dict(weights)
    try:
        load_weights(network, whole, optional=optional)
    except RuntimeError as error:
        _, *problems = map(str.strip, str(error).splitlines())
        listed = " ".join(shorten(problem, 150, placeholder=" ...") for problem in problems[:3])
        raise UsageError(
            f"weights {spec.file} are not of {spec.architecture!r}: {listed} Name the architecture "
            "that they are of; save the network's own tensors alone if there are others; write "
            f"`build: {{stem: small}}` (or stock) into {metadata_path(spec.file)} if the first "
            "layer alone differs; or set resample to true if it takes images of one size alone"
        ) from None
    for key, value in whole.items():
        if not bool(value.float().isfinite().all()):
            raise UsageError(
                f"weights {spec.file} are damaged: {key} holds NaN or infinite values; fetch or "
                "save them again"
            )
    return whole


def _is_counter(key: str) -> bool:
    """Return whether a name is of batch norm's counter, which old files lack and nobody needs."""
    return key.endswith("num_batches_tracked")


def _with_stem(
    spec: WeightsSpec, weights: Mapping[str, Tensor], size: int, dataset: ImageDataset
) -> BuildOptions:
    """Return the build arguments of weights, with their network's stem where it is not the usual.

    `build_network` gives small images another stem than the library does. Weights run in the
    network that they were trained in: published ones in the library's, those of this kit in that of
    their size, others in the one that their shapes fit. `size` is the side of the images that the
    network gets; the dataset's are of the size of the training if no other is known.
    """
    trained = spec.preprocess.size if spec.preprocess else dataset.image_size
    if "stem" in dict(spec.build) or min(size, trained) > SMALL_IMAGE:
        return spec.build
    options = {stem: (*spec.build, ("stem", stem)) for stem in ("small", "stock")}
    networks = {
        stem: build_on_meta(spec.architecture, classes=10, image_size=size, options=option)
        for stem, option in options.items()
    }
    if str(networks["small"]) == str(networks["stock"]):
        return spec.build
    if spec.library != "file" or trained > SMALL_IMAGE:
        stem = "stock"
    elif spec.is_kits:
        stem = "small"
    else:
        conv = f"{stem_layers(networks['stock'])[0]}.weight"
        shape = weights[conv].shape if conv in weights else None
        fits = [stem for stem, n in networks.items() if n.state_dict()[conv].shape == shape]
        is_sure = fits == ["small"] or (fits == ["stock"] and spec.preprocess)
        if fits and not is_sure:
            small, stock = map(stem_of, networks.values())
            raise UsageError(
                f"weights {spec.file} do not tell the stem of {spec.architecture!r}, which they "
                f"were trained in at {trained} pixels: write `build: {{stem: stock}}` into "
                f"{metadata_path(spec.file)} for the library's ({stock}), or `stem: small` for the "
                f"usual one of small images ({small}); and mean, std, size and interpolation if "
                "they were trained on others"
            )
        stem = fits[0] if fits else "small"
    return options[stem] if (stem == "small") != (size <= SMALL_IMAGE) else spec.build


def head_classes(spec: WeightsSpec, head: int, dataset: ImageDataset) -> tuple[str, ...]:
    """Return the folder names of a head's classes, in order, which include a dataset's.

    Classes are matched by folder name. A head of unknown classes is ImageNet-1K's if it has 1,000
    and the dataset's folders are among its wnids, else the dataset's own if it has as many. `head`
    is the number of its classes.
    """
    folders, wnids = tuple(info.folder for info in dataset.classes), imagenet_wnids()
    classes = spec.classes or (wnids if head == len(wnids) else ())
    if set(folders) <= set(classes):
        return classes
    if head == len(folders):
        return folders
    raise UsageError(
        f"network {spec.name!r} has a head of {head} classes, but {dataset.name} has "
        f"{len(folders)}, which are not among them by folder name (e.g. {folders[0]!r}); take "
        f"weights for these classes, or {spec.architecture!r} alone, which is trained here, or "
        "name it in bn_only, to use its BN statistics and not its head"
    )


def _as_timm_loads(
    spec: WeightsSpec, weights: dict[str, Tensor], outputs: int
) -> dict[str, Tensor]:
    """Return weights under the names of today's timm, which renames those of older programs."""
    library, model = resolve_architecture(spec.architecture)
    if library != "timm":
        return weights
    import timm  # takes seconds to import

    try:
        network = timm.create_model(
            f"{model}.{spec.tag}" if spec.library == "timm" else model,
            pretrained=True,
            num_classes=outputs,
            pretrained_cfg_overlay={"state_dict": weights, "num_classes": outputs},
        )
    except (RuntimeError, KeyError, AttributeError):
        return weights  # of another architecture, which is reported with the keys that differ
    return dict(network.state_dict())


def _head_size(spec: WeightsSpec, weights: Mapping[str, Tensor], head: tuple[str, ...]) -> int:
    """Return the number of classes of a file's head, from its tensors; 0 if it has none."""
    size = max((len(weights[k]) for k in head if k in weights and weights[k].ndim), default=0)
    if size and spec.head and size != spec.head:
        raise UsageError(
            f"weights {spec.file} have a head of {size} classes, but {spec.head} are named in "
            "their metadata; name all of them, in the head's order"
        )
    return size
