"""Names of published and local weights, the paths of their files, and how to fetch them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub import constants

from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.paths import default_cache_dir, project_root
from prism_nb.models.architectures import architecture_of, resolve_architecture
from prism_nb.models.teacher import PreprocessConfig
from prism_nb.models.weights_file import WeightsMetadata, read_header, read_metadata
from prism_nb.models.wheels import WHEEL, download_wheel, read_wheel
from prism_nb.models.zoo import WEIGHT_FILES, BuildOptions, check_options


@dataclass(frozen=True)
class WeightsSpec:
    """Weights by name: their file, and what is known about them without reading it."""

    name: str  # the network's full name
    library: str  # `torchvision`, `timm`, `wheel` or `file`
    architecture: str  # a name that `build_network` takes
    tag: str  # torchvision's enum member, timm's tag, a wheel's package, or the file's name
    file: Path  # path of the file, whether or not it exists
    fetch: str  # a command that downloads the file
    # The preprocessing that the weights need; None: the dataset's
    preprocess: PreprocessConfig | None = None
    # Arguments of `build_network` for the variant of the architecture that they are of
    build: BuildOptions = ()
    # Folder names of the classes in the order of the head; None: unknown, or those of ImageNet-1K
    # if it has 1,000
    classes: tuple[str, ...] | None = None
    head: int | None = None  # number of classes of the head; None: unknown until the file is read
    accuracy: float | None = None  # published top-1 accuracy on ImageNet-1K in [0, 1]
    licence: str | None = None  # as published
    url: str = ""  # address of the file; empty: Hugging Face's hub, or none
    # Place of the weights in the file, see `choose_weights`; None: found by itself
    part: str | None = None
    is_kits: bool = False  # whether this kit wrote the file

    @property
    def hash_prefix(self) -> str:
        """The beginning of the file's SHA-256, which torch's hub puts into file names."""
        match = torch.hub.HASH_REGEX.search(self.file.name) if self.url else None
        return match.group(1) if match else ""


def resolve_weights(name: str) -> WeightsSpec:
    """Return what a named network's weights are; nothing is downloaded.

    Names are `resnet18@IMAGENET1K_V1`, `timm/resnet50.a1_in1k`, `resnet18@path/to/file.pth`, or
    `tf_efficientnet_lite0@wheel`.

    Raises:
        UsageError: No such network or weights, a damaged file, or metadata with arguments that the
            architecture's builder does not take.
    """
    architecture, (_, at, tag) = architecture_of(name), name.partition("@")
    library, model = resolve_architecture(architecture)
    if tag.endswith(WEIGHT_FILES):
        known = _local_weights(architecture, tag)
    elif tag == WHEEL:
        known = _wheel_weights(architecture)
    else:
        known = _torchvision_weights(name, library, model, tag) if at else _timm_weights(name)
    return WeightsSpec(name=name, architecture=architecture, **known)


def check_weights_present(names: Sequence[str]) -> None:
    """Check that the files of named weights exist."""
    missing = [spec for spec in map(resolve_weights, names) if not spec.file.is_file()]
    if not missing:
        return
    lines = [f"  {s.name}: {s.file.name} in {s.file.parent}\n    {s.fetch}" for s in missing]
    remedy = (
        "run the commands where there is a network and put the files there, or set fetch_weights "
        "to true"
    )
    raise UsageError("\n".join(["weights are missing:", *lines, remedy]))


def download_weights(spec: WeightsSpec) -> None:
    """Download published weights to the cache of their library."""
    try:
        spec.file.parent.mkdir(parents=True, exist_ok=True)
        if spec.library == "wheel":
            download_wheel(spec.architecture, spec.file)
        elif spec.url:
            prefix = spec.hash_prefix or None
            torch.hub.download_url_to_file(spec.url, str(spec.file), prefix, progress=False)
        else:
            huggingface_hub.hf_hub_download(_timm_config(spec.name).hf_hub_id, spec.file.name)
    except Exception as error:  # the libraries and the network fail in many ways
        raise UsageError(
            f"{spec.name}: {spec.file.name} is not in {spec.file.parent} and cannot be "
            f"fetched: {error}; elsewhere: {spec.fetch}"
        ) from None


# -- fields of a spec, by the kind of the weights --------------------------------------------


def _of_metadata(architecture: str, metadata: WeightsMetadata, where: str) -> dict[str, Any]:
    size = metadata.size or 224  # any that it takes
    check_options(architecture, metadata.build_options, image_size=size, where=where)
    return {
        "preprocess": metadata.preprocess,
        "build": metadata.build_options,
        "classes": metadata.classes,
        "head": len(metadata.classes) if metadata.classes else None,
        "part": metadata.weights,
    }


def _local_weights(architecture: str, weights: str) -> dict[str, Any]:
    # From the project's folder, because notebooks and the command have other working directories.
    path = project_root() / Path(weights).expanduser()
    metadata = read_metadata(path) or WeightsMetadata.model_validate({})
    return {
        **_of_metadata(architecture, metadata, f"the metadata of {path}"),
        "library": "file",
        "tag": path.name,
        "file": path,
        "fetch": "copy the file there, or correct the path",
        "is_kits": read_header(path) is not None,
    }


def _wheel_weights(network: str) -> dict[str, Any]:
    wheel = read_wheel(network)
    return {
        **_of_metadata(network, wheel.metadata, f"the wheel of {network}"),
        "library": "wheel",
        "tag": wheel.package,
        "file": default_cache_dir() / "weights" / f"{network}.safetensors",
        "fetch": f"prism-nb weights {network}@{WHEEL}",
        "licence": wheel.licence,
    }


def _torchvision_weights(name: str, library: str, model: str, tag: str) -> dict[str, Any]:
    if tag and (project_root() / Path(tag).expanduser()).exists():
        raise UsageError(
            f"network {name!r}: {tag} is no file of weights, whose names end in "
            f"{', '.join(WEIGHT_FILES)}; save the network's state dict as one: "
            "safetensors.torch.save_file(network.state_dict(), FILE)"
        )
    known: Any = {}
    if library == "torchvision":
        from torchvision.models import get_model_weights  # takes seconds to import

        known = get_model_weights(model)
    names = list(getattr(known, "__members__", known))
    if tag not in names:
        raise UsageError(
            f"network {name!r}: {library} has no weights {tag!r} of {model}; NAME@TAG are weights "
            f"of torchvision, NAME.TAG of timm, and a file's name ends in "
            f"{' or '.join(WEIGHT_FILES)}; {suggest(tag, names)}"
        )
    weights = known[tag]
    crop = weights.transforms()
    metrics = weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    size, interpolation = crop.crop_size[0], crop.interpolation.value
    return {
        **_of_url(weights.url),
        "library": "torchvision",
        "tag": weights.name,
        "preprocess": PreprocessConfig(tuple(crop.mean), tuple(crop.std), size, interpolation),
        "head": len(weights.meta["categories"]),
        "accuracy": metrics["acc@1"] / 100 if "acc@1" in metrics else None,
        "licence": weights.meta.get("license"),
    }


def _timm_weights(name: str) -> dict[str, Any]:
    config = _timm_config(name)
    interpolation = "bilinear" if config.interpolation == "bilinear" else "bicubic"
    size = config.input_size[-1]
    return {
        **(_of_hub(config) if config.hf_hub_id else _of_url(config.url)),
        "library": "timm",
        "tag": config.tag,
        "preprocess": PreprocessConfig(config.mean, config.std, size, interpolation),
        "head": config.num_classes,
        "licence": config.license,
    }


def _of_url(url: str) -> dict[str, Any]:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return {"file": file, "fetch": f"curl -L --create-dirs -o '{file}' {url}", "url": url}


def _of_hub(config: Any) -> dict[str, Any]:
    """Return the cached file of Hugging Face's hub, or the path that it would be copied to."""
    folder, hub_id = constants.HF_HUB_CACHE, config.hf_hub_id
    name = config.hf_hub_filename or "model.safetensors"
    found = huggingface_hub.try_to_load_from_cache(hub_id, name, cache_dir=folder)
    absent = Path(folder) / f"models--{hub_id.replace('/', '--')}" / name
    file = Path(found) if isinstance(found, str) else absent
    return {"file": file, "fetch": f"hf download {hub_id} {file.name}"}


def _timm_config(name: str) -> Any:
    import timm  # takes seconds to import

    full = name.removeprefix("timm/")
    model, _, tag = full.partition(".")
    known = timm.list_pretrained(f"{model}.*")
    config = timm.models.get_pretrained_cfg(full) if full in known else None
    if config is None:
        tags = [other.partition(".")[2] for other in known]
        raise UsageError(
            f"network {name!r}: timm has no weights {tag!r} of {model}; {suggest(tag, tags)}"
        )
    if config.custom_load:
        raise UsageError(
            f"network {name!r}: its weights have a format that only timm reads; save its state "
            f"dict with torch.save and name timm/{model}@FILE.pth"
        )
    return config
