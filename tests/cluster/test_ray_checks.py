"""What Ray cannot do here is refused before anything is started, by one message."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.settings import Settings
from prism_nb.core.units import Unit
from prism_nb.execution import ray_backend
from prism_nb.execution.open_run import preflight
from prism_nb.execution.ray_backend import _Share, require_ray
from prism_nb.execution.worker import log_name


def asked(**changes: object) -> Settings:
    return load_settings("digits_quick", {"backend": "ray", **changes})


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'ray>=2\.52'"):
        preflight(asked())


def test_a_ray_that_knows_no_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_backend.metadata, "version", lambda _: "2.9.3")
    with pytest.raises(UsageError, match=r"Ray 2\.9\.3 has no tokens.*pip install 'ray>=2\.52'"):
        preflight(asked())


def test_no_extra_is_needed_for_work_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert preflight(asked(backend="process")).name == "digits"


def test_one_device_for_all_workers_is_refused() -> None:
    with pytest.raises(UsageError, match="device 'cuda:3' does not go with backend ray"):
        require_ray(asked(device="cuda:3"))


@pytest.mark.parametrize("address", ["somewhere", "ray://head:10001", "head:", ":6379", "h:99999"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="ray_address .* use HOST:PORT"):
        require_ray(asked(ray_address=address))


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    address = closed_port()
    with pytest.raises(PrismError, match=f"no Ray cluster answers at {address}: .*refused"):
        require_ray(asked(ray_address=address))


def test_an_address_that_swallows_every_word_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_backend._TIMEOUT <= 10
    monkeypatch.setattr(ray_backend, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(PrismError, match=f"no Ray cluster answers at {address}: timed out"):
            require_ray(asked(ray_address=address))


def test_a_server_of_another_kind_is_told_from_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request")

        threading.Thread(target=answer).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(PrismError, match="what listens there is not Ray"):
            require_ray(asked(ray_address=address))


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let Ray's record of its cluster be this file, which is not there; no variable is set."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray/ray_current_cluster"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_auto_without_a_cluster_is_told_at_once(nowhere: Path) -> None:
    with pytest.raises(UsageError, match=f"auto leads to no cluster: .*no record in {nowhere};"):
        require_ray(asked(ray_address="auto"))


def test_auto_that_leads_to_a_cluster_of_yesterday_is_told_at_once(nowhere: Path) -> None:
    address = closed_port()
    nowhere.write_text(f"{address}\n")
    with pytest.raises(PrismError, match=rf"answers at {address} \(by {nowhere}\): .*refused"):
        require_ray(asked(ray_address="auto"))


def test_auto_follows_the_variable_before_the_record(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere.write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "head")
    with pytest.raises(UsageError, match=r"ray_address 'head' \(by RAY_ADDRESS\) is none"):
        require_ray(asked(ray_address="auto"))


def test_auto_looks_where_ray_keeps_its_record(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray_utils = pytest.importorskip("ray._common.utils")
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    for name in ("RAY_TMPDIR", "TMPDIR", ""):
        assert str(ray_backend._ray_folder()) == ray_utils.get_default_ray_temp_dir()
        monkeypatch.delenv(name, raising=False)


def test_no_cluster_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", object())
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with (
        pytest.raises(PrismError, match="imported before its token was set.*restart"),
        ray_backend.local_cluster(cpus=1, gpus=0),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "machines", "share"),
    [
        ({}, [{"CPU": 8.0}], (1, 0, 8)),
        ({"threads": 3}, [{"CPU": 8.0}, {"CPU": 4.0}], (3, 0, 3)),
        ({}, [{"CPU": 8.0, "GPU": 4.0}], (0, 1.0, 4)),
        ({"gpus_per_worker": 0.5}, [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], (0, 0.5, 4)),
        ({"gpus_per_worker": 0.1}, [{"CPU": 8.0, "GPU": 1.0}], (0, 0.1, 10)),
        ({"gpus_per_worker": 2.0}, [{"GPU": 3.0}, {"GPU": 3.0}], (0, 2.0, 2)),
        ({"gpus_per_worker": 0.0}, [{"CPU": 2.0, "GPU": 4.0}], (1, 0, 2)),
        ({"device": "cpu"}, [{"CPU": 2.0, "GPU": 4.0}], (1, 0, 2)),
    ],
)
def test_a_worker_has_a_gpu_or_its_threads(
    changes: dict[str, object],
    machines: list[dict[str, float]],
    share: tuple[int, float, int],
) -> None:
    found = _Share.of(asked(**changes), machines)
    assert (found.cpus, found.gpus, found.places) == share


def test_more_than_any_machine_has_is_refused() -> None:
    with pytest.raises(UsageError, match="2 GPUs, but no machine has more than 1; lower gpus_per"):
        _Share.of(asked(gpus_per_worker=2.0), [{"GPU": 1.0}, {"GPU": 1.0}])
    with pytest.raises(UsageError, match="9 CPUs, but no machine has more than 4; lower threads"):
        _Share.of(asked(threads=9), [{"CPU": 4.0}])


SPEAKER = """
import os, sys
from pathlib import Path
from prism_nb.backends.unit_log import spoken_to
print("before")
for word in ("from Python", "again"):
    try:
        with spoken_to(Path(sys.argv[1])):
            print(word)
            os.system("echo from a child; echo and its errors >&2")
            raise KeyError
    except KeyError:
        print("after")
"""


def test_a_log_has_what_python_and_the_system_print(tmp_path: Path) -> None:
    unit = Unit(stage="synthesis", name="prism/a", marker="m", fingerprint="b")
    path = tmp_path / log_name(unit)
    command = [sys.executable, "-c", SPEAKER, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\nafter\n"
    assert done.stderr == ""
    assert path == tmp_path / "logs/synthesis/prism--a.log"
    children = ["from a child", "and its errors"]
    assert sorted(path.read_text().splitlines()) == sorted(
        ["from Python", *children, "again", *children]
    )
