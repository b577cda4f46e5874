"""Published label files (FKD's format, as SRe2L and its descendants write it), read safely."""

from __future__ import annotations

import pickle
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prism_nb import torch_files
from prism_nb.errors import PrismError

_FIELDS = 6
_CORNERS = 4
# What a numpy scalar in a pickle consists of, and nothing that could do anything else. Files of
# numpy 1 have another name for the same function.
_SCALAR: Callable[..., Any] = np._core.multiarray.scalar  # type: ignore[attr-defined]
_TYPES = ("Float16", "Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "Bool")
_SAFE: list[Any] = [
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(getattr(np.dtypes, f"{name}DType") for name in _TYPES),
]


@dataclass(frozen=True)
class PublishedBatch:
    """What a published label file says of one batch of n augmented images.

    Attributes:
        crops: Top, left, height and width of each crop, as shares of the image; [n, 4].
        flips: Whether each crop is mirrored; bool [n].
        mix_index: The image in the batch that each is mixed with; int64 [n], None without mixing.
        mix_lam: The share that an image keeps of itself, in [0, 1]; None without mixing.
        mix_box: Two corners of the pasted box (CutMix), in pixels, as the file orders them; None
            without a box.
        logits: Of the teachers; [n, classes], as stored (mostly fp16).
    """

    crops: Tensor
    flips: Tensor
    mix_index: Tensor | None
    mix_lam: float | None
    mix_box: tuple[int, int, int, int] | None
    logits: Tensor


def read_published_batch(path: Path) -> PublishedBatch:
    """Read one `epoch_*/batch_*.tar`, without executing anything that its pickle might ask for.

    The format: what `torch.save` makes of a list of crop coordinates, flip flags, mix index, mix
    share, mix box and logits (Shen and Xing, A Fast Knowledge Distillation Framework, ECCV 2022;
    as in SRe2L's relabel program).

    What the format lacks: which images the rows belong to. They stand in the order in which the
    publisher's sampler drew them, so that a file means something only with that program, seed,
    library version and batch size. Nor does it hold the class order, the names of the teachers, or
    how crops were resampled. Without the order of the images, relabel them instead.

    Args:
        path: The file.

    Raises:
        PrismError: It cannot be read, is damaged, asks for more than tensors and numbers, or holds
            something else; the message says which.
    """
    values = _load(path)
    if not isinstance(values, list | tuple) or len(values) != _FIELDS:
        found = f"{len(values)} entries" if isinstance(values, list | tuple) else type(values)
        raise _unfit(path, f"a list of {_FIELDS} entries is needed, and it holds {found}")
    crops, flips, index, lam, box, logits = values
    _require_tensor(path, "logits", logits, (None, None))
    _require_tensor(path, "crops", crops, (len(logits), 4))
    _require_tensor(path, "flips", flips, (len(logits),))
    _require_range(path, "crops", crops, 1.0)
    if not logits.is_floating_point() or not logits.isfinite().all():
        raise _unfit(path, "logits must be finite numbers with a fraction")
    return PublishedBatch(
        crops=crops.to(torch.float32),
        flips=flips.to(torch.bool),
        mix_index=_index(path, index, len(logits)),
        mix_lam=_share(path, lam),
        mix_box=_box(path, box),
        logits=logits,
    )


def _load(path: Path) -> Any:
    try:
        return torch_files.load(path, also=_SAFE)
    except pickle.UnpicklingError as error:
        raise PrismError(
            f"labels {path} ask for more than tensors and numbers, or are damaged; nothing of them "
            f"was executed ({_reason(error)}). Do not trust them"
        ) from None
    except OSError as error:
        raise PrismError(f"labels {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever damaged content makes of torch's readers
        raise _unfit(path, str(error).partition("\n")[0] or type(error).__name__) from None


def _reason(error: pickle.UnpicklingError) -> str:
    """Return what torch found, without its advice, which is to execute the file after all."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    found = [line for line in lines if not line.startswith("Check the documentation")]
    return found[-1].rstrip(".") if found[1:] else "no reason given"


def _unfit(path: Path, what: str) -> PrismError:
    return PrismError(
        f"labels {path} are damaged, or no batch of published labels: {what}; fetch them again"
    )


def _require_tensor(path: Path, name: str, value: Any, shape: tuple[int | None, ...]) -> None:
    """Check that a field is a tensor of a shape (None: any length) that the file can hold."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise _unfit(path, f"{name} must be a tensor, and is {type(value).__name__}")
    fits = [wanted in {None, got} for got, wanted in zip(value.shape, shape, strict=False)]
    if value.ndim != len(shape) or not all(fits) or not value.numel():
        wanted = " x ".join("any" if length is None else str(length) for length in shape)
        raise _unfit(path, f"{name} must be {wanted}, and is {list(value.shape)}")
    if not torch_files.is_held(value, path):
        raise _unfit(path, f"{name} claims to be larger than the file")


def _require_range(path: Path, name: str, value: Tensor, most: float) -> None:
    if not bool(((value >= 0) & (value <= most)).all()):
        raise _unfit(path, f"{name} must lie in 0..{most:g}")


def _index(path: Path, value: Any, count: int) -> Tensor | None:
    if value is None:
        return None
    _require_tensor(path, "mix index", value, (count,))
    if value.is_floating_point() or value.is_complex():
        raise _unfit(path, "mix index must be whole numbers")
    _require_range(path, "mix index", value, count - 1)
    return value.to(torch.int64)


def _share(path: Path, value: Any) -> float | None:
    if value is None:
        return None
    share = _number(path, "mix share", value)
    if not 0 <= share <= 1:
        raise _unfit(path, f"mix share must lie in 0..1, and is {share}")
    return share


def _box(path: Path, value: Any) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != _CORNERS:
        raise _unfit(path, f"mix box must be {_CORNERS} numbers, and is {reprlib.repr(value)}")
    left, top, right, bottom = (_number(path, "mix box", entry) for entry in value)
    if not all(edge >= 0 and edge.is_integer() for edge in (left, top, right, bottom)):
        raise _unfit(path, f"mix box must be whole numbers of pixels, and is {reprlib.repr(value)}")
    return int(left), int(top), int(right), int(bottom)


def _number(path: Path, name: str, value: Any) -> float:
    """Return a number, a numpy scalar or a tensor of one value as a plain number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise _unfit(path, f"{name} must be a number, and is {type(value).__name__}")
    return float(value)
