"""Weights read from files, without running anything that such a file may hold."""

from __future__ import annotations

import json
import pickle
import re
import reprlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from prism_nb import files, torch_files
from prism_nb.errors import UsageError

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
        if not torch_files.is_held(value, path):
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
    return files.sha256(path)


def read_note(path: Path) -> dict[str, Any]:
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


def serialise(tensors: dict[str, Tensor], note: dict[str, Any] | None = None) -> bytes:
    """Return the content of a .safetensors file, with a note where one is given."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {_NOTE: json.dumps(note, sort_keys=True)} if note else None
    return safetensors.torch.save(plain, metadata)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch_files.load(path)
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
