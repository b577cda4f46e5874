"""Devices: what they lack is refused, and process-wide switches are restored."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from prism_nb.core.device import (
    check_compiler,
    check_precision,
    choose_device,
    device_load,
    num_threads,
    seeded,
    tf32_mode,
)
from prism_nb.core.errors import UsageError

CPU = torch.device("cpu")


def test_a_precision_that_a_device_lacks_is_refused() -> None:
    check_precision("fp32", CPU)
    with pytest.raises(UsageError, match="tf32, but cpu"):
        check_precision("tf32", CPU)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiler(CPU)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"C\+\+ compiler"):
        check_compiler(CPU)


def test_a_gpus_matrix_precision_is_put_back() -> None:
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for precision, word in (("fp32", "ieee"), ("tf32", "tf32")):
        with tf32_mode(precision, torch.device("cuda")):
            assert [backend.fp32_precision for backend in backends] == [word, word]
        assert [backend.fp32_precision for backend in backends] == before


def test_missing_gpus_are_refused() -> None:
    assert choose_device("cpu") == CPU
    count = torch.cuda.device_count()
    assert choose_device("auto").type == ("cuda" if count else "cpu")
    with pytest.raises(UsageError, match=f"PyTorch finds {count} CUDA devices here"):
        choose_device(f"cuda:{count}")


@pytest.mark.parametrize("nvml", [True, False])
def test_a_gpus_load_is_told_as_far_as_it_is_known(
    monkeypatch: pytest.MonkeyPatch, *, nvml: bool
) -> None:
    def utilization(device: torch.device) -> int:
        if not nvml:
            raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")
        return 61

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70_800_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    told = ["NVIDIA H100", "9.2 of 80.0 GB", *(["61 % busy"] if nvml else [])]
    assert device_load(torch.device("cuda:0")) == told


def test_threads_and_generators_are_restored() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    with num_threads(threads + 1), seeded(3, CPU):
        assert torch.get_num_threads() == threads + 1
        first = torch.rand(2)
    with seeded(3, CPU):
        assert torch.equal(torch.rand(2), first)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def in_child(code: str, **environment: str) -> list[str]:
    """Run code in a new process, with some variables of the environment, and return its words."""
    own = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"}
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(
        command, env=inherited | environment, check=True, capture_output=True, text=True
    )
    return result.stdout.split()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_automatic_threads_are_the_cores_that_a_process_may_use() -> None:
    code = """
        import os
        from prism_nb.core.device import num_threads, usable_cores
        import torch
        with num_threads("auto"):
            print(usable_cores(), torch.get_num_threads())
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        with num_threads("auto"):
            print(usable_cores(), torch.get_num_threads())
    """
    cores = len(os.sched_getaffinity(0))
    assert in_child(code) == [f"{cores}", f"{cores}", "1", "1"]
    assert in_child(code, OMP_NUM_THREADS="1") == [f"{cores}", "1", "1", "1"]
    # joblib's own limit, which it treats as it does a quota of the cgroup
    assert in_child(code, LOKY_MAX_CPU_COUNT="1") == ["1", "1", "1", "1"]
