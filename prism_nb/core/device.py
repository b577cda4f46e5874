"""The device that a run works on, chosen when work begins and never at import."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import psutil
import torch

from prism_nb.core.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Turn the `device` setting into a device; `auto` takes a CUDA GPU where there is one."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(
            f"device is set to {name!r}, but PyTorch finds {count} CUDA devices here; "
            "use device auto or cpu, or install a PyTorch built for your driver"
        )
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a device computes in a precision."""
    if precision == "bf16":
        fits = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else torch.backends.cpu.get_cpu_capability() not in {"DEFAULT", "NO AVX", "AVX2"}
        )
    else:
        fits = precision == "fp32" or (
            device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        )
    if not fits:
        raise UsageError(f"precision is set to {precision}, but {device} lacks it; use fp32")


def check_compiler(device: torch.device) -> None:
    """Check that the compiler of networks for a device has what it needs."""
    if device.type == "cuda":
        missing = None if importlib.util.find_spec("triton") else "the package triton"
    else:
        compiler = os.environ.get("CXX")
        found = any(shutil.which(name) for name in [compiler, "g++", "clang++"] if name)
        missing = None if found else "a C++ compiler"
    if missing:
        raise UsageError(
            f"compile needs {missing}, which is missing; install it or set compile to false"
        )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that memory ran out; not all of them have torch's type."""
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def half_precision(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which networks compute in bfloat16 if `precision` is bf16."""
    kind = "cpu" if device.type == "meta" else device.type  # meta tensors have no autocast
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def tf32_mode(precision: str, device: torch.device) -> Iterator[None]:
    """Set whether a GPU's float32 products use TF32, as they do in convolutions by default."""
    if device.type != "cuda":
        yield
        return
    chosen = "tf32" if precision == "tf32" else "ieee"
    places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = chosen
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def usable_cores() -> int:
    """Return the number of CPU cores that processor affinity and the cgroup's quota allow."""
    import joblib

    cores: int = joblib.cpu_count()
    return cores


@contextmanager
def num_threads(count: int | Literal["auto"] = "auto") -> Iterator[None]:
    """Set PyTorch's number of threads, and restore it; results depend on it.

    `auto`: PyTorch's own number, which `OMP_NUM_THREADS` sets, but no more than there are usable
    cores.
    """
    before = torch.get_num_threads()
    wanted = min(before, usable_cores()) if count == "auto" else count
    try:
        if wanted != before:
            torch.set_num_threads(wanted)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, and restore them afterwards.

    Initial weights, dropout and `randperm` draw from them.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def benchmark(
    device: torch.device, work: Callable[[], object], *, times: int = 3, patience: float = 1.0
) -> float:
    """Return the median seconds of some work on a device, after a warm-up.

    Measurements end after so many `times`, or `patience` seconds.
    """
    seconds: list[float] = []
    while len(seconds) <= times and (len(seconds) < 2 or sum(seconds) < patience):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


_TIMED_PIXELS = 4 * 224 * 224  # of the images that a CPU is timed with


def timing_batch_size(device: torch.device, count: int, *, size: int) -> int:
    """Return the number of images, of `count`, that work is timed with: on a CPU a few.

    A CPU is busy with few images, and the seconds per image are then taken to be the same.
    """
    if device.type != "cpu":
        return count
    return min(count, max(2, _TIMED_PIXELS // size**2))


def peak_memory_bytes(device: torch.device) -> int:
    """Return this process's peak memory: of its tensors on a GPU, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_load(device: torch.device) -> list[str]:
    """Return a device's name, and in words its memory and load by all processes.

    A GPU's load needs the package nvidia-ml-py, and is left out without it.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name, used, load = torch.cuda.get_device_name(device), total - free, []
        with suppress(Exception):  # NVML has errors of its own, which torch passes on
            load.append(f"{torch.cuda.utilization(device)} % busy")
    else:
        memory = psutil.virtual_memory()
        name, used, total = f"{usable_cores()} cores", memory.total - memory.available, memory.total
        load = [f"load {psutil.getloadavg()[0]:.1f}"]
    return [name, f"{used / 1e9:.1f} of {total / 1e9:.1f} GB", *load]


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def disable_malloc_trim() -> None:
    """Make glibc retain freed memory of large tensors, for the rest of the process.

    By default it returns them to the system, which fills the next one with zeros: that takes
    several times as long as most arithmetic on it.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)
