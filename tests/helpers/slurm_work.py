"""Work for jobs in tests; they import it by name."""

from __future__ import annotations

import time
from pathlib import Path

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.units import OnEvent, Unit


def units_of(count: int, key: dict[str, object] | None = None) -> list[Unit]:
    """Return units of a stage that need nothing."""
    return [
        Unit(
            stage="relabel",
            name=f"u{n}",
            marker=f"labels/u{n}/unit.json",
            fingerprint="b",
            params=key or {},
        )
        for n in range(count)
    ]


def write(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Note that the unit was begun, wait for its gate to be there, and finish."""
    fileio.append_line(run.path / "begun.txt", unit.name)
    on_event({"event": "step", "unit": unit.name, "step": 1, "steps": 2})
    gate = unit.params.get("gate")
    deadline = time.monotonic() + 60
    while gate and not Path(gate).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    fileio.write_text(run.file(f"labels/{unit.name}/file.txt"), unit.name)
    run.units.finish(unit, paths=[f"labels/{unit.name}/file.txt"], record={})


def refuse_one(run: Run, unit: Unit, on_event: OnEvent) -> None:
    """Fail at the second unit."""
    if unit.name == "u1":
        raise PrismError("u1 diverged")
    write(run, unit, on_event)
