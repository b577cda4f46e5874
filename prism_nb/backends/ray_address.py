"""Where a Ray cluster is to be found, and whether one answers there."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

from prism_nb.errors import PrismError, UsageError

AUTO = "auto"
_TIMEOUT = 5.0  # seconds to reach a cluster's address
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # a frame of kind 4, which is empty
_VARIABLE = "RAY_ADDRESS"


def find_cluster(address: str) -> str:
    """Return where a cluster is, having asked whether one answers there.

    Args:
        address: `HOST:PORT`; or `auto`, which is what RAY_ADDRESS says, else the cluster that
            `ray start` has begun or joined last on this machine.

    Raises:
        UsageError: It is no address, or `auto` leads nowhere.
        PrismError: No cluster answers there.
    """
    found, source = _current_cluster() if address == AUTO else (address, "")
    _require_answer(found, source)
    return found


def unreachable(address: str, why: object) -> PrismError:
    """Return what to say of an address without a cluster."""
    return PrismError(
        f"no Ray cluster answers at {address}: {why}; start one there with `ray start --head`, "
        "correct ray_address, or leave it out to work on this machine alone"
    )


def _current_cluster() -> tuple[str, str]:
    """Return where `auto` leads, and what says so; Ray itself would wait there for minutes.

    Raises:
        UsageError: Nothing says so.
    """
    named = os.environ.get(_VARIABLE, "").strip()
    if named and named != AUTO:
        return named, _VARIABLE
    record = _ray_folder() / "ray_current_cluster"
    try:
        address = record.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        address = ""
    if not address:
        raise UsageError(
            f"ray_address auto leads to no cluster: {_VARIABLE} is not set, and `ray start` has "
            f"left no record in {record}; start or join one here with `ray start`, write its "
            "HOST:PORT, or leave ray_address out to work on this machine alone"
        )
    return address, str(record)


def _ray_folder() -> Path:
    """Return the folder of Ray's own files on this machine, as Ray chooses it."""
    variables = ("RAY_TMPDIR", "TMPDIR") if sys.platform == "linux" else ("RAY_TMPDIR",)
    named = next((os.environ[name] for name in variables if name in os.environ), None)
    return Path(named or ("/tmp" if os.name == "posix" else tempfile.gettempdir())) / "ray"  # noqa: S108


def _require_answer(address: str, source: str) -> None:
    host, _, port = address.rpartition(":")
    by = f" (by {source})" if source else ""
    if "://" in address or not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(
            f"ray_address {address!r}{by} is none; use HOST:PORT of the cluster's head as "
            "`ray start` prints it, from a machine of the cluster, or auto, or leave it out for "
            "this machine"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT) as there:
            _greet(there)
    except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
        raise unreachable(f"{address}{by}", error) from None


def _greet(there: socket.socket) -> None:
    """Begin HTTP/2, which Ray speaks; with anything else it would wait for many minutes.

    Raises:
        OSError: No answer, or another one than RFC 9113, section 3.4, has for it.
    """
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    there.sendall(_PREFACE + _SETTINGS)
    if there.recv(9)[3:4] != _SETTINGS[3:4]:
        raise OSError("what listens there is not Ray")
