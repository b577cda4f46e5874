"""Where a network's weights come from, and what their publisher says of them."""

from __future__ import annotations

import json
import pickle
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
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
from prism_nb.core.config import project_root
from prism_nb.core.errors import UsageError, suggest
from prism_nb.core.yaml_io import StrictModel, read_mapping
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.teacher import PreprocessConfig
from prism_nb.models.zoo import WEIGHT_FILES, architecture_of, resolve_architecture

_FETCHED = (
    "\nrun the commands where there is a network and put the files there, or set fetch_weights to "
    "true"
)
_SHOWN = 6  # other weights that a message names
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class WeightsSpec:
    """Weights by name.

    Attributes:
        name: The network's full name.
        library: `torchvision`, `timm` or `file`.
        architecture: A name of `build_network`.
        tag: Which weights: the enum's member, timm's tag, or the file's name.
        file: Where they lie, or would lie.
        fetch: The command that brings them there, from a machine with a network.
        space: How they want their pixels; None: as the dataset has them.
        classes: Folder names in the order of the head; None: not known.
        head: Size of the head; None: not known before the file is read.
        accuracy: What the publisher measured on ImageNet-1K, in [0, 1], where it says so.
        licence: Where the publisher names one.
        url: Address of the file; empty: the hub's, or none.
    """

    name: str
    library: str
    architecture: str
    tag: str
    file: Path
    fetch: str
    space: PreprocessConfig | None = None
    classes: tuple[str, ...] | None = None
    head: int | None = None
    accuracy: float | None = None
    licence: str | None = None
    url: str = ""

    @property
    def hash_prefix(self) -> str:
        """What the file's SHA-256 begins with: torch's hub writes it behind a name's last dash."""
        match = torch.hub.HASH_REGEX.search(self.file.name) if self.url else None
        return match.group(1) if match else ""


def resolve_weights(name: str) -> WeightsSpec:
    """Return where the weights of a named network come from; nothing is fetched.

    Args:
        name: `resnet18@IMAGENET1K_V1`, `timm/resnet50.a1_in1k`, or `resnet18@path/to/file.pth`.

    Raises:
        UsageError: No such network or weights, or a damaged file.
    """
    _, at, weights = name.partition("@")
    if weights.endswith(WEIGHT_FILES):
        return _of_file(name, weights)
    return _of_torchvision(name, weights) if at else _of_timm(name)


def check_weights_present(names: Sequence[str]) -> None:
    """Check that weights are where they are looked for.

    Raises:
        UsageError: Some are not; each with its file, folder and command.
    """
    missing = [source for source in map(resolve_weights, names) if not source.file.is_file()]
    if missing:
        raise UsageError(
            "weights are missing:\n"
            + "\n".join(
                f"  {s.name}: {s.file.name} in {s.file.parent}\n    {s.fetch}" for s in missing
            )
            + (_FETCHED if any(s.library != "file" for s in missing) else "")
        )


def download_weights(source: WeightsSpec) -> None:
    """Bring weights from the network to where the libraries keep them.

    Raises:
        UsageError: That failed; with the command that does it elsewhere.
    """
    try:
        if source.library == "file":
            raise OSError("it is a file of your own")
        source.file.parent.mkdir(parents=True, exist_ok=True)
        if source.url:
            prefix = source.hash_prefix or None
            torch.hub.download_url_to_file(source.url, str(source.file), prefix, progress=False)
        else:
            huggingface_hub.hf_hub_download(_hub_id(source.name), source.file.name)
    except Exception as error:  # of two libraries and whatever lies between here and there
        raise UsageError(
            f"{source.name}: {source.file.name} is not in {source.file.parent} and cannot be "
            f"fetched: {error}; elsewhere: {source.fetch}"
        ) from None


def _of_file(name: str, weights: str) -> WeightsSpec:
    """Describe a local checkpoint; what the kit noted in it, or a file beside it, is believed.

    A relative path starts from the clone, because notebooks and the command work elsewhere.
    """
    path = project_root() / Path(weights).expanduser()
    architecture = architecture_of(name)
    resolve_architecture(architecture)
    space, classes = _noted(path) if path.is_file() else (None, None)
    beside = read_weights_metadata(path)
    if beside is not None:
        if space is not None:
            raise UsageError(
                f"weights {path} say themselves how they want their pixels; delete "
                f"{metadata_path(path)}, or save them without the note"
            )
        space, classes = beside.space, beside.classes
    return WeightsSpec(
        name=name,
        library="file",
        architecture=architecture,
        tag=path.name,
        file=path,
        fetch="copy the file there, or correct the path",
        space=space,
        classes=classes,
        head=len(classes) if classes else None,
    )


def _noted(path: Path) -> tuple[PreprocessConfig | None, tuple[str, ...] | None]:
    """Return pixel space and classes that the kit noted in a file, where it did."""
    note = read_metadata(path)
    try:
        return (
            (preprocess_from_dict(note["space"]), tuple(note["classes"])) if note else (None, None)
        )
    except (KeyError, TypeError, ValueError):
        raise UsageError(
            f"weights {path} hold a note that the kit did not write; save them again"
        ) from None


def preprocess_from_dict(note: dict[str, Any]) -> PreprocessConfig:
    """Return a pixel space from its plain values, as a marker or a weights file holds them."""
    red, green, blue = note["mean"]
    deviations = note["std"]
    return PreprocessConfig(
        (red, green, blue),
        (deviations[0], deviations[1], deviations[2]),
        note["size"],
        note["interpolation"],
    )


def _of_torchvision(name: str, tag: str) -> WeightsSpec:
    architecture = architecture_of(name)
    library, model = resolve_architecture(architecture)
    if library != "torchvision":
        raise UsageError(
            f"network {name!r}: weights by @ and a tag are torchvision's; timm's are named "
            f"{model}.TAG, and a file's end in {' or '.join(WEIGHT_FILES)}"
        )
    known = torchvision.models.get_model_weights(model)
    if tag not in known.__members__:
        raise UsageError(
            f"network {name!r}: torchvision has no weights {tag!r} of {model} (and a file's "
            f"name ends in {' or '.join(WEIGHT_FILES)}); {suggest(tag, known.__members__)}"
        )
    weights = known[tag]
    shown = weights.transforms()
    metrics = weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    head = len(weights.meta["categories"])
    return WeightsSpec(
        name=name,
        library="torchvision",
        architecture=architecture,
        tag=weights.name,
        file=file,
        fetch=f"curl -L --create-dirs -o '{file}' {weights.url}",
        space=PreprocessConfig(
            tuple(shown.mean), tuple(shown.std), shown.crop_size[0], shown.interpolation.value
        ),
        classes=_head_of(head),
        head=head,
        accuracy=metrics["acc@1"] / 100 if "acc@1" in metrics else None,
        licence=weights.meta.get("license"),
        url=weights.url,
    )


def _of_timm(name: str) -> WeightsSpec:
    full = name.removeprefix("timm/")
    resolve_architecture(architecture_of(name))
    config = _timm_config(name)
    if not _is_read(full):
        raise UsageError(_unread(name))
    url = "" if config.hf_hub_id else str(config.url)
    file = (
        Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if url
        else _hub_file(full, config.hf_hub_filename)
    )
    return WeightsSpec(
        name=name,
        library="timm",
        architecture=architecture_of(name),
        tag=full.partition(".")[2],
        file=file,
        fetch=f"curl -L --create-dirs -o '{file}' {url}" if url else _hub_command(name, file),
        space=PreprocessConfig(
            config.mean,
            config.std,
            config.input_size[-1],
            "bilinear" if config.interpolation == "bilinear" else "bicubic",
        ),
        classes=_head_of(config.num_classes),
        head=config.num_classes,
        licence=config.license,
        url=url,
    )


def _unread(name: str) -> str:
    """Return what to do about weights that only timm itself can load."""
    full = name.removeprefix("timm/")
    model = full.partition(".")[0]
    head = _timm_config(name).num_classes
    known = [other for other in timm.list_pretrained(f"{model}.*") if _is_read(other)]
    others = [other for other in known if _timm_config(other).num_classes == head]
    instead = f"take others of it ({', '.join(others[:_SHOWN])}), or " if others else ""
    code = (
        f"import timm, torch; m = timm.create_model('{full}', pretrained=True); "
        f"torch.save(m.state_dict(), '{model}.pth')"
    )
    return (
        f"network {name!r}: its weights have a format that only timm reads; {instead}save them "
        f'where there is a network, by `python -c "{code}"`, and name timm/{model}@{model}.pth, '
        "which is then given the dataset's pixels as they are"
    )


def _is_read(full: str) -> bool:
    config = timm.models.get_pretrained_cfg(full)
    return bool(config and not config.custom_load and (config.hf_hub_id or config.url))


def _timm_config(name: str) -> Any:
    full = name.removeprefix("timm/")
    model, _, tag = full.partition(".")
    try:
        config = timm.models.get_pretrained_cfg(full)
    except RuntimeError:
        config = None
    if config is None or not tag:
        known = [n.partition(".")[2] for n in timm.list_pretrained(f"{model}.*")]
        raise UsageError(
            f"network {name!r}: timm has no weights {tag!r} of {model}; {suggest(tag, known)}"
        )
    return config


def _head_of(count: int) -> tuple[str, ...] | None:
    return imagenet_wnids() if count == len(imagenet_wnids()) else None


def _hub_id(name: str) -> str:
    return str(_timm_config(name).hf_hub_id)


def _hub_file(full: str, named: str | None) -> Path:
    """Return the cached file of timm's weights, or the place where the first would lie."""
    folder = constants.HF_HUB_CACHE
    candidates = (named,) if named else _HUB_FILES
    hub_id = _hub_id(full)
    for candidate in candidates:
        found = huggingface_hub.try_to_load_from_cache(hub_id, candidate, cache_dir=folder)
        if isinstance(found, str):
            return Path(found)
    return Path(folder) / f"models--{hub_id.replace('/', '--')}" / candidates[0]


def _hub_command(name: str, file: Path) -> str:
    call = f"hf_hub_download('{_hub_id(name)}', '{file.name}')"
    return (
        f'python -c "from huggingface_hub import hf_hub_download; {call}"  '
        f"(then copy the folder {file.parent.name} from $HF_HOME/hub there)"
    )


_WRAPPERS = ("state_dict", "model")  # keys under which training programs keep the weights
_ASKED_FOR = re.compile(r"GLOBAL:? (\S+)")  # in the words of torch's restricted reader
_PREFIX = "module."  # left by torch's data parallelism
_NOTE = "prism_nb"  # one entry: with several, safetensors writes them in any order


def read_weights(path: Path, *, hash_prefix: str = "") -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, or from what `torch.save` wrote.

    Pickles are read by torch's restricted reader, which builds tensors and plain containers and
    refuses whatever else a file asks for; nothing is unpacked.

    Args:
        path: The file.
        hash_prefix: What its SHA-256 must begin with.

    Raises:
        UsageError: It is damaged, holds something else than weights, or has another hash.
    """
    found = sha256_of(path)
    if not found.startswith(hash_prefix):
        raise UsageError(
            f"weights {path} are damaged: their SHA-256 begins with {found[:8]} instead of "
            f"{hash_prefix}; delete the file and fetch it again"
        )
    weights = _unwrapped(_read(path), path)
    for name, value in weights.items():
        if not torch_io.fits_in_file(value, path):
            raise _damaged(path, f"{name} claims to be larger than the file")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UsageError(f"weights {path} are damaged: {name} holds values that are no numbers")
    return weights


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256.

    Raises:
        UsageError: It cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"weights {path} cannot be read: there is no such file")
    return fileio.sha256(path)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what the kit noted in a .safetensors file beside the weights; of others, nothing.

    Raises:
        UsageError: The file is damaged.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            note = json.loads((opened.metadata() or {}).get(_NOTE, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    return note if isinstance(note, dict) else {}


def to_safetensors(tensors: dict[str, Tensor], note: dict[str, Any] | None = None) -> bytes:
    """Return the content of a .safetensors file, with a note where one is given."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {_NOTE: json.dumps(note, sort_keys=True)} if note else None
    return safetensors.torch.save(plain, metadata)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch_io.load_torch_file(path)
    except pickle.UnpicklingError as error:
        asked = _ASKED_FOR.search(str(error))
        if asked is None:
            raise UsageError(
                f"weights {path} are damaged or no weights at all; fetch or save them again"
            ) from None
        raise UsageError(
            f"weights {path} ask for {asked.group(1)}, so they are not read: a file that asks for "
            "more than tensors could run any program; save the state dict alone, best as "
            ".safetensors"
        ) from None
    except Exception as error:  # a damaged archive fails in as many ways as it has parts
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception | str) -> UsageError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UsageError(
        f"weights {path} are damaged or no weights at all: {reason}; fetch or save them again"
    )


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in what a training program saved."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise UsageError(
            f"weights {path} are no state dict but {reprlib.repr(content):.40}; save the state "
            f"dict alone, or under {' or '.join(_WRAPPERS)}"
        )
    strange = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise UsageError(
            f"weights {path}: {strange[0]!r} is a {type(content[strange[0]]).__name__} and no "
            f"tensor; save the state dict alone, or under {' or '.join(_WRAPPERS)}"
        )
    return {str(key).removeprefix(_PREFIX): value for key, value in content.items()}


_Mean = Annotated[float, Field(ge=0, le=1)]
_Std = Annotated[float, Field(gt=0, le=1)]


class WeightsMetadata(StrictModel):
    """Facts about the weights in a file of the same stem, in YAML."""

    mean: tuple[_Mean, _Mean, _Mean] = Field(description="taken from each channel of [0, 1] values")
    std: tuple[_Std, _Std, _Std] = Field(description="what each channel is divided by then")
    size: int = Field(ge=8, le=2048, description="side of the square input, in pixels")
    interpolation: Literal["bilinear", "bicubic"] = Field(
        description="how images of other sizes are brought to it"
    )
    classes: tuple[str, ...] | None = Field(
        None, description="folder names of its classes, in the order of the head"
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        names = self.classes
        if names is None:
            return self
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"classes: {', '.join(doubled)} is named twice")
        if len(names) < 2:
            raise ValueError("classes: name all of the head's, at least two; or leave it out")
        return self

    @property
    def space(self) -> PreprocessConfig:
        """How the network wants its pixels."""
        return PreprocessConfig(self.mean, self.std, self.size, self.interpolation)


def metadata_path(weights: Path) -> Path:
    """Return where a weights file's description would stand."""
    return weights.with_suffix(".yaml")


def read_weights_metadata(weights: Path) -> WeightsMetadata | None:
    """Return what stands beside a weights file, in a .yaml of the same stem; None if nothing does.

    Raises:
        UsageError: It is no such file; what is wrong in it is named.
    """
    path = metadata_path(weights)
    if not path.is_file():
        return None
    where = f"{path} (beside {weights.name})"
    return WeightsMetadata.parse(read_mapping(path, where=where), where=where)
