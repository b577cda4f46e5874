"""Where a network's weights come from, and what their publisher says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
import torchvision
from huggingface_hub import constants
from timm.data.imagenet_info import ImageNetInfo

from prism_nb.config import project_root
from prism_nb.errors import UsageError, suggest
from prism_nb.teachers.checkpoints import read_note
from prism_nb.teachers.networks import WEIGHT_FILES, architecture_of, library_name
from prism_nb.teachers.sidecar import read_sidecar, sidecar_path
from prism_nb.teachers.teacher import PixelSpace

_FETCHED = (
    "\nrun the commands where there is a network and put the files there, or set fetch_weights to "
    "true"
)
_SHOWN = 6  # other weights that a message names
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Source:
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
    space: PixelSpace | None = None
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


def find_source(name: str) -> Source:
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


@lru_cache(maxsize=1)
def imagenet_wnids() -> tuple[str, ...]:
    """Return ImageNet-1K's classes as folder names, in the order that published heads have."""
    return tuple(ImageNetInfo("imagenet-1k").label_names())


def require_sources(names: Sequence[str]) -> None:
    """Check that weights are where they are looked for.

    Raises:
        UsageError: Some are not; each with its file, folder and command.
    """
    missing = [source for source in map(find_source, names) if not source.file.is_file()]
    if missing:
        raise UsageError(
            "weights are missing:\n"
            + "\n".join(
                f"  {s.name}: {s.file.name} in {s.file.parent}\n    {s.fetch}" for s in missing
            )
            + (_FETCHED if any(s.library != "file" for s in missing) else "")
        )


def fetch(source: Source) -> None:
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


def _of_file(name: str, weights: str) -> Source:
    """Describe a local checkpoint; what the kit noted in it, or a file beside it, is believed.

    A relative path starts from the clone, because notebooks and the command work elsewhere.
    """
    path = project_root() / Path(weights).expanduser()
    architecture = architecture_of(name)
    library_name(architecture)
    space, classes = _noted(path) if path.is_file() else (None, None)
    beside = read_sidecar(path)
    if beside is not None:
        if space is not None:
            raise UsageError(
                f"weights {path} say themselves how they want their pixels; delete "
                f"{sidecar_path(path)}, or save them without the note"
            )
        space, classes = beside.space, beside.classes
    return Source(
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


def _noted(path: Path) -> tuple[PixelSpace | None, tuple[str, ...] | None]:
    """Return pixel space and classes that the kit noted in a file, where it did."""
    note = read_note(path)
    try:
        return (space_of(note["space"]), tuple(note["classes"])) if note else (None, None)
    except (KeyError, TypeError, ValueError):
        raise UsageError(
            f"weights {path} hold a note that the kit did not write; save them again"
        ) from None


def space_of(note: dict[str, Any]) -> PixelSpace:
    """Return a pixel space from its plain values, as a marker or a weights file holds them."""
    red, green, blue = note["mean"]
    deviations = note["std"]
    return PixelSpace(
        (red, green, blue),
        (deviations[0], deviations[1], deviations[2]),
        note["size"],
        note["interpolation"],
    )


def _of_torchvision(name: str, tag: str) -> Source:
    architecture = architecture_of(name)
    library, model = library_name(architecture)
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
    return Source(
        name=name,
        library="torchvision",
        architecture=architecture,
        tag=weights.name,
        file=file,
        fetch=f"curl -L --create-dirs -o '{file}' {weights.url}",
        space=PixelSpace(
            tuple(shown.mean), tuple(shown.std), shown.crop_size[0], shown.interpolation.value
        ),
        classes=_head_of(head),
        head=head,
        accuracy=metrics["acc@1"] / 100 if "acc@1" in metrics else None,
        licence=weights.meta.get("license"),
        url=weights.url,
    )


def _of_timm(name: str) -> Source:
    full = name.removeprefix("timm/")
    library_name(architecture_of(name))
    config = _timm_config(name)
    if not _is_read(full):
        raise UsageError(_unread(name))
    url = "" if config.hf_hub_id else str(config.url)
    file = (
        Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if url
        else _hub_file(full, config.hf_hub_filename)
    )
    return Source(
        name=name,
        library="timm",
        architecture=architecture_of(name),
        tag=full.partition(".")[2],
        file=file,
        fetch=f"curl -L --create-dirs -o '{file}' {url}" if url else _hub_command(name, file),
        space=PixelSpace(
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
