"""Files of weights: their metadata, their tensors, and which of these are a network's."""

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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import safetensors.torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from torch import Tensor

from prism_nb.core import fileio, torch_io
from prism_nb.core.errors import UsageError
from prism_nb.core.text import format_first
from prism_nb.core.yaml_io import StrictModel, read_mapping
from prism_nb.models.architectures import LIBRARIES, architectures
from prism_nb.models.teacher import PreprocessConfig
from prism_nb.models.zoo import BuildOptions

if TYPE_CHECKING:
    from prism_nb.models.weights import WeightsSpec

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
    header = read_header(weights)
    return WeightsMetadata.parse(header, where=f"the metadata in {weights}") if header else None


def read_header(weights: Path) -> dict[str, Any] | None:
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
    no code of the file runs. Compressed archives are refused. `hash_prefix` is the beginning of the
    file's SHA-256, if known; the file's `arch` must not contradict `architecture`, if that is
    given.

    Returns:
        Tensors by name, without what torch's wrappers add to names; those in mappings have the
        mappings' keys before them, e.g. `state_dict/conv1.weight`.

    Raises:
        UsageError: The file is damaged, has another hash, is of another network, or has no tensors.
    """
    found = fileio.sha256(path)
    if not found.startswith(hash_prefix):
        raise _damaged(path, f"their SHA-256 begins with {found[:8]} instead of {hash_prefix}")
    content = _read_content(path)
    tensors = dict(_tensors(content, "", _DEPTH))
    if not tensors:
        held = [content, *(content.values() if isinstance(content, dict) else ())]
        objects = [type(value).__name__ for value in held if isinstance(value, _StandIn)]
        kind = f"an object of {format_first(objects)}" if objects else f"a {type(content).__name__}"
        raise _damaged(path, f"it holds {kind} and no state dict")
    _check_arch(path, content, architecture)
    short = {_WRAPPERS.sub("", key): value for key, value in tensors.items()}
    return short if len(short) == len(tensors) else tensors


def _read_content(path: Path) -> Any:
    names = list[str]()
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":  # behind the length of a safetensors file's header
            return safetensors.torch.load_file(path)
        names = sorted(torch_io.names_in_file(path))
        also = [(type(n, (_StandIn,), {}), n) for n in names if not _is_stopped(n)]
        return torch_io.load_torch_file(path, also=also)
    except pickle.UnpicklingError:  # torch's own message recommends to run the file's code
        stopped = [n for n in names if _is_stopped(n)] or ["in a form that torch.save never writes"]
        raise _damaged(path, f"it holds more than tensors ({format_first(stopped)})") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise _damaged(path, error) from None


def _check_arch(path: Path, content: Any, architecture: str) -> None:
    """Check that `arch`, which training programs write beside weights, is the network's."""
    arch = content.get("arch") if isinstance(content, dict) else None
    bare = architecture.rpartition("/")[2]
    told = arch.partition(".")[0] if isinstance(arch, str) else ""
    if bare and told not in {"", bare} and any(told in architectures(each) for each in LIBRARIES):
        raise UsageError(
            f"weights {path} are of {arch!r}, as they say, not of {architecture!r}: name that, or "
            "save the state dict alone if they err"
        )


def _is_stopped(name: str) -> bool:
    module, _, attribute = name.partition(".")
    is_class = isinstance(getattr(builtins, attribute, None), type)  # such as list
    return module in _STOPPED and not (module == "builtins" and is_class)


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
    taken, else averaged ones, as timm does, else those in `state_dict`, or in `model`. `tensors`
    are those of `read_weights`, `names` those that the weights must have.
    """
    own = {_WRAPPERS.sub("", name): name for name in names}
    starts = {key: [0, *(m.end() for m in re.finditer(r"[./]", key))] for key in tensors}
    counts = Counter(key[:i] for key in tensors for i in starts[key] if key[i:] in own)
    whole = {start.rstrip("./"): start for start, n in counts.items() if n == len(own)}
    if spec.part not in {None, *whole}:
        raise UsageError(
            f"weights {spec.file} have none of {spec.architecture!r} at {spec.part!r}; their "
            f"metadata may name {format_first([*map(repr, whole)]) or 'nothing'}"
        )
    start = whole[_preferred(spec, list(whole))] if whole else _largest(tensors, counts, len(own))
    others = tuple(p for p in whole.values() if p != start and not start.startswith(p))
    if whole and spec.part is None:
        _check_beside(spec, tensors, start, others)
    inside = {
        key.removeprefix(start): value
        for key, value in tensors.items()
        if key.startswith(start) and not (others and key.startswith(others))
    }
    found = {own.get(name, name): value for name, value in inside.items() if "/" not in name}
    return found, start.rstrip("./")


def _largest(tensors: Mapping[str, Tensor], counts: Counter[str], own: int) -> str:
    """Return the start of most tensors, where no place has all of the network's `own` names.

    They are of another architecture, or under older names.
    """
    start = max(counts, key=counts.__getitem__, default="")
    if 2 * counts[start] > own:
        return start
    place = Counter(key.rpartition("/")[0] for key in tensors).most_common(1)[0][0]
    return f"{place}/" if place else ""


def _check_beside(
    spec: WeightsSpec, tensors: Mapping[str, Tensor], start: str, others: tuple[str, ...]
) -> None:
    """Check that no tensors are beside a network's, of which it may be a part."""
    group = start[: start.rfind("/") + 1]
    names = {key: key.removeprefix(group) for key in tensors if key.startswith(group)}
    beside = [
        key
        for key, name in names.items()
        if "/" not in name and not key.startswith((start, *others)) and not _LOSSES.fullmatch(name)
    ]
    if beside:
        part = start.rstrip("./")
        raise UsageError(
            f"weights {spec.file} hold {format_first(beside)} beside {spec.architecture!r}, which "
            f"is at {part!r}: if the network is complete without, write `weights: {part!r}` into "
            f"{metadata_path(spec.file)}, or save its state dict alone"
        )


def _preferred(spec: WeightsSpec, places: Sequence[str]) -> str:
    """Return the place in a file whose weights are taken, with a warning if there are others."""
    if spec.part is not None:
        return spec.part
    if len(places) == 1:
        return places[0]
    chosen = [place for place in places if _AVERAGED.search(place)]
    for key in ("state_dict", "model"):
        chosen = chosen or [place for place in places if place.split("/")[0] == key]
    sidecar, listed = metadata_path(spec.file), format_first([*map(repr, places)])
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
