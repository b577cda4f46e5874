"""The device that a run works on, chosen when work begins and never at import."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prism_nb.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Turn the `device` setting into a device; `auto` takes a CUDA GPU where there is one.

    Raises:
        UsageError: A CUDA device was asked for that this machine does not have.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(
            f"device {name!r} was asked for, but PyTorch sees {count} CUDA devices here; "
            "use device auto or cpu, or install a PyTorch built for your driver"
        )
    return device


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for a while, and put them back afterwards.

    For what draws from them and takes no generator: initial weights, dropout, `randperm`.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """Let this process reuse large blocks of memory; for good, and only where glibc gives them.

    By default glibc hands every large tensor back to the system, which fills the next one with
    zeros, page by page: that takes several times as long as most arithmetic on it.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)
